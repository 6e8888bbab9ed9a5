// Matrices of 8 x 8 that a simdgroup holds together (specification, chapter 6.7).
//
// Lane `l` holds two neighbours of one row, where Apple's GPUs have them. Products add up in float,
// from the first column on, and are rounded once to the type of the result.
#pragma once

namespace metal {

ZM_INLINE uint zm_row_of(uint lane) {
  return (lane / 4 & 4) + lane / 2 % 4;
}
ZM_INLINE uint zm_column_of(uint lane) {
  return (lane / 4 & 2) * 2 + lane % 2 * 2;
}
ZM_INLINE uint zm_lane_of(uint row, uint column) {
  return (row & 4) * 4 + (column & 4) * 2 + row % 4 * 2 + column / 2 % 2;
}

template <typename T, int Columns, int Rows>
struct simdgroup_matrix {
  static_assert(Columns == 8 && Rows == 8, "Metal has matrices of 8 x 8");
  typedef vec<T, 2> storage_type;
  vec<T, 2> zm_pair;

  simdgroup_matrix() = default;
  // The diagonal.
  ZM_MEMBER explicit simdgroup_matrix(T value ZM_AND_PLACE) {
    const uint lane = zm_lane(ZM_HERE), row = zm_row_of(lane), column = zm_column_of(lane);
    zm_pair = vec<T, 2>(row == column ? value : T(0), row == column + 1 ? value : T(0));
  }
  ZM_MEMBER vec<T, 2>& thread_elements() {
    return zm_pair;
  }
  ZM_MEMBER const vec<T, 2>& thread_elements() const {
    return zm_pair;
  }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat16_t8x8;

template <typename T, int C, int R>
ZM_INLINE simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, C, R> made;
  made.zm_pair = vec<T, 2>(value);
  return made;
}
template <typename T, int C, int R>
ZM_INLINE simdgroup_matrix<T, C, R> make_diagonal_simdgroup_matrix(T value ZM_AND_PLACE) {
  return simdgroup_matrix<T, C, R>(value ZM_GIVE_PLACE);
}

// Where the two elements of this lane lie in memory.
ZM_INLINE ulong zm_place_in(uint lane, ulong stride, ulong2 origin, bool turned, uint which) {
  const uint row = zm_row_of(lane), column = zm_column_of(lane) + which;
  const ulong y = origin[1] + (turned ? column : row), x = origin[0] + (turned ? row : column);
  return y * stride + x;
}
template <typename T, typename P>
ZM_INLINE void simdgroup_load(
    simdgroup_matrix<T, 8, 8>& to, const P* from, ulong stride = 8, ulong2 origin = ulong2(0),
    bool turned = false ZM_AND_PLACE) {
  const uint lane = zm_lane(ZM_HERE);
  to.zm_pair[0] = T(from[zm_place_in(lane, stride, origin, turned, 0)]);
  to.zm_pair[1] = T(from[zm_place_in(lane, stride, origin, turned, 1)]);
}
template <typename T, typename P>
ZM_INLINE void simdgroup_store(
    const simdgroup_matrix<T, 8, 8>& from, P* to, ulong stride = 8, ulong2 origin = ulong2(0),
    bool turned = false ZM_AND_PLACE) {
  const uint lane = zm_lane(ZM_HERE);
  to[zm_place_in(lane, stride, origin, turned, 0)] = P(from.zm_pair[0]);
  to[zm_place_in(lane, stride, origin, turned, 1)] = P(from.zm_pair[1]);
}

template <typename A, typename B>
struct zm_factors {
  vec<A, 2> a;
  vec<B, 2> b;
};
// This lane's two elements of sum + a * b.
template <typename A, typename B>
ZM_INLINE float2 zm_products(
    const simdgroup_matrix<A, 8, 8>& a, const simdgroup_matrix<B, 8, 8>& b, float2 sum ZM_AND_PLACE) {
  typedef zm_factors<A, B> F;
  const zm_seen<F> lanes(F{a.zm_pair, b.zm_pair} ZM_GIVE_PLACE);
  const uint row = zm_row_of(lanes.self()), column = zm_column_of(lanes.self());
  for (uint k = 0; k < 8; ++k) {
    const vec<A, 2> left = lanes.part(zm_lane_of(row, k), &F::a);
    const vec<B, 2> right = lanes.part(zm_lane_of(k, column), &F::b);
    const float factor = float(left[k % 2]);
    sum[0] += factor * float(right[0]);
    sum[1] += factor * float(right[1]);
  }
  return sum;
}
template <typename D, typename A, typename B, typename C>
ZM_INLINE void simdgroup_multiply_accumulate(
    simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
    const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<C, 8, 8>& c ZM_AND_PLACE) {
  d.zm_pair = vec<D, 2>(zm_products(a, b, float2(c.zm_pair) ZM_GIVE_PLACE));
}
template <typename D, typename A, typename B>
ZM_INLINE void simdgroup_multiply(
    simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
    const simdgroup_matrix<B, 8, 8>& b ZM_AND_PLACE) {
  d.zm_pair = vec<D, 2>(zm_products(a, b, float2(0) ZM_GIVE_PLACE));
}
template <typename T>
ZM_INLINE simdgroup_matrix<T, 8, 8> operator*(
    const simdgroup_matrix<T, 8, 8>& a, const simdgroup_matrix<T, 8, 8>& b) {
  simdgroup_matrix<T, 8, 8> d;
  simdgroup_multiply(d, a, b);
  return d;
}

}  // namespace metal
