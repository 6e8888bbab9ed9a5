// half and bfloat16_t: two bytes in memory, float when they compute. Part of msl_on_host.h.
//
// Comparisons are those of float, to which both convert.
#pragma once

#include "msl_half_bits.h"

#define ZM_HALF_TYPE(T, DECODE, ENCODE)                                     \
  struct T {                                                                \
    ushort bits;                                                            \
    T() = default;                                                          \
    ZM_MEMBER constexpr T(float value) : bits(ENCODE(value)) {}                       \
    ZM_MEMBER constexpr operator float() const {                                      \
      return DECODE(bits);                                                  \
    }                                                                       \
  };                                                                        \
  ZM_INLINE constexpr T operator-(T a) {                                              \
    return T(-float(a));                                                    \
  }                                                                         \
  ZM_HALF_OPERATOR(T, +)                                                    \
  ZM_HALF_OPERATOR(T, -)                                                    \
  ZM_HALF_OPERATOR(T, *)                                                    \
  ZM_HALF_OPERATOR(T, /)

// As in Metal, an operation of two halves or of a half and an int is a half, with a float a float.
#define ZM_HALF_OPERATOR(T, OP)                 \
  ZM_INLINE constexpr T operator OP(T a, T b) {           \
    return T(float(a) OP float(b));             \
  }                                             \
  ZM_INLINE constexpr T operator OP(T a, int b) {         \
    return T(float(a) OP float(b));             \
  }                                             \
  ZM_INLINE constexpr T operator OP(int a, T b) {         \
    return T(float(a) OP float(b));             \
  }                                             \
  ZM_INLINE constexpr float operator OP(T a, float b) {   \
    return float(a) OP b;                       \
  }                                             \
  ZM_INLINE constexpr float operator OP(float a, T b) {   \
    return a OP float(b);                       \
  }

ZM_HALF_TYPE(half, zm_half_to_float, zm_float_to_half)
ZM_HALF_TYPE(bfloat16_t, zm_bfloat_to_float, zm_float_to_bfloat)
typedef bfloat16_t bfloat;

template <typename T>
constexpr bool zm_is_half = false;
template <>
constexpr bool zm_is_half<half> = true;
template <>
constexpr bool zm_is_half<bfloat16_t> = true;
// Vectors, and what stands for one: the functions of numbers leave them to their own.
template <typename T>
constexpr bool zm_is_vector = false;
template <bool C>
struct zm_unless {};
template <>
struct zm_unless<false> {
  typedef int type;
};

// To a half type and back, in 32 bits throughout: packing to 16 costs more than the rounding, and
// as much again to compile.
ZM_INLINE float zm_round_half(float x) {
  const float magnitude = __builtin_fabsf(x);
  const uint bits = as_type<uint>(magnitude);
  const float normal = as_type<float>((bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu);
  const float tiny = (magnitude + 0.5f) - 0.5f;  // steps of 2**-24
  float result = magnitude < 0x1p-14f ? tiny : normal;
  result = result >= 65536.0f ? INFINITY : result;
  return magnitude != magnitude ? x : __builtin_copysignf(result, x);
}
ZM_INLINE float zm_round_bfloat(float x) {
  const uint bits = as_type<uint>(x);
  const float result = as_type<float>((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
  return x != x ? x : result;
}
template <typename T>
struct zm_rounding;
template <>
struct zm_rounding<half> {
  ZM_MEMBER static float of(float x) {
    return zm_round_half(x);
  }
};
template <>
struct zm_rounding<bfloat16_t> {
  ZM_MEMBER static float of(float x) {
    return zm_round_bfloat(x);
  }
};
#define ZMLX_NATIVE_ROUND
template <typename T>
ZM_INLINE float zmlx_round(float x) {
  return zm_rounding<T>::of(x);
}
