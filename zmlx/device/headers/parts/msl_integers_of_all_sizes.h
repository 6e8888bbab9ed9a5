// Functions of integers of 8, 16, 32 and 64 bits and of their vectors (specification, chapter 6.4).
#pragma once

namespace metal {

#define ZM_WHOLE template <typename T, typename = zm_if_whole<T>> ZM_INLINE
template <typename T>
struct zm_range {
  static constexpr bool is_signed = T(-1) < T(0);
  static constexpr int bits = 8 * sizeof(T);
  static constexpr zm_word<T> top = zm_word<T>(zm_word<T>(1) << (bits - 1));
  static constexpr T most = is_signed ? T(zm_word<T>(top - 1)) : T(-1);
  static constexpr T least = is_signed ? T(top) : T(0);
};

ZM_WHOLE T popcount(T x) {
  return T(ZM_POPCOUNT(ulong(zm_word<T>(x))));
}
ZM_WHOLE T clz(T x) {
  const ulong word = zm_word<T>(x);
  return T(word == 0 ? zm_range<T>::bits : int(ZM_CLZ(word)) - 64 + zm_range<T>::bits);
}
ZM_WHOLE T ctz(T x) {
  const ulong word = zm_word<T>(x);
  return T(word == 0 ? zm_range<T>::bits : int(ZM_CTZ(word)));
}
ZM_WHOLE T reverse_bits(T x) {
  zm_word<T> word = zm_word<T>(x), turned = 0;
  for (int i = 0; i < zm_range<T>::bits; ++i) {
    turned = zm_word<T>(turned << 1 | (word & 1));
    word = zm_word<T>(word >> 1);
  }
  return T(turned);
}
ZM_WHOLE T rotate(T x, T count) {
  constexpr uint bits = zm_range<T>::bits;
  const zm_word<T> word = zm_word<T>(x);
  const uint by = uint(count) & (bits - 1);
  return T(zm_word<T>(word << by | word >> ((bits - by) & (bits - 1))));
}
ZM_WHOLE zm_word<T> absdiff(T x, T y) {
  typedef zm_word<T> W;
  return x < y ? W(W(y) - W(x)) : W(W(x) - W(y));
}
ZM_WHOLE T addsat(T x, T y) {
  const T sum = T(zm_word<T>(zm_word<T>(x) + zm_word<T>(y)));
  if constexpr (zm_range<T>::is_signed) {
    const bool over = (x < 0) == (y < 0) && (sum < 0) != (x < 0);
    return over ? (x < 0 ? zm_range<T>::least : zm_range<T>::most) : sum;
  } else {
    return sum < x ? zm_range<T>::most : sum;
  }
}
ZM_WHOLE T subsat(T x, T y) {
  const T rest = T(zm_word<T>(zm_word<T>(x) - zm_word<T>(y)));
  if constexpr (zm_range<T>::is_signed) {
    const bool over = (x < 0) != (y < 0) && (rest < 0) != (x < 0);
    return over ? (x < 0 ? zm_range<T>::least : zm_range<T>::most) : rest;
  } else {
    return x < y ? T(0) : rest;
  }
}
// Halves of sums, which need no wider type.
ZM_WHOLE T hadd(T x, T y) {
  return T((x & y) + ((x ^ y) >> 1));
}
ZM_WHOLE T rhadd(T x, T y) {
  return T((x | y) - ((x ^ y) >> 1));
}
ZM_INLINE ulong zm_high_word(ulong a, ulong b) {
  const ulong al = uint(a), ah = a >> 32, bl = uint(b), bh = b >> 32;
  const ulong middle = ah * bl + (al * bl >> 32), other = al * bh + uint(middle);
  return ah * bh + (middle >> 32) + (other >> 32);
}
ZM_WHOLE T mulhi(T a, T b) {
  if constexpr (sizeof(T) < 8) {
    if constexpr (zm_range<T>::is_signed) {
      return T(long(a) * long(b) >> zm_range<T>::bits);
    } else {
      return T(ulong(a) * ulong(b) >> zm_range<T>::bits);
    }
  } else {
    const ulong high = zm_high_word(ulong(a), ulong(b));
    const bool sign = zm_range<T>::is_signed;
    return T(high - (sign && a < 0 ? ulong(b) : 0ul) - (sign && b < 0 ? ulong(a) : 0ul));
  }
}
ZM_WHOLE T madhi(T a, T b, T c) {
  return T(zm_word<T>(zm_word<T>(mulhi(a, b)) + zm_word<T>(c)));
}
ZM_WHOLE T madsat(T a, T b, T c) {
  typedef zm_range<T> X;
  if constexpr (sizeof(T) < 8 && X::is_signed) {
    const long sum = long(a) * long(b) + long(c);
    return sum > long(X::most) ? X::most : (sum < long(X::least) ? X::least : T(sum));
  } else if constexpr (sizeof(T) < 8) {
    const ulong sum = ulong(a) * ulong(b) + ulong(c);
    return sum > ulong(X::most) ? X::most : T(sum);
  } else {
    // A word and the one above it, which tells whether the first holds the sum.
    const ulong low = ulong(a) * ulong(b), sum = low + ulong(c);
    ulong high = ulong(mulhi(a, b)) + (sum < low ? 1ul : 0ul);
    if constexpr (X::is_signed) {
      high += c < 0 ? ~0ul : 0ul;
      const bool fits = high == (long(sum) < 0 ? ~0ul : 0ul);
      return fits ? T(sum) : (long(high) < 0 ? X::least : X::most);
    } else {
      return high == 0 ? T(sum) : X::most;
    }
  }
}
template <typename T, typename = typename zm_enable<sizeof(T) == 4 && zm_kind<T>::whole>::type>
ZM_INLINE T mul24(T a, T b) {
  return T(uint(T(uint(a) << 8) >> 8) * uint(T(uint(b) << 8) >> 8));
}
template <typename T, typename = typename zm_enable<sizeof(T) == 4 && zm_kind<T>::whole>::type>
ZM_INLINE T mad24(T a, T b, T c) {
  return T(uint(mul24(a, b)) + uint(c));
}
ZM_WHOLE T extract_bits(T x, uint offset, uint count) {
  constexpr uint bits = zm_range<T>::bits;
  if (count == 0 || offset >= bits) return T(0);
  const uint above = offset + count < bits ? bits - offset - count : 0u;
  const T moved = T(zm_word<T>(zm_word<T>(x) << above));
  return T(moved >> (above + offset));
}
ZM_WHOLE T insert_bits(T base, T inserted, uint offset, uint count) {
  typedef zm_word<T> W;
  constexpr uint bits = zm_range<T>::bits;
  if (count == 0 || offset >= bits) return base;
  const W low = count < bits ? W(W(W(1) << count) - 1) : W(~W(0));
  const W mask = W(low << offset);
  return T(W((W(base) & W(~mask)) | (W(W(inserted) << offset) & mask)));
}

ZM_EACH_VECTOR(popcount) ZM_EACH_VECTOR(clz) ZM_EACH_VECTOR(ctz) ZM_EACH_VECTOR(reverse_bits)
ZM_PAIR_VECTOR(rotate) ZM_PAIR_VECTOR(addsat) ZM_PAIR_VECTOR(subsat) ZM_PAIR_VECTOR(hadd)
ZM_PAIR_VECTOR(rhadd) ZM_PAIR_VECTOR(mulhi) ZM_PAIR_VECTOR(mul24)
ZM_TRIPLE_VECTOR(madhi) ZM_TRIPLE_VECTOR(madsat) ZM_TRIPLE_VECTOR(mad24)
template <typename A, typename B, typename V = zm_joint<A, B>>
ZM_INLINE zm_of_type<zm_word<typename V::value_type>, V> absdiff(const A& a, const B& b) {
  const V x(a), y(b);
  zm_of_type<zm_word<typename V::value_type>, V> z;
  for (int i = 0; i < zm_like<V>::lanes; ++i) z[i] = absdiff(x[i], y[i]);
  return z;
}
template <typename A, typename V = zm_vector<A>>
ZM_INLINE V extract_bits(const A& a, uint offset, uint count) {
  V x(a);
  for (int i = 0; i < zm_like<V>::lanes; ++i) x[i] = extract_bits(x[i], offset, count);
  return x;
}
template <typename A, typename B, typename V = zm_joint<A, B>>
ZM_INLINE V insert_bits(const A& a, const B& b, uint offset, uint count) {
  V x(a);
  const V y(b);
  for (int i = 0; i < zm_like<V>::lanes; ++i) x[i] = insert_bits(x[i], y[i], offset, count);
  return x;
}
#undef ZM_WHOLE

}  // namespace metal
