// The bits of half and bfloat16_t numbers. Part of msl_halves.h, and of a hand-written kernel's header
// on CUDA.
//
// Conversions round to nearest, ties to even, and keep NaN. They are bit operations without branches:
// GCC 12 vectorises those on every CPU, but no conversion of _Float16 (15 times slower, measured).
#pragma once

ZM_INLINE constexpr float zm_half_to_float(ushort bits) {
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

ZM_INLINE constexpr ushort zm_float_to_half(float value) {
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

ZM_INLINE constexpr float zm_bfloat_to_float(ushort bits) {
  return as_type<float>(uint(bits) << 16);
}

ZM_INLINE constexpr ushort zm_float_to_bfloat(float value) {
  const uint bits = as_type<uint>(value);
  const uint rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return ushort((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
