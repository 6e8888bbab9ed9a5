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

#define METAL_FUNC inline
#define ZMLX_TYPE(...) __VA_ARGS__
#define ZMLX_CONSTANT const
#define FLT_MAX MAXFLOAT
#define FLT_MIN 1.17549435e-38f
#define FLT_EPSILON 1.1920929e-7f
#define HUGE_VALF INFINITY
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u

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
  uint mask;  // the lanes that take part
  uint self;
  alignas(32) unsigned char value[32][32];
};
struct zm_runtime {
  void (*barrier)(uint flags, int line, const char* file);
  void (*simd_barrier)(uint flags, int line, const char* file);
  zm_meeting* (*meet)(const void* mine, uint bytes, int line, const char* file);
  void* (*shared)(const void* site, long bytes, const char* name, uint item);
  void (*atomic)(const void* place, uint bytes, uint writes, int line, const char* file);
};
static const zm_runtime* zm_now;

#include "msl_more.h"
#include "msl_vectors.h"
#include "msl_group.h"
#include "msl_atomics.h"
