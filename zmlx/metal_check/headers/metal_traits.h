// Facts about types (specification, chapter 6.16), limits and arrays, as clang can have them.
#pragma once

namespace metal {
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
struct is_integral { static constexpr bool value = __arithmetic<T>::integer; };
template <class T>
struct is_floating_point { static constexpr bool value = is_floating_point_v<T>; };
template <class T>
struct is_arithmetic { static constexpr bool value = is_arithmetic_v<T>; };
template <class T>
struct is_signed { static constexpr bool value = is_signed_v<T>; };
template <class T>
struct is_unsigned { static constexpr bool value = is_unsigned_v<T>; };
template <class T, T V>
struct integral_constant {
  static constexpr constant T value = V;
  typedef T value_type;
  constexpr operator T() const { return V; }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
typedef bool_constant<true> true_type;
typedef bool_constant<false> false_type;
template <class T>
T&& declval() noexcept;
template <class T>
struct __spaced { typedef T type; };
#define ZMLX_SPACED(SPACE, KIND)                \
  template <class T>                            \
  struct __spaced<KIND SPACE T> { typedef KIND T type; };
#define ZMLX_SPACES(KIND) ZMLX_SPACED(device, KIND) ZMLX_SPACED(constant, KIND) \
  ZMLX_SPACED(threadgroup, KIND)
ZMLX_SPACES() ZMLX_SPACES(const)
#undef ZMLX_SPACES
#undef ZMLX_SPACED
template <class T>
using remove_addrspace_t = typename __spaced<T>::type;
#define ZMLX_CHANGED(NAME, FROM)                \
  template <class T>                            \
  struct NAME { typedef T type; };              \
  template <class T>                            \
  struct NAME<FROM> { typedef T type; };        \
  template <class T>                            \
  using NAME##_t = typename NAME<T>::type;
ZMLX_CHANGED(remove_const, const T)
ZMLX_CHANGED(remove_volatile, volatile T)
ZMLX_CHANGED(remove_reference, T&)
ZMLX_CHANGED(remove_pointer, T*)
#undef ZMLX_CHANGED
template <class T>
using remove_cv_t = remove_const_t<remove_volatile_t<T>>;
template <class T>
struct remove_cv { typedef remove_cv_t<T> type; };
template <class T>
using decay_t = remove_cv_t<remove_reference_t<T>>;
template <class T>
struct decay { typedef decay_t<T> type; };
template <class T>
constexpr constant bool is_pointer_v = !is_same_v<remove_pointer_t<T>, T>;
template <class T>
constexpr constant bool is_const_v = !is_same_v<remove_const_t<T>, T>;
template <class T>
constexpr constant bool is_reference_v = !is_same_v<remove_reference_t<T>, T>;
template <class T>
constexpr constant bool is_void_v = is_same_v<remove_cv_t<T>, void>;
template <class T>
struct is_pointer : bool_constant<is_pointer_v<T>> {};
template <class T>
struct is_const : bool_constant<is_const_v<T>> {};
template <class From, class To>
struct is_convertible { static constexpr bool value = __is_convertible_to(From, To); };
template <class From, class To>
constexpr constant bool is_convertible_v = is_convertible<From, To>::value;
template <int Bytes>
struct __words {};
#define ZMLX_WORDS(BYTES, S, U)                 \
  template <>                                   \
  struct __words<BYTES> {                       \
    typedef S with_sign;                        \
    typedef U without;                          \
  };
ZMLX_WORDS(1, char, uchar)
ZMLX_WORDS(2, short, ushort)
ZMLX_WORDS(4, int, uint)
ZMLX_WORDS(8, long, ulong)
#undef ZMLX_WORDS
template <class T>
using make_signed_t = typename __words<sizeof(T)>::with_sign;
template <class T>
using make_unsigned_t = typename __words<sizeof(T)>::without;
template <class T>
struct make_signed { typedef make_signed_t<T> type; };
template <class T>
struct make_unsigned { typedef make_unsigned_t<T> type; };

}  // namespace metal
#define ZM_MEMBER inline
#define ZM_INFINITY INFINITY
#define ZM_NAN NAN
constexpr half zm_half_of(float x) { return half(x); }
constexpr bfloat zm_bfloat_of(float) { return bfloat(0); }
#include "../../device/headers/parts/msl_limits.h"
#undef ZM_MEMBER
namespace metal {
template <class T, size_t N>
struct array {
  T __elements[N];
  typedef T value_type;
  constexpr size_t size() const { return N; }
  constexpr bool empty() const { return N == 0; }
  T& operator[](size_t i) { return __elements[i]; }
  constexpr const T& operator[](size_t i) const { return __elements[i]; }
  T* data() { return __elements; }
  T* begin() { return __elements; }
  T* end() { return __elements + N; }
  const T* begin() const { return __elements; }
  const T* end() const { return __elements + N; }
  T& front() { return __elements[0]; }
  T& back() { return __elements[N - 1]; }
};
}  // namespace metal
