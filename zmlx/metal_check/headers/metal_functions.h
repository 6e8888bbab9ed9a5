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
// The same for all integers and their vectors.
#define ZMLX_OF(M, f, T) M(f, T) M(f, T##2) M(f, T##3) M(f, T##4)
#define ZMLX_INTEGERS(M, f)                                                             \
  M(f, int8_t) ZMLX_OF(M, f, char) ZMLX_OF(M, f, uchar) ZMLX_OF(M, f, short)             \
  ZMLX_OF(M, f, ushort) ZMLX_OF(M, f, int) ZMLX_OF(M, f, uint) ZMLX_OF(M, f, long)       \
  ZMLX_OF(M, f, ulong)

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

#define ZMLX_SPECIAL(T, I)             \
  T sincos(T x, thread T& cosine);     \
  T modf(T x, thread T& whole);        \
  T frexp(T x, thread I& exponent);    \
  T ldexp(T x, I exponent);            \
  I ilogb(T x);
#define ZMLX_TESTS(T, B)               \
  B isfinite(T x);                     \
  B isinf(T x);                        \
  B isnan(T x);                        \
  B isnormal(T x);                     \
  B signbit(T x);                      \
  B isordered(T x, T y);               \
  B isunordered(T x, T y);
#define ZMLX_SPECIALS(T)                                                              \
  ZMLX_SPECIAL(T, int) ZMLX_SPECIAL(T##2, int2) ZMLX_SPECIAL(T##3, int3)               \
  ZMLX_SPECIAL(T##4, int4) ZMLX_TESTS(T, bool) ZMLX_TESTS(T##2, bool2)                 \
  ZMLX_TESTS(T##3, bool3) ZMLX_TESTS(T##4, bool4)
ZMLX_SPECIALS(half)
ZMLX_SPECIALS(float)
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
ZMLX_OF(ZMLX_2, mul24, int) ZMLX_OF(ZMLX_2, mul24, uint)
ZMLX_OF(ZMLX_3, mad24, int) ZMLX_OF(ZMLX_3, mad24, uint)
#define ZMLX_BITS(f, T)                            \
  T extract_bits(T x, uint offset, uint bits);     \
  T insert_bits(T base, T insert, uint offset, uint bits);
ZMLX_INTEGERS(ZMLX_BITS, _)

template <class T>
enable_if_t<is_arithmetic_v<T>, T> select(T if_false, T if_true, bool condition);
// By elements; comparisons give clang vectors of integers of the same size.
template <class T, class B, int N>
vec<T, N> select(vec<T, N> if_false, vec<T, N> if_true, vec<B, N> condition);
bool all(bool x);
bool any(bool x);
template <class B, int N>
bool all(vec<B, N> x);
template <class B, int N>
bool any(vec<B, N> x);
#define ZMLX_GEOMETRY(V, T)              \
  T dot(V x, V y);                       \
  T length(V x);                         \
  T length_squared(V x);                 \
  T distance(V x, V y);                  \
  T distance_squared(V x, V y);          \
  V normalize(V x);                      \
  V reflect(V incident, V normal);       \
  V refract(V incident, V normal, T eta); \
  V faceforward(V normal, V incident, V reference);
ZMLX_GEOMETRY(float2, float) ZMLX_GEOMETRY(float3, float) ZMLX_GEOMETRY(float4, float)
ZMLX_GEOMETRY(half2, half) ZMLX_GEOMETRY(half3, half) ZMLX_GEOMETRY(half4, half)
float3 cross(float3 x, float3 y);
half3 cross(half3 x, half3 y);
#define ZMLX_PACKING(T, KIND)                    \
  uint pack_##KIND##_to_unorm4x8(T##4);          \
  uint pack_##KIND##_to_snorm4x8(T##4);          \
  uint pack_##KIND##_to_srgb_unorm4x8(T##4);     \
  uint pack_##KIND##_to_unorm2x16(T##2);         \
  uint pack_##KIND##_to_snorm2x16(T##2);         \
  uint pack_##KIND##_to_unorm10a2(T##4);         \
  ushort pack_##KIND##_to_unorm565(T##3);        \
  T##4 unpack_unorm4x8_to_##KIND(uint);          \
  T##4 unpack_snorm4x8_to_##KIND(uint);          \
  T##4 unpack_srgb_unorm4x8_to_##KIND(uint);     \
  T##2 unpack_unorm2x16_to_##KIND(uint);         \
  T##2 unpack_snorm2x16_to_##KIND(uint);         \
  T##4 unpack_unorm10a2_to_##KIND(uint);         \
  T##3 unpack_unorm565_to_##KIND(ushort);
ZMLX_PACKING(float, float)
ZMLX_PACKING(half, half)
}  // namespace metal
#include "metal_lanes.h"
#include "metal_atomics.h"
#include "metal_matrices.h"

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
