"""Helpers: MSL functions that Metal's standard library lacks, by name, pulled in only when used.

Rows of the op table name them; the emitter asks `helper_text` for the text that a kernel needs.
The text is valid MSL and valid C++14. All is float32, free of branches where a vector unit would
suffer from them, and within about one unit in the last place of the exact function. A device that
has its own function defines ZMLX_NATIVE_<NAME> and `zmlx_<name>` before the kernel's text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Helper:
    """One helper: its text and the helpers that the text calls."""

    text: str
    needs: tuple[str, ...] = ()


# After N. Juffa (copyright 2015-2023, BSD-2-Clause), as in MLX: with a = i*log(2) + f,
# expm1(a) = 2*(2**(i-1)*expm1(f) + (2**(i-1) - 1/2)).
_EXPM1 = """
inline float zmlx_expm1(float x) {
  const float a = (x > -80.0f) ? ((x < 89.0f) ? x : 89.0f) : -80.0f;
  const float j = metal::rint(a * 1.44269502f);
  const float f = metal::fma(j, -1.42860677e-06f, metal::fma(j, -0.693145752f, a));
  float r = 1.97350979e-4f;
  r = metal::fma(r, f, 1.39309070e-3f);
  r = metal::fma(r, f, 8.33343994e-3f);
  r = metal::fma(r, f, 4.16668020e-2f);
  r = metal::fma(r, f, 1.66666716e-1f);
  r = metal::fma(r, f, 4.99999970e-1f);
  const float s = f * f;
  const float v = metal::fma(r, s, f);
  const float v1 = metal::fma(r, s, f + 0.5f);
  const float t = as_type<float>((int(j) + 126) << 23);
  const float y = t - 0.5f;
  const float lost = (t - y) - 0.5f;
  const float e = metal::fma(v, t, lost) + y;
  float result = (j == 0.0f) ? v : ((j == 1.0f) ? v1 + v1 : e + e);
  result = (x > 88.7228394f) ? INFINITY : result;
  result = (x == 0.0f) ? x : result;
  return (x != x) ? x : result;
}
"""

# log(u) is exact for the rounded u = 1 + x; (x - (u - 1)) / u adds what the rounding lost.
_LOG1P = """
inline float zmlx_log1p(float x) {
  const float u = 1.0f + x;
  const float logarithm = metal::precise::log(u);
  const float result = logarithm + (x - (u - 1.0f)) / u;
  const float edge = (u == 1.0f) ? x : logarithm;
  return (u == 1.0f || u == 0.0f || u > 3.40282347e+38f) ? edge : result;
}
"""

# exp never sees a positive argument, so nothing overflows; both sides keep full relative accuracy.
_SIGMOID = """
inline float zmlx_sigmoid(float x) {
  const float e = metal::precise::exp(-metal::abs(x));
  const float numerator = (x < 0.0f) ? e : 1.0f;
  return numerator / (1.0f + e);
}
"""

# Where only 1 + tanh or 1 - tanh**2 is asked for: an error that is small beside 1 does.
_TANH_BESIDE_ONE = """
inline float zmlx_tanh_beside_one(float x) {
  return metal::precise::tanh(x);
}
"""

# 1 / cosh(x)**2 of one exponential that cannot overflow; 2x is exact.
_SECH2 = """
inline float zmlx_sech2(float x) {
  const float e = metal::precise::exp(-2.0f * metal::abs(x));
  const float s = 1.0f + e;
  return 4.0f * e / (s * s);
}
"""

_LOGADDEXP = """
inline float zmlx_logaddexp(float x, float y) {
  const float gap = (x == y) ? 0.0f : metal::abs(x - y);
  const float top = (x > y || x != x) ? x : y;
  return top + zmlx_log1p(metal::precise::exp(-gap));
}
"""

# Juffa's erf (as in MLX's Metal kernels); beyond 0.93 it is 1 - exp(r) with r < -1.6.
_ERF = """
inline float zmlx_erf(float x) {
  const float t = metal::abs(x);
  const float s = x * x;
  float r = metal::fma(-1.72853470e-5f, t, 3.83197126e-4f);
  const float u = metal::fma(-3.88396438e-3f, t, 2.42546219e-2f);
  r = metal::fma(r, s, u);
  r = metal::fma(r, t, -1.06777877e-1f);
  r = metal::fma(r, t, -6.34846687e-1f);
  r = metal::fma(r, t, -1.28717512e-1f);
  r = metal::fma(r, t, -t);
  const float outer = metal::copysign(1.0f - metal::precise::exp(r), x);
  float p = -5.96761703e-4f;
  p = metal::fma(p, s, 4.99119423e-3f);
  p = metal::fma(p, s, -2.67681349e-2f);
  p = metal::fma(p, s, 1.12819925e-1f);
  p = metal::fma(p, s, -3.76125336e-1f);
  p = metal::fma(p, s, 1.28379166e-1f);
  const float inner = metal::fma(p, x, x);
  const float result = (t > 0.927734375f) ? outer : inner;
  return (t > 10.0f) ? metal::copysign(1.0f, x) : result;
}
"""

# Giles' and Juffa's two polynomials in log(1 - x*x), as in MLX: up to 2.4 units off.
_ERFINV = """
inline float zmlx_erfinv(float x) {
  const float t = metal::precise::log(metal::fma(x, -x, 1.0f));
  float tail = 3.03697567e-10f;
  tail = metal::fma(tail, t, 2.93243101e-8f);
  tail = metal::fma(tail, t, 1.22150334e-6f);
  tail = metal::fma(tail, t, 2.84108955e-5f);
  tail = metal::fma(tail, t, 3.93552968e-4f);
  tail = metal::fma(tail, t, 3.02698812e-3f);
  tail = metal::fma(tail, t, 4.83185798e-3f);
  tail = metal::fma(tail, t, -2.64646143e-1f);
  tail = metal::fma(tail, t, 8.40016484e-1f);
  float centre = 5.43877832e-9f;
  centre = metal::fma(centre, t, 1.43285448e-7f);
  centre = metal::fma(centre, t, 1.22774793e-6f);
  centre = metal::fma(centre, t, 1.12963626e-7f);
  centre = metal::fma(centre, t, -5.61530760e-5f);
  centre = metal::fma(centre, t, -1.47697632e-4f);
  centre = metal::fma(centre, t, 2.31468678e-3f);
  centre = metal::fma(centre, t, 1.15392581e-2f);
  centre = metal::fma(centre, t, -2.32015476e-1f);
  centre = metal::fma(centre, t, 8.86226892e-1f);
  return x * ((t < -6.125f) ? tail : centre);
}
"""

_REMAINDER = """
inline float zmlx_remainder(float x, float y) {
  const float r = metal::fmod(x, y);
  return (r != 0.0f && (r < 0.0f) != (y < 0.0f)) ? r + y : r;
}
"""

# Integer division: by zero it gives 0 (remainder: x), as MLX; by -1 it never traps.
_INT_FLOOR_DIVIDE = """
template <typename T>
inline T zmlx_int_floor_divide(T x, T y) {
  const bool zero = y == T(0);
  const bool minus = T(-1) < T(0) && y == T(-1);
  const T d = (zero || minus) ? T(1) : y;
  const T q = T(x / d);
  const T r = T(x - q * d);
  const T floored = (r != T(0) && (r < T(0)) != (d < T(0))) ? T(q - T(1)) : q;
  return zero ? T(0) : (minus ? T(T(0) - x) : floored);
}
"""

_INT_REMAINDER = """
template <typename T>
inline T zmlx_int_remainder(T x, T y) {
  const bool zero = y == T(0);
  const bool minus = T(-1) < T(0) && y == T(-1);
  const T d = (zero || minus) ? T(1) : y;
  const T r = T(x % d);
  const T signed_r = (r != T(0) && (r < T(0)) != (d < T(0))) ? T(r + d) : r;
  return zero ? x : signed_r;
}
"""

# Arithmetic modulo 2**64 in unsigned words, cut to T: no overflow that C++ would leave undefined.
_INT_POWER = """
template <typename T>
inline T zmlx_int_power(T x, T y) {
  ulong result = 1;
  ulong factor = ulong(x);
  for (ulong n = (y < T(0)) ? ulong(0) : ulong(y); n != 0; n >>= 1) {
    result = (n & 1) ? result * factor : result;
    factor = factor * factor;
  }
  return (y < T(0)) ? T(0) : T(result);
}
"""

# Counts wrap around the word that computes (32 bits for narrow types), as on MLX's host.
_LEFT_SHIFT = """
template <typename T>
inline T zmlx_left_shift(T x, T y) {
  return (sizeof(T) == 8) ? T(ulong(x) << (ulong(y) & 63)) : T(uint(x) << (uint(y) & 31));
}
"""

_RIGHT_SHIFT = """
template <typename T>
inline T zmlx_right_shift(T x, T y) {
  return (sizeof(T) == 8) ? T(x >> (ulong(y) & 63)) : T(x >> (uint(y) & 31));
}
"""

# C++ and MSL leave floats beyond an integer type's range open; a device brings MLX's results there.
_TO_INTEGER = """
template <typename T>
inline T zmlx_to_integer(float x) {
  return T(x);
}
"""

# To a half type and back; a device may round without packing.
_ROUND = """
template <typename T>
inline float zmlx_round(float x) {
  return float(T(x));
}
"""

# numerics="mlx": T is the operands' type in memory; MLX rounds to it inside these functions. Its
# Metal kernels compute in T throughout, its host kernels round where a value passes through T.
_EXACT_SIGMOID = """
template <typename T>
inline float zmlx_exact_sigmoid(float x) {
#ifndef ZMLX_OFF_METAL
  const T r = T(1) / (T(1) + T(metal::precise::exp(metal::abs(T(x)))));
  return (x < 0.0f) ? float(r) : float(T(T(1) - r));
#else
  const float r = 1.0f / (1.0f + float(T(metal::precise::exp(metal::abs(x)))));
  return (x < 0.0f) ? r : 1.0f - r;
#endif
}
"""

_EXACT_RSQRT = """
template <typename T>
inline float zmlx_exact_rsqrt(float x) {
#ifndef ZMLX_OFF_METAL
  return float(T(metal::precise::rsqrt(T(x))));
#else
  return 1.0f / float(T(metal::precise::sqrt(x)));
#endif
}
"""

_EXACT_LOGADDEXP = """
template <typename T>
inline float zmlx_exact_logaddexp(float x, float y) {
  const float top = (x > y || x != x) ? x : y;
  const float low = (x < y || x != x) ? x : y;
  const float e = float(T(metal::precise::exp(float(T(low - top)))));
  const float sum = top + float(T(zmlx_log1p(e)));
  return (low == -INFINITY || top == INFINITY) ? top : sum;
}
"""

_EXACT_FLOOR_DIVIDE = """
template <typename T>
inline float zmlx_exact_floor_divide(float x, float y) {
  return metal::floor(float(T(x / y)));
}
"""

# A product of its own, where the compiler would make one instruction of it and a later sum.
_EXACT_MULTIPLY = """
inline float zmlx_exact_multiply(float x, float y) {
  return x * y;
}
"""

HELPERS: dict[str, Helper] = {
    "expm1": Helper(_EXPM1),
    "log1p": Helper(_LOG1P),
    "sigmoid": Helper(_SIGMOID),
    "tanh_beside_one": Helper(_TANH_BESIDE_ONE),
    "sech2": Helper(_SECH2),
    "logaddexp": Helper(_LOGADDEXP, ("log1p",)),
    "erf": Helper(_ERF),
    "erfinv": Helper(_ERFINV),
    "remainder": Helper(_REMAINDER),
    "int_floor_divide": Helper(_INT_FLOOR_DIVIDE),
    "int_remainder": Helper(_INT_REMAINDER),
    "int_power": Helper(_INT_POWER),
    "left_shift": Helper(_LEFT_SHIFT),
    "right_shift": Helper(_RIGHT_SHIFT),
    "to_integer": Helper(_TO_INTEGER),
    "round": Helper(_ROUND),
    "exact_multiply": Helper(_EXACT_MULTIPLY),
    "exact_sigmoid": Helper(_EXACT_SIGMOID),
    "exact_rsqrt": Helper(_EXACT_RSQRT),
    "exact_logaddexp": Helper(_EXACT_LOGADDEXP, ("log1p",)),
    "exact_floor_divide": Helper(_EXACT_FLOOR_DIVIDE),
}


def helper_text(names: Iterable[str]) -> str:
    """The text of the helpers `names` and of all that they call, each once, callees first."""
    ordered: dict[str, None] = {}

    def visit(name: str) -> None:
        for need in HELPERS[name].needs:
            visit(need)
        ordered[name] = None

    for name in names:
        visit(name)
    return "".join(_guarded(name) for name in ordered)


def _guarded(name: str) -> str:
    return f"#ifndef ZMLX_NATIVE_{name.upper()}{HELPERS[name].text}#endif\n"
