// Integer division and powers that kernels bring along as helpers, as loops that vectorise. Part of
// msl_on_host.h.
//
// CPUs divide vectors of floats only. A quotient of two integers that a float type holds never rounds
// up to the next integer, so its truncation is theirs. Words of 64 bits have no such type.
#pragma once

template <int Bytes>
struct zm_quotient {
  typedef double type;  // holds 32 bits
};
template <>
struct zm_quotient<1> {
  typedef float type;
};
template <>
struct zm_quotient<2> {
  typedef float type;
};
template <typename T>
ZM_INLINE T zm_divide(T x, T y) {
  if constexpr (sizeof(T) == 8) {
    return x / y;
  } else {
    typedef typename zm_quotient<sizeof(T)>::type wide;
    typedef decltype(x / y) word;
    return T(__builtin_constant_p(y) ? x / y : word(wide(x) / wide(y)));
  }
}

// By zero it gives 0 (remainder: x), as MLX; by -1 it never traps.
#define ZMLX_NATIVE_INT_FLOOR_DIVIDE
template <typename T>
ZM_INLINE T zmlx_int_floor_divide(T x, T y) {
  const bool zero = y == T(0);
  const bool minus = T(-1) < T(0) && y == T(-1);
  const T d = (zero || minus) ? T(1) : y;
  const T q = zm_divide(x, d);
  const T r = T(x - q * d);
  const T floored = (r != T(0) && (r < T(0)) != (d < T(0))) ? T(q - T(1)) : q;
  return zero ? T(0) : (minus ? T(T(0) - x) : floored);
}
#define ZMLX_NATIVE_INT_REMAINDER
template <typename T>
ZM_INLINE T zmlx_int_remainder(T x, T y) {
  const bool zero = y == T(0);
  const bool minus = T(-1) < T(0) && y == T(-1);
  const T d = (zero || minus) ? T(1) : y;
  const T r = T(x - zm_divide(x, d) * d);
  const T signed_r = (r != T(0) && (r < T(0)) != (d < T(0))) ? T(r + d) : r;
  return zero ? x : signed_r;
}

// Arithmetic modulo 2**64 or 2**32, cut to T; a loop of known length for up to 32 bits.
#define ZMLX_NATIVE_INT_POWER
template <typename T>
ZM_INLINE T zmlx_int_power(T x, T y) {
  if constexpr (sizeof(T) == 8) {
    ulong result = 1, factor = ulong(x);
    for (ulong n = (y < T(0)) ? 0ul : ulong(y); n != 0; n >>= 1) {
      result = (n & 1) ? result * factor : result;
      factor *= factor;
    }
    return (y < T(0)) ? T(0) : T(result);
  } else {
    uint result = 1, factor = uint(x), n = uint(y);
#pragma GCC unroll 32
    for (int i = 0; i < int(8 * sizeof(T)); ++i) {
      result = (n & 1) ? result * factor : result;
      factor *= factor;
      n >>= 1;
    }
    return (y < T(0)) ? T(0) : T(result);
  }
}
