// CUDA's half types with numbers of other types, as Metal has them: beside an integer they stay what
// they are, beside a float they become one. Part of a hand-written kernel's header on CUDA.
#pragma once

template <typename T>
using zm_if_counts = typename zm_enable<zm_kind<T>::whole || zm_alike<T, bool>::value>::type;
template <typename T>
using zm_if_other = typename zm_enable<zm_kind<T>::number && !zm_kind<T>::half_type>::type;

#define ZM_HALF_ARITHMETIC(OP)                                                 \
  template <typename T, typename I, typename = zm_if_half<T>, typename = zm_if_counts<I>> \
  ZM_INLINE T operator OP(T a, I b) {                                          \
    return a OP T(float(b));                                                   \
  }                                                                            \
  template <typename T, typename I, typename = zm_if_counts<I>, typename = zm_if_half<T>> \
  ZM_INLINE T operator OP(I a, T b) {                                          \
    return T(float(a)) OP b;                                                   \
  }                                                                            \
  template <typename T, typename = zm_if_half<T>>                              \
  ZM_INLINE float operator OP(T a, float b) {                                  \
    return float(a) OP b;                                                      \
  }                                                                            \
  template <typename T, typename = zm_if_half<T>>                              \
  ZM_INLINE float operator OP(float a, T b) {                                  \
    return a OP float(b);                                                      \
  }                                                                            \
  template <typename T, typename I, typename = zm_if_half<T>, typename = zm_if_other<I>> \
  ZM_INLINE T& operator OP##=(T& a, I b) {                                     \
    return a = T(float(a) OP float(b));                                        \
  }
#define ZM_HALF_TEST(OP)                                                       \
  template <typename T, typename I, typename = zm_if_half<T>, typename = zm_if_other<I>> \
  ZM_INLINE bool operator OP(T a, I b) {                                       \
    return float(a) OP float(b);                                               \
  }                                                                            \
  template <typename T, typename I, typename = zm_if_other<I>, typename = zm_if_half<T>> \
  ZM_INLINE bool operator OP(I a, T b) {                                       \
    return float(a) OP float(b);                                               \
  }
ZM_HALF_ARITHMETIC(+)
ZM_HALF_ARITHMETIC(-)
ZM_HALF_ARITHMETIC(*)
ZM_HALF_ARITHMETIC(/)
ZM_HALF_TEST(<)
ZM_HALF_TEST(>)
ZM_HALF_TEST(<=)
ZM_HALF_TEST(>=)
ZM_HALF_TEST(==)
ZM_HALF_TEST(!=)
#undef ZM_HALF_TEST
#undef ZM_HALF_ARITHMETIC
