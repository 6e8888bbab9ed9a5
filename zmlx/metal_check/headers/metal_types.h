// Types of the Metal Shading Language as clang can have them (specification, chapters 2 and 4).
#pragma once

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
#define NAN (__builtin_nanf(""))
#define MAXFLOAT 3.40282347e+38f
#include "../../device/headers/msl_constants.h"

namespace metal {
template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));
}  // namespace metal
#include "metal_traits.h"

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
vector_of(A...) { return V(0); }
#define ZMLX_VECTORS(T)         \
  typedef metal::vec<T, 2> T##2; \
  typedef metal::vec<T, 3> T##3; \
  typedef metal::vec<T, 4> T##4;               \
  typedef T##2 packed_##T##2;                    \
  typedef T##3 packed_##T##3;                    \
  typedef T##4 packed_##T##4;
ZMLX_VECTORS(bool)
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
#undef ZMLX_VECTORS
#define bool2(...) vector_of<bool2>(__VA_ARGS__)
#define packed_bool2(...) vector_of<packed_bool2>(__VA_ARGS__)
#define bool3(...) vector_of<bool3>(__VA_ARGS__)
#define packed_bool3(...) vector_of<packed_bool3>(__VA_ARGS__)
#define bool4(...) vector_of<bool4>(__VA_ARGS__)
#define packed_bool4(...) vector_of<packed_bool4>(__VA_ARGS__)
#define char2(...) vector_of<char2>(__VA_ARGS__)
#define packed_char2(...) vector_of<packed_char2>(__VA_ARGS__)
#define char3(...) vector_of<char3>(__VA_ARGS__)
#define packed_char3(...) vector_of<packed_char3>(__VA_ARGS__)
#define char4(...) vector_of<char4>(__VA_ARGS__)
#define packed_char4(...) vector_of<packed_char4>(__VA_ARGS__)
#define uchar2(...) vector_of<uchar2>(__VA_ARGS__)
#define packed_uchar2(...) vector_of<packed_uchar2>(__VA_ARGS__)
#define uchar3(...) vector_of<uchar3>(__VA_ARGS__)
#define packed_uchar3(...) vector_of<packed_uchar3>(__VA_ARGS__)
#define uchar4(...) vector_of<uchar4>(__VA_ARGS__)
#define packed_uchar4(...) vector_of<packed_uchar4>(__VA_ARGS__)
#define short2(...) vector_of<short2>(__VA_ARGS__)
#define packed_short2(...) vector_of<packed_short2>(__VA_ARGS__)
#define short3(...) vector_of<short3>(__VA_ARGS__)
#define packed_short3(...) vector_of<packed_short3>(__VA_ARGS__)
#define short4(...) vector_of<short4>(__VA_ARGS__)
#define packed_short4(...) vector_of<packed_short4>(__VA_ARGS__)
#define ushort2(...) vector_of<ushort2>(__VA_ARGS__)
#define packed_ushort2(...) vector_of<packed_ushort2>(__VA_ARGS__)
#define ushort3(...) vector_of<ushort3>(__VA_ARGS__)
#define packed_ushort3(...) vector_of<packed_ushort3>(__VA_ARGS__)
#define ushort4(...) vector_of<ushort4>(__VA_ARGS__)
#define packed_ushort4(...) vector_of<packed_ushort4>(__VA_ARGS__)
#define int2(...) vector_of<int2>(__VA_ARGS__)
#define packed_int2(...) vector_of<packed_int2>(__VA_ARGS__)
#define int3(...) vector_of<int3>(__VA_ARGS__)
#define packed_int3(...) vector_of<packed_int3>(__VA_ARGS__)
#define int4(...) vector_of<int4>(__VA_ARGS__)
#define packed_int4(...) vector_of<packed_int4>(__VA_ARGS__)
#define uint2(...) vector_of<uint2>(__VA_ARGS__)
#define packed_uint2(...) vector_of<packed_uint2>(__VA_ARGS__)
#define uint3(...) vector_of<uint3>(__VA_ARGS__)
#define packed_uint3(...) vector_of<packed_uint3>(__VA_ARGS__)
#define uint4(...) vector_of<uint4>(__VA_ARGS__)
#define packed_uint4(...) vector_of<packed_uint4>(__VA_ARGS__)
#define long2(...) vector_of<long2>(__VA_ARGS__)
#define packed_long2(...) vector_of<packed_long2>(__VA_ARGS__)
#define long3(...) vector_of<long3>(__VA_ARGS__)
#define packed_long3(...) vector_of<packed_long3>(__VA_ARGS__)
#define long4(...) vector_of<long4>(__VA_ARGS__)
#define packed_long4(...) vector_of<packed_long4>(__VA_ARGS__)
#define ulong2(...) vector_of<ulong2>(__VA_ARGS__)
#define packed_ulong2(...) vector_of<packed_ulong2>(__VA_ARGS__)
#define ulong3(...) vector_of<ulong3>(__VA_ARGS__)
#define packed_ulong3(...) vector_of<packed_ulong3>(__VA_ARGS__)
#define ulong4(...) vector_of<ulong4>(__VA_ARGS__)
#define packed_ulong4(...) vector_of<packed_ulong4>(__VA_ARGS__)
#define half2(...) vector_of<half2>(__VA_ARGS__)
#define packed_half2(...) vector_of<packed_half2>(__VA_ARGS__)
#define half3(...) vector_of<half3>(__VA_ARGS__)
#define packed_half3(...) vector_of<packed_half3>(__VA_ARGS__)
#define half4(...) vector_of<half4>(__VA_ARGS__)
#define packed_half4(...) vector_of<packed_half4>(__VA_ARGS__)
#define float2(...) vector_of<float2>(__VA_ARGS__)
#define packed_float2(...) vector_of<packed_float2>(__VA_ARGS__)
#define float3(...) vector_of<float3>(__VA_ARGS__)
#define packed_float3(...) vector_of<packed_float3>(__VA_ARGS__)
#define float4(...) vector_of<float4>(__VA_ARGS__)
#define packed_float4(...) vector_of<packed_float4>(__VA_ARGS__)

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
