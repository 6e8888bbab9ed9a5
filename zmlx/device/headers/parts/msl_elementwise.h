// Metal's functions of half types and vectors, by those of float.
//
// All numbers of one half type give that type; a vector works by elements.
#pragma once

namespace metal {

#define ZM_EACH_HALF(NAME)                                  \
  template <typename T, typename = zm_if_half<T>>           \
  ZM_INLINE T NAME(T x) {                                   \
    return T(NAME(float(x)));                               \
  }
#define ZM_EACH_VECTOR(NAME)                                \
  template <typename A, typename V = zm_vector<A>>          \
  ZM_INLINE V NAME(const A& a) {                            \
    const V x(a);                                           \
    V y;                                                    \
    for (int i = 0; i < zm_like<V>::lanes; ++i) y[i] = NAME(x[i]); \
    return y;                                               \
  }
#define ZM_EACH(NAME) ZM_EACH_HALF(NAME) ZM_EACH_VECTOR(NAME)
#define ZM_PAIR_HALF(NAME)                                  \
  template <typename T, typename = zm_if_half<T>>           \
  ZM_INLINE T NAME(T a, T b) {                              \
    return T(NAME(float(a), float(b)));                     \
  }
#define ZM_PAIR_VECTOR(NAME)                                \
  template <typename A, typename B, typename V = zm_joint<A, B>> \
  ZM_INLINE V NAME(const A& a, const B& b) {                \
    const V x(a), y(b);                                     \
    V z;                                                    \
    for (int i = 0; i < zm_like<V>::lanes; ++i) z[i] = NAME(x[i], y[i]); \
    return z;                                               \
  }
#define ZM_PAIR(NAME) ZM_PAIR_HALF(NAME) ZM_PAIR_VECTOR(NAME)
#define ZM_TRIPLE_HALF(NAME)                                \
  template <typename T, typename = zm_if_half<T>>           \
  ZM_INLINE T NAME(T a, T b, T c) {                         \
    return T(NAME(float(a), float(b), float(c)));           \
  }
#define ZM_TRIPLE_VECTOR(NAME)                              \
  template <typename A, typename B, typename C, typename V = zm_joint<A, zm_joint_or<B, C>>> \
  ZM_INLINE V NAME(const A& a, const B& b, const C& c) {    \
    const V x(a), y(b), z(c);                               \
    V w;                                                    \
    for (int i = 0; i < zm_like<V>::lanes; ++i) w[i] = NAME(x[i], y[i], z[i]); \
    return w;                                               \
  }
#define ZM_TRIPLE(NAME) ZM_TRIPLE_HALF(NAME) ZM_TRIPLE_VECTOR(NAME)

// The vector of B and C, or B where both are numbers.
template <typename B, typename C, bool Numbers = zm_kind<B>::number && zm_kind<C>::number>
struct zm_either {
  typedef B type;
};
template <typename B, typename C>
struct zm_either<B, C, false> : zm_both<B, C> {};
template <typename B, typename C>
using zm_joint_or = typename zm_either<B, C>::type;

ZM_EACH(exp) ZM_EACH(exp2) ZM_EACH(exp10) ZM_EACH(log) ZM_EACH(log2) ZM_EACH(log10)
ZM_EACH(sin) ZM_EACH(cos) ZM_EACH(tan) ZM_EACH(asin) ZM_EACH(acos) ZM_EACH(atan)
ZM_EACH(sinh) ZM_EACH(cosh) ZM_EACH(tanh) ZM_EACH(asinh) ZM_EACH(acosh) ZM_EACH(atanh)
ZM_EACH(sqrt) ZM_EACH(rsqrt) ZM_EACH(floor) ZM_EACH(ceil) ZM_EACH(trunc) ZM_EACH(rint)
ZM_EACH(round) ZM_EACH(fabs) ZM_EACH(sign) ZM_EACH(saturate)
ZM_EACH_VECTOR(abs)
// Rounded to a half type, what lies just below one must not become it.
template <typename T, typename = zm_if_half<T>>
ZM_INLINE T fract(T x) {
  const float most = zm_alike<T, half>::value ? 0.99951171875f : 0.99609375f;
  const float r = fract(float(x));
  return T(r > most ? most : r);
}
ZM_EACH_VECTOR(fract)
ZM_PAIR(fmax) ZM_PAIR(fmin) ZM_PAIR(pow) ZM_PAIR(powr) ZM_PAIR(fmod) ZM_PAIR(atan2)
ZM_PAIR(copysign) ZM_PAIR(step)
ZM_PAIR_VECTOR(max) ZM_PAIR_VECTOR(min)
ZM_TRIPLE(fma) ZM_TRIPLE(mix)
ZM_TRIPLE_VECTOR(clamp)

// The least normal numbers are those of the type.
ZM_INLINE bool isnormal(half x) {
  return isfinite(float(x)) && fabs(float(x)) >= 0x1p-14f;
}
#define ZM_TEST(NAME, TYPE)                                                  \
  template <typename A, typename V = zm_vector<A>>                           \
  ZM_INLINE zm_of_type<bool, V> NAME(const A& a) {                           \
    const V x(a);                                                            \
    zm_of_type<bool, V> y;                                                   \
    for (int i = 0; i < zm_like<V>::lanes; ++i) y[i] = metal::NAME(TYPE(x[i])); \
    return y;                                                                \
  }
ZM_TEST(isnan, float) ZM_TEST(isinf, float) ZM_TEST(isfinite, float) ZM_TEST(signbit, float)
ZM_TEST(isnormal, typename V::value_type)
#undef ZM_TEST
template <typename A, typename B, typename C, typename V = zm_joint<A, B>>
ZM_INLINE V select(const A& a, const B& b, const C& c) {
  const V x(a), y(b);
  const zm_of_type<bool, V> which(c);
  V z;
  for (int i = 0; i < zm_like<V>::lanes; ++i) z[i] = which[i] ? y[i] : x[i];
  return z;
}
template <typename A, typename B, typename V = zm_joint<A, B>>
ZM_INLINE typename V::value_type dot(const A& a, const B& b) {
  typedef typename V::value_type T;
  const V x(a), y(b);
  T sum = T(x[0] * y[0]);
  for (int i = 1; i < zm_like<V>::lanes; ++i) sum = T(sum + x[i] * y[i]);
  return sum;
}
template <typename A, typename V = zm_vector<A>>
ZM_INLINE typename V::value_type length(const A& a) {
  return typename V::value_type(sqrt(dot(a, a)));
}

}  // namespace metal
