// What Metal's groups and atomics are made of on every device: flags, orders, votes, joins. Part of
// msl_written.h, and of a hand-written kernel's header on CUDA.
#pragma once

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
enum memory_order {
  memory_order_relaxed,
  memory_order_acquire,
  memory_order_release,
  memory_order_acq_rel,
  memory_order_seq_cst,
};
enum thread_scope {
  thread_scope_thread,
  thread_scope_threadgroup,
  thread_scope_device,
  thread_scope_simdgroup,
};

template <typename T>
struct atomic {
  T zm_value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<ulong> atomic_ulong;

// What lanes say yes; `All` are the lanes of a full group.
template <typename Word, Word All>
struct zm_vote {
  typedef Word vote_t;
  Word votes, lanes;
  ZM_MEMBER explicit zm_vote(vote_t v, Word all = All) : votes(v), lanes(all) {}
  ZM_MEMBER explicit operator vote_t() const {
    return votes;
  }
  ZM_MEMBER bool all() const {
    return (votes & lanes) == lanes;
  }
  ZM_MEMBER bool any() const {
    return (votes & lanes) != 0;
  }
};
typedef zm_vote<ulong, 0xffffffffu> simd_vote;
typedef zm_vote<uint, 15u> quad_vote;

// How two numbers become one.
#define ZM_OP(NAME, EXPRESSION)       \
  struct NAME {                       \
    template <typename T>             \
    ZM_MEMBER static T of(T a, T b) { \
      return T(EXPRESSION);           \
    }                                 \
  };
ZM_OP(zm_add, a + b)
ZM_OP(zm_subtract, a - b)
ZM_OP(zm_multiply, a * b)
ZM_OP(zm_larger, max(a, b))
ZM_OP(zm_smaller, min(a, b))
ZM_OP(zm_and, a & b)
ZM_OP(zm_or, a | b)
ZM_OP(zm_xor, a ^ b)
#undef ZM_OP
struct zm_second {
  template <typename T>
  ZM_MEMBER static T of(T, T b) {
    return b;
  }
};

}  // namespace metal
