// Metal's functions of float that generated kernels on CUDA never name; stands behind msl_on_cuda.h.
#pragma once

namespace metal {

#define ZM_CALL(NAME, FUNCTION)   \
  ZM_INLINE float NAME(float x) { \
    return ::FUNCTION(x);         \
  }
ZM_CALL(exp2, exp2f)
ZM_CALL(exp10, exp10f)
ZM_CALL(round, roundf)
#undef ZM_CALL
ZM_INLINE float sign(float x) {
  return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : (x == 0.0f ? x : 0.0f));
}
ZM_INLINE float fract(float x) {
  const float r = x - ::floorf(x);
  return r >= 1.0f ? 0.99999994f : r;
}
ZM_INLINE float fmax(float x, float y) {
  return ::fmaxf(x, y);
}
ZM_INLINE float fmin(float x, float y) {
  return ::fminf(x, y);
}
ZM_INLINE float max(float x, float y) {
  return ::fmaxf(x, y);
}
ZM_INLINE float min(float x, float y) {
  return ::fminf(x, y);
}
ZM_INLINE float saturate(float x) {
  return ::fminf(::fmaxf(x, 0.0f), 1.0f);
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
ZM_INLINE bool isnan(float x) {
  return x != x;
}
ZM_INLINE bool isinf(float x) {
  return ::fabsf(x) == INFINITY;
}
ZM_INLINE bool isfinite(float x) {
  return ::fabsf(x) < INFINITY;
}
ZM_INLINE bool isnormal(float x) {
  return isfinite(x) && ::fabsf(x) >= FLT_MIN;
}
ZM_INLINE bool signbit(float x) {
  return __float_as_int(x) < 0;
}
ZM_INLINE float powr(float x, float y) {
  return x < 0.0f ? NAN : ::powf(x, y);
}
template <typename T, typename zm_unless<zm_is_vector<T>>::type = 0>
ZM_INLINE T abs(T x) {
  if constexpr (zm_is_half<T>) {
    return T(::fabsf(float(x)));
  } else {
    return x < T(0) ? T(T(0) - x) : x;
  }
}
namespace fast {
using namespace metal;
}

}  // namespace metal
