// Matrices by columns: matrix<T, Columns, Rows> (specification, chapters 2.3 and 6.10).
#pragma once

namespace metal {

template <typename T, int C, int R>
struct matrix {
  vec<T, R> columns[C];

  matrix() = default;
  ZM_MEMBER explicit matrix(T diagonal) {
    for (int c = 0; c < C; ++c)
      for (int r = 0; r < R; ++r) columns[c][r] = r == c ? diagonal : T(0);
  }
  template <typename U>
  ZM_MEMBER explicit matrix(const matrix<U, C, R>& other) {
    for (int c = 0; c < C; ++c) columns[c] = vec<T, R>(other.columns[c]);
  }
  template <
      typename A, typename B, typename... D,
      typename = typename zm_enable<
          zm_like<A>::lanes + zm_like<B>::lanes + (0 + ... + zm_like<D>::lanes) == C * R>::type>
  ZM_MEMBER matrix(const A& a, const B& b, const D&... d) {
    T item[C * R];
    int n = 0;
    zm_put(item, n, a);
    zm_put(item, n, b);
    (zm_put(item, n, d), ...);
    for (int c = 0; c < C; ++c)
      for (int r = 0; r < R; ++r) columns[c][r] = item[c * R + r];
  }
  ZM_MEMBER vec<T, R>& operator[](int c) {
    return columns[c];
  }
  ZM_MEMBER const vec<T, R>& operator[](int c) const {
    return columns[c];
  }
};

#define ZM_MATRIX template <typename T, int C, int R> ZM_INLINE
#define ZM_MATRIX_SUM(OP)                                                            \
  ZM_MATRIX matrix<T, C, R> operator OP(const matrix<T, C, R>& a, const matrix<T, C, R>& b) { \
    matrix<T, C, R> d;                                                               \
    for (int c = 0; c < C; ++c) d[c] = a[c] OP b[c];                                 \
    return d;                                                                        \
  }                                                                                  \
  ZM_MATRIX matrix<T, C, R>& operator OP##=(matrix<T, C, R>& a, const matrix<T, C, R>& b) { \
    return a = a OP b;                                                               \
  }
ZM_MATRIX_SUM(+)
ZM_MATRIX_SUM(-)
#undef ZM_MATRIX_SUM
ZM_MATRIX matrix<T, C, R> operator-(const matrix<T, C, R>& a) {
  matrix<T, C, R> d;
  for (int c = 0; c < C; ++c) d[c] = -a[c];
  return d;
}
template <typename T, int C, int R, typename S, typename = zm_if_number<S>>
ZM_INLINE matrix<T, C, R> operator*(const matrix<T, C, R>& a, S s) {
  matrix<T, C, R> d;
  for (int c = 0; c < C; ++c) d[c] = a[c] * T(s);
  return d;
}
template <typename T, int C, int R, typename S, typename = zm_if_number<S>>
ZM_INLINE matrix<T, C, R> operator*(S s, const matrix<T, C, R>& a) {
  return a * s;
}
ZM_MATRIX vec<T, R> operator*(const matrix<T, C, R>& a, const vec<T, C>& x) {
  vec<T, R> y = a[0] * x[0];
  for (int c = 1; c < C; ++c) y = y + a[c] * x[c];
  return y;
}
ZM_MATRIX vec<T, C> operator*(const vec<T, R>& x, const matrix<T, C, R>& a) {
  vec<T, C> y;
  for (int c = 0; c < C; ++c) y[c] = dot(x, a[c]);
  return y;
}
template <typename T, int K, int R, int C>
ZM_INLINE matrix<T, C, R> operator*(const matrix<T, K, R>& a, const matrix<T, C, K>& b) {
  matrix<T, C, R> d;
  for (int c = 0; c < C; ++c) d[c] = a * b[c];
  return d;
}
template <typename T, int C, int R, typename B>
ZM_INLINE matrix<T, C, R>& operator*=(matrix<T, C, R>& a, const B& b) {
  return a = a * b;
}
ZM_MATRIX matrix<T, R, C> transpose(const matrix<T, C, R>& a) {
  matrix<T, R, C> d;
  for (int c = 0; c < C; ++c)
    for (int r = 0; r < R; ++r) d[r][c] = a[c][r];
  return d;
}
#undef ZM_MATRIX
template <typename T>
ZM_INLINE T determinant(const matrix<T, 2, 2>& a) {
  return T(a[0][0] * a[1][1] - a[1][0] * a[0][1]);
}
template <typename T>
ZM_INLINE T determinant(const matrix<T, 3, 3>& a) {
  return T(
      a[0][0] * (a[1][1] * a[2][2] - a[2][1] * a[1][2]) -
      a[1][0] * (a[0][1] * a[2][2] - a[2][1] * a[0][2]) +
      a[2][0] * (a[0][1] * a[1][2] - a[1][1] * a[0][2]));
}
// By the last row, and the minors of the three others.
template <typename T>
ZM_INLINE T determinant(const matrix<T, 4, 4>& a) {
  T sum = T(0);
  for (int left = 0; left < 4; ++left) {
    matrix<T, 3, 3> minor;
    for (int c = 0, to = 0; c < 4; ++c) {
      if (c != left) {
        for (int r = 0; r < 3; ++r) minor[to][r] = a[c][r];
        ++to;
      }
    }
    const T term = T(a[left][3] * determinant(minor));
    sum = T(left % 2 == 1 ? sum + term : sum - term);
  }
  return sum;
}

}  // namespace metal

#define ZM_MATRICES(T, C)                  \
  typedef metal::matrix<T, C, 2> T##C##x2; \
  typedef metal::matrix<T, C, 3> T##C##x3; \
  typedef metal::matrix<T, C, 4> T##C##x4;
ZM_MATRICES(float, 2)
ZM_MATRICES(float, 3)
ZM_MATRICES(float, 4)
ZM_MATRICES(half, 2)
ZM_MATRICES(half, 3)
ZM_MATRICES(half, 4)
#undef ZM_MATRICES
static_assert(
    sizeof(float2x2) == 16 && sizeof(float3x3) == 48 && sizeof(float4x3) == 64 &&
        sizeof(float4x4) == 64 && sizeof(half4x4) == 32,
    "a matrix has the size of its columns");
