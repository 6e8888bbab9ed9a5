// What is true of numbers and vectors (specification, chapter 6.6).
#pragma once

namespace metal {

ZM_INLINE bool isordered(float x, float y) {
  return x == x && y == y;
}
ZM_INLINE bool isunordered(float x, float y) {
  return x != x || y != y;
}
#define ZM_TEST_OF_TWO(NAME)                                                      \
  template <typename A, typename B, typename V = zm_joint<A, B>>                  \
  ZM_INLINE zm_of_type<bool, V> NAME(const A& a, const B& b) {                    \
    const V x(a), y(b);                                                           \
    zm_of_type<bool, V> z;                                                        \
    for (int i = 0; i < zm_like<V>::lanes; ++i) z[i] = NAME(float(x[i]), float(y[i])); \
    return z;                                                                     \
  }
ZM_TEST_OF_TWO(isordered)
ZM_TEST_OF_TWO(isunordered)
#undef ZM_TEST_OF_TWO

ZM_INLINE bool any(bool a) {
  return a;
}
ZM_INLINE bool all(bool a) {
  return a;
}
template <typename A, typename V = zm_vector<A>>
ZM_INLINE bool any(const A& a) {
  const V x(a);
  bool found = false;
  for (int i = 0; i < zm_like<V>::lanes; ++i) found |= bool(x[i]);
  return found;
}
template <typename A, typename V = zm_vector<A>>
ZM_INLINE bool all(const A& a) {
  const V x(a);
  bool found = true;
  for (int i = 0; i < zm_like<V>::lanes; ++i) found &= bool(x[i]);
  return found;
}

}  // namespace metal
