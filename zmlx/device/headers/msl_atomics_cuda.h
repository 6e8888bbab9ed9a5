// Metal's atomics in CUDA C++. Part of a hand-written kernel's header on CUDA.
#pragma once

namespace metal {

ZM_INLINE void atomic_thread_fence(
    mem_flags, memory_order = memory_order_seq_cst, thread_scope = thread_scope_device) {
  __threadfence();
}

// The words that the hardware compares and exchanges.
ZM_INLINE uint zm_exchange_if(uint* place, uint before, uint after) {
  return atomicCAS(place, before, after);
}
ZM_INLINE ulong zm_exchange_if(ulong* place, ulong before, ulong after) {
  return atomicCAS((unsigned long long*)place, before, after);
}
template <typename Op, typename T>
ZM_INLINE T zm_update(const volatile atomic<T>* object, T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics have 32 or 64 bits");
  zm_word<T>* place = (zm_word<T>*)&object->zm_value;
  zm_word<T> seen = *(volatile zm_word<T>*)place, before;
  do {
    before = seen;
    const T after = Op::of(as_type<T>(before), value);
    seen = zm_exchange_if(place, before, as_type<zm_word<T>>(after));
  } while (seen != before);
  return as_type<T>(seen);
}
#define ZM_FETCH(NAME, OP, NATIVE)                                                             \
  template <typename T>                                                                        \
  ZM_INLINE T atomic_##NAME##_explicit(volatile atomic<T>* object, ZM_SAME value, memory_order) { \
    NATIVE return zm_update<OP>(object, T(value));                                             \
  }
ZM_FETCH(fetch_add, zm_add, if constexpr (sizeof(T) == 4) return atomicAdd((T*)&object->zm_value, T(value));)
ZM_FETCH(fetch_sub, zm_subtract, )
ZM_FETCH(fetch_max, zm_larger, )
ZM_FETCH(fetch_min, zm_smaller, )
ZM_FETCH(fetch_and, zm_and, )
ZM_FETCH(fetch_or, zm_or, )
ZM_FETCH(fetch_xor, zm_xor, )
ZM_FETCH(exchange, zm_second, )
#undef ZM_FETCH
template <typename T>
ZM_INLINE void atomic_max_explicit(volatile atomic<T>* object, ZM_SAME value, memory_order) {
  zm_update<zm_larger>(object, T(value));
}
template <typename T>
ZM_INLINE void atomic_min_explicit(volatile atomic<T>* object, ZM_SAME value, memory_order) {
  zm_update<zm_smaller>(object, T(value));
}
// MLX passes atomic outputs as plain pointers on CUDA.
template <typename T>
ZM_INLINE atomic<T>* zm_atomics(T* place) {
  return (atomic<T>*)place;
}
template <typename T>
ZM_INLINE void atomic_store_explicit(volatile atomic<T>* object, ZM_SAME value, memory_order) {
  zm_update<zm_second>(object, T(value));
}
template <typename T>
ZM_INLINE T atomic_load_explicit(const volatile atomic<T>* object, memory_order) {
  return object->zm_value;
}
template <typename T>
ZM_INLINE bool atomic_compare_exchange_weak_explicit(
    volatile atomic<T>* object, T* expected, ZM_SAME wanted, memory_order, memory_order) {
  typedef zm_word<T> W;
  const W before = as_type<W>(*expected);
  const W seen = zm_exchange_if((W*)&object->zm_value, before, as_type<W>(T(wanted)));
  *expected = as_type<T>(seen);
  return seen == before;
}

}  // namespace metal
