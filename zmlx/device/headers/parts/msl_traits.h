// Facts about types (specification, chapter 6.16 and <metal_limits>).
#pragma once

namespace metal {

template <typename T, T V>
struct integral_constant {
  static constexpr T value = V;
  typedef T value_type;
  typedef integral_constant type;
  ZM_MEMBER constexpr operator T() const {
    return V;
  }
  ZM_MEMBER constexpr T operator()() const {
    return V;
  }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
typedef bool_constant<true> true_type;
typedef bool_constant<false> false_type;

template <bool C, typename T = void>
using enable_if = zm_enable<C, T>;
template <bool C, typename T = void>
using enable_if_t = typename zm_enable<C, T>::type;
template <bool C, typename T, typename U>
struct conditional {
  typedef T type;
};
template <typename T, typename U>
struct conditional<false, T, U> {
  typedef U type;
};
template <bool C, typename T, typename U>
using conditional_t = typename conditional<C, T, U>::type;
template <typename T>
T&& declval() noexcept;

#define ZM_CHANGED(NAME, FROM, TO)        \
  template <typename T>                   \
  struct NAME {                           \
    typedef T type;                       \
  };                                      \
  template <typename T>                   \
  struct NAME<FROM> {                     \
    typedef TO type;                      \
  };                                      \
  template <typename T>                   \
  using NAME##_t = typename NAME<T>::type;
ZM_CHANGED(remove_const, const T, T)
ZM_CHANGED(remove_volatile, volatile T, T)
ZM_CHANGED(remove_lvalue_reference, T&, T)
ZM_CHANGED(zm_remove_rvalue_reference, T&&, T)
ZM_CHANGED(remove_pointer, T*, T)
ZM_CHANGED(remove_extent, T[], T)
#undef ZM_CHANGED
template <typename T>
using remove_reference_t = remove_lvalue_reference_t<zm_remove_rvalue_reference_t<T>>;
template <typename T>
using remove_cv_t = remove_const_t<remove_volatile_t<T>>;
template <typename T>
struct remove_reference {
  typedef remove_reference_t<T> type;
};
template <typename T>
struct remove_cv {
  typedef remove_cv_t<T> type;
};
template <typename T>
using decay_t = remove_cv_t<remove_reference_t<T>>;
template <typename T>
struct decay {
  typedef decay_t<T> type;
};
template <typename T>
using remove_addrspace_t = T;
template <typename T>
struct add_const {
  typedef const T type;
};
template <typename T>
using add_const_t = const T;
template <typename T>
struct add_pointer {
  typedef remove_reference_t<T>* type;
};
template <typename T>
using add_pointer_t = typename add_pointer<T>::type;

#define ZM_TRAIT(NAME, ...)                                \
  template <typename T>                                    \
  struct NAME : bool_constant<(__VA_ARGS__)> {};           \
  template <typename T>                                    \
  static constexpr bool NAME##_v = NAME<T>::value;
template <typename T, typename U>
struct is_same : bool_constant<zm_alike<T, U>::value> {};
template <typename T, typename U>
static constexpr bool is_same_v = zm_alike<T, U>::value;
template <typename T>
using zm_plainly = zm_kind<remove_cv_t<T>>;
ZM_TRAIT(is_void, zm_alike<remove_cv_t<T>, void>::value)
ZM_TRAIT(is_integral, zm_plainly<T>::whole || zm_alike<remove_cv_t<T>, bool>::value)
ZM_TRAIT(is_floating_point, zm_plainly<T>::half_type || zm_alike<remove_cv_t<T>, float>::value)
ZM_TRAIT(is_arithmetic, zm_plainly<T>::number)
template <typename T, bool Number = zm_plainly<T>::number>
struct zm_sign {
  static constexpr bool minus = false;
};
template <typename T>
struct zm_sign<T, true> {
  static constexpr bool minus = is_floating_point_v<T> || remove_cv_t<T>(-1) < remove_cv_t<T>(0);
};
ZM_TRAIT(is_signed, zm_sign<T>::minus)
ZM_TRAIT(is_unsigned, is_integral_v<T> && !zm_sign<T>::minus)
ZM_TRAIT(is_pointer, !zm_alike<remove_pointer_t<remove_cv_t<T>>, remove_cv_t<T>>::value)
ZM_TRAIT(is_lvalue_reference, !zm_alike<remove_lvalue_reference_t<T>, T>::value)
ZM_TRAIT(is_reference, !zm_alike<remove_reference_t<T>, T>::value)
ZM_TRAIT(is_const, !zm_alike<remove_const_t<T>, T>::value)
ZM_TRAIT(is_volatile, !zm_alike<remove_volatile_t<T>, T>::value)
ZM_TRAIT(is_scalar, is_arithmetic_v<T> || is_pointer_v<T> || __is_enum(T))
ZM_TRAIT(is_enum, __is_enum(T))
ZM_TRAIT(is_class, __is_class(T))
ZM_TRAIT(is_union, __is_union(T))
ZM_TRAIT(is_trivially_copyable, __is_trivially_copyable(T))
#undef ZM_TRAIT
template <typename T>
struct is_vector : bool_constant<false> {};
template <typename T, int N>
struct is_vector<vec<T, N>> : bool_constant<true> {};
template <typename T>
static constexpr bool is_vector_v = is_vector<T>::value;
template <typename T>
struct is_array : bool_constant<false> {};
template <typename T>
struct is_array<T[]> : bool_constant<true> {};
template <typename T, size_t N>
struct is_array<T[N]> : bool_constant<true> {};
template <typename T>
static constexpr bool is_array_v = is_array<T>::value;
template <typename T, typename U>
struct is_base_of : bool_constant<__is_base_of(T, U)> {};
template <typename T, typename U>
static constexpr bool is_base_of_v = is_base_of<T, U>::value;
struct zm_yes {
  char one;
};
struct zm_no {
  char two[2];
};
template <typename From, typename To>
struct is_convertible {
  ZM_MEMBER static zm_yes zm_take(To);
  ZM_MEMBER static zm_no zm_take(...);
  static constexpr bool value = sizeof(zm_take(declval<From>())) == sizeof(zm_yes);
};
template <typename From, typename To>
static constexpr bool is_convertible_v = is_convertible<From, To>::value;
template <typename T>
struct make_unsigned {
  typedef zm_word<T> type;
};
template <typename T>
using make_unsigned_t = zm_word<T>;
template <int Bytes>
struct zm_signed_word;
#define ZM_SIGNED_WORD(BYTES, T)    \
  template <>                       \
  struct zm_signed_word<BYTES> {    \
    typedef T type;                 \
  };
ZM_SIGNED_WORD(1, char)
ZM_SIGNED_WORD(2, short)
ZM_SIGNED_WORD(4, int)
ZM_SIGNED_WORD(8, long)
#undef ZM_SIGNED_WORD
template <typename T>
struct make_signed {
  typedef typename zm_signed_word<sizeof(T)>::type type;
};
template <typename T>
using make_signed_t = typename make_signed<T>::type;
template <typename T>
ZM_INLINE constexpr remove_reference_t<T>&& move(T&& x) {
  return static_cast<remove_reference_t<T>&&>(x);
}
template <typename T>
ZM_INLINE void swap(T& a, T& b) {
  const T c = a;
  a = b;
  b = c;
}

}  // namespace metal
