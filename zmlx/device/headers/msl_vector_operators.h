// Operators of vectors, of the elements that they name, and of both with numbers. Part of
// msl_written.h, and of a hand-written kernel's header on CUDA.
#pragma once

namespace metal {

// The vector that an operation of A and B is done in; none where neither is one, or they differ.
template <typename A, typename B, int N = zm_like<A>::lanes, int M = zm_like<B>::lanes>
struct zm_both {};
template <typename A, typename B, int N>
struct zm_both<A, B, N, N> : zm_enable<
    zm_alike<typename zm_like<A>::whole, typename zm_like<B>::whole>::value,
    typename zm_like<A>::whole> {};
template <typename A, typename B>
struct zm_both<A, B, 1, 1> {};
template <typename A, typename B>
struct zm_both<A, B, 0, 0> {};
template <typename A, typename B, int N>
struct zm_both<A, B, N, 1> : zm_enable<(N > 1), typename zm_like<A>::whole> {};
template <typename A, typename B, int M>
struct zm_both<A, B, 1, M> : zm_enable<(M > 1), typename zm_like<B>::whole> {};
template <typename A, typename B>
using zm_joint = typename zm_both<A, B>::type;

template <typename T, typename V>
struct zm_with;
template <typename T, typename U, int N>
struct zm_with<T, vec<U, N>> {
  typedef vec<T, N> type;
  static constexpr int lanes = N;
};
template <typename T, typename V>
using zm_of_type = typename zm_with<T, V>::type;

#define ZM_VECTOR_OPERATOR(RESULT, OP)                                      \
  template <typename A, typename B, typename V = zm_joint<A, B>>            \
  ZM_INLINE RESULT operator OP(const A& a, const B& b) {                    \
    const V x(a), y(b);                                                     \
    RESULT z;                                                               \
    for (int i = 0; i < zm_like<V>::lanes; ++i) {                           \
      z[i] = typename RESULT::value_type(x[i] OP y[i]);                     \
    }                                                                       \
    return z;                                                               \
  }
#define ZM_VECTOR_ARITHMETIC(OP)                                            \
  ZM_VECTOR_OPERATOR(V, OP)                                                 \
  template <typename T, int N, typename B>                                  \
  ZM_INLINE vec<T, N>& operator OP##=(vec<T, N>& a, const B& b) {           \
    return a = a OP b;                                                      \
  }                                                                         \
  template <typename T, int R, int... I, typename B>                        \
  ZM_INLINE zm_swizzle<T, R, I...>& operator OP##=(zm_swizzle<T, R, I...>& a, const B& b) { \
    return a = a OP b;                                                      \
  }
ZM_VECTOR_ARITHMETIC(+)
ZM_VECTOR_ARITHMETIC(-)
ZM_VECTOR_ARITHMETIC(*)
ZM_VECTOR_ARITHMETIC(/)
ZM_VECTOR_ARITHMETIC(%)
ZM_VECTOR_ARITHMETIC(&)
ZM_VECTOR_ARITHMETIC(|)
ZM_VECTOR_ARITHMETIC(^)
ZM_VECTOR_ARITHMETIC(<<)
ZM_VECTOR_ARITHMETIC(>>)
#undef ZM_VECTOR_ARITHMETIC
#define ZM_VECTOR_TEST(OP)                                                  \
  template <typename A, typename B, typename V = zm_joint<A, B>>            \
  ZM_INLINE zm_of_type<bool, V> operator OP(const A& a, const B& b) {       \
    const V x(a), y(b);                                                     \
    zm_of_type<bool, V> z;                                                  \
    for (int i = 0; i < zm_like<V>::lanes; ++i) z[i] = x[i] OP y[i];        \
    return z;                                                               \
  }
ZM_VECTOR_TEST(<)
ZM_VECTOR_TEST(>)
ZM_VECTOR_TEST(<=)
ZM_VECTOR_TEST(>=)
ZM_VECTOR_TEST(==)
ZM_VECTOR_TEST(!=)
ZM_VECTOR_TEST(&&)
ZM_VECTOR_TEST(||)
#undef ZM_VECTOR_TEST
#undef ZM_VECTOR_OPERATOR

#define ZM_VECTOR_SIGN(OP)                                       \
  template <typename A, typename V = zm_vector<A>>               \
  ZM_INLINE V operator OP(const A& a) {                          \
    const V x(a);                                                \
    V y;                                                         \
    for (int i = 0; i < zm_like<V>::lanes; ++i) {                \
      y[i] = typename V::value_type(OP x[i]);                    \
    }                                                            \
    return y;                                                    \
  }
ZM_VECTOR_SIGN(-)
ZM_VECTOR_SIGN(+)
ZM_VECTOR_SIGN(~)
#undef ZM_VECTOR_SIGN
template <typename A, typename V = zm_vector<A>>
ZM_INLINE zm_of_type<bool, V> operator!(const A& a) {
  return V(a) == V(0);
}
#define ZM_VECTOR_STEP(OP, PLAIN)                                \
  template <typename T, int N>                                   \
  ZM_INLINE vec<T, N>& operator OP(vec<T, N>& a) {               \
    return a = a PLAIN T(1);                                     \
  }                                                              \
  template <typename T, int N>                                   \
  ZM_INLINE vec<T, N> operator OP(vec<T, N>& a, int) {           \
    const vec<T, N> before = a;                                  \
    a = a PLAIN T(1);                                            \
    return before;                                               \
  }
ZM_VECTOR_STEP(++, +)
ZM_VECTOR_STEP(--, -)
#undef ZM_VECTOR_STEP

}  // namespace metal
