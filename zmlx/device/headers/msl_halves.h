// half and bfloat16_t: two bytes in memory, float when they compute. Part of msl_on_host.h.
//
// Conversions round to nearest, ties to even, and keep NaN. They are bit operations without branches:
// GCC 12 vectorises those on every CPU, but no conversion of _Float16 (15 times slower, measured).
#pragma once

ZM_INLINE float zm_half_to_float(ushort bits) {
  const uint magnitude = uint(bits & 0x7fff) << 13;
  const uint sign = uint(bits & 0x8000) << 16;
  // Times 2**112 moves the exponent and makes normal numbers of half's denormal ones.
  const float scaled = as_type<float>(magnitude) * 0x1p112f;
#ifdef ZM_EXACT
  // MLX computes with the number and so makes a NaN quiet; powf(NaN, 0) tells the two kinds apart.
  const uint nan = (bits & 0x7fff) > 0x7c00 ? 0x7fc00000u : 0u;
  const uint special = (bits & 0x7c00) == 0x7c00 ? 0x7f800000u | nan : 0u;
#else
  const uint special = (bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
#endif
  return as_type<float>(as_type<uint>(scaled) | special | sign);
}

ZM_INLINE ushort zm_float_to_half(float value) {
  const uint bits = as_type<uint>(value);
  const uint sign = (bits >> 16) & 0x8000u;
  const uint magnitude = bits & 0x7fffffffu;
  // Normal results: rebias the exponent, then round by adding; a carry reaches infinity by itself.
  const uint odd = (magnitude >> 13) & 1u;
  const uint normal = (magnitude - 0x38000000u + 0xfffu + odd) >> 13;
  // Results below 2**-14: adding 0.5 leaves their bits, rounded, at the mantissa's end.
  const uint tiny = as_type<uint>(as_type<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint result = magnitude < 0x38800000u ? tiny : normal;
  result = magnitude >= 0x47800000u ? 0x7c00u : result;
#ifdef ZM_EXACT
  result = magnitude > 0x7f800000u ? 0x7d00u : result;  // the NaN that MLX writes
#else
  result = magnitude > 0x7f800000u ? 0x7e00u : result;
#endif
  return ushort(result | sign);
}

ZM_INLINE float zm_bfloat_to_float(ushort bits) {
  return as_type<float>(uint(bits) << 16);
}

ZM_INLINE ushort zm_float_to_bfloat(float value) {
  const uint bits = as_type<uint>(value);
  const uint rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return ushort((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

#define ZM_HALF_TYPE(T, DECODE, ENCODE)                                     \
  struct T {                                                                \
    ushort bits;                                                            \
    T() = default;                                                          \
    ZM_MEMBER T(float value) : bits(ENCODE(value)) {}                       \
    ZM_MEMBER operator float() const {                                      \
      return DECODE(bits);                                                  \
    }                                                                       \
  };                                                                        \
  ZM_INLINE T operator-(T a) {                                              \
    return T(-float(a));                                                    \
  }                                                                         \
  ZM_HALF_OPERATOR(T, +)                                                    \
  ZM_HALF_OPERATOR(T, -)                                                    \
  ZM_HALF_OPERATOR(T, *)                                                    \
  ZM_HALF_OPERATOR(T, /)

// As in Metal, an operation of two halves or of a half and an int is a half, with a float a float.
#define ZM_HALF_OPERATOR(T, OP)                 \
  ZM_INLINE T operator OP(T a, T b) {           \
    return T(float(a) OP float(b));             \
  }                                             \
  ZM_INLINE T operator OP(T a, int b) {         \
    return T(float(a) OP float(b));             \
  }                                             \
  ZM_INLINE T operator OP(int a, T b) {         \
    return T(float(a) OP float(b));             \
  }                                             \
  ZM_INLINE float operator OP(T a, float b) {   \
    return float(a) OP b;                       \
  }                                             \
  ZM_INLINE float operator OP(float a, T b) {   \
    return a OP float(b);                       \
  }

ZM_HALF_TYPE(half, zm_half_to_float, zm_float_to_half)
ZM_HALF_TYPE(bfloat16_t, zm_bfloat_to_float, zm_float_to_bfloat)
typedef bfloat16_t bfloat;

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
