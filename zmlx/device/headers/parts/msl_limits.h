// metal::numeric_limits (specification, <metal_limits>).
#pragma once

namespace metal {

template <typename T>
struct numeric_limits {
  static constexpr bool is_specialized = false;
};
#define ZM_VALUE(NAME, EXPRESSION)                     \
  ZM_MEMBER static constexpr T NAME() {                \
    return EXPRESSION;                                 \
  }
#define ZM_WHOLE_LIMITS(KIND, MOST, LEAST, DIGITS)                                   \
  template <>                                                                        \
  struct numeric_limits<KIND> {                                                      \
    typedef KIND T;                                                                  \
    static constexpr bool is_specialized = true, is_signed = (LEAST) < 0,            \
                          is_integer = true, is_exact = true, has_infinity = false,  \
                          has_quiet_NaN = false;                                     \
    static constexpr int digits = DIGITS, digits10 = DIGITS * 301 / 1000, radix = 2; \
    ZM_VALUE(max, MOST) ZM_VALUE(min, LEAST) ZM_VALUE(lowest, LEAST)                 \
    ZM_VALUE(epsilon, 0) ZM_VALUE(round_error, 0) ZM_VALUE(infinity, 0)              \
    ZM_VALUE(quiet_NaN, 0) ZM_VALUE(denorm_min, 0)                                   \
  };
ZM_WHOLE_LIMITS(bool, true, false, 1)
ZM_WHOLE_LIMITS(char, 127, -128, 7)
ZM_WHOLE_LIMITS(signed char, 127, -128, 7)
ZM_WHOLE_LIMITS(uchar, 255, 0, 8)
ZM_WHOLE_LIMITS(short, 32767, -32768, 15)
ZM_WHOLE_LIMITS(ushort, 65535, 0, 16)
ZM_WHOLE_LIMITS(int, INT_MAX, INT_MIN, 31)
ZM_WHOLE_LIMITS(uint, UINT_MAX, 0, 32)
ZM_WHOLE_LIMITS(long, LONG_MAX, LONG_MIN, 63)
ZM_WHOLE_LIMITS(ulong, ULONG_MAX, 0, 64)
#undef ZM_WHOLE_LIMITS
#define ZM_REAL_LIMITS(KIND, MAKE, MOST, LEAST, EPSILON, INF, NUL, TINY, DIGITS, TENS, EXPONENT) \
  template <>                                                                        \
  struct numeric_limits<KIND> {                                                      \
    typedef KIND T;                                                                  \
    static constexpr bool is_specialized = true, is_signed = true, is_integer = false, \
                          is_exact = false, has_infinity = true, has_quiet_NaN = true; \
    static constexpr int digits = DIGITS, digits10 = TENS, radix = 2,                \
                         max_exponent = EXPONENT, min_exponent = 3 - EXPONENT;       \
    ZM_VALUE(max, MAKE(MOST)) ZM_VALUE(min, MAKE(LEAST)) ZM_VALUE(lowest, MAKE(-MOST)) \
    ZM_VALUE(epsilon, MAKE(EPSILON)) ZM_VALUE(round_error, MAKE(0.5f))               \
    ZM_VALUE(infinity, MAKE(INF)) ZM_VALUE(quiet_NaN, MAKE(NUL))                     \
    ZM_VALUE(denorm_min, MAKE(TINY))                                                 \
  };
ZM_REAL_LIMITS(
    float, float, FLT_MAX, FLT_MIN, FLT_EPSILON, ZM_INFINITY, ZM_NAN, FLT_TRUE_MIN, 24, 6, 128)
ZM_REAL_LIMITS(
    half, zm_half_of, 65504.0f, 0x1p-14f, 0x1p-10f, ZM_INFINITY, ZM_NAN, 0x1p-24f, 11, 3, 16)
ZM_REAL_LIMITS(
    bfloat, zm_bfloat_of, 0x1.fep127f, 0x1p-126f, 0x1p-7f, ZM_INFINITY, ZM_NAN, 0x1p-133f, 8, 2, 128)
#undef ZM_REAL_LIMITS
#undef ZM_VALUE

}  // namespace metal
