// Further functions of numbers (specification, chapters 6.3 and 6.5).
#pragma once

namespace metal {

ZM_INLINE float smoothstep(float low, float high, float x) {
  const float t = saturate((x - low) / (high - low));
  return t * t * (3.0f - 2.0f * t);
}
ZM_INLINE float fdim(float x, float y) {
  return x > y ? x - y : (x != x || y != y ? NAN : 0.0f);
}
// Floats of one sign lie in the order of their bits; at equal operands it is the second, as in C.
ZM_INLINE float nextafter(float x, float y) {
  const uint bits = as_type<uint>(x);
  const float next = as_type<float>((x < y) == (x > 0.0f) ? bits + 1u : bits - 1u);
  const float least = copysign(as_type<float>(1u), y);
  const float found = x == 0.0f ? least : next;
  return x != x || y != y ? x + y : (x == y ? y : found);
}
// The same among the numbers of a half type.
template <typename T, typename = zm_if_half<T>>
ZM_INLINE T nextafter(T a, T b) {
  const float x = float(a), y = float(b);
  const ushort bits = as_type<ushort>(a);
  const T next = as_type<T>(ushort((x < y) == (x > 0.0f) ? bits + 1 : bits - 1));
  const T least = as_type<T>(ushort(1 | (as_type<ushort>(b) & 0x8000)));
  return x != x ? a : (y != y || x == y ? b : (x == 0.0f ? least : next));
}
ZM_INLINE float divide(float x, float y) {
  return x / y;
}

// Times pi without its rounding: what is left of x after whole turns is exact.
ZM_INLINE double zm_turned(float x) {
  const double z = double(x);
  return z - 2.0 * ZM_DOUBLE(rint)(0.5 * z);
}
ZM_INLINE double zm_sine_of_turn(double r) {
  const double folded = ZM_DOUBLE(fabs)(r) > 0.5 ? ZM_DOUBLE(copysign)(1.0, r) - r : r;
  return ZM_DOUBLE(sin)(3.14159265358979323846 * folded);
}
ZM_INLINE double zm_cosine_of_turn(double r) {
  return ZM_DOUBLE(sin)(3.14159265358979323846 * (0.5 - ZM_DOUBLE(fabs)(r)));
}
ZM_INLINE float sinpi(float x) {
  const float y = float(zm_sine_of_turn(zm_turned(x)));
  return y == 0.0f ? copysign(0.0f, x) : y;
}
ZM_INLINE float cospi(float x) {
  return float(zm_cosine_of_turn(zm_turned(x)));
}
ZM_INLINE float tanpi(float x) {
  const double r = zm_turned(x);
  const double sine = r == 0.0 || ZM_DOUBLE(fabs)(r) == 1.0
                          ? ZM_DOUBLE(copysign)(0.0, double(x)) : zm_sine_of_turn(r);
  return float(sine / zm_cosine_of_turn(r));
}

ZM_INLINE float sincos(float x, float& cosine) {
  cosine = cos(x);
  return sin(x);
}
ZM_INLINE float modf(float x, float& whole) {
  whole = trunc(x);
  return copysign(fabs(x) == INFINITY ? 0.0f : x - whole, x);
}
// Every float but 0 is a normal double, whose bits tell exponent and mantissa.
ZM_INLINE float frexp(float x, int& exponent) {
  const ulong bits = as_type<ulong>(double(x));
  const bool plain = x != 0.0f && fabs(x) < INFINITY;
  exponent = plain ? int(bits >> 52 & 0x7ff) - 1022 : 0;
  const ulong within = (bits & 0x800ffffffffffffful) | 0x3fe0000000000000ul;
  return plain ? float(as_type<double>(within)) : x;
}
ZM_INLINE int ilogb(float x) {
  const int exponent = int(as_type<ulong>(double(x)) >> 52 & 0x7ff) - 1023;
  return x == 0.0f || x != x ? FP_ILOGB0 : (fabs(x) == INFINITY ? INT_MAX : exponent);
}

ZM_EACH(sinpi) ZM_EACH(cospi) ZM_EACH(tanpi)
ZM_PAIR(fdim) ZM_PAIR(divide) ZM_PAIR_VECTOR(nextafter)
ZM_TRIPLE(smoothstep)

// The largest, the smallest, the middle one of three.
#define ZM_OF_THREE(NAME, EXPRESSION)                                  \
  template <typename T, typename = zm_if_number<T>>                    \
  ZM_INLINE T NAME(T x, T y, T z) {                                    \
    return EXPRESSION;                                                 \
  }                                                                    \
  ZM_TRIPLE_VECTOR(NAME)
ZM_OF_THREE(max3, max(x, max(y, z)))
ZM_OF_THREE(min3, min(x, min(y, z)))
ZM_OF_THREE(median3, max(min(x, y), min(max(x, y), z)))
ZM_OF_THREE(fmax3, fmax(x, fmax(y, z)))
ZM_OF_THREE(fmin3, fmin(x, fmin(y, z)))
ZM_OF_THREE(fmedian3, fmax(fmin(x, y), fmin(fmax(x, y), z)))
#undef ZM_OF_THREE

// Functions with a second result, of half types and vectors.
#define ZM_SECOND(NAME)                                                \
  template <typename T, typename = zm_if_half<T>>                      \
  ZM_INLINE T NAME(T x, T& second) {                                   \
    float other;                                                       \
    const float first = NAME(float(x), other);                         \
    second = T(other);                                                 \
    return T(first);                                                   \
  }                                                                    \
  template <typename T, int N>                                         \
  ZM_INLINE vec<T, N> NAME(const vec<T, N>& x, vec<T, N>& second) {    \
    vec<T, N> first;                                                   \
    for (int i = 0; i < N; ++i) first[i] = NAME(x[i], second[i]);      \
    return first;                                                      \
  }
ZM_SECOND(sincos) ZM_SECOND(modf)
#undef ZM_SECOND
template <typename T, typename = zm_if_half<T>>
ZM_INLINE T frexp(T x, int& exponent) {
  return T(frexp(float(x), exponent));
}
template <typename T, int N>
ZM_INLINE vec<T, N> frexp(const vec<T, N>& x, vec<int, N>& exponent) {
  vec<T, N> y;
  for (int i = 0; i < N; ++i) y[i] = frexp(x[i], exponent[i]);
  return y;
}
template <typename T, typename = zm_if_half<T>>
ZM_INLINE T ldexp(T x, int exponent) {
  return T(ldexp(float(x), exponent));
}
template <typename A, typename B, typename V = zm_vector<A>>
ZM_INLINE V ldexp(const A& a, const B& b) {
  const V x(a);
  const zm_of_type<int, V> exponent(b);
  V y;
  for (int i = 0; i < zm_like<V>::lanes; ++i) y[i] = ldexp(x[i], exponent[i]);
  return y;
}
template <typename T, int N>
ZM_INLINE vec<int, N> ilogb(const vec<T, N>& x) {
  vec<int, N> y;
  for (int i = 0; i < N; ++i) y[i] = ilogb(float(x[i]));
  return y;
}

}  // namespace metal
