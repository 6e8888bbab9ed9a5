// Metal's atomics, relaxed. Part of msl_written.h. Groups run on several threads of the CPU at once.
#pragma once

#ifdef ZM_SANITIZE  // the runtime is told, on one thread; the compiler's own hooks must not see it
#define ZM_UNSEEN static __attribute__((noinline, no_sanitize("thread")))
#define ZM_ATOMIC(object, writes) \
  zm_now->atomic((const void*)(object), sizeof(T), writes, line, file)
#else
#define ZM_UNSEEN ZM_INLINE
#define ZM_ATOMIC(object, writes) ((void)0)
#endif

namespace metal {

ZM_INLINE void atomic_thread_fence(
    mem_flags, memory_order = memory_order_seq_cst, thread_scope = thread_scope_device) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

typedef atomic<bool> atomic_bool;
typedef atomic<ulong> atomic_ulong;

#define ZM_OBJECT(C) C volatile atomic<T>* object
#define ZM_ORDERED memory_order, ZM_PLACE

template <typename T>
ZM_UNSEEN T zm_load(const volatile T* place) {
  typedef zm_word<T> Bits;
  return as_type<T>(Bits(__atomic_load_n((const volatile Bits*)place, __ATOMIC_RELAXED)));
}
template <typename T>
ZM_UNSEEN bool zm_replace(volatile T* place, T& expected, T wanted) {
  typedef zm_word<T> Bits;
  Bits seen = as_type<Bits>(expected);
  const bool done = __atomic_compare_exchange_n(
      (volatile Bits*)place, &seen, as_type<Bits>(wanted), false, __ATOMIC_RELAXED,
      __ATOMIC_RELAXED);
  if (!done) expected = as_type<T>(seen);
  return done;
}
template <typename Op, typename T>
ZM_UNSEEN T zm_update(volatile T* place, T value) {
  T old = zm_load(place);
  while (!zm_replace(place, old, Op::of(old, value))) {
  }
  return old;
}
#define ZM_FETCH(NAME, OP)                                             \
  template <typename T>                                                \
  ZM_INLINE T atomic_##NAME##_explicit(ZM_OBJECT(), ZM_SAME value, ZM_ORDERED) { \
    ZM_ATOMIC(object, 1);                                              \
    return zm_update<OP>(&object->zm_value, value);                    \
  }
ZM_FETCH(fetch_add, zm_add)
ZM_FETCH(fetch_sub, zm_subtract)
ZM_FETCH(fetch_max, zm_larger)
ZM_FETCH(fetch_min, zm_smaller)
ZM_FETCH(fetch_and, zm_and)
ZM_FETCH(fetch_or, zm_or)
ZM_FETCH(fetch_xor, zm_xor)
ZM_FETCH(exchange, zm_second)
#undef ZM_FETCH

template <typename T>
ZM_INLINE void atomic_max_explicit(ZM_OBJECT(), ZM_SAME value, ZM_ORDERED) {
  ZM_ATOMIC(object, 1);
  zm_update<zm_larger>(&object->zm_value, value);
}
template <typename T>
ZM_INLINE void atomic_min_explicit(ZM_OBJECT(), ZM_SAME value, ZM_ORDERED) {
  ZM_ATOMIC(object, 1);
  zm_update<zm_smaller>(&object->zm_value, value);
}
template <typename T>
ZM_INLINE void atomic_store_explicit(ZM_OBJECT(), ZM_SAME value, ZM_ORDERED) {
  ZM_ATOMIC(object, 2);
  zm_update<zm_second>(&object->zm_value, value);
}
template <typename T>
ZM_INLINE T atomic_load_explicit(ZM_OBJECT(const), ZM_ORDERED) {
  ZM_ATOMIC(object, 0);
  return zm_load(&object->zm_value);
}
template <typename T>
ZM_INLINE bool atomic_compare_exchange_weak_explicit(
    ZM_OBJECT(), T* expected, ZM_SAME wanted, memory_order, ZM_ORDERED) {
  ZM_ATOMIC(object, 1);
  return zm_replace(&object->zm_value, *expected, T(wanted));
}

}  // namespace metal
