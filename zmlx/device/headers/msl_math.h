// Metal's transcendental functions for float. Part of msl_on_host.h.
//
// Each is evaluated in double and rounded once, so that results lie within about 0.501 units in the
// last place of the exact value. Exponentials, logarithms, powers and what rests on them are polynomials
// without branches; the others call glibc's vector library where there is one, else the C library.
// That library computes a lane outside a function's domain by itself, ten times slower.
#pragma once

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#if __GLIBC_PREREQ(2, 35)
#define ZM_SIMD __attribute__((const, simd("notinbranch")))
#endif
#endif
#ifndef ZM_SIMD
#define ZM_SIMD __attribute__((const))
#endif

#ifdef __FMA__
#define ZM_FMA(a, b, c) __builtin_fma(a, b, c)
#else
#define ZM_FMA(a, b, c) ((a) * (b) + (c))
#endif

#if defined(__APPLE__)
#define ZM_SYMBOL(NAME) __asm__("_" NAME)
#else
#define ZM_SYMBOL(NAME) __asm__(NAME)
#endif

// name(double) of the C library, seen as zm_name so that no built-in rule applies to it. It is asked
// for 1 where `DOMAIN` does not hold.
#define ZM_LIBRARY(NAME, DOMAIN)                                         \
  extern "C" ZM_SIMD double zm_##NAME(double) noexcept ZM_SYMBOL(#NAME); \
  namespace metal {                                                      \
  ZM_INLINE float NAME(float x) {                                        \
    const float result = float(zm_##NAME(DOMAIN ? double(x) : 1.0));     \
    return DOMAIN ? result : NAN;                                        \
  }                                                                      \
  }
ZM_LIBRARY(sin, true)
ZM_LIBRARY(cos, true)
ZM_LIBRARY(tan, true)
ZM_LIBRARY(asin, (__builtin_fabsf(x) <= 1.0f))
ZM_LIBRARY(acos, (__builtin_fabsf(x) <= 1.0f))
ZM_LIBRARY(atan, true)
ZM_LIBRARY(asinh, true)
ZM_LIBRARY(acosh, (x >= 1.0f))
#undef ZM_LIBRARY

extern "C" ZM_SIMD double zm_exp_full(double) noexcept ZM_SYMBOL("exp");
extern "C" ZM_SIMD double zm_log1p(double) noexcept ZM_SYMBOL("log1p");
extern "C" ZM_SIMD double zm_erf(double) noexcept ZM_SYMBOL("erf");
extern "C" ZM_SIMD double zm_atan2(double, double) noexcept ZM_SYMBOL("atan2");

// exp(x) - 1 as s * q + (s - 1): s = 2**k, q = exp(r) - 1, x = k * log(2) + r. Relative error 1e-11
// (minimax on |r| <= log(2)/2); x must lie within +-700. Adding 1.5 * 2**52 rounds to an integer.
struct zm_power {
  double s, q;
};
ZM_INLINE zm_power zm_reduce(double x) {
  const double shifted = x * 0x1.71547652b82fep+0 + (0x1.8p52 + 1023.0);
  const double k = shifted - (0x1.8p52 + 1023.0);
  const double r = ZM_FMA(k, -0x1.62e42fefa39efp-1, x);
  double p = 0x1.a1132015ba37ep-16;
  p = ZM_FMA(p, r, 0x1.a15179d80ae96p-13);
  p = ZM_FMA(p, r, 0x1.6c16858b7acb9p-10);
  p = ZM_FMA(p, r, 0x1.1110c632a3088p-7);
  p = ZM_FMA(p, r, 0x1.5555555c87148p-5);
  p = ZM_FMA(p, r, 0x1.55555567532adp-3);
  p = ZM_FMA(p, r, 0.5);
  return {as_type<double>(as_type<ulong>(shifted) << 52), ZM_FMA(p * r, r, r)};
}
// A NaN passes: both comparisons are then false.
ZM_INLINE double zm_within(double x, double low, double high) {
  const double above = x < low ? low : x;
  return above > high ? high : above;
}
ZM_INLINE double zm_exp(double x) {
  const zm_power e = zm_reduce(zm_within(x, -200.0, 200.0));
  return ZM_FMA(e.s, e.q, e.s);
}
ZM_INLINE double zm_expm1(double x) {
  const zm_power e = zm_reduce(zm_within(x, -200.0, 200.0));
  return ZM_FMA(e.s, e.q, e.s - 1.0);
}

// log(x) as k * log(2) + tail: x = m * 2**k with m between the roots of 1/2 and 2. Here tail is
// log(1 + f), f = m - 1, as 2 * atanh(f / (2 + f)): relative error 3e-14 (minimax). k becomes a double
// by the exponent of 2**52, for want of an instruction; x must be positive and finite.
struct zm_split {
  ulong biased;
  double k;
};
ZM_INLINE zm_split zm_scale(double x) {
  const ulong biased = (as_type<ulong>(x) + (0x3ff0000000000000ul - 0x3fe6a09e667f3bcdul)) >> 52;
  return {biased, as_type<double>(biased | 0x4330000000000000ul) - (0x1p52 + 1023.0)};
}
ZM_INLINE double zm_log_near_one(double f) {
  const double s = f / (2.0 + f);
  const double w = s * s;
  double p = 0x1.911283d2058bcp-3;
  p = ZM_FMA(p, w, 0x1.c62b4c8eac77bp-3);
  p = ZM_FMA(p, w, 0x1.2494113d1825dp-2);
  p = ZM_FMA(p, w, 0x1.999996ab049ecp-2);
  p = ZM_FMA(p, w, 0x1.555555561d976p-1);
  return ZM_FMA(s * w, p, s + s);
}
// `result` is log(x) in some base: what it is where x is no positive finite number.
ZM_INLINE double zm_log_domain(double x, double result) {
  const double finite = x == __builtin_inf() ? x : result;
  const double edge = x == 0.0 ? -__builtin_inf() : __builtin_nan("");
  return x > 0.0 ? finite : edge;
}
// k * whole + log(m) * part, where whole and part are log(2) and log(e) in the base asked for.
ZM_INLINE double zm_log_in(double x, double whole, double part) {
  const zm_split at = zm_scale(x);
  const double m = as_type<double>(as_type<ulong>(x) - (at.biased << 52) + (1023ul << 52));
  return zm_log_domain(x, ZM_FMA(at.k, whole, zm_log_near_one(m - 1.0) * part));
}
ZM_INLINE double zm_log(double x) {
  return zm_log_in(x, 0x1.62e42fefa39efp-1, 1.0);
}
// log(1 + x) to full relative accuracy: m - 1 is x / 2**k + (1 / 2**k - 1), not rounded near x = 0.
ZM_INLINE double zm_log_beside(double x) {
  const zm_split at = zm_scale(1.0 + x);
  const double scale = as_type<double>((2046ul - at.biased) << 52);
  const double f = ZM_FMA(x, scale, scale - 1.0);
  return zm_log_domain(1.0 + x, ZM_FMA(at.k, 0x1.62e42fefa39efp-1, zm_log_near_one(f)));
}

// x**y as C has it: 1 where x is 1 or y is 0; of negative x where y is whole, odd ones keeping the sign.
ZM_INLINE double zm_pow(double x, double y) {
  const double logarithm = zm_log(__builtin_fabs(x));
  const double product = logarithm == 0.0 ? 0.0 : y * logarithm;
  const double size = zm_exp(y == 0.0 ? 0.0 : product);
  const double half = y * 0.5;
  const double rest = half - __builtin_trunc(half);  // a half where y is odd
  const double result = __builtin_fabs(rest) == 0.5 ? __builtin_copysign(size, x) : size;
  const double whole = __builtin_trunc(y) == y ? result : __builtin_nan("");
  const double below = x == -__builtin_inf() ? result : whole;
  return x < 0.0 ? below : result;
}

namespace metal {

ZM_INLINE float sqrt(float x) {
  return __builtin_sqrtf(x);
}
ZM_INLINE float rsqrt(float x) {
  return float(1.0 / __builtin_sqrt(double(x)));
}
ZM_INLINE float exp(float x) {
  return float(zm_exp(double(x)));
}
// The argument is exact, times log(2) or log(10) it is not: its rounding error is 2**-53 * 150.
ZM_INLINE float exp2(float x) {
  return float(zm_exp(zm_within(double(x), -200.0, 200.0) * 0x1.62e42fefa39efp-1));
}
ZM_INLINE float exp10(float x) {
  return float(zm_exp(zm_within(double(x), -80.0, 80.0) * 0x1.26bb1bbb55516p+1));
}
// Odd functions take the magnitude and put the sign back, which keeps -0.
ZM_INLINE float tanh(float x) {
  const double e = zm_expm1(2.0 * zm_within(double(__builtin_fabsf(x)), 0.0, 60.0));
  return __builtin_copysignf(float(e / (e + 2.0)), x);
}
ZM_INLINE float sinh(float x) {
  const double e = zm_expm1(double(__builtin_fabsf(x)));
  return __builtin_copysignf(float(0.5 * (e + e / (e + 1.0))), x);
}
ZM_INLINE float cosh(float x) {
  const double e = zm_exp(double(__builtin_fabsf(x)));
  return float(0.5 * (e + 1.0 / e));
}
ZM_INLINE float log(float x) {
  return float(zm_log(double(x)));
}
ZM_INLINE float log2(float x) {
  return float(zm_log_in(double(x), 1.0, 0x1.71547652b82fep+0));
}
ZM_INLINE float log10(float x) {
  return float(zm_log_in(double(x), 0x1.34413509f79ffp-2, 0x1.bcb7b1526e50ep-2));
}
ZM_INLINE float atanh(float x) {
  const double size = double(__builtin_fabsf(x));
  return __builtin_copysignf(float(0.5 * zm_log_beside(2.0 * size / (1.0 - size))), x);
}
ZM_INLINE float pow(float x, float y) {
  return float(zm_pow(double(x), double(y)));
}
ZM_INLINE float powr(float x, float y) {
  return x < 0.0f ? NAN : float(zm_pow(double(x), double(y)));
}
ZM_INLINE float atan2(float y, float x) {
  return float(zm_atan2(double(y), double(x)));
}

}  // namespace metal

// What Metal lacks and kernels bring along as helpers, here in double as well.
#define ZMLX_NATIVE_EXPM1
ZM_INLINE float zmlx_expm1(float x) {
  const float result = float(zm_expm1(double(x)));
  return x == 0.0f ? x : result;
}
#define ZMLX_NATIVE_LOG1P
ZM_INLINE float zmlx_log1p(float x) {
  return __builtin_copysignf(float(zm_log_beside(double(x))), x);  // keeps -0
}
#define ZMLX_NATIVE_SIGMOID
ZM_INLINE float zmlx_sigmoid(float x) {
  return float(1.0 / (1.0 + zm_exp(-double(x))));
}
// Beside tanh of the same value the exponential is computed once.
#define ZMLX_NATIVE_SECH2
ZM_INLINE float zmlx_sech2(float x) {
  const double e = zm_expm1(2.0 * zm_within(double(__builtin_fabsf(x)), 0.0, 60.0));
  return float(4.0 * (e + 1.0) / ((e + 2.0) * (e + 2.0)));
}
#define ZMLX_NATIVE_LOGADDEXP
ZM_INLINE float zmlx_logaddexp(float x, float y) {
  const double gap = x == y ? 0.0 : __builtin_fabs(double(x) - double(y));
  const double top = double((x > y || x != x) ? x : y);
  return float(top + zm_log1p(zm_exp_full(-gap)));  // may cancel: exp needs all of double here
}
#define ZMLX_NATIVE_ERF
ZM_INLINE float zmlx_erf(float x) {
  return float(zm_erf(double(x)));
}
#define ZMLX_NATIVE_ERFINV
// Giles' and Juffa's polynomials in log(1 - x*x), as in MLX, then one step of Newton's method.
ZM_INLINE float zmlx_erfinv(float x) {
  const double y = double(x);
  const double t = zm_log(1.0 - y * y);
  double tail = 3.03697567e-10;
  tail = ZM_FMA(tail, t, 2.93243101e-8);
  tail = ZM_FMA(tail, t, 1.22150334e-6);
  tail = ZM_FMA(tail, t, 2.84108955e-5);
  tail = ZM_FMA(tail, t, 3.93552968e-4);
  tail = ZM_FMA(tail, t, 3.02698812e-3);
  tail = ZM_FMA(tail, t, 4.83185798e-3);
  tail = ZM_FMA(tail, t, -2.64646143e-1);
  tail = ZM_FMA(tail, t, 8.40016484e-1);
  double centre = 5.43877832e-9;
  centre = ZM_FMA(centre, t, 1.43285448e-7);
  centre = ZM_FMA(centre, t, 1.22774793e-6);
  centre = ZM_FMA(centre, t, 1.12963626e-7);
  centre = ZM_FMA(centre, t, -5.61530760e-5);
  centre = ZM_FMA(centre, t, -1.47697632e-4);
  centre = ZM_FMA(centre, t, 2.31468678e-3);
  centre = ZM_FMA(centre, t, 1.15392581e-2);
  centre = ZM_FMA(centre, t, -2.32015476e-1);
  centre = ZM_FMA(centre, t, 8.86226892e-1);
  const double guess = y * (t < -6.125 ? tail : centre);
  const double slope = 0x1.c5bf891b4ef6ap-1 * zm_exp(guess * guess);
  const double better = guess - (zm_erf(guess) - y) * slope;
  return float(__builtin_fabs(guess) < 10.0 ? better : guess);
}
