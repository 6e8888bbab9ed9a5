// Types of the Metal Shading Language as clang can have them (specification, chapters 2 and 4).
#pragma once

#define __METAL__ 1
#define __METAL_VERSION__ 320
#define METAL_FUNC inline __attribute__((__always_inline__))

// `thread` is the default. Pointers into different spaces do not convert into one another.
#define thread
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef uchar uint8_t;
typedef ushort uint16_t;
typedef uint uint32_t;
typedef ulong uint64_t;
typedef ulong size_t;
typedef long ptrdiff_t;
typedef _Float16 half;

// An enumeration converts to wider numbers by itself, and nothing converts to it by itself: what
// the specification says of bfloat.
enum bfloat : ushort {};

constexpr half operator""h(long double x) { return half(x); }

#define INFINITY (__builtin_inff())
#define HUGE_VALF (__builtin_inff())
#define NAN (__builtin_nanf(""))
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define HALF_MAX 6.5504e+4h
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define M_E_F 2.71828182845904523536f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f
#define M_LN2_F 0.69314718055994530942f
#define M_LOG2E_F 1.44269504088896340736f

namespace metal {
template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));

template <bool C, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  typedef T type;
};
template <bool C, class T = void>
using enable_if_t = typename enable_if<C, T>::type;
template <class T, class U>
struct is_same {
  static constexpr bool value = false;
};
template <class T>
struct is_same<T, T> {
  static constexpr bool value = true;
};
template <class T, class U>
constexpr constant bool is_same_v = is_same<T, U>::value;
template <bool C, class T, class U>
struct conditional {
  typedef T type;
};
template <class T, class U>
struct conditional<false, T, U> {
  typedef U type;
};
template <bool C, class T, class U>
using conditional_t = typename conditional<C, T, U>::type;
template <class T>
struct __arithmetic {
  static constexpr bool value = false, integer = false;
};
#define ZMLX_TYPE(T, I)                              \
  template <>                                        \
  struct __arithmetic<T> {                           \
    static constexpr bool value = true, integer = I; \
  };
ZMLX_TYPE(bool, true)
ZMLX_TYPE(char, true)
ZMLX_TYPE(signed char, true)
ZMLX_TYPE(uchar, true)
ZMLX_TYPE(short, true)
ZMLX_TYPE(ushort, true)
ZMLX_TYPE(int, true)
ZMLX_TYPE(uint, true)
ZMLX_TYPE(long, true)
ZMLX_TYPE(ulong, true)
ZMLX_TYPE(half, false)
ZMLX_TYPE(float, false)
#undef ZMLX_TYPE
template <class T>
constexpr constant bool is_integral_v = __arithmetic<T>::integer;
template <class T>
constexpr constant bool is_signed_v = __arithmetic<T>::value && T(-1) < T(0);
template <class T>
constexpr constant bool is_unsigned_v = is_integral_v<T> && !is_signed_v<T>;
template <class T>
constexpr constant bool is_floating_point_v =
    (__arithmetic<T>::value && !__arithmetic<T>::integer) || is_same_v<T, bfloat>;
template <class T>
constexpr constant bool is_arithmetic_v = __arithmetic<T>::value || is_same_v<T, bfloat>;

template <class T>
struct numeric_limits {
  static constexpr T max() { return T(0); }
  static constexpr T min() { return T(0); }
  static constexpr T lowest() { return T(0); }
  static constexpr T epsilon() { return T(0); }
  static constexpr T infinity() { return T(0); }
  static constexpr T quiet_NaN() { return T(0); }
};
}  // namespace metal

// float4(x, y, z, w) and the like: clang's vectors have no constructors.
namespace metal {
template <class T>
struct __lanes {
  static constexpr int count = 1;
};
template <class T, int N>
struct __lanes<vec<T, N>> {
  static constexpr int count = N;
};
template <class A>
constexpr int __total() {
  return __lanes<A>::count;
}
template <class A, class B, class... C>
constexpr int __total() {
  return __lanes<A>::count + __total<B, C...>();
}
}  // namespace metal
template <class V, class... A>
constexpr metal::enable_if_t<
    sizeof...(A) == 1 || metal::__lanes<V>::count == metal::__total<A...>(), V>
vector_of(A...);
#define ZMLX_VECTORS(T)         \
  typedef metal::vec<T, 2> T##2; \
  typedef metal::vec<T, 3> T##3; \
  typedef metal::vec<T, 4> T##4;
ZMLX_VECTORS(char)
ZMLX_VECTORS(uchar)
ZMLX_VECTORS(short)
ZMLX_VECTORS(ushort)
ZMLX_VECTORS(int)
ZMLX_VECTORS(uint)
ZMLX_VECTORS(long)
ZMLX_VECTORS(ulong)
ZMLX_VECTORS(half)
ZMLX_VECTORS(float)
typedef bool bool2 __attribute__((ext_vector_type(2)));
typedef bool bool3 __attribute__((ext_vector_type(3)));
typedef bool bool4 __attribute__((ext_vector_type(4)));
#undef ZMLX_VECTORS
#define float2(...) vector_of<float2>(__VA_ARGS__)
#define float3(...) vector_of<float3>(__VA_ARGS__)
#define float4(...) vector_of<float4>(__VA_ARGS__)
#define half2(...) vector_of<half2>(__VA_ARGS__)
#define half3(...) vector_of<half3>(__VA_ARGS__)
#define half4(...) vector_of<half4>(__VA_ARGS__)
#define int2(...) vector_of<int2>(__VA_ARGS__)
#define int3(...) vector_of<int3>(__VA_ARGS__)
#define int4(...) vector_of<int4>(__VA_ARGS__)
#define uint2(...) vector_of<uint2>(__VA_ARGS__)
#define uint3(...) vector_of<uint3>(__VA_ARGS__)
#define uint4(...) vector_of<uint4>(__VA_ARGS__)
#define char2(...) vector_of<char2>(__VA_ARGS__)
#define char3(...) vector_of<char3>(__VA_ARGS__)
#define char4(...) vector_of<char4>(__VA_ARGS__)
#define uchar2(...) vector_of<uchar2>(__VA_ARGS__)
#define uchar3(...) vector_of<uchar3>(__VA_ARGS__)
#define uchar4(...) vector_of<uchar4>(__VA_ARGS__)
#define short2(...) vector_of<short2>(__VA_ARGS__)
#define short3(...) vector_of<short3>(__VA_ARGS__)
#define short4(...) vector_of<short4>(__VA_ARGS__)
#define ushort2(...) vector_of<ushort2>(__VA_ARGS__)
#define ushort3(...) vector_of<ushort3>(__VA_ARGS__)
#define ushort4(...) vector_of<ushort4>(__VA_ARGS__)
#define long2(...) vector_of<long2>(__VA_ARGS__)
#define long3(...) vector_of<long3>(__VA_ARGS__)
#define long4(...) vector_of<long4>(__VA_ARGS__)
#define ulong2(...) vector_of<ulong2>(__VA_ARGS__)
#define ulong3(...) vector_of<ulong3>(__VA_ARGS__)
#define ulong4(...) vector_of<ulong4>(__VA_ARGS__)

// Same size only, as the specification says.
template <class To, class From>
constexpr metal::enable_if_t<sizeof(To) == sizeof(From), To> as_type(From);

// Arithmetic of bfloat: stays bfloat beside bfloat and integers, becomes float beside float, and
// does not exist beside half.
#define ZMLX_BF(op, R, W)                                                    \
  constexpr R operator op(bfloat, bfloat) { return R(0); }                    \
  constexpr W operator op(bfloat, float) { return W(0); }                     \
  constexpr W operator op(float, bfloat) { return W(0); }                     \
  template <class I>                                                          \
  constexpr metal::enable_if_t<metal::is_integral_v<I>, R> operator op(bfloat, I) { \
    return R(0);                                                              \
  }                                                                           \
  template <class I>                                                          \
  constexpr metal::enable_if_t<metal::is_integral_v<I>, R> operator op(I, bfloat) { \
    return R(0);                                                              \
  }                                                                           \
  void operator op(bfloat, half) = delete;                                    \
  void operator op(half, bfloat) = delete;
ZMLX_BF(+, bfloat, float)
ZMLX_BF(-, bfloat, float)
ZMLX_BF(*, bfloat, float)
ZMLX_BF(/, bfloat, float)
ZMLX_BF(<, bool, bool)
ZMLX_BF(<=, bool, bool)
ZMLX_BF(>, bool, bool)
ZMLX_BF(>=, bool, bool)
ZMLX_BF(==, bool, bool)
ZMLX_BF(!=, bool, bool)
#undef ZMLX_BF
#define ZMLX_NO_BITS(op) void operator op(bfloat, bfloat) = delete;
ZMLX_NO_BITS(%)
ZMLX_NO_BITS(&)
ZMLX_NO_BITS(|)
ZMLX_NO_BITS(^)
ZMLX_NO_BITS(<<)
ZMLX_NO_BITS(>>)
#undef ZMLX_NO_BITS
void operator~(bfloat) = delete;
constexpr bfloat operator-(bfloat) { return bfloat(0); }
constexpr bfloat operator+(bfloat x) { return x; }
#define ZMLX_ASSIGN(space)              \
  space bfloat& operator+=(space bfloat&, bfloat); \
  space bfloat& operator-=(space bfloat&, bfloat); \
  space bfloat& operator*=(space bfloat&, bfloat); \
  space bfloat& operator/=(space bfloat&, bfloat);
ZMLX_ASSIGN(thread)
ZMLX_ASSIGN(device)
ZMLX_ASSIGN(threadgroup)
#undef ZMLX_ASSIGN
