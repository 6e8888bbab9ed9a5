// What watched kernels call: hooks that the compiler puts into them (hooks.cpp) and the header's calls.
#pragma once

#include <cstdlib>
#include <cstring>

#include "sanitizer.h"

namespace zmlx {

// Mirror hooks.cpp.
struct Spot {
  const char* file;
  uint32_t line, column;
};
struct Hooks {
  void (*access)(const void* address, unsigned bytes, int write, const void* caller);
  void (*misfit)(
      const Spot* spot, const void* address, unsigned alignment, int write, const void* caller);
  void (*index)(const Spot* spot, const char* array, long index, const void* caller);
  void (*division)(const Spot* spot, int by_zero, const void* caller);
};

inline uintptr_t number_of(const void* address) {
  return reinterpret_cast<uintptr_t>(address);
}
inline Site site_of(const Spot* spot) {
  return {0, static_cast<int>(spot->line), spot->file == nullptr ? "" : spot->file};
}

inline void on_access(const void* address, unsigned bytes, int write, const void* caller) {
  if (Sanitizer* sanitizer = Sanitizer::current()) {
    sanitizer->access(
        number_of(address), bytes, write != 1, write != 0, false, {number_of(caller), 0, {}});
  }
}

inline void on_atomic(
    const void* address, uint32_t bytes, uint32_t writes, int line, const char* file) {
  if (Sanitizer* sanitizer = Sanitizer::current()) {
    sanitizer->access(
        number_of(address), bytes, writes != 2, writes != 0, true, {0, line, file});
  }
}

inline void on_misfit(
    const Spot* spot, const void* address, unsigned alignment, int write, const void* caller) {
  if (Sanitizer* sanitizer = Sanitizer::current()) {
    sanitizer->misfit(
        site_of(spot), spot->column, number_of(address), alignment, write != 0, number_of(caller));
  }
}

// `array` is such as 'float [4][8]', whose first size counts.
inline void on_index(const Spot* spot, const char* array, long index, const void* caller) {
  if (Sanitizer* sanitizer = Sanitizer::current()) {
    const char* sizes = std::strchr(array, '[');
    const int64_t size = sizes == nullptr ? 0 : std::atoll(sizes + 1);
    sanitizer->index(site_of(spot), spot->column, index, size, number_of(caller));
  }
}

inline void on_division(const Spot*, int by_zero, const void* caller) {
  if (Sanitizer* sanitizer = Sanitizer::current()) {
    sanitizer->division(by_zero != 0, number_of(caller));
  }
}

inline void on_absent(uint32_t lane, uint32_t moved) {
  if (Sanitizer* sanitizer = Sanitizer::current()) {
    sanitizer->absent(lane, moved != 0);
  }
}

inline const Runtime* watched_runtime() {
  static const Runtime table{
      &Crew::on_barrier, &Crew::on_simd_barrier, &Crew::on_meet, &Crew::on_threadgroup,
      &on_atomic, &on_absent};
  return &table;
}

inline const Hooks* watched_hooks() {
  static const Hooks table{&on_access, &on_misfit, &on_index, &on_division};
  return &table;
}

}  // namespace zmlx
