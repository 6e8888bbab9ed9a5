// What the compiler's thread sanitizer calls before each access, in place of its own runtime.
//
// Linked into every kernel that the sanitizer (sanitizer.h) watches.
typedef unsigned long Address;
typedef void (*Announce)(const void* address, unsigned bytes, int write, const void* caller);
static Announce announce;

#define EXPORT extern "C" __attribute__((visibility("default")))
#define HIDDEN extern "C" __attribute__((visibility("hidden")))
#define TELL(BYTES, WRITE) announce(address, BYTES, WRITE, __builtin_return_address(0))
#define ONE(BYTES)                                             \
  HIDDEN void __tsan_read##BYTES(void* address) {              \
    TELL(BYTES, 0);                                            \
  }                                                            \
  HIDDEN void __tsan_write##BYTES(void* address) {             \
    TELL(BYTES, 1);                                            \
  }                                                            \
  HIDDEN void __tsan_unaligned_read##BYTES(void* address) {    \
    TELL(BYTES, 0);                                            \
  }                                                            \
  HIDDEN void __tsan_unaligned_write##BYTES(void* address) {   \
    TELL(BYTES, 1);                                            \
  }                                                            \
  HIDDEN void __tsan_read_write##BYTES(void* address) {        \
    TELL(BYTES, 2);                                            \
  }                                                            \
  HIDDEN void __tsan_unaligned_read_write##BYTES(void* address) { \
    TELL(BYTES, 2);                                            \
  }                                                            \
  HIDDEN void __tsan_volatile_read##BYTES(void* address) {     \
    TELL(BYTES, 0);                                            \
  }                                                            \
  HIDDEN void __tsan_volatile_write##BYTES(void* address) {    \
    TELL(BYTES, 1);                                            \
  }
ONE(1)
ONE(2)
ONE(4)
ONE(8)
ONE(16)

HIDDEN void __tsan_read_range(void* address, Address bytes) {
  TELL((unsigned)bytes, 0);
}
HIDDEN void __tsan_write_range(void* address, Address bytes) {
  TELL((unsigned)bytes, 1);
}
HIDDEN void* __tsan_memcpy(void* address, const void* from, Address bytes) {
  TELL((unsigned)bytes, 1);
  announce(from, (unsigned)bytes, 0, __builtin_return_address(0));
  return __builtin_memcpy(address, from, bytes);
}
HIDDEN void* __tsan_memmove(void* address, const void* from, Address bytes) {
  TELL((unsigned)bytes, 1);
  announce(from, (unsigned)bytes, 0, __builtin_return_address(0));
  return __builtin_memmove(address, from, bytes);
}
HIDDEN void* __tsan_memset(void* address, int value, Address bytes) {
  TELL((unsigned)bytes, 1);
  return __builtin_memset(address, value, bytes);
}
HIDDEN void __tsan_func_entry(void*) {}
HIDDEN void __tsan_func_exit(void) {}
HIDDEN void __tsan_init(void) {}
HIDDEN void __tsan_vptr_update(void**, void*) {}
HIDDEN void __tsan_vptr_read(void**) {}

EXPORT void zm_attach_hooks(Announce to) {
  announce = to;
}
