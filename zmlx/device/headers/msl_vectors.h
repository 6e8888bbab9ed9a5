// Metal's vectors: vec<T, N> for N = 2, 3, 4. Part of msl_written.h, and of a hand-written kernel's
// header on CUDA. Operators stand in msl_vector_operators.h.
//
// They have Metal's sizes but the alignment of their elements: MLX's memory on the CPU is aligned to
// 8 bytes only, and kernels cast pointers to float to pointers to float4. The sanitizer, whose copies
// of the arrays are aligned, wants Metal's alignment. Of the 672 swizzles a kernel has those that its
// text names: ZM_SWIZZLES_4 and its like, see zmlx/device/metal_words.py.
#pragma once

#ifdef ZM_SANITIZE
#define ZM_ALIGNED(T, N) alignas(sizeof(T) * N)
#else
#define ZM_ALIGNED(T, N)
#endif

#ifndef ZM_SWIZZLES_2
#define ZM_SWIZZLES_2
#endif
#ifndef ZM_SWIZZLES_3
#define ZM_SWIZZLES_3
#endif
#ifndef ZM_SWIZZLES_4
#define ZM_SWIZZLES_4
#endif
#define ZM_SWIZZLE_2(NAME, ...) zm_swizzle<T, 2, __VA_ARGS__> NAME;
#define ZM_SWIZZLE_3(NAME, ...) zm_swizzle<T, 4, __VA_ARGS__> NAME;
#define ZM_SWIZZLE_4(NAME, ...) zm_swizzle<T, 4, __VA_ARGS__> NAME;

namespace metal {

template <typename T, int N>
struct vec;
template <typename T, int Room, int... I>
struct zm_swizzle;
}  // namespace metal
template <typename T, int N>
constexpr bool zm_is_vector<metal::vec<T, N>> = true;
template <typename T, int R, int... I>
constexpr bool zm_is_vector<metal::zm_swizzle<T, R, I...>> = true;
namespace metal {

// Several elements of a vector by name (v.xy): reads as a shorter vector, takes one.
template <typename T, int Room, int... I>
struct zm_swizzle {
  typedef vec<T, sizeof...(I)> whole;
  T item[Room];
  zm_swizzle() = default;
  zm_swizzle(const zm_swizzle&) = default;
  ZM_MEMBER operator whole() const {
    return whole(item[I]...);
  }
  ZM_MEMBER zm_swizzle& operator=(const whole& v) {
    const whole copy = v;
    int n = 0;
    ((item[I] = copy[n++]), ...);
    return *this;
  }
  ZM_MEMBER zm_swizzle& operator=(const zm_swizzle& v) {
    return *this = whole(v);
  }
  ZM_MEMBER T operator[](int i) const {
    return whole(*this)[i];
  }
};

// What stands for a vector in an expression: its length, and the vector itself.
template <typename A>
struct zm_like {
  static constexpr int lanes = zm_kind<A>::number;
  typedef A whole;
};
template <typename T, int N>
struct zm_like<vec<T, N>> {
  static constexpr int lanes = N;
  typedef vec<T, N> type, whole;
};
template <typename T, int R, int... I>
struct zm_like<zm_swizzle<T, R, I...>> {
  static constexpr int lanes = sizeof...(I);
  typedef vec<T, sizeof...(I)> type, whole;
};
template <typename A>
using zm_vector = typename zm_like<A>::type;

template <typename T, typename A>
ZM_INLINE constexpr void zm_put(T* item, int& n, const A& a) {
  if constexpr (zm_like<A>::lanes == 1) {
    item[n++] = T(a);
  } else {
    const zm_vector<A> v = a;
    for (int i = 0; i < zm_like<A>::lanes; ++i) item[n++] = v[i];
  }
}

#define ZM_VECTOR_MEMBERS(N)                                                     \
  typedef T value_type;                                                          \
  vec() = default;                                                               \
  vec(const vec&) = default;                                                     \
  ZM_MEMBER vec& operator=(const vec& other) {                                   \
    for (int i = 0; i < N; ++i) item[i] = other.item[i];                         \
    return *this;                                                                \
  }                                                                              \
  template <typename S, typename = zm_if_number<S>>                              \
  ZM_MEMBER constexpr vec(S all) : item{} {                                      \
    for (int i = 0; i < N; ++i) item[i] = T(all);                                \
  }                                                                              \
  template <typename U>                                                          \
  ZM_MEMBER explicit constexpr vec(const vec<U, N>& other) : item{} {            \
    for (int i = 0; i < N; ++i) item[i] = T(other[i]);                           \
  }                                                                              \
  template <                                                                     \
      typename U, int R, int... I,                                               \
      typename = typename zm_enable<sizeof...(I) == N>::type>                    \
  ZM_MEMBER explicit vec(const zm_swizzle<U, R, I...>& other)                    \
      : vec(other.operator vec<U, N>()) {}                                       \
  template <                                                                     \
      typename A, typename B, typename... C,                                     \
      typename = typename zm_enable<                                             \
          zm_like<A>::lanes + zm_like<B>::lanes + (0 + ... + zm_like<C>::lanes) == N>::type> \
  ZM_MEMBER constexpr vec(const A& a, const B& b, const C&... c) : item{} {      \
    int n = 0;                                                                   \
    zm_put(item, n, a);                                                          \
    zm_put(item, n, b);                                                          \
    (zm_put(item, n, c), ...);                                                   \
  }                                                                              \
  ZM_MEMBER constexpr T& operator[](long i) {                                    \
    return item[i];                                                              \
  }                                                                              \
  ZM_MEMBER constexpr const T& operator[](long i) const {                        \
    return item[i];                                                              \
  }

template <typename T>
struct ZM_ALIGNED(T, 2) vec<T, 2> {
  union {
    T item[2];
    struct { T x, y; };
    struct { T r, g; };
#define ZM_SWIZZLE ZM_SWIZZLE_2
    ZM_SWIZZLES_2
#undef ZM_SWIZZLE
  };
  ZM_VECTOR_MEMBERS(2)
};
template <typename T>
struct ZM_ALIGNED(T, 4) vec<T, 3> {
  union {
    T item[4];  // Metal's takes the room of four
    struct { T x, y, z; };
    struct { T r, g, b; };
#define ZM_SWIZZLE ZM_SWIZZLE_3
    ZM_SWIZZLES_3
#undef ZM_SWIZZLE
  };
  ZM_VECTOR_MEMBERS(3)
};
template <typename T>
struct ZM_ALIGNED(T, 4) vec<T, 4> {
  union {
    T item[4];
    struct { T x, y, z, w; };
    struct { T r, g, b, a; };
#define ZM_SWIZZLE ZM_SWIZZLE_4
    ZM_SWIZZLES_4
#undef ZM_SWIZZLE
  };
  ZM_VECTOR_MEMBERS(4)
};
#undef ZM_VECTOR_MEMBERS

// `auto p = v.xz` is written `auto p = zm_plain{} = v.xz`: a vector, no view of one.
struct zm_plain {
  template <typename T>
  ZM_MEMBER constexpr T operator=(T x) const {
    return x;
  }
  template <typename T, int R, int... I>
  ZM_MEMBER constexpr vec<T, sizeof...(I)> operator=(const zm_swizzle<T, R, I...>& x) const {
    return x;
  }
};

}  // namespace metal

#define ZM_VECTOR_NAMES(T)                                                     \
  typedef metal::vec<T, 2> T##2;                                               \
  typedef metal::vec<T, 3> T##3;                                               \
  typedef metal::vec<T, 4> T##4;                                               \
  static_assert(                                                               \
      sizeof(T##2) == 2 * sizeof(T) && sizeof(T##3) == 4 * sizeof(T) &&        \
          sizeof(T##4) == 4 * sizeof(T),                                       \
      "a vector has the size of its elements");
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
static_assert(
    sizeof(bool) == 1 && sizeof(char) == 1 && sizeof(short) == 2 && sizeof(int) == 4 &&
        sizeof(long) == 8 && sizeof(half) == 2 && sizeof(bfloat) == 2 && sizeof(float) == 4,
    "numbers have Metal's sizes");
