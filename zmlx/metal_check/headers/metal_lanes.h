// What lanes of a simdgroup and of a quad do together (specification, chapter 6.9.2).
#pragma once

namespace metal {
// Simdgroups: numbers of at most 32 bits; MLX adds bfloat, and 64 bits for some.
template <class T>
struct __lane {
  static constexpr bool value = __arithmetic<T>::value && sizeof(T) <= 4 && !is_same_v<T, bool>;
};
#define ZMLX_LANES(T) template <> struct __lane<T> { static constexpr bool value = true; };
#define ZMLX_LANES_OF(T) ZMLX_LANES(T##2) ZMLX_LANES(T##3) ZMLX_LANES(T##4)
ZMLX_LANES_OF(char) ZMLX_LANES_OF(uchar) ZMLX_LANES_OF(short) ZMLX_LANES_OF(ushort)
ZMLX_LANES_OF(int) ZMLX_LANES_OF(uint) ZMLX_LANES_OF(half) ZMLX_LANES_OF(float)
// Bits are those of integers.
template <class T>
struct __bits_lane {
  static constexpr bool value = __lane<T>::value && !is_floating_point_v<T>;
};
#define ZMLX_NO_BITS(T) template <> struct __bits_lane<T> { static constexpr bool value = false; };
ZMLX_NO_BITS(half2) ZMLX_NO_BITS(half3) ZMLX_NO_BITS(half4)
ZMLX_NO_BITS(float2) ZMLX_NO_BITS(float3) ZMLX_NO_BITS(float4)
#undef ZMLX_NO_BITS
template <class T>
using __lane_t = enable_if_t<__lane<T>::value, T>;
#define ZMLX_SIMD1(f) template <class T> __lane_t<T> f(T x);
ZMLX_SIMD1(simd_sum) ZMLX_SIMD1(simd_product) ZMLX_SIMD1(simd_max) ZMLX_SIMD1(simd_min)
ZMLX_SIMD1(simd_broadcast_first) ZMLX_SIMD1(quad_broadcast_first)
#define ZMLX_SIMD_BITS(f) template <class T> enable_if_t<__bits_lane<T>::value, T> f(T x);
ZMLX_SIMD_BITS(simd_and) ZMLX_SIMD_BITS(simd_or) ZMLX_SIMD_BITS(simd_xor)
ZMLX_SIMD_BITS(quad_and) ZMLX_SIMD_BITS(quad_or) ZMLX_SIMD_BITS(quad_xor)
ZMLX_SIMD1(quad_prefix_inclusive_sum) ZMLX_SIMD1(quad_prefix_exclusive_sum)
ZMLX_SIMD1(quad_prefix_inclusive_product) ZMLX_SIMD1(quad_prefix_exclusive_product)
ZMLX_SIMD1(simd_prefix_inclusive_sum) ZMLX_SIMD1(simd_prefix_exclusive_sum)
ZMLX_SIMD1(simd_prefix_inclusive_product) ZMLX_SIMD1(simd_prefix_exclusive_product)
#define ZMLX_SIMD2(f) template <class T> __lane_t<T> f(T x, ushort lane);
ZMLX_SIMD2(simd_broadcast) ZMLX_SIMD2(simd_shuffle) ZMLX_SIMD2(simd_shuffle_up)
ZMLX_SIMD2(simd_shuffle_down) ZMLX_SIMD2(simd_shuffle_xor)
ZMLX_SIMD2(simd_shuffle_rotate_up) ZMLX_SIMD2(simd_shuffle_rotate_down)
#define ZMLX_FILL(f)                                          \
  template <class T>                                          \
  __lane_t<T> f(T x, T fill, ushort delta);                   \
  template <class T>                                          \
  __lane_t<T> f(T x, T fill, ushort delta, ushort modulo);
ZMLX_FILL(simd_shuffle_and_fill_up) ZMLX_FILL(simd_shuffle_and_fill_down)
ZMLX_FILL(quad_shuffle_and_fill_up) ZMLX_FILL(quad_shuffle_and_fill_down)
ZMLX_SIMD1(quad_sum) ZMLX_SIMD1(quad_product) ZMLX_SIMD1(quad_max) ZMLX_SIMD1(quad_min)
ZMLX_SIMD2(quad_broadcast) ZMLX_SIMD2(quad_shuffle) ZMLX_SIMD2(quad_shuffle_up)
ZMLX_SIMD2(quad_shuffle_down) ZMLX_SIMD2(quad_shuffle_xor)
ZMLX_SIMD2(quad_shuffle_rotate_up) ZMLX_SIMD2(quad_shuffle_rotate_down)
bool simd_all(bool x);
bool simd_any(bool x);
bool simd_is_first();

bool quad_all(bool x);
bool quad_any(bool x);
bool quad_is_first();
bool simd_is_helper_thread();
#define ZMLX_VOTE(NAME, WORD)                      \
  struct NAME {                                    \
    typedef WORD vote_t;                           \
    explicit constexpr NAME(vote_t v) : __v(v) {}  \
    explicit constexpr operator vote_t() const { return __v; } \
    bool all() const;                              \
    bool any() const;                              \
    vote_t __v;                                    \
  };
ZMLX_VOTE(simd_vote, ulong)
ZMLX_VOTE(quad_vote, uint)
simd_vote simd_ballot(bool x);
simd_vote simd_active_threads_mask();
quad_vote quad_ballot(bool x);
quad_vote quad_active_threads_mask();
}  // namespace metal
