// Transcendental functions bit by bit as MLX's CPU backend computes them, for numerics="mlx".
//
// Stands in for msl_math.h when ZM_EXACT is defined. Source: mlx/backend/cpu/simd/math.h and
// base_simd.h of MLX 0.32, whose algorithms come from Cephes, JishinMaster/simd_utils, PyTorch and
// Giles/Juffa; everything else is the C library's float function, one element at a time.
#pragma once

#if defined(__APPLE__)
#define ZM_SYMBOL(NAME) __asm__("_" NAME)
#else
#define ZM_SYMBOL(NAME) __asm__(NAME)
#endif

#define ZM_LIBRARY(NAME)                                                             \
  extern "C" __attribute__((const)) float zm_##NAME##f(float) noexcept ZM_SYMBOL(#NAME "f"); \
  namespace metal {                                                                  \
  ZM_INLINE float NAME(float x) {                                                    \
    return zm_##NAME##f(x);                                                          \
  }                                                                                  \
  }
ZM_LIBRARY(log)
ZM_LIBRARY(log2)
ZM_LIBRARY(log10)
ZM_LIBRARY(tan)
ZM_LIBRARY(asin)
ZM_LIBRARY(acos)
ZM_LIBRARY(atan)
ZM_LIBRARY(sinh)
ZM_LIBRARY(cosh)
ZM_LIBRARY(tanh)
ZM_LIBRARY(asinh)
ZM_LIBRARY(acosh)
ZM_LIBRARY(atanh)
ZM_LIBRARY(exp2)
#undef ZM_LIBRARY

extern "C" {
__attribute__((const)) float zm_expm1f(float) noexcept ZM_SYMBOL("expm1f");
__attribute__((const)) float zm_log1pf(float) noexcept ZM_SYMBOL("log1pf");
__attribute__((const)) float zm_sinf(float) noexcept ZM_SYMBOL("sinf");
__attribute__((const)) float zm_cosf(float) noexcept ZM_SYMBOL("cosf");
__attribute__((const)) float zm_powf(float, float) noexcept ZM_SYMBOL("powf");
__attribute__((const)) float zm_atan2f(float, float) noexcept ZM_SYMBOL("atan2f");
}

#define ZM_FMAF(a, b, c) __builtin_fmaf(a, b, c)

ZM_INLINE float zm_mlx_exp(float x) {
  const float y = x * 1.442695f;
  const float whole = float(__builtin_floor(double(y) + 0.5));
  const float part = y - whole;
  float p = 1.535336188319500e-4f;
  p = ZM_FMAF(p, part, 1.339887440266574e-3f);
  p = ZM_FMAF(p, part, 9.618437357674640e-3f);
  p = ZM_FMAF(p, part, 5.550332471162809e-2f);
  p = ZM_FMAF(p, part, 2.402264791363012e-1f);
  p = ZM_FMAF(p, part, 6.931472028550421e-1f);
  p = ZM_FMAF(p, part, 1.000000000000000f);
  const bool inside = x >= -88.0f && x <= 88.0f;
  const uint power = uint(int(inside ? whole : 0.0f) + 127) << 23;
  float result = as_type<float>(power) * p;
  result = x != x ? x : result;
  result = x > 88.0f ? INFINITY : result;
  return x < -88.0f ? 0.0f : result;
}

// sin and cos by quadrant; beyond 2**23 MLX asks the C library, as its reduction ends there.
template <bool Sine>
ZM_INLINE float zm_mlx_sincos(float in) {
  const float x = __builtin_fabsf(in);
  if (x > 8388608.0f) {
    return Sine ? zm_sinf(in) : zm_cosf(in);
  }
  float y = x * 1.27323954473516f;
  const uint octant = (uint(x != x ? 0.0f : y) + 1u) & ~1u;
  y = float(octant);
  const bool swapped = (octant & 2u) != 0;
  float r = ZM_FMAF(y, -0.78515625f, x);
  r = ZM_FMAF(y, -2.4187564849853515625e-4f, r);
  r = ZM_FMAF(y, -3.77489497744594108e-8f, r);
  const bool negative_sine = (in < 0.0f) != ((octant & 4u) != 0);
  const bool positive_cosine = ((octant - 2u) & 4u) != 0;
  const float z = r * r;
  float even = ZM_FMAF(z, 2.443315711809948e-5f, -1.388731625493765e-3f);
  float odd = ZM_FMAF(z, -1.9515295891e-4f, 8.3321608736e-3f);
  even = ZM_FMAF(even, z, 4.166664568298827e-2f);
  odd = ZM_FMAF(odd, z, -1.6666654611e-1f);
  even = even * z;
  odd = odd * z;
  even = even * z;
  odd = ZM_FMAF(r, odd, r);
  even = ZM_FMAF(z, -0.5f, even) + 1.0f;
  const float sine = swapped ? even : odd;
  const float cosine = swapped ? odd : even;
  return Sine ? (negative_sine ? -sine : sine) : (positive_cosine ? cosine : -cosine);
}

namespace metal {

ZM_INLINE float exp(float x) {
  return zm_mlx_exp(x);
}
ZM_INLINE float sin(float x) {
  return zm_mlx_sincos<true>(x);
}
ZM_INLINE float cos(float x) {
  return zm_mlx_sincos<false>(x);
}
ZM_INLINE float sqrt(float x) {
  return __builtin_sqrtf(x);
}
ZM_INLINE float rsqrt(float x) {
  return 1.0f / __builtin_sqrtf(x);
}
ZM_INLINE float pow(float x, float y) {
  return zm_powf(x, y);
}
ZM_INLINE float atan2(float y, float x) {
  return zm_atan2f(y, x);
}
// Not among MLX's.
ZM_INLINE float powr(float x, float y) {
  return x < 0.0f ? NAN : zm_powf(x, y);
}
ZM_INLINE float exp10(float x) {
  return zm_powf(10.0f, x);
}

}  // namespace metal

#define ZMLX_NATIVE_EXPM1
ZM_INLINE float zmlx_expm1(float x) {
  return zm_expm1f(x);
}
#define ZMLX_NATIVE_LOG1P
ZM_INLINE float zmlx_log1p(float x) {
  return zm_log1pf(x);
}
#define ZMLX_NATIVE_SECH2
// As MLX's derivative of tanh computes it: its exp has too few digits far out.
ZM_INLINE float zmlx_sech2(float x) {
  const float c = __builtin_coshf(x);
  return 1.0f / (c * c);
}
#define ZMLX_NATIVE_ERF
ZM_INLINE float zmlx_erf(float x) {
  const float t = 1.0f / ZM_FMAF(0.3275911f, __builtin_fabsf(x), 1.0f);
  float r = ZM_FMAF(1.061405429f, t, -1.453152027f);
  r = ZM_FMAF(r, t, 1.421413741f);
  r = ZM_FMAF(r, t, -0.284496736f);
  r = ZM_FMAF(r, t, 0.254829592f);
  const float e = -zm_mlx_exp(-x * x);
  const float result = ZM_FMAF(e * t, r, 1.0f);
  return x > 0.0f ? result : -result;
}
#define ZMLX_NATIVE_ERFINV
ZM_INLINE float zmlx_erfinv(float x) {
  const float t = zm_logf(ZM_FMAF(x, 0.0f - x, 1.0f));
  float tail = 3.03697567e-10f;
  tail = ZM_FMAF(tail, t, 2.93243101e-8f);
  tail = ZM_FMAF(tail, t, 1.22150334e-6f);
  tail = ZM_FMAF(tail, t, 2.84108955e-5f);
  tail = ZM_FMAF(tail, t, 3.93552968e-4f);
  tail = ZM_FMAF(tail, t, 3.02698812e-3f);
  tail = ZM_FMAF(tail, t, 4.83185798e-3f);
  tail = ZM_FMAF(tail, t, -2.64646143e-1f);
  tail = ZM_FMAF(tail, t, 8.40016484e-1f);
  float centre = 5.43877832e-9f;
  centre = ZM_FMAF(centre, t, 1.43285448e-7f);
  centre = ZM_FMAF(centre, t, 1.22774793e-6f);
  centre = ZM_FMAF(centre, t, 1.12963626e-7f);
  centre = ZM_FMAF(centre, t, -5.61530760e-5f);
  centre = ZM_FMAF(centre, t, -1.47697632e-4f);
  centre = ZM_FMAF(centre, t, 2.31468678e-3f);
  centre = ZM_FMAF(centre, t, 1.15392581e-2f);
  centre = ZM_FMAF(centre, t, -2.32015476e-1f);
  centre = ZM_FMAF(centre, t, 8.86226892e-1f);
  return __builtin_fabsf(t) > 6.125f ? x * tail : x * centre;
}
