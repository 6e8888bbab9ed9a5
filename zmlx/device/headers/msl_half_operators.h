// A half type with the integers that its own header leaves out, and its assignments. Part of
// msl_written.h.
#pragma once

#define ZM_HALF_MORE(T, OP)                                \
  template <typename I, typename = zm_if_whole<I>>         \
  ZM_INLINE constexpr T operator OP(T a, I b) {            \
    return T(float(a) OP float(b));                        \
  }                                                        \
  template <typename I, typename = zm_if_whole<I>>         \
  ZM_INLINE constexpr T operator OP(I a, T b) {            \
    return T(float(a) OP float(b));                        \
  }                                                        \
  ZM_INLINE T& operator OP##=(T& a, float b) {             \
    return a = T(float(a) OP b);                           \
  }
#define ZM_HALF_STEP(T, OP, PLAIN)                         \
  ZM_INLINE T& operator OP(T& a) {                         \
    return a = T(float(a) PLAIN 1.0f);                     \
  }                                                        \
  ZM_INLINE T operator OP(T& a, int) {                     \
    const T before = a;                                    \
    a = T(float(a) PLAIN 1.0f);                            \
    return before;                                         \
  }
#define ZM_HALF_ALL(T)                                                        \
  ZM_HALF_MORE(T, +) ZM_HALF_MORE(T, -) ZM_HALF_MORE(T, *) ZM_HALF_MORE(T, /) \
  ZM_HALF_STEP(T, ++, +) ZM_HALF_STEP(T, --, -)                               \
  ZM_INLINE constexpr T operator+(T a) {                                      \
    return a;                                                                 \
  }
ZM_HALF_ALL(half)
ZM_HALF_ALL(bfloat16_t)
#undef ZM_HALF_ALL
#undef ZM_HALF_STEP
#undef ZM_HALF_MORE
