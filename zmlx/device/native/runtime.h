// What a hand-written kernel gets from its caller: arrays, its place, functions to call.
//
// Mirrors headers/msl_written.h.
#pragma once

#include <cstdint>

namespace zmlx {

struct Grid {
  void* const* data;
  const int32_t* const* shapes;
  const int64_t* const* strides;
  const int32_t* ranks;
  uint32_t grid[3];
  uint32_t group[3];
};

struct Place {
  uint32_t group[3];
  uint32_t at[3];
};

struct Meeting {
  uint32_t mask;
  uint32_t present;
  uint32_t self;
  alignas(32) unsigned char value[32][32];
};

struct Runtime {
  void (*barrier)(uint32_t flags, int line, const char* file, const void* site);
  void (*simd_barrier)(uint32_t flags, int line, const char* file, const void* site);
  Meeting* (*meet)(
      const void* mine, uint32_t bytes, int line, const char* file, const void* site);
  void* (*shared)(const void* site, int64_t bytes, const char* name, uint32_t item);
  void (*atomic)(const void* place, uint32_t bytes, uint32_t writes, int line, const char* file);
  void (*absent)(uint32_t lane, uint32_t moved);
};

using ThreadEntry = void (*)(const Grid*, const Place*);

}  // namespace zmlx
