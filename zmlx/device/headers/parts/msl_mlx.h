// Names that MLX's own headers put in front of every kernel: places in arrays, limits, complex
// numbers, conversions.
#pragma once

#define MLX_MTL_PRAGMA_UNROLL ZM_UNROLL
#define MTL_CONST const
#define MLX_MTL_CONST static constexpr const
#define MLX_MTL_LOOP_UNROLL ZM_UNROLL

static constexpr int MAX_REDUCE_SPECIALIZED_DIMS = 4;
static constexpr int REDUCE_N_READS = 4;
static constexpr int REDUCE_N_WRITES = 4;
static constexpr int SOFTMAX_N_READS = 4;

struct complex64_t {
  float real, imag;

  complex64_t() = default;
  ZM_MEMBER constexpr complex64_t(float re, float im = 0.0f) : real(re), imag(im) {}
  ZM_MEMBER complex64_t(float2 v) : real(v[0]), imag(v[1]) {}
  ZM_MEMBER explicit operator float() const {
    return real;
  }
  ZM_MEMBER operator float2() const {
    return float2(real, imag);
  }
};
typedef complex64_t zm_complex;
template <typename T>
struct zm_complex_of {
  typedef zm_complex type;
};
template <typename T>
using complex_t = typename zm_complex_of<T>::type;

ZM_INLINE zm_complex operator-(zm_complex a) {
  return {-a.real, -a.imag};
}
ZM_INLINE zm_complex operator+(zm_complex a, zm_complex b) {
  return {a.real + b.real, a.imag + b.imag};
}
ZM_INLINE zm_complex operator-(zm_complex a, zm_complex b) {
  return {a.real - b.real, a.imag - b.imag};
}
ZM_INLINE zm_complex operator*(zm_complex a, zm_complex b) {
  return {a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real};
}
ZM_INLINE zm_complex operator/(zm_complex a, zm_complex b) {
  const float size = b.real * b.real + b.imag * b.imag;
  return {
      (a.real * b.real + a.imag * b.imag) / size, (a.imag * b.real - a.real * b.imag) / size};
}
// The remainder by floors, part by part.
ZM_INLINE zm_complex operator%(zm_complex a, zm_complex b) {
  const float re = a.real - b.real * metal::trunc(a.real / b.real);
  const float im = a.imag - b.imag * metal::trunc(a.imag / b.imag);
  const bool back_re = re != 0.0f && (re < 0.0f) != (b.real < 0.0f);
  const bool back_im = im != 0.0f && (im < 0.0f) != (b.imag < 0.0f);
  return {back_re ? re + b.real : re, back_im ? im + b.imag : im};
}
#define ZM_COMPLEX_WITH(OP)                                                  \
  template <typename S, typename = zm_if_number<S>>                          \
  ZM_INLINE zm_complex operator OP(zm_complex a, S b) {                      \
    return a OP zm_complex(float(b));                                        \
  }                                                                          \
  template <typename S, typename = zm_if_number<S>>                          \
  ZM_INLINE zm_complex operator OP(S a, zm_complex b) {                      \
    return zm_complex(float(a)) OP b;                                        \
  }                                                                          \
  template <typename S>                                                      \
  ZM_INLINE zm_complex& operator OP##=(zm_complex& a, S b) {                 \
    return a = a OP b;                                                       \
  }
ZM_COMPLEX_WITH(+)
ZM_COMPLEX_WITH(-)
ZM_COMPLEX_WITH(*)
ZM_COMPLEX_WITH(/)
#undef ZM_COMPLEX_WITH
// Ordered by the real part, then by the imaginary one.
ZM_INLINE bool operator==(zm_complex a, zm_complex b) {
  return a.real == b.real && a.imag == b.imag;
}
ZM_INLINE bool operator!=(zm_complex a, zm_complex b) {
  return !(a == b);
}
ZM_INLINE bool operator>(zm_complex a, zm_complex b) {
  return a.real > b.real || (a.real == b.real && a.imag > b.imag);
}
ZM_INLINE bool operator>=(zm_complex a, zm_complex b) {
  return a.real > b.real || (a.real == b.real && a.imag >= b.imag);
}
ZM_INLINE bool operator<(zm_complex a, zm_complex b) {
  return b > a;
}
ZM_INLINE bool operator<=(zm_complex a, zm_complex b) {
  return b >= a;
}

template <typename U>
struct WorkPerThread {
  static_assert(sizeof(U) <= 8, "at most 8 bytes");
  static constexpr int n = 8 / int(sizeof(U));
};
template <typename U>
ZM_MEMBER constexpr U zm_minus(U x) {
  return U(-x);
}
// Floats have infinity as their largest; finite_max is the largest number.
template <typename U>
struct Limits {
  typedef metal::numeric_limits<U> L;
  static constexpr bool far = L::has_infinity;
  static constexpr U max = far ? L::infinity() : L::max();
  static constexpr U min = far ? zm_minus(L::infinity()) : L::min();
  static constexpr U finite_max = L::max();
  static constexpr U finite_min = far ? zm_minus(L::max()) : L::min();
};
template <>
struct Limits<complex64_t> {
  static constexpr complex64_t max = complex64_t(ZM_INFINITY, ZM_INFINITY);
  static constexpr complex64_t min = complex64_t(-ZM_INFINITY, -ZM_INFINITY);
};
template <bool Condition, typename T, typename U>
struct ConditionalType {
  typedef U type;
};
template <typename T, typename U>
struct ConditionalType<true, T, U> {
  typedef T type;
};
template <typename U, typename T>
ZM_INLINE U cast_to(T value) {
  if constexpr (zm_alike<U, bool>::value && zm_alike<T, complex64_t>::value) {
    return value.real != 0.0f || value.imag != 0.0f;
  } else if constexpr (zm_alike<U, bool>::value && !zm_kind<T>::whole) {
    return float(value) != 0.0f;
  } else {
    return static_cast<U>(value);
  }
}
template <typename T, typename U>
ZM_INLINE constexpr T ceildiv(T n, U m) {
  return T((n + m - 1) / m);
}

ZM_INLINE float log1p(float x) {
  return zmlx_log1p(x);
}
ZM_INLINE float expm1f(float x) {
  return zmlx_expm1(x);
}
ZM_INLINE float expm1(float x) {
  return zmlx_expm1(x);
}
ZM_INLINE float erf(float x) {
  return zmlx_erf(x);
}
ZM_INLINE float erfinv(float x) {
  return zmlx_erfinv(x);
}
ZM_INLINE bfloat log1p(bfloat x) {
  return bfloat(zmlx_log1p(float(x)));
}
ZM_INLINE float hypot(float x, float y) {
  return float(ZM_DOUBLE(sqrt)(double(x) * double(x) + double(y) * double(y)));
}
ZM_INLINE complex64_t log1p(complex64_t z) {
  const float size = z.real * (2.0f + z.real) + z.imag * z.imag;
  return {0.5f * zmlx_log1p(size), metal::atan2(z.imag, z.real + 1.0f)};
}

template <int K, typename I>
struct zm_places {
  I at[K];
};
// The places in K arrays: x and y count the last two dimensions, z the others.
template <typename I, typename Shape, typename... Strides>
ZM_INLINE zm_places<sizeof...(Strides), I> zm_places_of(
    uint3 elem, const Shape& shape, int ndim, const Strides&... strides) {
  zm_places<sizeof...(Strides), I> found = {
      {(I(elem[0]) * I(strides[ndim - 1]) + I(elem[1]) * I(strides[ndim - 2]))...}};
  for (int d = ndim - 3; d >= 0; --d) {
    const uint within = elem[2] % uint(shape[d]);
    int k = 0;
    ((found.at[k++] += I(within) * I(strides[d])), ...);
    elem[2] /= uint(shape[d]);
  }
  return found;
}
// The place in memory of an element that is counted in rows. Shapes and strides are pointers, or what
// else a device hands over.
template <typename I = int64_t, typename E, typename Shape, typename Strides>
ZM_INLINE I elem_to_loc(E elem, const Shape& shape, const Strides& strides, int ndim) {
  if constexpr (zm_alike<E, uint3>::value) {
    return zm_places_of<I>(elem, shape, ndim, strides).at[0];
  } else {
    I place = 0;
    for (int d = ndim - 1; d >= 0 && elem > 0; --d) {
      place += I(elem % E(shape[d])) * I(strides[d]);
      elem /= E(shape[d]);
    }
    return place;
  }
}
template <typename I = int64_t, typename Strides>
ZM_INLINE I elem_to_loc_1(uint elem, const Strides& stride) {
  return I(elem) * I(stride);
}
template <typename I = int64_t, typename Strides>
ZM_INLINE I elem_to_loc_2(uint2 elem, const Strides& strides) {
  return I(elem[0]) * I(strides[1]) + I(elem[1]) * I(strides[0]);
}
template <typename I = int64_t, typename Strides>
ZM_INLINE I elem_to_loc_3(uint3 elem, const Strides& strides) {
  return I(elem[0]) * I(strides[2]) + I(elem[1]) * I(strides[1]) + I(elem[2]) * I(strides[0]);
}
template <typename I = int64_t, typename Shape, typename A, typename B>
ZM_INLINE metal::vec<I, 2> elem_to_loc_2_nd(
    uint3 elem, const Shape& shape, const A& a, const B& b, int ndim) {
  const auto found = zm_places_of<I>(elem, shape, ndim, a, b);
  return metal::vec<I, 2>(found.at[0], found.at[1]);
}
template <typename I = int64_t, typename Shape, typename A, typename B, typename C>
ZM_INLINE metal::vec<I, 3> elem_to_loc_3_nd(
    uint3 elem, const Shape& shape, const A& a, const B& b, const C& c, int ndim) {
  const auto found = zm_places_of<I>(elem, shape, ndim, a, b, c);
  return metal::vec<I, 3>(found.at[0], found.at[1], found.at[2]);
}
// Walks a strided array: the place of each next element.
template <int Dims, typename I = size_t, bool General = true>
struct LoopedElemToLoc {
  int dim;
  uint64_t count = 0;
  I offset = 0;

  ZM_MEMBER LoopedElemToLoc(int d) : dim(d) {}
  template <typename Shape, typename Strides>
  ZM_MEMBER void next(const Shape& shape, const Strides& strides) {
    next(1, shape, strides);
  }
  template <typename Shape, typename Strides>
  ZM_MEMBER void next(int n, const Shape& shape, const Strides& strides) {
    count += uint64_t(n);
    if constexpr (Dims == 1 && !General) {
      offset = I(count) * I(strides[0]);
    } else if (dim > 1) {
      offset = elem_to_loc<I>(count, shape, strides, dim);
    } else if (dim == 1 || Dims == 1) {
      offset = I(count) * I(strides[0]);
    }
  }
  ZM_MEMBER I location() {
    return offset;
  }
};
