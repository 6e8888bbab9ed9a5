// Memory for the outputs of kernels on the host.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "mlx/allocator.h"
#include "mlx/array.h"

namespace zmlx {

// Fresh memory is faulted in page by page, half the time of a large kernel; huge pages end that.
inline void advise_huge(void* data, size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = uintptr_t(1) << 21;
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kPage - 1);
  if (end > begin) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#endif
}

// MLX's CPU allocator hands on a null pointer, and counts it as memory in use, where the system
// refuses; so a large request is tried first. The trial touches no page.
inline void require_memory(size_t bytes) {
  constexpr size_t kLarge = size_t(1) << 30;
  if (bytes < kLarge) {
    return;
  }
  void* volatile trial = std::malloc(bytes + sizeof(size_t));
  if (trial == nullptr) {
    throw std::runtime_error(
        "[zmlx.device] no memory for an output of " + std::to_string(bytes) + " bytes.");
  }
  std::free(trial);
}

inline void allocate(mlx::core::array& output) {
  require_memory(output.nbytes());
  output.set_data(mlx::core::allocator::malloc(output.nbytes()));
  advise_huge(output.data<char>(), output.nbytes());
}

}  // namespace zmlx
