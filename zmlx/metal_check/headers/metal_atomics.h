// Barriers, fences and atomics (specification, chapters 6.9.1 and 6.15).
#pragma once

namespace metal {
enum class mem_flags : uint {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
};
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(uint(a) | uint(b)); }
void threadgroup_barrier(mem_flags flags);
void simdgroup_barrier(mem_flags flags);

// Atomics: relaxed order only; fences know the others.
enum memory_order { memory_order_relaxed };
enum __fence_order {
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
void atomic_thread_fence(
    mem_flags flags, __fence_order order = memory_order_seq_cst,
    thread_scope scope = thread_scope_device);
void atomic_thread_fence(
    mem_flags flags, memory_order order, thread_scope scope = thread_scope_device);
template <class T>
struct atomic {
  T __value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<bool> atomic_bool;
typedef atomic<float> atomic_float;
typedef atomic<ulong> atomic_ulong;
// What each function takes: words of 32 bits; adding floats; 64 bits for the largest and smallest.
template <class T>
struct __held {
  static constexpr bool plain = false, adds = false, bits = false;
};
#define ZMLX_HELD(T, ADDS, BITS)                                            \
  template <>                                                               \
  struct __held<T> {                                                        \
    static constexpr bool plain = true, adds = ADDS, bits = BITS;           \
  };
ZMLX_HELD(int, true, true)
ZMLX_HELD(uint, true, true)
ZMLX_HELD(float, true, false)
ZMLX_HELD(bool, false, false)
#undef ZMLX_HELD
template <class T>
struct __as_is {
  typedef T type;
};
template <class T>
using __same = typename __as_is<T>::type;
#define ZMLX_ATOMIC2(f, space, WHAT)                                                \
  template <class T>                                                                \
  enable_if_t<__held<T>::WHAT, T> atomic_##f##_explicit(                            \
      volatile space atomic<T>* object, __same<T> operand, memory_order order);
#define ZMLX_ATOMICS(space)                                                                  \
  template <class T>                                                                         \
  enable_if_t<__held<T>::plain> atomic_store_explicit(                                       \
      volatile space atomic<T>* object, __same<T> value, memory_order order);                \
  template <class T>                                                                         \
  enable_if_t<__held<T>::plain, T> atomic_load_explicit(                                     \
      const volatile space atomic<T>* object, memory_order order);                           \
  template <class T>                                                                         \
  enable_if_t<__held<T>::plain, bool> atomic_compare_exchange_weak_explicit(                 \
      volatile space atomic<T>* object, thread T* expected, __same<T> desired,               \
      memory_order success, memory_order failure);                                           \
  void atomic_max_explicit(volatile space atomic_ulong* object, ulong operand, memory_order order); \
  void atomic_min_explicit(volatile space atomic_ulong* object, ulong operand, memory_order order); \
  ZMLX_ATOMIC2(exchange, space, plain) ZMLX_ATOMIC2(fetch_add, space, adds)                  \
  ZMLX_ATOMIC2(fetch_sub, space, adds) ZMLX_ATOMIC2(fetch_max, space, bits)                  \
  ZMLX_ATOMIC2(fetch_min, space, bits) ZMLX_ATOMIC2(fetch_and, space, bits)                  \
  ZMLX_ATOMIC2(fetch_or, space, bits) ZMLX_ATOMIC2(fetch_xor, space, bits)
ZMLX_ATOMICS(device)
ZMLX_ATOMICS(threadgroup)
}  // namespace metal
