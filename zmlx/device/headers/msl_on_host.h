// Metal Shading Language's names in C++17, so that a kernel's MSL text compiles for the host CPU.
//
// Declares what Metal's standard library has, and nothing more; every other name starts with zm_ or
// ZM_. No standard header is included: a small kernel compiles in about 0.2 s. Kernels that must
// match MLX bit by bit define ZM_EXACT first and get their functions from mlx_exact.h.
#pragma once

#define ZM_INLINE static inline __attribute__((always_inline, unused))
#define ZM_MEMBER __attribute__((always_inline)) inline

#if __has_include(<features.h>)
#include <features.h>
#endif

// Address spaces and function kinds mean nothing on the host.
#define thread
#define device
#define constant const
#define threadgroup
#define kernel

// What Metal computes in another type: `__METAL_VERSION__` is there for other people's texts.
#define ZMLX_OFF_METAL 1

#if defined(__clang__)
#define ZMLX_LOOP _Pragma("clang loop vectorize(assume_safety)")
#else
#define ZMLX_LOOP _Pragma("GCC ivdep")
#endif

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define MAXFLOAT 3.40282347e+38f
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

#ifndef ZM_WRITTEN  // hand-written kernels get all of Metal's vectors
struct uint2 {
  uint x, y;
};
struct uint3 {
  uint x, y, z;
};
#endif

template <typename To, typename From>
ZM_INLINE constexpr To as_type(From value) {
  static_assert(sizeof(To) == sizeof(From), "as_type needs types of one size");
  if constexpr (__is_trivially_copyable(To) && __is_trivially_copyable(From)) {
    return __builtin_bit_cast(To, value);
  } else {  // a vector, which assigns by itself
    To result{};
    __builtin_memcpy((void*)&result, (const void*)&value, sizeof(To));
    return result;
  }
}

// A bool in memory: a byte, as GCC vectorises no loop that loads or stores bool itself.
struct zm_bool {
  uchar byte;
  zm_bool() = default;
  ZM_MEMBER zm_bool(bool value) : byte(value) {}
  ZM_MEMBER operator bool() const {
    return byte != 0;
  }
};

#include "msl_halves.h"

#ifdef ZM_EXACT
#include "mlx_exact.h"
#else
#include "msl_math.h"
#endif
#include "msl_common.h"
#include "msl_integers.h"
