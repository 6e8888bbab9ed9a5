// What kind of number a type is, for templates of Metal's functions. Part of msl_written.h, and of a
// hand-written kernel's header on CUDA.
#pragma once

template <typename T>
struct zm_kind {
  static constexpr bool number = false, whole = false, half_type = false;
};
#define ZM_KIND(T, WHOLE, HALF)                                               \
  template <>                                                                 \
  struct zm_kind<T> {                                                         \
    static constexpr bool number = true, whole = WHOLE, half_type = HALF;     \
  };
ZM_KIND(bool, false, false)
ZM_KIND(char, true, false)
ZM_KIND(signed char, true, false)
ZM_KIND(uchar, true, false)
ZM_KIND(short, true, false)
ZM_KIND(ushort, true, false)
ZM_KIND(int, true, false)
ZM_KIND(uint, true, false)
ZM_KIND(long, true, false)
ZM_KIND(ulong, true, false)
ZM_KIND(half, false, true)
ZM_KIND(bfloat, false, true)
ZM_KIND(float, false, false)
#undef ZM_KIND

template <bool C, typename T = void>
struct zm_enable {};
template <typename T>
struct zm_enable<true, T> {
  typedef T type;
};
template <typename T, typename U>
struct zm_alike {
  static constexpr bool value = false;
};
template <typename T>
struct zm_alike<T, T> {
  static constexpr bool value = true;
};
template <typename T>
using zm_if_half = typename zm_enable<zm_kind<T>::half_type>::type;
template <typename T>
using zm_if_whole = typename zm_enable<zm_kind<T>::whole>::type;
template <typename T>
using zm_if_number = typename zm_enable<zm_kind<T>::number>::type;
template <typename T>
using zm_if_real = typename zm_enable<zm_kind<T>::half_type || zm_alike<T, float>::value>::type;

// The unsigned word of so many bytes.
template <int Bytes>
struct zm_bits;
template <>
struct zm_bits<1> {
  typedef uchar type;
};
template <>
struct zm_bits<2> {
  typedef ushort type;
};
template <>
struct zm_bits<4> {
  typedef uint type;
};
template <>
struct zm_bits<8> {
  typedef ulong type;
};
template <typename T>
using zm_word = typename zm_bits<sizeof(T)>::type;

// A parameter that takes no part in the deduction of T.
template <typename T>
struct zm_as_is {
  typedef T type;
};
#define ZM_SAME typename zm_as_is<T>::type
