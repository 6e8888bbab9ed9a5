// The arms of a conditional, each of which is told the other's type (zmlx/device/conditionals.py).
#pragma once

namespace metal {

template <typename T>
struct zm_bare {
  typedef T type;
};
template <typename T>
struct zm_bare<T&> : zm_bare<T> {};
template <typename T>
struct zm_bare<T&&> : zm_bare<T> {};
template <typename T>
struct zm_bare<const T> : zm_bare<T> {};
template <bool C, typename T, typename U>
struct zm_either_type {
  typedef T type;
};
template <typename T, typename U>
struct zm_either_type<false, T, U> {
  typedef U type;
};
// What an arm X becomes beside the arm O: X itself, but for a half beside another number.
template <
    typename O, typename X, typename A = typename zm_bare<O>::type,
    typename B = typename zm_bare<X>::type,
    bool Mixed = zm_kind<A>::number && zm_kind<B>::number &&
                 zm_kind<A>::half_type != zm_kind<B>::half_type>
struct zm_beside {
  typedef X type;
};
template <typename O, typename X, typename A, typename B>
struct zm_beside<O, X, A, B, true> {
  static constexpr bool wide = zm_alike<A, float>::value || zm_alike<B, float>::value;
  typedef typename zm_either_type<
      wide, float, typename zm_either_type<zm_kind<A>::half_type, A, B>::type>::type type;
};
template <typename O>
struct zm_arm {};
template <typename O, typename X>
ZM_INLINE constexpr typename zm_beside<O, X>::type operator,(zm_arm<O>, X&& x) {
  typedef typename zm_beside<O, X>::type T;
  if constexpr (zm_alike<T, X>::value) {
    return static_cast<X&&>(x);
  } else {
    return T(float(x));
  }
}

}  // namespace metal
