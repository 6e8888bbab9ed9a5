// What threads of a threadgroup and lanes of a simdgroup do together. Part of msl_written.h.
//
// Lanes meet in the runtime: each hands in its value and gets to see those of all lanes that take
// part. Default arguments name the line of the call. Which call it is, and by which way of inlined
// helpers it was reached, the address of a local variable tells: the compiler gives each inlined copy
// of a function variables of its own (-fstack-reuse=none), and none to code that it copies itself.
#pragma once

// A line, which no number of a call can be taken for.
struct zm_line {
  int number;
  ZM_MEMBER explicit constexpr zm_line(int n) : number(n) {}
  ZM_MEMBER constexpr operator int() const {
    return number;
  }
};
#define ZM_PLACE \
  zm_line line = zm_line(__builtin_LINE()), const char* file = __builtin_FILE()

#define ZMLX_THREADGROUP(T, name, dims)              \
  static char zm_site_##name;                        \
  typedef T zm_type_##name dims;                     \
  zm_type_##name& name = *(zm_type_##name*)zm_now->shared( \
      &zm_site_##name, sizeof(zm_type_##name), #name, sizeof(T))

namespace metal {

ZM_INLINE void threadgroup_barrier(mem_flags flags, ZM_PLACE) {
  char site;
  zm_now->barrier(uint(flags), line, file, &site);
}
ZM_INLINE void simdgroup_barrier(mem_flags flags, ZM_PLACE) {
  char site;
  zm_now->simd_barrier(uint(flags), line, file, &site);
}

template <typename T>
ZM_INLINE const zm_meeting& zm_meet(const T& mine, int line, const char* file) {
  static_assert(sizeof(T) <= sizeof(zm_meeting::value[0]), "too large for a simdgroup");
  char site;
  return *zm_now->meet(&mine, sizeof(T), line, file, &site);
}
template <typename T>
ZM_INLINE T zm_of(const zm_meeting& m, uint lane) {
  T value;
  __builtin_memcpy(&value, m.value[lane], sizeof(T));
  return value;
}
ZM_INLINE bool zm_takes_part(const zm_meeting& m, uint lane) {
  return lane < 32 && (m.mask >> lane & 1);
}
// The value of another lane, which must take part; one's own where it does not.
template <typename T>
ZM_INLINE T zm_or_own(const zm_meeting& m, uint lane) {
#ifdef ZM_SANITIZE
  if (!zm_takes_part(m, lane)) zm_now->absent(lane, 0);
#endif
  return zm_of<T>(m, zm_takes_part(m, lane) ? lane : m.self);
}

// Where a shuffle up or down ends: lanes beyond the simdgroup's ends leave one's own value.
ZM_INLINE uint zm_moved(const zm_meeting& m, uint lane) {
  const bool there = lane < 32 && (m.present >> lane & 1);
#ifdef ZM_SANITIZE
  if (lane < 32 && !there) zm_now->absent(lane, 1);
#endif
  return there ? lane : m.self;
}

// All lanes of [first, end) that take part, in order.
template <typename Op, typename T>
ZM_INLINE T zm_fold(const zm_meeting& m, uint first, uint end, T start, bool started) {
  const ulong asked = (1ul << end) - (1ul << first);
  for (uint lanes = m.mask & uint(asked); lanes != 0; lanes &= lanes - 1) {
    const T value = zm_of<T>(m, __builtin_ctz(lanes));
    start = started ? Op::of(start, value) : value;
    started = true;
  }
  return start;
}
#define ZM_REDUCTION(NAME, OP)                                      \
  template <typename T>                                             \
  ZM_INLINE T simd_##NAME(T x, ZM_PLACE) {                          \
    return zm_fold<OP>(zm_meet(x, line, file), 0, 32, x, false);    \
  }                                                                 \
  template <typename T>                                             \
  ZM_INLINE T quad_##NAME(T x, ZM_PLACE) {                          \
    const zm_meeting& m = zm_meet(x, line, file);                   \
    return zm_fold<OP>(m, m.self & ~3u, (m.self & ~3u) + 4, x, false); \
  }
ZM_REDUCTION(sum, zm_add)
ZM_REDUCTION(product, zm_multiply)
ZM_REDUCTION(max, zm_larger)
ZM_REDUCTION(min, zm_smaller)
ZM_REDUCTION(and, zm_and)
ZM_REDUCTION(or, zm_or)
ZM_REDUCTION(xor, zm_xor)
#undef ZM_REDUCTION

#define ZM_PREFIX(NAME, OP, NEUTRAL)                                          \
  template <typename T>                                                       \
  ZM_INLINE T simd_prefix_inclusive_##NAME(T x, ZM_PLACE) {                   \
    const zm_meeting& m = zm_meet(x, line, file);                             \
    return zm_fold<OP>(m, 0, m.self + 1, T(NEUTRAL), false);                  \
  }                                                                           \
  template <typename T>                                                       \
  ZM_INLINE T simd_prefix_exclusive_##NAME(T x, ZM_PLACE) {                   \
    const zm_meeting& m = zm_meet(x, line, file);                             \
    return zm_fold<OP>(m, 0, m.self, T(NEUTRAL), false);                      \
  }
ZM_PREFIX(sum, zm_add, 0)
ZM_PREFIX(product, zm_multiply, 1)
#undef ZM_PREFIX

template <typename T>
ZM_INLINE T simd_shuffle(T x, ushort lane, ZM_PLACE) {
  return zm_or_own<T>(zm_meet(x, line, file), lane);
}
template <typename T>
ZM_INLINE T simd_broadcast(T x, ushort lane, ZM_PLACE) {
  return zm_or_own<T>(zm_meet(x, line, file), lane);
}
template <typename T>
ZM_INLINE T simd_broadcast_first(T x, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  return zm_of<T>(m, __builtin_ctz(m.mask));
}
template <typename T>
ZM_INLINE T simd_shuffle_xor(T x, ushort mask, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  return zm_or_own<T>(m, m.self ^ mask);
}
template <typename T>
ZM_INLINE T simd_shuffle_down(T x, ushort delta, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  return zm_or_own<T>(m, zm_moved(m, m.self + delta));
}
template <typename T>
ZM_INLINE T simd_shuffle_up(T x, ushort delta, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  return zm_or_own<T>(m, zm_moved(m, m.self - delta));
}
template <typename T>
ZM_INLINE T simd_shuffle_rotate_down(T x, ushort delta, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  return zm_or_own<T>(m, (m.self + delta) % 32);
}
template <typename T>
ZM_INLINE T simd_shuffle_rotate_up(T x, ushort delta, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  return zm_or_own<T>(m, (m.self - delta) % 32);
}
// Lanes that reach past the end take from `fill`, counted from the other end of the simdgroup.
template <typename T>
ZM_INLINE T simd_shuffle_and_fill_down(T x, T fill, ushort delta, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  const T moved = zm_or_own<T>(m, zm_moved(m, m.self + delta));
  const zm_meeting& f = zm_meet(fill, line, file);
  return f.self + delta < 32 ? moved : zm_or_own<T>(f, (f.self + delta) % 32);
}
template <typename T>
ZM_INLINE T simd_shuffle_and_fill_up(T x, T fill, ushort delta, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  const T moved = zm_or_own<T>(m, zm_moved(m, m.self - delta));
  const zm_meeting& f = zm_meet(fill, line, file);
  return f.self >= delta ? moved : zm_or_own<T>(f, (f.self - delta) % 32);
}
// What all lanes hand in, for the functions that devices share (parts/msl_lanes.h).
#define ZM_AND_PLACE , ZM_PLACE
#define ZM_GIVE_PLACE , line, file
#define ZM_HERE line, file
#define ZM_ONLY_PLACE ZM_PLACE
template <typename T>
struct zm_seen {
  const zm_meeting& meeting;
  ZM_MEMBER zm_seen(const T& x, ZM_PLACE) : meeting(zm_meet(x, line, file)) {}
  ZM_MEMBER uint self() const {
    return meeting.self;
  }
  ZM_MEMBER uint mask() const {
    return meeting.mask;
  }
  ZM_MEMBER T of(uint lane) const {
    return zm_or_own<T>(meeting, lane);
  }
  template <typename M, typename S>
  ZM_MEMBER M part(uint lane, M S::*member) const {
    return of(lane).*member;
  }
};
ZM_INLINE uint zm_lane(ZM_PLACE) {
  return zm_meet(true, line, file).self;
}

ZM_INLINE simd_vote simd_ballot(bool x, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  ulong votes = 0;
  for (uint lane = 0; lane < 32; ++lane) {
    votes |= ulong(zm_takes_part(m, lane) && zm_of<bool>(m, lane)) << lane;
  }
  return simd_vote(votes, m.mask);
}
ZM_INLINE simd_vote simd_active_threads_mask(ZM_PLACE) {
  return simd_vote(zm_meet(true, line, file).mask);
}
ZM_INLINE bool simd_any(bool x, ZM_PLACE) {
  return simd_ballot(x, line, file).votes != 0;
}
ZM_INLINE bool simd_all(bool x, ZM_PLACE) {
  return simd_ballot(!x, line, file).votes == 0;
}
ZM_INLINE bool simd_is_first(ZM_PLACE) {
  const zm_meeting& m = zm_meet(true, line, file);
  return m.self == uint(__builtin_ctz(m.mask));
}

}  // namespace metal
