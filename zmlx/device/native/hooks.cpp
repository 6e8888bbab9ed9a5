// What the compiler's sanitizers call, in place of their own runtimes: before each access, and where
// an index, an alignment or a division is wrong.
//
// Linked into every kernel that the sanitizer (sanitizer.h) watches. Hooks and Spot mirror checks.h.
typedef unsigned long Address;
struct Spot {
  const char* file;
  unsigned line, column;
};
struct Hooks {
  void (*access)(const void* address, unsigned bytes, int write, const void* caller);
  void (*misfit)(const Spot* spot, const void* address, unsigned alignment, int write, const void* caller);
  void (*index)(const Spot* spot, const char* array, long index, const void* caller);
  void (*division)(const Spot* spot, int by_zero, const void* caller);
};
static Hooks hooks;

#define EXPORT extern "C" __attribute__((visibility("default")))
#define HIDDEN extern "C" __attribute__((visibility("hidden")))
#define TELL(BYTES, WRITE) hooks.access(address, BYTES, WRITE, __builtin_return_address(0))
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
  hooks.access(from, (unsigned)bytes, 0, __builtin_return_address(0));
  TELL((unsigned)bytes, 1);
  return __builtin_memcpy(address, from, bytes);
}
HIDDEN void* __tsan_memmove(void* address, const void* from, Address bytes) {
  hooks.access(from, (unsigned)bytes, 0, __builtin_return_address(0));
  TELL((unsigned)bytes, 1);
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

// The compiler's descriptions of what it checks.
struct Type {
  unsigned short kind, info;  // of an integer: its lowest bit says signed, the rest log2 of its bits
  char name[1];
};
struct Misfit {
  Spot spot;
  const Type* type;
  unsigned char alignment, kind;  // log2; 0 is a load, 1 a store
};
struct Index {
  Spot spot;
  const Type *array, *index;
};
struct Division {
  Spot spot;
  const Type* type;
};
static long number(const Type* type, Address value) {
  const unsigned shift = 64 - (1u << (type->info >> 1 & 7));
  const Address high = value << shift;
  return (type->info & 1) ? (long)high >> shift : (long)(high >> shift);
}
HIDDEN void __ubsan_handle_type_mismatch_v1(void* about, void* address) {
  const Misfit* m = (const Misfit*)about;
  hooks.misfit(&m->spot, address, 1u << m->alignment, m->kind == 1, __builtin_return_address(0));
}
HIDDEN void __ubsan_handle_out_of_bounds(void* about, void* index) {
  const Index* i = (const Index*)about;
  hooks.index(
      &i->spot, i->array->name, number(i->index, (Address)index), __builtin_return_address(0));
}
HIDDEN void __ubsan_handle_divrem_overflow(void* about, void*, void* by) {
  const Division* d = (const Division*)about;
  hooks.division(&d->spot, number(d->type, (Address)by) == 0, __builtin_return_address(0));
}

EXPORT void zm_attach_hooks(const Hooks* to) {
  hooks = *to;
}
