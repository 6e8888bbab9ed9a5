// Metal functions that need no transcendental mathematics. Part of msl_on_host.h.
//
// Semantics are Metal's: min and max return the operand that is a number, round goes away from
// zero at ties, select(a, b, c) is c ? b : a.
#pragma once

namespace metal {

#define ZM_ROUNDING(NAME)                \
  ZM_INLINE float NAME(float x) {        \
    return __builtin_##NAME##f(x);       \
  }
ZM_ROUNDING(floor)
ZM_ROUNDING(ceil)
ZM_ROUNDING(trunc)
ZM_ROUNDING(rint)
#undef ZM_ROUNDING

ZM_INLINE float copysign(float x, float y) {
  return as_type<float>((as_type<uint>(x) & 0x7fffffffu) | (as_type<uint>(y) & 0x80000000u));
}
// The largest float below one half: adding one half itself would carry 0.49999997 up to one.
ZM_INLINE float round(float x) {
  return __builtin_truncf(x + copysign(0.49999997f, x));
}
ZM_INLINE float fabs(float x) {
  return __builtin_fabsf(x);
}
ZM_INLINE float abs(float x) {
  return __builtin_fabsf(x);
}
template <typename T, typename zm_unless<zm_is_vector<T>>::type = 0>
ZM_INLINE T abs(T x) {
  if constexpr (zm_is_half<T>) {
    return T(fabs(float(x)));  // of -0 as well
  } else {
    return x < T(0) ? T(T(0) - x) : x;
  }
}
ZM_INLINE float fract(float x) {
  const float r = x - __builtin_floorf(x);
  return r >= 1.0f ? 0.99999994f : r;
}
// Rounded once on every CPU: one without the instruction calls the C library.
ZM_INLINE float fma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
// Exact in double, so rounded once; beyond 300 everything is 0 or infinite.
ZM_INLINE float ldexp(float x, int exponent) {
  const int within = exponent < -300 ? -300 : (exponent > 300 ? 300 : exponent);
  return float(double(x) * as_type<double>(ulong(within + 1023) << 52));
}
#ifdef __FMA__
// Each step takes 53 bits off the quotient, which has up to 278, and loses nothing: what is left has
// few enough digits. A quotient rounded up leaves a negative rest, which the last line mends.
ZM_INLINE float fmod(float x, float y) {
  const double step = double(__builtin_fabsf(y));
  double rest = double(__builtin_fabsf(x));
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    rest = __builtin_fma(-__builtin_trunc(rest / step), step, rest);
  }
  const float size = float(rest < 0.0 ? rest + step : rest);
  const float result = __builtin_copysignf(size, x);
  return __builtin_fabsf(y) == INFINITY && __builtin_fabsf(x) < INFINITY ? x : result;
}
#else
ZM_INLINE float fmod(float x, float y) {
  return __builtin_fmodf(x, y);
}
#endif
ZM_INLINE float sign(float x) {
  return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : (x == 0.0f ? x : 0.0f));
}

ZM_INLINE bool isnan(float x) {
  return x != x;
}
ZM_INLINE bool isinf(float x) {
  return __builtin_fabsf(x) == INFINITY;
}
ZM_INLINE bool isfinite(float x) {
  return __builtin_fabsf(x) < INFINITY;
}
ZM_INLINE bool isnormal(float x) {
  return isfinite(x) && __builtin_fabsf(x) >= 0x1p-126f;
}
ZM_INLINE bool signbit(float x) {
  return (as_type<uint>(x) >> 31) != 0;
}

ZM_INLINE float fmax(float x, float y) {
  return (x > y || y != y) ? x : y;
}
ZM_INLINE float fmin(float x, float y) {
  return (x < y || y != y) ? x : y;
}
ZM_INLINE float max(float x, float y) {
  return fmax(x, y);
}
ZM_INLINE float min(float x, float y) {
  return fmin(x, y);
}
template <typename T, typename zm_unless<zm_is_vector<T>>::type = 0>
ZM_INLINE T max(T x, T y) {
  if constexpr (zm_is_half<T>) {
    return T(fmax(float(x), float(y)));
  } else {
    return x < y ? y : x;
  }
}
template <typename T, typename zm_unless<zm_is_vector<T>>::type = 0>
ZM_INLINE T min(T x, T y) {
  if constexpr (zm_is_half<T>) {
    return T(fmin(float(x), float(y)));
  } else {
    return y < x ? y : x;
  }
}
template <typename T, typename zm_unless<zm_is_vector<T>>::type = 0>
ZM_INLINE T clamp(T x, T low, T high) {
  return min(max(x, low), high);
}
ZM_INLINE float saturate(float x) {
  return fmin(fmax(x, 0.0f), 1.0f);
}
ZM_INLINE float mix(float x, float y, float a) {
  return x + (y - x) * a;
}
ZM_INLINE float step(float edge, float x) {
  return x < edge ? 0.0f : 1.0f;
}
template <typename T>
ZM_INLINE T select(T a, T b, bool c) {
  return c ? b : a;
}

// The host has one accuracy: its fast functions are the precise ones.
namespace precise {
using namespace metal;
}
namespace fast {
using namespace metal;
}

}  // namespace metal

// Floats outside the range of an integer type, as MLX's wheels for x86-64 convert them: by way of
// int or long, which become their lowest number, so that negative ones wrap around. GCC makes
// trunc(x) of float(int(x)): the selections and the sums, free of -0, leave that the same.
#if defined(__x86_64__)
#define ZMLX_NATIVE_TO_INTEGER
ZM_INLINE int zm_to_int(float x) {
  return __builtin_fabsf(x) < 0x1p31f ? int(__builtin_truncf(x) + 0.0f) : int(0x80000000u);
}
ZM_INLINE long zm_to_long(float x) {
  return __builtin_fabsf(x) < 0x1p63f ? long(__builtin_truncf(x) + 0.0f) : long(1ul << 63);
}
template <typename T>
ZM_INLINE T zmlx_to_integer(float x) {
  constexpr bool is_signed = T(-1) < T(0);
  if constexpr (sizeof(T) < 4 || (sizeof(T) == 4 && is_signed)) {
    return T(zm_to_int(x));
  } else if constexpr (sizeof(T) == 4) {
    return x >= 0x1p31f ? uint(zm_to_int(x - 0x1p31f)) ^ 0x80000000u : uint(zm_to_int(x));
  } else if constexpr (is_signed) {
    return zm_to_long(x);
  } else {
    return x >= 0x1p63f ? ulong(zm_to_long(x - 0x1p63f)) ^ (1ul << 63) : ulong(zm_to_long(x));
  }
}
#endif
