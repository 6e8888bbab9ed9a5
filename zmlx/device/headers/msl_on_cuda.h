// Metal Shading Language's names in CUDA C++, put in front of a kernel's MSL text.
//
// mx.fast.cuda_kernel compiles it at run time with NVRTC, behind MLX's own headers (half and bfloat16
// types). Declares what Metal's standard library has and kernels here use; other names start with zm_.
#define ZM_INLINE static __device__ __forceinline__

// `device` and `constant` are words of CUDA's own attributes; generated kernels name neither.
#define thread
#define inline __device__ __forceinline__
#define bfloat16_t __nv_bfloat16
#define ZMLX_LOOP _Pragma("unroll 1")
#define ZMLX_UNROLL _Pragma("unroll")

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fc00000)
#endif
#ifndef MAXFLOAT
#define MAXFLOAT 3.40282347e+38f
#endif
#define M_PI_F 3.14159274f

#define thread_position_in_grid zm_thread_position()
ZM_INLINE uint3 zm_thread_position() {
  return make_uint3(
      blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y,
      blockIdx.z * blockDim.z + threadIdx.z);
}

template <typename To, typename From>
ZM_INLINE To as_type(From value) {
  static_assert(sizeof(To) == sizeof(From), "as_type needs types of one size");
  return __builtin_bit_cast(To, value);
}

namespace metal {

#define ZM_CALL(NAME, FUNCTION)      \
  ZM_INLINE float NAME(float x) {    \
    return ::FUNCTION(x);            \
  }
ZM_CALL(exp, expf)
ZM_CALL(log, logf)
ZM_CALL(log2, log2f)
ZM_CALL(log10, log10f)
ZM_CALL(sin, sinf)
ZM_CALL(cos, cosf)
ZM_CALL(tan, tanf)
ZM_CALL(sinh, sinhf)
ZM_CALL(cosh, coshf)
ZM_CALL(tanh, tanhf)
ZM_CALL(asin, asinf)
ZM_CALL(acos, acosf)
ZM_CALL(atan, atanf)
ZM_CALL(asinh, asinhf)
ZM_CALL(acosh, acoshf)
ZM_CALL(atanh, atanhf)
ZM_CALL(sqrt, sqrtf)
ZM_CALL(rsqrt, rsqrtf)
ZM_CALL(floor, floorf)
ZM_CALL(ceil, ceilf)
ZM_CALL(trunc, truncf)
ZM_CALL(rint, rintf)
ZM_CALL(abs, fabsf)
ZM_CALL(fabs, fabsf)
#undef ZM_CALL
ZM_INLINE float pow(float x, float y) {
  return ::powf(x, y);
}
ZM_INLINE float atan2(float y, float x) {
  return ::atan2f(y, x);
}
ZM_INLINE float fmod(float x, float y) {
  return ::fmodf(x, y);
}
ZM_INLINE float fma(float a, float b, float c) {
  return ::fmaf(a, b, c);
}
ZM_INLINE float copysign(float x, float y) {
  return ::copysignf(x, y);
}
template <typename T>
ZM_INLINE T max(T x, T y) {
  return x < y ? y : x;
}
template <typename T>
ZM_INLINE T min(T x, T y) {
  return y < x ? y : x;
}
namespace precise {
using namespace metal;
}

}  // namespace metal

#define ZMLX_NATIVE_EXPM1
ZM_INLINE float zmlx_expm1(float x) {
  return ::expm1f(x);
}
#define ZMLX_NATIVE_LOG1P
ZM_INLINE float zmlx_log1p(float x) {
  return ::log1pf(x);
}
#define ZMLX_NATIVE_ERF
ZM_INLINE float zmlx_erf(float x) {
  return ::erff(x);
}
#define ZMLX_NATIVE_ERFINV
ZM_INLINE float zmlx_erfinv(float x) {
  return ::erfinvf(x);
}

// numerics="mlx": CUDA contracts products into fma unless told otherwise, and MLX's own kernels there
// take the device's reciprocal root.
#define ZMLX_NATIVE_EXACT_MULTIPLY
ZM_INLINE float zmlx_exact_multiply(float x, float y) {
  return __fmul_rn(x, y);
}
#define ZMLX_NATIVE_EXACT_RSQRT
template <typename T>
ZM_INLINE float zmlx_exact_rsqrt(float x) {
  return float(T(::rsqrtf(x)));
}

// N elements that a thread loads or stores in one go, 16 bytes at a time. Kernels ask for them where
// ZMLX_WIDE is defined.
#define ZMLX_WIDE 1
template <int N, typename T>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) zm_pack {
  T item[N];
  __device__ T& operator[](int k) {
    return item[k];
  }
  __device__ const T& operator[](int k) const {
    return item[k];
  }
};

template <int N, typename T>
ZM_INLINE bool zm_aligned(const T* place) {
  return reinterpret_cast<ulong>(place) % alignof(zm_pack<N, T>) == 0;
}

// Elements `step` apart, from `place` on.
template <int N, typename T>
ZM_INLINE zm_pack<N, T> zmlx_fetch(const T* place, long step) {
  zm_pack<N, T> pack;
  if (step == 1 && zm_aligned<N>(place)) {
    pack = *reinterpret_cast<const zm_pack<N, T>*>(place);
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      pack[k] = place[k * step];
    }
  }
  return pack;
}

template <int N, typename T>
ZM_INLINE zm_pack<N, T> zmlx_wide(const T*) {
  return zm_pack<N, T>();
}

template <int N, typename T>
ZM_INLINE void zmlx_put(T* place, const zm_pack<N, T>& pack) {
  if (zm_aligned<N>(place)) {
    *reinterpret_cast<zm_pack<N, T>*>(place) = pack;
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      place[k] = pack[k];
    }
  }
}

// Chunk number `t` of N elements, dealt out so that a warp covers 2N neighbouring rows: what its
// threads load across the rows then fills whole sectors of 32 bytes. A permutation of the chunks;
// none where rows and chunks do not divide evenly.
template <int N, typename Index>
ZM_INLINE Index zmlx_across(Index t, Index columns, Index rows) {
  constexpr int kRows = 2 * N < 32 ? 2 * N : 32;
  constexpr int kChunks = 32 / kRows;
  const Index chunks = columns / N;
  if (columns % N != 0 || chunks % kChunks != 0 || rows % kRows != 0) {
    return t;
  }
  const Index warp = t / 32, lane = t % 32, across = chunks / kChunks;
  const Index row = warp / across * kRows + lane % kRows;
  return row * chunks + warp % across * kChunks + lane / kRows;
}
