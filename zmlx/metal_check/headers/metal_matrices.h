// Matrices, and those that a simdgroup holds together (specification, chapters 2.3, 6.7 and 6.10).
#pragma once

namespace metal {
template <class T, int C, int R>
struct matrix {
  vec<T, R> columns[C];
  matrix() = default;
  explicit matrix(T diagonal);
  template <class U>
  explicit matrix(const thread matrix<U, C, R>& other);
  template <class A, class B, class... D,
            class = enable_if_t<__total<A, B, D...>() == C * R>>
  matrix(A a, B b, D... d);
  thread vec<T, R>& operator[](int c);
  const thread vec<T, R>& operator[](int c) const;
};
#define ZMLX_MATRIX template <class T, int C, int R>
ZMLX_MATRIX matrix<T, C, R> operator+(matrix<T, C, R> a, matrix<T, C, R> b);
ZMLX_MATRIX matrix<T, C, R> operator-(matrix<T, C, R> a, matrix<T, C, R> b);
ZMLX_MATRIX matrix<T, C, R> operator-(matrix<T, C, R> a);
ZMLX_MATRIX matrix<T, C, R> operator*(matrix<T, C, R> a, __same<T> b);
ZMLX_MATRIX matrix<T, C, R> operator*(__same<T> a, matrix<T, C, R> b);
ZMLX_MATRIX vec<T, R> operator*(matrix<T, C, R> a, vec<T, C> x);
ZMLX_MATRIX vec<T, C> operator*(vec<T, R> x, matrix<T, C, R> a);
template <class T, int K, int R, int C>
matrix<T, C, R> operator*(matrix<T, K, R> a, matrix<T, C, K> b);
ZMLX_MATRIX thread matrix<T, C, R>& operator+=(thread matrix<T, C, R>& a, matrix<T, C, R> b);
ZMLX_MATRIX thread matrix<T, C, R>& operator-=(thread matrix<T, C, R>& a, matrix<T, C, R> b);
template <class T, int C, int R, class B>
thread matrix<T, C, R>& operator*=(thread matrix<T, C, R>& a, B b);
ZMLX_MATRIX matrix<T, R, C> transpose(matrix<T, C, R> a);
template <class T, int N>
T determinant(matrix<T, N, N> a);
#undef ZMLX_MATRIX

template <class T, int C, int R>
struct simdgroup_matrix {
  static_assert(C == 8 && R == 8, "Metal has matrices of 8 x 8");
  typedef vec<T, 2> storage_type;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal);
  thread vec<T, 2>& thread_elements();
};
// Of bfloat clang has no vectors.
struct __two_bfloats {
  bfloat __x[2];
  thread bfloat& operator[](int i);
};
template <>
struct simdgroup_matrix<bfloat, 8, 8> {
  typedef __two_bfloats storage_type;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(bfloat diagonal);
  thread __two_bfloats& thread_elements();
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
template <class T, int C, int R>
simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T value);
template <class T, int C, int R>
simdgroup_matrix<T, C, R> make_diagonal_simdgroup_matrix(T value);
#define ZMLX_TILES(space)                                                                  \
  template <class T>                                                                       \
  void simdgroup_load(                                                                     \
      thread simdgroup_matrix<T, 8, 8>& to, const space T* from, ulong elements_per_row = 8, \
      ulong2 origin = 0, bool transposed = false);                                         \
  template <class T>                                                                       \
  void simdgroup_store(                                                                    \
      thread const simdgroup_matrix<T, 8, 8>& from, space T* to, ulong elements_per_row = 8, \
      ulong2 origin = 0, bool transposed = false);
ZMLX_TILES(device)
ZMLX_TILES(threadgroup)
#undef ZMLX_TILES
template <class D, class A, class B>
void simdgroup_multiply(
    thread simdgroup_matrix<D, 8, 8>& d, thread simdgroup_matrix<A, 8, 8>& a,
    thread simdgroup_matrix<B, 8, 8>& b);
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(
    thread simdgroup_matrix<D, 8, 8>& d, thread const simdgroup_matrix<A, 8, 8>& a,
    thread const simdgroup_matrix<B, 8, 8>& b, thread const simdgroup_matrix<C, 8, 8>& c);
template <class T>
simdgroup_matrix<T, 8, 8> operator*(simdgroup_matrix<T, 8, 8> a, simdgroup_matrix<T, 8, 8> b);
}  // namespace metal

#define ZMLX_MATRICES(T, C)                \
  typedef metal::matrix<T, C, 2> T##C##x2; \
  typedef metal::matrix<T, C, 3> T##C##x3; \
  typedef metal::matrix<T, C, 4> T##C##x4;
ZMLX_MATRICES(float, 2)
ZMLX_MATRICES(float, 3)
ZMLX_MATRICES(float, 4)
ZMLX_MATRICES(half, 2)
ZMLX_MATRICES(half, 3)
ZMLX_MATRICES(half, 4)
#undef ZMLX_MATRICES
