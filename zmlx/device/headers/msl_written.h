// What hand-written kernels may use of Metal beyond msl_on_host.h: vectors, groups, atomics.
//
// The runtime (native/crew.h) hands in its functions; `zm_runtime` mirrors it, `zm_grid` and
// `zm_place` mirror native/grid.h.
#pragma once

#define ZM_WRITTEN 1
#include "msl_on_host.h"

typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef uchar uint8_t;
typedef ushort uint16_t;
typedef uint uint32_t;
typedef ulong uint64_t;
typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;

typedef half float16_t;

#if defined(__clang__)
#define ZM_UNROLL _Pragma("unroll")
#else
#define ZM_UNROLL _Pragma("GCC unroll 64")
#endif
#define METAL_FUNC inline
#define ZMLX_TYPE(...) __VA_ARGS__
#define ZMLX_STATIC
#define ZMLX_HELD
#define ZM_INFINITY INFINITY
#define ZM_NAN NAN
#define ZM_DOUBLE(NAME) __builtin_##NAME
#define ZM_POPCOUNT(x) __builtin_popcountl(x)
#define ZM_CLZ(x) __builtin_clzl(x)
#define ZM_CTZ(x) __builtin_ctzl(x)
#include "msl_constants.h"
#include "msl_kinds.h"
#include "msl_half_operators.h"
ZM_MEMBER constexpr half zm_half_of(float x) {
  return half(x);
}
ZM_MEMBER constexpr bfloat zm_bfloat_of(float x) {
  return bfloat(x);
}

struct zm_grid {
  void* const* data;
  const int* const* shapes;
  const long* const* strides;
  const int* ranks;
  uint grid[3];
  uint group[3];
};
struct zm_place {
  uint group[3];   // which threadgroup
  uint at[3];     // which thread of it
};
struct zm_meeting {
  uint mask;     // the lanes that take part
  uint present;  // the lanes that the simdgroup has
  uint self;
  alignas(32) unsigned char value[32][32];
};
struct zm_runtime {
  void (*barrier)(uint flags, int line, const char* file, const void* site);
  void (*simd_barrier)(uint flags, int line, const char* file, const void* site);
  zm_meeting* (*meet)(const void* mine, uint bytes, int line, const char* file, const void* site);
  void* (*shared)(const void* site, long bytes, const char* name, uint item);
  void (*atomic)(const void* place, uint bytes, uint writes, int line, const char* file);
  // A value is wanted of a lane that takes no part; `moved`: of one so many lanes up or down.
  void (*absent)(uint lane, uint moved);
};
static const zm_runtime* zm_now;

#include "msl_vectors.h"
#include "msl_vector_operators.h"
#include "msl_together.h"
#include "msl_group.h"
#include "msl_atomics.h"
