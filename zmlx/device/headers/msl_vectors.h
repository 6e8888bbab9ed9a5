// Metal's vectors: vec<T, N> for N = 2, 3, 4, element by element. Part of msl_written.h.
//
// They have Metal's sizes but the alignment of their elements: MLX's memory on the CPU is aligned to
// 8 bytes only, and kernels cast pointers to float to pointers to float4.
#pragma once

namespace metal {

template <typename T, int N>
struct vec;

// Several elements of a vector by name (v.xy): reads as a shorter vector, takes one.
template <typename T, int... I>
struct zm_swizzle {
  T item[4];
  ZM_MEMBER operator vec<T, sizeof...(I)>() const {
    return vec<T, sizeof...(I)>(item[I]...);
  }
  ZM_MEMBER zm_swizzle& operator=(const vec<T, sizeof...(I)>& v) {
    int n = 0;
    ((item[I] = v[n++]), ...);
    return *this;
  }
  template <typename U>
  ZM_MEMBER zm_swizzle& operator+=(const U& other);
  template <typename U>
  ZM_MEMBER zm_swizzle& operator-=(const U& other);
  template <typename U>
  ZM_MEMBER zm_swizzle& operator*=(const U& other);
};

#define ZM_VECTOR_MEMBERS(N)                                    \
  vec() = default;                                              \
  ZM_MEMBER vec(T all) {                                        \
    for (int i = 0; i < N; ++i) item[i] = all;                  \
  }                                                             \
  template <typename U>                                         \
  ZM_MEMBER explicit vec(const vec<U, N>& other) {              \
    for (int i = 0; i < N; ++i) item[i] = T(other[i]);          \
  }                                                             \
  ZM_MEMBER T& operator[](long i) {                             \
    return item[i];                                             \
  }                                                             \
  ZM_MEMBER const T& operator[](long i) const {                 \
    return item[i];                                             \
  }

template <typename T>
struct vec<T, 2> {
  union {
    T item[2];
    struct { T x, y; };
    struct { T r, g; };
    zm_swizzle<T, 1, 0> yx;
    zm_swizzle<T, 0, 0> xx;
    zm_swizzle<T, 1, 1> yy;
  };
  ZM_VECTOR_MEMBERS(2)
  ZM_MEMBER vec(T a, T b) : item{a, b} {}
};

template <typename T>
struct vec<T, 3> {
  union {
    T item[4];  // Metal's takes the room of four
    struct { T x, y, z; };
    struct { T r, g, b; };
    zm_swizzle<T, 0, 1> xy;
    zm_swizzle<T, 1, 2> yz;
    zm_swizzle<T, 0, 2> xz;
  };
  ZM_VECTOR_MEMBERS(3)
  ZM_MEMBER vec(T a, T b, T c) : item{a, b, c} {}
  ZM_MEMBER vec(vec<T, 2> ab, T c) : item{ab[0], ab[1], c} {}
};

template <typename T>
struct vec<T, 4> {
  union {
    T item[4];
    struct { T x, y, z, w; };
    struct { T r, g, b, a; };
    zm_swizzle<T, 0, 1> xy;
    zm_swizzle<T, 1, 2> yz;
    zm_swizzle<T, 2, 3> zw;
    zm_swizzle<T, 0, 2> xz;
    zm_swizzle<T, 1, 3> yw;
    zm_swizzle<T, 0, 1, 2> xyz;
    zm_swizzle<T, 1, 2, 3> yzw;
    zm_swizzle<T, 0, 1, 2> rgb;
  };
  ZM_VECTOR_MEMBERS(4)
  ZM_MEMBER vec(T a, T b, T c, T d) : item{a, b, c, d} {}
  ZM_MEMBER vec(vec<T, 2> ab, vec<T, 2> cd) : item{ab[0], ab[1], cd[0], cd[1]} {}
  ZM_MEMBER vec(vec<T, 3> abc, T d) : item{abc[0], abc[1], abc[2], d} {}
};
#undef ZM_VECTOR_MEMBERS

template <typename T>
struct zm_as_is {
  typedef T type;
};
#define ZM_SAME typename zm_as_is<T>::type

// OP between vectors, and between a vector and what converts to an element.
#define ZM_VECTOR_OPERATOR(RESULT, OP)                                   \
  template <typename T, int N>                                           \
  ZM_INLINE vec<RESULT, N> operator OP(const vec<T, N>& a, const vec<T, N>& b) { \
    vec<RESULT, N> c;                                                    \
    for (int i = 0; i < N; ++i) c[i] = RESULT(a[i] OP b[i]);             \
    return c;                                                            \
  }                                                                      \
  template <typename T, int N>                                           \
  ZM_INLINE vec<RESULT, N> operator OP(const vec<T, N>& a, ZM_SAME b) {  \
    return a OP vec<T, N>(b);                                            \
  }                                                                      \
  template <typename T, int N>                                           \
  ZM_INLINE vec<RESULT, N> operator OP(ZM_SAME a, const vec<T, N>& b) {  \
    return vec<T, N>(a) OP b;                                            \
  }
#define ZM_VECTOR_ARITHMETIC(OP)                                         \
  ZM_VECTOR_OPERATOR(T, OP)                                              \
  template <typename T, int N>                                           \
  ZM_INLINE vec<T, N>& operator OP##=(vec<T, N>& a, const vec<T, N>& b) { \
    return a = a OP b;                                                   \
  }                                                                      \
  template <typename T, int N>                                           \
  ZM_INLINE vec<T, N>& operator OP##=(vec<T, N>& a, ZM_SAME b) {         \
    return a = a OP vec<T, N>(b);                                        \
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
ZM_VECTOR_OPERATOR(bool, <)
ZM_VECTOR_OPERATOR(bool, >)
ZM_VECTOR_OPERATOR(bool, <=)
ZM_VECTOR_OPERATOR(bool, >=)
ZM_VECTOR_OPERATOR(bool, ==)
ZM_VECTOR_OPERATOR(bool, !=)
#undef ZM_VECTOR_ARITHMETIC
#undef ZM_VECTOR_OPERATOR

#define ZM_VECTOR_SIGN(OP)                              \
  template <typename T, int N>                          \
  ZM_INLINE vec<T, N> operator OP(const vec<T, N>& a) { \
    vec<T, N> c;                                        \
    for (int i = 0; i < N; ++i) c[i] = T(OP a[i]);      \
    return c;                                           \
  }
ZM_VECTOR_SIGN(-)
ZM_VECTOR_SIGN(~)
ZM_VECTOR_SIGN(!)
#undef ZM_VECTOR_SIGN

// Swizzles with anything: as the vector that they read as.
#define ZM_OF(S) vec<T, sizeof...(S)>
#define ZM_SWIZZLE_OPERATOR(OP)                                                     \
  template <typename T, int... I, typename U>                                       \
  ZM_INLINE ZM_OF(I) operator OP(const zm_swizzle<T, I...>& a, const U& b) {        \
    return ZM_OF(I)(a) OP b;                                                        \
  }                                                                                 \
  template <typename T, int... I, typename U, int N>                                \
  ZM_INLINE ZM_OF(I) operator OP(const vec<U, N>& a, const zm_swizzle<T, I...>& b) { \
    return a OP ZM_OF(I)(b);                                                        \
  }                                                                                 \
  template <typename T, int... I>                                                   \
  ZM_INLINE ZM_OF(I) operator OP(T a, const zm_swizzle<T, I...>& b) {               \
    return a OP ZM_OF(I)(b);                                                        \
  }                                                                                 \
  template <typename T, int... I, int... J>                                         \
  ZM_INLINE ZM_OF(I) operator OP(                                                   \
      const zm_swizzle<T, I...>& a, const zm_swizzle<T, J...>& b) {                 \
    return ZM_OF(I)(a) OP ZM_OF(J)(b);                                              \
  }
ZM_SWIZZLE_OPERATOR(+)
ZM_SWIZZLE_OPERATOR(-)
ZM_SWIZZLE_OPERATOR(*)
ZM_SWIZZLE_OPERATOR(/)
#define ZM_SWIZZLE_ASSIGNS(OP)                                                            \
  template <typename T, int... I>                                                         \
  template <typename U>                                                                   \
  ZM_MEMBER zm_swizzle<T, I...>& zm_swizzle<T, I...>::operator OP##=(const U& other) {    \
    return *this = *this OP other;                                                        \
  }
ZM_SWIZZLE_ASSIGNS(+)
ZM_SWIZZLE_ASSIGNS(-)
ZM_SWIZZLE_ASSIGNS(*)
#undef ZM_SWIZZLE_ASSIGNS
#undef ZM_SWIZZLE_OPERATOR
#undef ZM_OF

#ifndef ZM_EXACT  // the generator's kernels alone are exact, and use none of these
// Functions of one number: a half type in gives that type, a vector works by elements.
#define ZM_EACH(NAME)                           \
  ZM_INLINE half NAME(half x) {                 \
    return half(NAME(float(x)));                \
  }                                             \
  ZM_INLINE bfloat16_t NAME(bfloat16_t x) {     \
    return bfloat16_t(NAME(float(x)));          \
  }                                             \
  template <typename T, int N>                  \
  ZM_INLINE vec<T, N> NAME(const vec<T, N>& x) { \
    vec<T, N> y;                                \
    for (int i = 0; i < N; ++i) y[i] = NAME(x[i]); \
    return y;                                   \
  }
ZM_EACH(exp) ZM_EACH(exp2) ZM_EACH(exp10) ZM_EACH(log) ZM_EACH(log2) ZM_EACH(log10)
ZM_EACH(sin) ZM_EACH(cos) ZM_EACH(tan) ZM_EACH(asin) ZM_EACH(acos) ZM_EACH(atan)
ZM_EACH(sinh) ZM_EACH(cosh) ZM_EACH(tanh) ZM_EACH(asinh) ZM_EACH(acosh) ZM_EACH(atanh)
ZM_EACH(sqrt) ZM_EACH(rsqrt) ZM_EACH(floor) ZM_EACH(ceil) ZM_EACH(trunc) ZM_EACH(rint)
ZM_EACH(round) ZM_EACH(fabs) ZM_EACH(fract) ZM_EACH(sign) ZM_EACH(saturate)
#undef ZM_EACH

template <typename T, int N>
ZM_INLINE vec<T, N> abs(const vec<T, N>& x) {
  vec<T, N> y;
  for (int i = 0; i < N; ++i) y[i] = abs(x[i]);
  return y;
}
#define ZM_EACH_OF_TWO(NAME)                                         \
  template <typename T, int N>                                       \
  ZM_INLINE vec<T, N> NAME(const vec<T, N>& a, const vec<T, N>& b) { \
    vec<T, N> c;                                                     \
    for (int i = 0; i < N; ++i) c[i] = T(NAME(a[i], b[i]));          \
    return c;                                                        \
  }                                                                  \
  template <typename T, int N>                                       \
  ZM_INLINE vec<T, N> NAME(const vec<T, N>& a, ZM_SAME b) {          \
    return NAME(a, vec<T, N>(b));                                    \
  }
ZM_EACH_OF_TWO(max) ZM_EACH_OF_TWO(min) ZM_EACH_OF_TWO(fmax) ZM_EACH_OF_TWO(fmin)
ZM_EACH_OF_TWO(pow) ZM_EACH_OF_TWO(fmod)
#undef ZM_EACH_OF_TWO
#define ZM_EACH_OF_THREE(NAME)                                                             \
  template <typename T, int N>                                                             \
  ZM_INLINE vec<T, N> NAME(const vec<T, N>& a, const vec<T, N>& b, const vec<T, N>& c) {   \
    vec<T, N> d;                                                                           \
    for (int i = 0; i < N; ++i) d[i] = T(NAME(a[i], b[i], c[i]));                          \
    return d;                                                                              \
  }
ZM_EACH_OF_THREE(fma) ZM_EACH_OF_THREE(clamp) ZM_EACH_OF_THREE(mix)
#undef ZM_EACH_OF_THREE
template <typename T, int N>
ZM_INLINE vec<T, N> clamp(const vec<T, N>& x, ZM_SAME low, ZM_SAME high) {
  return clamp(x, vec<T, N>(low), vec<T, N>(high));
}
template <typename T, int N>
ZM_INLINE vec<T, N> mix(const vec<T, N>& x, const vec<T, N>& y, ZM_SAME a) {
  return mix(x, y, vec<T, N>(a));
}

template <typename T, int N>
ZM_INLINE T dot(const vec<T, N>& a, const vec<T, N>& b);
template <typename T, int N>
ZM_INLINE T length(const vec<T, N>& a) {
  return T(sqrt(dot(a, a)));
}
#endif  // ZM_EXACT

template <typename T, int N>
ZM_INLINE vec<T, N> select(const vec<T, N>& a, const vec<T, N>& b, const vec<bool, N>& c) {
  vec<T, N> d;
  for (int i = 0; i < N; ++i) d[i] = c[i] ? b[i] : a[i];
  return d;
}
template <typename T, int N>
ZM_INLINE T dot(const vec<T, N>& a, const vec<T, N>& b) {
  T sum = T(a[0] * b[0]);
  for (int i = 1; i < N; ++i) sum = T(sum + a[i] * b[i]);
  return sum;
}
template <int N>
ZM_INLINE bool any(const vec<bool, N>& a) {
  bool found = false;
  for (int i = 0; i < N; ++i) found |= a[i];
  return found;
}
template <int N>
ZM_INLINE bool all(const vec<bool, N>& a) {
  return !any(!a);
}

}  // namespace metal

#define ZM_VECTOR_NAMES(T)      \
  typedef metal::vec<T, 2> T##2; \
  typedef metal::vec<T, 3> T##3; \
  typedef metal::vec<T, 4> T##4;
ZM_VECTOR_NAMES(bool)
ZM_VECTOR_NAMES(char)
ZM_VECTOR_NAMES(uchar)
ZM_VECTOR_NAMES(short)
ZM_VECTOR_NAMES(ushort)
ZM_VECTOR_NAMES(int)
ZM_VECTOR_NAMES(uint)
ZM_VECTOR_NAMES(long)
ZM_VECTOR_NAMES(ulong)
ZM_VECTOR_NAMES(half)
ZM_VECTOR_NAMES(bfloat)
ZM_VECTOR_NAMES(float)
#undef ZM_VECTOR_NAMES

#ifndef ZM_RENAMED  // CUDA has these
// A half type with the integers that msl_halves.h leaves out, and its assignments.
#define ZM_HALF_MORE(T, OP)                        \
  ZM_INLINE T& operator OP##=(T& a, float b) {     \
    return a = T(float(a) OP b);                   \
  }                                                \
  ZM_INLINE T operator OP(T a, uint b) {           \
    return T(float(a) OP float(b));                \
  }                                                \
  ZM_INLINE T operator OP(uint a, T b) {           \
    return T(float(a) OP float(b));                \
  }                                                \
  ZM_INLINE T operator OP(T a, long b) {           \
    return T(float(a) OP float(b));                \
  }                                                \
  ZM_INLINE T operator OP(long a, T b) {           \
    return T(float(a) OP float(b));                \
  }
#define ZM_HALF_ALL(T) ZM_HALF_MORE(T, +) ZM_HALF_MORE(T, -) ZM_HALF_MORE(T, *) ZM_HALF_MORE(T, /)
ZM_HALF_ALL(half)
ZM_HALF_ALL(bfloat16_t)
#undef ZM_HALF_ALL
#undef ZM_HALF_MORE
#endif
