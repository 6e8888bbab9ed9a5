// Metal's groups, atomics and thread attributes in CUDA C++, for hand-written kernels; stands behind
// msl_on_cuda.h. `zm_grid`, an input that zmlx/device/cuda.py adds, is the grid in threads;
// zmlx/device/cuda_text.py puts other headers in the places of ZMLX_INCLUDE_COMMON and its like.
#define ZM_MEMBER __device__ __forceinline__
#define ZM_UNROLL _Pragma("unroll")
#define METAL_FUNC inline
#define ZMLX_TYPE(...) __VA_ARGS__
#define ZMLX_STATIC static __device__
#define ZMLX_HELD __device__
#define ZMLX_THREADGROUP(T, NAME, DIMS) __shared__ T NAME DIMS
#define ZM_INFINITY __builtin_bit_cast(float, 0x7f800000u)
#define ZM_NAN __builtin_bit_cast(float, 0x7fc00000u)
#define ZM_DOUBLE(NAME) ::NAME
#define ZM_POPCOUNT(x) __popcll(x)
#define ZM_CLZ(x) __clzll(x)
#define ZM_CTZ(x) (__ffsll(x) - 1)
typedef __nv_bfloat16 bfloat;
typedef half float16_t;

ZMLX_INCLUDE_COMMON
ZM_MEMBER constexpr half zm_half_of(float x) {
  return __builtin_bit_cast(half, zm_float_to_half(x));
}
ZM_MEMBER constexpr bfloat zm_bfloat_of(float x) {
  return __builtin_bit_cast(bfloat, zm_float_to_bfloat(x));
}

// CUDA's own vectors cannot add; these names mean Metal's from here on.
#define ZM_RENAMED 1
#define char2 zm_char2
#define char3 zm_char3
#define char4 zm_char4
#define uchar2 zm_uchar2
#define uchar3 zm_uchar3
#define uchar4 zm_uchar4
#define short2 zm_short2
#define short3 zm_short3
#define short4 zm_short4
#define ushort2 zm_ushort2
#define ushort3 zm_ushort3
#define ushort4 zm_ushort4
#define int2 zm_int2
#define int3 zm_int3
#define int4 zm_int4
#define uint2 zm_uint2
#define uint3 zm_uint3
#define uint4 zm_uint4
#define long2 zm_long2
#define long3 zm_long3
#define long4 zm_long4
#define ulong2 zm_ulong2
#define ulong3 zm_ulong3
#define ulong4 zm_ulong4
#define half2 zm_half2
#define float2 zm_float2
#define float3 zm_float3
#define float4 zm_float4
ZMLX_INCLUDE_SHARED

#define thread_position_in_threadgroup zm_uint3(threadIdx.x, threadIdx.y, threadIdx.z)
#define threadgroup_position_in_grid zm_uint3(blockIdx.x, blockIdx.y, blockIdx.z)
#undef thread_position_in_grid
#define thread_position_in_grid                                              \
  zm_uint3(                                                                  \
      blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y, \
      blockIdx.z * blockDim.z + threadIdx.z)
#define threads_per_grid zm_uint3(zm_grid[0], zm_grid[1], zm_grid[2])
#define threadgroups_per_grid zm_uint3(gridDim.x, gridDim.y, gridDim.z)
#define dispatch_threads_per_threadgroup zm_uint3(blockDim.x, blockDim.y, blockDim.z)
// Metal's last group along a dimension has only the threads that the grid has left.
#define threads_per_threadgroup                                        \
  zm_uint3(                                                            \
      zm_left(zm_grid[0], blockIdx.x, blockDim.x), zm_left(zm_grid[1], blockIdx.y, blockDim.y), \
      zm_left(zm_grid[2], blockIdx.z, blockDim.z))
ZM_INLINE uint zm_left(uint all, uint group, uint size) {
  const uint rest = all - group * size;
  return rest < size ? rest : size;
}
#define thread_index_in_threadgroup zm_thread_index(threads_per_threadgroup)
ZM_INLINE uint zm_thread_index(zm_uint3 size) {
  return (threadIdx.z * size.y + threadIdx.y) * size.x + threadIdx.x;
}
// Warps follow CUDA's own numbering, which is Metal's unless a group of the edge is smaller.
ZM_INLINE uint zm_flat() {
  return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}
#define thread_index_in_simdgroup (zm_flat() % 32u)
#define simdgroup_index_in_threadgroup (zm_flat() / 32u)
#define threads_per_simdgroup 32u
#define thread_execution_width 32u
#define simdgroups_per_threadgroup zm_simdgroups(threads_per_threadgroup)
ZM_INLINE uint zm_simdgroups(zm_uint3 size) {
  return (size.x * size.y * size.z + 31u) / 32u;
}

namespace metal {

ZM_INLINE void threadgroup_barrier(mem_flags) {
  __syncthreads();
}
ZM_INLINE void simdgroup_barrier(mem_flags) {
  __syncwarp(__activemask());
}

// The value of another lane, whatever its type; one's own where that lane does not take part.
template <typename T>
ZM_INLINE T zm_from(T x, uint lane, uint mask) {
  static_assert(sizeof(T) <= 32, "too large for a simdgroup");
  constexpr int kWords = (sizeof(T) + 3) / 4;
  uint words[kWords] = {};
  memcpy(words, &x, sizeof(T));
  const bool there = lane < 32u && (mask >> lane & 1u);
  const uint source = there ? lane : zm_flat() % 32u;
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    words[i] = __shfl_sync(mask, words[i], source);
  }
  T y;
  memcpy(&y, words, sizeof(T));
  return y;
}

// All lanes that take part: a butterfly where that is a whole warp, else one after another.
template <typename Op, typename T>
ZM_INLINE T zm_reduce(T x) {
  const uint mask = __activemask(), self = zm_flat() % 32u;
  if (mask == 0xffffffffu) {
#pragma unroll
    for (uint step = 16; step > 0; step /= 2) {
      x = Op::of(x, zm_from(x, self ^ step, mask));
    }
    return x;
  }
  T all = x;
  bool started = false;
  for (uint lane = 0; lane < 32u; ++lane) {
    if (mask >> lane & 1u) {
      const T other = zm_from(x, lane, mask);
      all = started ? Op::of(all, other) : other;
      started = true;
    }
  }
  return all;
}
// The same over four neighbours.
template <typename Op, typename T>
ZM_INLINE T zm_reduce_quad(T x) {
  const uint mask = __activemask(), self = zm_flat() % 32u;
  T all = x;
  bool started = false;
  for (uint lane = self & ~3u; lane < (self & ~3u) + 4u; ++lane) {
    const T other = zm_from(x, lane, mask);
    if (mask >> lane & 1u) {
      all = started ? Op::of(all, other) : other;
      started = true;
    }
  }
  return all;
}
#define ZM_REDUCTION(NAME, OP)      \
  template <typename T>             \
  ZM_INLINE T simd_##NAME(T x) {    \
    return zm_reduce<OP>(x);        \
  }                                 \
  template <typename T>             \
  ZM_INLINE T quad_##NAME(T x) {    \
    return zm_reduce_quad<OP>(x);   \
  }
ZM_REDUCTION(sum, zm_add)
ZM_REDUCTION(product, zm_multiply)
ZM_REDUCTION(max, zm_larger)
ZM_REDUCTION(min, zm_smaller)
ZM_REDUCTION(and, zm_and)
ZM_REDUCTION(or, zm_or)
ZM_REDUCTION(xor, zm_xor)
#undef ZM_REDUCTION

// Values of the lanes below, in doubling steps; an absent lane between counts for nothing.
template <typename Op, typename T>
ZM_INLINE T zm_prefix(T x, T neutral, bool own) {
  const uint mask = __activemask(), self = zm_flat() % 32u;
  T all = neutral;
  for (uint lane = 0; lane < 32u; ++lane) {
    if (mask >> lane & 1u) {
      const T other = zm_from(x, lane, mask);
      all = lane < self || (own && lane == self) ? Op::of(all, other) : all;
    }
  }
  return all;
}
template <typename T>
ZM_INLINE T simd_prefix_inclusive_sum(T x) {
  return zm_prefix<zm_add>(x, T(0), true);
}
template <typename T>
ZM_INLINE T simd_prefix_exclusive_sum(T x) {
  return zm_prefix<zm_add>(x, T(0), false);
}
template <typename T>
ZM_INLINE T simd_prefix_inclusive_product(T x) {
  return zm_prefix<zm_multiply>(x, T(1), true);
}
template <typename T>
ZM_INLINE T simd_prefix_exclusive_product(T x) {
  return zm_prefix<zm_multiply>(x, T(1), false);
}

#define ZM_SHUFFLE(NAME, ARGUMENT, LANE)                  \
  template <typename T>                                   \
  ZM_INLINE T simd_##NAME(T x, ushort ARGUMENT) {         \
    const uint self = zm_flat() % 32u;                    \
    return zm_from(x, (self * 0u + (LANE)), __activemask()); \
  }
// Where all threads that the warp has come here: one instruction.
template <typename T>
ZM_INLINE T zm_xor_of_all(T x, int other) {
  return __shfl_xor_sync(0xffffffffu, x, other);
}
ZM_SHUFFLE(shuffle, lane, lane)
ZM_SHUFFLE(broadcast, lane, lane)
ZM_SHUFFLE(shuffle_xor, other, self ^ other)
ZM_SHUFFLE(shuffle_down, delta, self + delta)
ZM_SHUFFLE(shuffle_up, delta, self - delta)
ZM_SHUFFLE(shuffle_rotate_down, delta, (self + delta) % 32u)
ZM_SHUFFLE(shuffle_rotate_up, delta, (self - delta) % 32u)
#undef ZM_SHUFFLE
// What all lanes hand in, for the functions that devices share (parts/msl_lanes.h).
#define ZM_AND_PLACE
#define ZM_GIVE_PLACE
#define ZM_HERE
#define ZM_ONLY_PLACE
template <typename T>
struct zm_seen {
  T x;
  uint active;
  ZM_MEMBER zm_seen(const T& mine) : x(mine), active(__activemask()) {}
  ZM_MEMBER uint self() const {
    return zm_flat() % 32u;
  }
  ZM_MEMBER uint mask() const {
    return active;
  }
  ZM_MEMBER T of(uint lane) const {
    return zm_from(x, lane, active);
  }
  template <typename M, typename S>
  ZM_MEMBER M part(uint lane, M S::*member) const {
    return zm_from(x.*member, lane, active);
  }
};
ZM_INLINE uint zm_lane() {
  return zm_flat() % 32u;
}
template <typename T>
ZM_INLINE T simd_broadcast_first(T x) {
  const uint mask = __activemask();
  return zm_from(x, __ffs(mask) - 1, mask);
}
template <typename T>
ZM_INLINE T simd_shuffle_and_fill_down(T x, T fill, ushort delta) {
  const uint self = zm_flat() % 32u, mask = __activemask();
  const T moved = zm_from(x, self + delta, mask), filled = zm_from(fill, (self + delta) % 32u, mask);
  return self + delta < 32u ? moved : filled;
}
template <typename T>
ZM_INLINE T simd_shuffle_and_fill_up(T x, T fill, ushort delta) {
  const uint self = zm_flat() % 32u, mask = __activemask();
  const T moved = zm_from(x, self - delta, mask), filled = zm_from(fill, (self - delta) % 32u, mask);
  return self >= delta ? moved : filled;
}
ZM_INLINE simd_vote simd_ballot(bool x) {
  const uint active = __activemask();
  return simd_vote(__ballot_sync(active, x), active);
}
ZM_INLINE simd_vote simd_active_threads_mask() {
  return simd_vote(__activemask());
}
ZM_INLINE bool simd_any(bool x) {
  return __any_sync(__activemask(), x);
}
ZM_INLINE bool simd_all(bool x) {
  return __all_sync(__activemask(), x);
}
ZM_INLINE bool simd_is_first() {
  return zm_flat() % 32u == uint(__ffs(__activemask()) - 1);
}

}  // namespace metal
ZMLX_INCLUDE_ATOMICS
using namespace metal;
