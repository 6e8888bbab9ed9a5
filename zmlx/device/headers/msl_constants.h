// Metal's macros: limits and constants (specification, chapters 6.5 and 6.6). Part of msl_written.h, of
// a hand-written kernel's header on CUDA, which may have some already, and of the Metal check.
#pragma once

#define ZM_CONSTANTS 1
#undef FLT_MAX
#define FLT_MAX 3.40282347e+38f
#undef FLT_MIN
#define FLT_MIN 1.17549435e-38f
#undef FLT_EPSILON
#define FLT_EPSILON 1.1920929e-7f
#define FLT_DIG 6
#define FLT_MANT_DIG 24
#define FLT_MAX_10_EXP 38
#define FLT_MAX_EXP 128
#define FLT_MIN_10_EXP (-37)
#define FLT_MIN_EXP (-125)
#define FLT_RADIX 2
#define FLT_TRUE_MIN 1.40129846e-45f
#define FLT_DECIMAL_DIG 9
#define HALF_MAX half(65504.0f)
#define HALF_MIN half(6.103515625e-5f)
#define HALF_EPSILON half(9.765625e-4f)
#define HALF_DIG 3
#define HALF_MANT_DIG 11
#define HALF_MAX_10_EXP 4
#define HALF_MAX_EXP 16
#define HALF_MIN_10_EXP (-4)
#define HALF_MIN_EXP (-13)
#define HALF_RADIX 2
#define MAXHALF HALF_MAX
#undef HUGE_VALF
#define HUGE_VALF INFINITY
#define HUGE_VALH half(INFINITY)
#define FP_ILOGB0 (-2147483647 - 1)
#define FP_ILOGBNAN (-2147483647 - 1)

#define M_E_F 2.71828183f
#define M_LOG2E_F 1.44269504f
#define M_LOG10E_F 0.434294482f
#define M_LN2_F 0.693147181f
#define M_LN10_F 2.30258509f
#undef M_PI_F
#define M_PI_F 3.14159265f
#define M_PI_2_F 1.57079633f
#define M_PI_4_F 0.785398163f
#define M_1_PI_F 0.318309886f
#define M_2_PI_F 0.636619772f
#define M_2_SQRTPI_F 1.12837917f
#define M_SQRT2_F 1.41421356f
#define M_SQRT1_2_F 0.707106781f
#define M_E_H half(M_E_F)
#define M_LOG2E_H half(M_LOG2E_F)
#define M_LOG10E_H half(M_LOG10E_F)
#define M_LN2_H half(M_LN2_F)
#define M_LN10_H half(M_LN10_F)
#define M_PI_H half(M_PI_F)
#define M_PI_2_H half(M_PI_2_F)
#define M_PI_4_H half(M_PI_4_F)
#define M_1_PI_H half(M_1_PI_F)
#define M_2_PI_H half(M_2_PI_F)
#define M_2_SQRTPI_H half(M_2_SQRTPI_F)
#define M_SQRT2_H half(M_SQRT2_F)
#define M_SQRT1_2_H half(M_SQRT1_2_F)

#undef CHAR_BIT
#define CHAR_BIT 8
#undef SCHAR_MAX
#define SCHAR_MAX 127
#undef SCHAR_MIN
#define SCHAR_MIN (-128)
#undef CHAR_MAX
#define CHAR_MAX 127
#undef CHAR_MIN
#define CHAR_MIN (-128)
#undef UCHAR_MAX
#define UCHAR_MAX 255
#undef SHRT_MAX
#define SHRT_MAX 32767
#undef SHRT_MIN
#define SHRT_MIN (-32768)
#undef USHRT_MAX
#define USHRT_MAX 65535
#undef INT_MAX
#define INT_MAX 2147483647
#undef INT_MIN
#define INT_MIN (-2147483647 - 1)
#undef UINT_MAX
#define UINT_MAX 4294967295u
#undef LONG_MAX
#define LONG_MAX 9223372036854775807l
#undef LONG_MIN
#define LONG_MIN (-LONG_MAX - 1l)
#undef ULONG_MAX
#define ULONG_MAX 18446744073709551615ul

#define __METAL__ 1
#define __METAL_VERSION__ 320
#define __METAL_MACOS__ 1
