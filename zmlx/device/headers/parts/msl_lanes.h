// Functions of quads, and those of simdgroups that devices have in common (specification, 6.9.2).
//
// A device says what zm_seen is: the values that all lanes hand in.
#pragma once

namespace metal {

template <typename T>
struct zm_moved_and_filling {
  T moved, filling;
};
// Lanes that reach past the end of their `modulo` neighbours take from `fill`.
template <typename T>
ZM_INLINE T zm_fill_down(T x, T fill, uint delta, uint modulo ZM_AND_PLACE) {
  typedef zm_moved_and_filling<T> Both;
  const zm_seen<Both> lanes(Both{x, fill} ZM_GIVE_PLACE);
  const uint first = lanes.self() / modulo * modulo, to = lanes.self() - first + delta;
  const T moved = lanes.part(first + to % modulo, &Both::moved);
  const T filling = lanes.part(first + to % modulo, &Both::filling);
  return to < modulo ? moved : filling;
}
template <typename T>
ZM_INLINE T zm_fill_up(T x, T fill, uint delta, uint modulo ZM_AND_PLACE) {
  typedef zm_moved_and_filling<T> Both;
  const zm_seen<Both> lanes(Both{x, fill} ZM_GIVE_PLACE);
  const uint first = lanes.self() / modulo * modulo, at = lanes.self() - first;
  const uint from = first + (at + modulo - delta % modulo) % modulo;
  const T moved = lanes.part(from, &Both::moved), filling = lanes.part(from, &Both::filling);
  return at >= delta ? moved : filling;
}
template <typename T>
ZM_INLINE T simd_shuffle_and_fill_down(
    T x, ZM_SAME fill, ushort delta, ushort modulo ZM_AND_PLACE) {
  return zm_fill_down<T>(x, fill, delta, modulo ZM_GIVE_PLACE);
}
template <typename T>
ZM_INLINE T simd_shuffle_and_fill_up(T x, ZM_SAME fill, ushort delta, ushort modulo ZM_AND_PLACE) {
  return zm_fill_up<T>(x, fill, delta, modulo ZM_GIVE_PLACE);
}
template <typename T>
ZM_INLINE T quad_shuffle_and_fill_down(T x, ZM_SAME fill, ushort delta ZM_AND_PLACE) {
  return zm_fill_down<T>(x, fill, delta, 4 ZM_GIVE_PLACE);
}
template <typename T>
ZM_INLINE T quad_shuffle_and_fill_up(T x, ZM_SAME fill, ushort delta ZM_AND_PLACE) {
  return zm_fill_up<T>(x, fill, delta, 4 ZM_GIVE_PLACE);
}
template <typename T>
ZM_INLINE T quad_shuffle_and_fill_down(
    T x, ZM_SAME fill, ushort delta, ushort modulo ZM_AND_PLACE) {
  return zm_fill_down<T>(x, fill, delta, modulo ZM_GIVE_PLACE);
}
template <typename T>
ZM_INLINE T quad_shuffle_and_fill_up(T x, ZM_SAME fill, ushort delta, ushort modulo ZM_AND_PLACE) {
  return zm_fill_up<T>(x, fill, delta, modulo ZM_GIVE_PLACE);
}

// The value of lane LANE of one's own quad, which starts at `first`; `at` is one's place in it.
#define ZM_QUAD(NAME, ARGUMENT, LANE)                                  \
  template <typename T>                                                \
  ZM_INLINE T quad_##NAME(T x, ushort ARGUMENT ZM_AND_PLACE) {         \
    const zm_seen<T> lanes(x ZM_GIVE_PLACE);                           \
    const uint first = lanes.self() & ~3u, at = lanes.self() & 3u;     \
    return lanes.of(first + (at * 0u + (LANE)));                       \
  }
ZM_QUAD(broadcast, lane, lane & 3u)
ZM_QUAD(shuffle, lane, lane & 3u)
ZM_QUAD(shuffle_xor, mask, (at ^ mask) & 3u)
ZM_QUAD(shuffle_down, delta, at + delta < 4u ? at + delta : at)
ZM_QUAD(shuffle_up, delta, at >= delta ? at - delta : at)
ZM_QUAD(shuffle_rotate_down, delta, (at + delta) & 3u)
ZM_QUAD(shuffle_rotate_up, delta, (at - delta) & 3u)
#undef ZM_QUAD

template <typename T>
ZM_INLINE T quad_broadcast_first(T x ZM_AND_PLACE) {
  const zm_seen<T> lanes(x ZM_GIVE_PLACE);
  uint first = lanes.self() & ~3u;
  while (!(lanes.mask() >> first & 1u)) ++first;
  return lanes.of(first);
}
template <typename Op, typename T>
ZM_INLINE T zm_quad_prefix(T x, T neutral, bool own ZM_AND_PLACE) {
  const zm_seen<T> lanes(x ZM_GIVE_PLACE);
  const uint first = lanes.self() & ~3u, end = lanes.self() + (own ? 1u : 0u);
  T all = neutral;
  for (uint lane = first; lane < first + 4u; ++lane) {
    const bool there = lanes.mask() >> lane & 1u;
    const T other = lanes.of(there ? lane : lanes.self());
    all = there && lane < end ? Op::of(all, other) : all;
  }
  return all;
}
#define ZM_QUAD_PREFIX(NAME, OP, NEUTRAL)                              \
  template <typename T>                                                \
  ZM_INLINE T quad_prefix_inclusive_##NAME(T x ZM_AND_PLACE) {         \
    return zm_quad_prefix<OP>(x, T(NEUTRAL), true ZM_GIVE_PLACE);      \
  }                                                                    \
  template <typename T>                                                \
  ZM_INLINE T quad_prefix_exclusive_##NAME(T x ZM_AND_PLACE) {         \
    return zm_quad_prefix<OP>(x, T(NEUTRAL), false ZM_GIVE_PLACE);     \
  }
ZM_QUAD_PREFIX(sum, zm_add, 0)
ZM_QUAD_PREFIX(product, zm_multiply, 1)
#undef ZM_QUAD_PREFIX

ZM_INLINE quad_vote quad_ballot(bool x ZM_AND_PLACE) {
  const zm_seen<bool> lanes(x ZM_GIVE_PLACE);
  const uint first = lanes.self() & ~3u, there = lanes.mask() >> first & 15u;
  uint votes = 0;
  for (uint lane = 0; lane < 4u; ++lane) {
    const bool counts = there >> lane & 1u;
    const bool vote = lanes.of(counts ? first + lane : lanes.self());
    votes |= uint(counts && vote) << lane;
  }
  return quad_vote(votes, there);
}
ZM_INLINE bool quad_any(bool x ZM_AND_PLACE) {
  return quad_ballot(x ZM_GIVE_PLACE).any();
}
ZM_INLINE bool quad_all(bool x ZM_AND_PLACE) {
  return quad_ballot(x ZM_GIVE_PLACE).all();
}
ZM_INLINE quad_vote quad_active_threads_mask(ZM_ONLY_PLACE) {
  return quad_ballot(true ZM_GIVE_PLACE);
}
ZM_INLINE bool quad_is_first(ZM_ONLY_PLACE) {
  const zm_seen<bool> lanes(true ZM_GIVE_PLACE);
  const uint first = lanes.self() & ~3u;
  return (lanes.mask() >> first & ((1u << (lanes.self() & 3u)) - 1u)) == 0u;
}
ZM_INLINE bool simd_is_helper_thread() {
  return false;
}
ZM_INLINE bool quad_is_helper_thread() {
  return false;
}

}  // namespace metal
