// Packed vectors (specification, chapter 2.2.3): aligned as their elements, and no room between.
#pragma once

namespace metal {

template <typename T, int N>
struct packed_vec;
}  // namespace metal
template <typename T, int N>
constexpr bool zm_is_vector<metal::packed_vec<T, N>> = true;
namespace metal {

#define ZM_PACKED_MEMBERS(N)                                                          \
  typedef T value_type;                                                               \
  packed_vec() = default;                                                             \
  packed_vec(const packed_vec&) = default;                                            \
  ZM_MEMBER constexpr packed_vec(const vec<T, N>& v) : item{} {                       \
    for (int i = 0; i < N; ++i) item[i] = v[i];                                       \
  }                                                                                   \
  template <typename... A, typename = typename zm_enable<(sizeof...(A) > 0)>::type>   \
  ZM_MEMBER constexpr packed_vec(const A&... a) : packed_vec(vec<T, N>(a...)) {}      \
  ZM_MEMBER packed_vec& operator=(const packed_vec& other) {                          \
    for (int i = 0; i < N; ++i) item[i] = other.item[i];                              \
    return *this;                                                                     \
  }                                                                                   \
  ZM_MEMBER operator vec<T, N>() const {                                              \
    vec<T, N> v;                                                                      \
    for (int i = 0; i < N; ++i) v[i] = item[i];                                       \
    return v;                                                                         \
  }                                                                                   \
  ZM_MEMBER T& operator[](long i) {                                                   \
    return item[i];                                                                   \
  }                                                                                   \
  ZM_MEMBER const T& operator[](long i) const {                                       \
    return item[i];                                                                   \
  }

#define ZM_SWIZZLE(NAME, ...) zm_swizzle<T, 2, __VA_ARGS__> NAME;
template <typename T>
struct packed_vec<T, 2> {
  union {
    T item[2];
    struct { T x, y; };
    struct { T r, g; };
    ZM_SWIZZLES_2
  };
  ZM_PACKED_MEMBERS(2)
};
#undef ZM_SWIZZLE
#define ZM_SWIZZLE(NAME, ...) zm_swizzle<T, 3, __VA_ARGS__> NAME;
template <typename T>
struct packed_vec<T, 3> {
  union {
    T item[3];
    struct { T x, y, z; };
    struct { T r, g, b; };
    ZM_SWIZZLES_3
  };
  ZM_PACKED_MEMBERS(3)
};
#undef ZM_SWIZZLE
#define ZM_SWIZZLE(NAME, ...) zm_swizzle<T, 4, __VA_ARGS__> NAME;
template <typename T>
struct packed_vec<T, 4> {
  union {
    T item[4];
    struct { T x, y, z, w; };
    struct { T r, g, b, a; };
    ZM_SWIZZLES_4
  };
  ZM_PACKED_MEMBERS(4)
};
#undef ZM_SWIZZLE
#undef ZM_PACKED_MEMBERS
template <typename T, int N>
struct zm_like<packed_vec<T, N>> {
  static constexpr int lanes = N;
  typedef vec<T, N> type, whole;
};
#define ZM_PACKED_ASSIGNS(OP)                                                 \
  template <typename T, int N, typename B>                                    \
  ZM_INLINE packed_vec<T, N>& operator OP##=(packed_vec<T, N>& a, const B& b) { \
    return a = packed_vec<T, N>(a OP b);                                      \
  }
ZM_PACKED_ASSIGNS(+)
ZM_PACKED_ASSIGNS(-)
ZM_PACKED_ASSIGNS(*)
ZM_PACKED_ASSIGNS(/)
#undef ZM_PACKED_ASSIGNS

}  // namespace metal

#define ZM_PACKED(T)                                      \
  typedef metal::packed_vec<T, 2> packed_##T##2;          \
  typedef metal::packed_vec<T, 3> packed_##T##3;          \
  typedef metal::packed_vec<T, 4> packed_##T##4;          \
  static_assert(                                          \
      sizeof(packed_##T##3) == 3 * sizeof(T) && alignof(packed_##T##4) == alignof(T), \
      "a packed vector has no room between");
ZM_PACKED(bool)
ZM_PACKED(char)
ZM_PACKED(uchar)
ZM_PACKED(short)
ZM_PACKED(ushort)
ZM_PACKED(int)
ZM_PACKED(uint)
ZM_PACKED(long)
ZM_PACKED(ulong)
ZM_PACKED(half)
ZM_PACKED(bfloat)
ZM_PACKED(float)
#undef ZM_PACKED
