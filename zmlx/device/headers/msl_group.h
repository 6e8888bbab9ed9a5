// What threads of a threadgroup and lanes of a simdgroup do together. Part of msl_written.h.
//
// Lanes meet in the runtime: each hands in its value and gets to see those of all lanes that take
// part. A default argument names the place of the call: it tells diverged lanes apart.
#pragma once

#define ZM_PLACE int line = __builtin_LINE(), const char* file = __builtin_FILE()

#define ZMLX_THREADGROUP(T, name, dims)              \
  static char zm_site_##name;                        \
  typedef T zm_type_##name dims;                     \
  zm_type_##name& name = *(zm_type_##name*)zm_now->shared( \
      &zm_site_##name, sizeof(zm_type_##name), #name, sizeof(T))

namespace metal {

enum class mem_flags : uint {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
};
ZM_INLINE mem_flags operator|(mem_flags a, mem_flags b) {
  return mem_flags(uint(a) | uint(b));
}

ZM_INLINE void threadgroup_barrier(mem_flags flags, ZM_PLACE) {
  zm_now->barrier(uint(flags), line, file);
}
ZM_INLINE void simdgroup_barrier(mem_flags flags, ZM_PLACE) {
  zm_now->simd_barrier(uint(flags), line, file);
}

template <typename T>
ZM_INLINE const zm_meeting& zm_meet(const T& mine, int line, const char* file) {
  static_assert(sizeof(T) <= sizeof(zm_meeting::value[0]), "too large for a simdgroup");
  return *zm_now->meet(&mine, sizeof(T), line, file);
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
// The value of another lane; one's own where that lane does not take part.
template <typename T>
ZM_INLINE T zm_or_own(const zm_meeting& m, uint lane) {
  return zm_of<T>(m, zm_takes_part(m, lane) ? lane : m.self);
}

struct zm_add {
  template <typename T>
  ZM_MEMBER static T of(T a, T b) {
    return T(a + b);
  }
};
struct zm_multiply {
  template <typename T>
  ZM_MEMBER static T of(T a, T b) {
    return T(a * b);
  }
};
struct zm_larger {
  template <typename T>
  ZM_MEMBER static T of(T a, T b) {
    return max(a, b);
  }
};
struct zm_smaller {
  template <typename T>
  ZM_MEMBER static T of(T a, T b) {
    return min(a, b);
  }
};
struct zm_and {
  template <typename T>
  ZM_MEMBER static T of(T a, T b) {
    return T(a & b);
  }
};
struct zm_or {
  template <typename T>
  ZM_MEMBER static T of(T a, T b) {
    return T(a | b);
  }
};
struct zm_xor {
  template <typename T>
  ZM_MEMBER static T of(T a, T b) {
    return T(a ^ b);
  }
};

// All lanes of [first, end) that take part, in order.
template <typename Op, typename T>
ZM_INLINE T zm_fold(const zm_meeting& m, uint first, uint end, T start, bool started) {
  for (uint lane = first; lane < end; ++lane) {
    if (zm_takes_part(m, lane)) {
      const T value = zm_of<T>(m, lane);
      start = started ? Op::of(start, value) : value;
      started = true;
    }
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
  return zm_of<T>(m, ctz(m.mask));
}
template <typename T>
ZM_INLINE T simd_shuffle_xor(T x, ushort mask, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  return zm_or_own<T>(m, m.self ^ mask);
}
template <typename T>
ZM_INLINE T simd_shuffle_down(T x, ushort delta, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  return zm_or_own<T>(m, m.self + delta);
}
template <typename T>
ZM_INLINE T simd_shuffle_up(T x, ushort delta, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  return zm_or_own<T>(m, m.self - delta);
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
  const T moved = zm_or_own<T>(m, m.self + delta);
  const zm_meeting& f = zm_meet(fill, line, file);
  return f.self + delta < 32 ? moved : zm_or_own<T>(f, (f.self + delta) % 32);
}
template <typename T>
ZM_INLINE T simd_shuffle_and_fill_up(T x, T fill, ushort delta, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  const T moved = zm_or_own<T>(m, m.self - delta);
  const zm_meeting& f = zm_meet(fill, line, file);
  return f.self >= delta ? moved : zm_or_own<T>(f, (f.self - delta) % 32);
}
template <typename T>
ZM_INLINE T quad_shuffle_xor(T x, ushort mask, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  return zm_or_own<T>(m, m.self ^ (mask & 3));
}
template <typename T>
ZM_INLINE T quad_broadcast(T x, ushort lane, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  return zm_or_own<T>(m, (m.self & ~3u) + (lane & 3));
}

struct simd_vote {
  ulong votes;
  ZM_MEMBER explicit simd_vote(ulong v) : votes(v) {}
  ZM_MEMBER explicit operator ulong() const {
    return votes;
  }
};
ZM_INLINE simd_vote simd_ballot(bool x, ZM_PLACE) {
  const zm_meeting& m = zm_meet(x, line, file);
  ulong votes = 0;
  for (uint lane = 0; lane < 32; ++lane) {
    votes |= ulong(zm_takes_part(m, lane) && zm_of<bool>(m, lane)) << lane;
  }
  return simd_vote(votes);
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
  return m.self == ctz(m.mask);
}

}  // namespace metal
