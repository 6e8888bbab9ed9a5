// Functions of Metal's standard library (specification, chapter 6), declared per type.
#pragma once

namespace metal {
// name(x), name(x, y), name(x, y, z) for half, float and their vectors.
#define ZMLX_F1(f) \
  ZMLX_1(f, half) ZMLX_1(f, half2) ZMLX_1(f, half3) ZMLX_1(f, half4) ZMLX_F1_FLOAT(f)
#define ZMLX_F1_FLOAT(f) ZMLX_1(f, float) ZMLX_1(f, float2) ZMLX_1(f, float3) ZMLX_1(f, float4)
#define ZMLX_F2(f) \
  ZMLX_2(f, half) ZMLX_2(f, half2) ZMLX_2(f, half3) ZMLX_2(f, half4) ZMLX_F2_FLOAT(f)
#define ZMLX_F2_FLOAT(f) ZMLX_2(f, float) ZMLX_2(f, float2) ZMLX_2(f, float3) ZMLX_2(f, float4)
#define ZMLX_F3(f) \
  ZMLX_3(f, half) ZMLX_3(f, half2) ZMLX_3(f, half3) ZMLX_3(f, half4) ZMLX_F3_FLOAT(f)
#define ZMLX_F3_FLOAT(f) ZMLX_3(f, float) ZMLX_3(f, float2) ZMLX_3(f, float3) ZMLX_3(f, float4)
#define ZMLX_1(f, T) T f(T x);
#define ZMLX_2(f, T) T f(T x, T y);
#define ZMLX_3(f, T) T f(T x, T y, T z);
// The same for all integers.
#define ZMLX_INTEGERS(M, f) \
  M(f, char) M(f, int8_t) M(f, uchar) M(f, short) M(f, ushort) M(f, int) M(f, uint) \
  M(f, long) M(f, ulong) M(f, int2) M(f, int3) M(f, int4) M(f, uint2) M(f, uint3) M(f, uint4)

// Also in metal::fast and metal::precise, there for float only.
#define ZMLX_MATH(F1, F2, F3) \
  F1(acos) F1(acosh) F1(asin) F1(asinh) F1(atan) F1(atanh) F1(ceil) F1(cos) F1(cosh) F1(cospi) \
  F1(exp) F1(exp10) F1(exp2) F1(fabs) F1(abs) F1(floor) F1(fract) F1(log) F1(log10) F1(log2) \
  F1(rint) F1(round) F1(rsqrt) F1(sin) F1(sinh) F1(sinpi) F1(sqrt) F1(tan) F1(tanh) F1(tanpi) \
  F1(trunc) F1(saturate) F2(atan2) F2(divide) F2(fdim) F2(fmax) F2(fmin) F2(fmod) F2(pow) \
  F2(powr) F2(max) F2(min) F3(fmax3) F3(fmin3) F3(fmedian3) F3(max3) F3(min3) F3(median3) \
  F3(clamp)
ZMLX_MATH(ZMLX_F1, ZMLX_F2, ZMLX_F3)
ZMLX_F1(sign)
ZMLX_F2(copysign) ZMLX_F2(nextafter) ZMLX_F2(step)
ZMLX_F3(fma) ZMLX_F3(mix) ZMLX_F3(smoothstep)
namespace fast {
ZMLX_MATH(ZMLX_F1_FLOAT, ZMLX_F2_FLOAT, ZMLX_F3_FLOAT)
float sincos(float x, thread float& cosine);
}  // namespace fast
namespace precise {
ZMLX_MATH(ZMLX_F1_FLOAT, ZMLX_F2_FLOAT, ZMLX_F3_FLOAT)
float sincos(float x, thread float& cosine);
}  // namespace precise

#define ZMLX_SPECIAL(T)                \
  T sincos(T x, thread T& cosine);     \
  T modf(T x, thread T& whole);        \
  T frexp(T x, thread int& exponent);  \
  T ldexp(T x, int exponent);          \
  int ilogb(T x);                      \
  bool isfinite(T x);                  \
  bool isinf(T x);                     \
  bool isnan(T x);                     \
  bool isnormal(T x);                  \
  bool signbit(T x);                   \
  bool isordered(T x, T y);            \
  bool isunordered(T x, T y);
ZMLX_SPECIAL(half)
ZMLX_SPECIAL(float)
bool isnan(bfloat x);
bool isinf(bfloat x);
bool isfinite(bfloat x);

// Integers.
ZMLX_INTEGERS(ZMLX_1, abs) ZMLX_INTEGERS(ZMLX_1, clz) ZMLX_INTEGERS(ZMLX_1, ctz)
ZMLX_INTEGERS(ZMLX_1, popcount) ZMLX_INTEGERS(ZMLX_1, reverse_bits)
ZMLX_INTEGERS(ZMLX_2, max) ZMLX_INTEGERS(ZMLX_2, min) ZMLX_INTEGERS(ZMLX_2, absdiff)
ZMLX_INTEGERS(ZMLX_2, addsat) ZMLX_INTEGERS(ZMLX_2, subsat) ZMLX_INTEGERS(ZMLX_2, hadd)
ZMLX_INTEGERS(ZMLX_2, rhadd) ZMLX_INTEGERS(ZMLX_2, mulhi) ZMLX_INTEGERS(ZMLX_2, rotate)
ZMLX_INTEGERS(ZMLX_3, clamp) ZMLX_INTEGERS(ZMLX_3, max3) ZMLX_INTEGERS(ZMLX_3, min3)
ZMLX_INTEGERS(ZMLX_3, median3) ZMLX_INTEGERS(ZMLX_3, madhi) ZMLX_INTEGERS(ZMLX_3, madsat)
ZMLX_2(mul24, int) ZMLX_2(mul24, uint) ZMLX_3(mad24, int) ZMLX_3(mad24, uint)
template <class T>
enable_if_t<is_integral_v<T>, T> extract_bits(T x, uint offset, uint bits);
template <class T>
enable_if_t<is_integral_v<T>, T> insert_bits(T base, T insert, uint offset, uint bits);

template <class T>
enable_if_t<is_arithmetic_v<T>, T> select(T if_false, T if_true, bool condition);
bool all(bool2 x);
bool all(bool3 x);
bool all(bool4 x);
bool any(bool2 x);
bool any(bool3 x);
bool any(bool4 x);
#define ZMLX_GEOMETRY(V, T)              \
  T dot(V x, V y);                       \
  T length(V x);                         \
  V normalize(V x);
ZMLX_GEOMETRY(float2, float) ZMLX_GEOMETRY(float3, float) ZMLX_GEOMETRY(float4, float)
ZMLX_GEOMETRY(half2, half) ZMLX_GEOMETRY(half3, half) ZMLX_GEOMETRY(half4, half)

// Simdgroups: numbers of at most 32 bits; MLX adds bfloat, and 64 bits for some.
template <class T>
struct __lane {
  static constexpr bool value = __arithmetic<T>::value && sizeof(T) <= 4 && !is_same_v<T, bool>;
};
#define ZMLX_LANES(T) template <> struct __lane<T> { static constexpr bool value = true; };
ZMLX_LANES(uint2) ZMLX_LANES(uint4) ZMLX_LANES(int2) ZMLX_LANES(int4)
ZMLX_LANES(float2) ZMLX_LANES(float4) ZMLX_LANES(half2) ZMLX_LANES(half4)
template <class T>
using __lane_t = enable_if_t<__lane<T>::value, T>;
#define ZMLX_SIMD1(f) template <class T> __lane_t<T> f(T x);
ZMLX_SIMD1(simd_sum) ZMLX_SIMD1(simd_product) ZMLX_SIMD1(simd_max) ZMLX_SIMD1(simd_min)
ZMLX_SIMD1(simd_and) ZMLX_SIMD1(simd_or) ZMLX_SIMD1(simd_xor) ZMLX_SIMD1(simd_broadcast_first)
ZMLX_SIMD1(simd_prefix_inclusive_sum) ZMLX_SIMD1(simd_prefix_exclusive_sum)
ZMLX_SIMD1(simd_prefix_inclusive_product) ZMLX_SIMD1(simd_prefix_exclusive_product)
#define ZMLX_SIMD2(f) template <class T> __lane_t<T> f(T x, ushort lane);
ZMLX_SIMD2(simd_broadcast) ZMLX_SIMD2(simd_shuffle) ZMLX_SIMD2(simd_shuffle_up)
ZMLX_SIMD2(simd_shuffle_down) ZMLX_SIMD2(simd_shuffle_xor)
ZMLX_SIMD2(simd_shuffle_rotate_up) ZMLX_SIMD2(simd_shuffle_rotate_down)
template <class T>
__lane_t<T> simd_shuffle_and_fill_up(T x, T fill, ushort delta);
template <class T>
__lane_t<T> simd_shuffle_and_fill_down(T x, T fill, ushort delta);
ZMLX_SIMD1(quad_sum) ZMLX_SIMD1(quad_product) ZMLX_SIMD1(quad_max) ZMLX_SIMD1(quad_min)
ZMLX_SIMD2(quad_broadcast) ZMLX_SIMD2(quad_shuffle) ZMLX_SIMD2(quad_shuffle_up)
ZMLX_SIMD2(quad_shuffle_down) ZMLX_SIMD2(quad_shuffle_xor)
bool simd_all(bool x);
bool simd_any(bool x);
bool simd_is_first();

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
void threadgroup_barrier(mem_flags flags);
void simdgroup_barrier(mem_flags flags);

// Atomics: relaxed order only.
enum memory_order { memory_order_relaxed };
template <class T>
struct atomic {
  T __value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<bool> atomic_bool;
typedef atomic<float> atomic_float;
#define ZMLX_ATOMIC2(f, space) \
  template <class T>           \
  T atomic_##f##_explicit(volatile space atomic<T>* object, T operand, memory_order order);
#define ZMLX_ATOMICS(space)                                                                  \
  template <class T>                                                                         \
  void atomic_store_explicit(volatile space atomic<T>* object, T value, memory_order order); \
  template <class T>                                                                         \
  T atomic_load_explicit(const volatile space atomic<T>* object, memory_order order);        \
  template <class T>                                                                         \
  bool atomic_compare_exchange_weak_explicit(                                                \
      volatile space atomic<T>* object, thread T* expected, T desired, memory_order success, \
      memory_order failure);                                                                 \
  ZMLX_ATOMIC2(exchange, space) ZMLX_ATOMIC2(fetch_add, space) ZMLX_ATOMIC2(fetch_sub, space) \
  ZMLX_ATOMIC2(fetch_max, space) ZMLX_ATOMIC2(fetch_min, space) ZMLX_ATOMIC2(fetch_and, space) \
  ZMLX_ATOMIC2(fetch_or, space) ZMLX_ATOMIC2(fetch_xor, space)
ZMLX_ATOMICS(device)
ZMLX_ATOMICS(threadgroup)
}  // namespace metal

// Apple's built-ins under the names that MLX's bf16_math.h calls.
#define __METAL_MAYBE_FAST_MATH__ 0
#define __METAL_FAST_MATH__ 1
#define __METAL_PRECISE_MATH__ 2
#define ZMLX_BUILTIN(f) template <class T, class... R> T __metal_##f(T, R...);
#define ZMLX_B4(a, b, c, d) ZMLX_BUILTIN(a) ZMLX_BUILTIN(b) ZMLX_BUILTIN(c) ZMLX_BUILTIN(d)
ZMLX_B4(acos, acosh, asin, asinh)
ZMLX_B4(atan, atan2, atanh, ceil)
ZMLX_B4(cos, cosh, cospi, divide)
ZMLX_B4(exp, exp10, exp2, fabs)
ZMLX_B4(floor, fma, fmax, fmax3)
ZMLX_B4(fmedian3, fmin, fmin3, fmod)
ZMLX_B4(fract, frexp, ldexp, log)
ZMLX_B4(log10, log2, nextafter, pow)
ZMLX_B4(powr, rint, round, rsqrt)
ZMLX_B4(sin, sinh, sinpi, sqrt) ZMLX_B4(tan, tanh, tanpi, trunc)
ZMLX_B4(simd_broadcast, simd_max, simd_min, simd_product)
ZMLX_B4(simd_sum, simd_xor, simd_shuffle, simd_shuffle_xor)
ZMLX_BUILTIN(simd_prefix_exclusive_product) ZMLX_BUILTIN(simd_prefix_exclusive_sum)
ZMLX_BUILTIN(simd_prefix_inclusive_product) ZMLX_BUILTIN(simd_prefix_inclusive_sum)
ZMLX_B4(simd_shuffle_and_fill_down, simd_shuffle_and_fill_up, simd_shuffle_down, simd_shuffle_up)
ZMLX_B4(simd_shuffle_rotate_down, simd_shuffle_rotate_up, get_simdgroup_size, simd_and)
