// Buffers of a sanitized launch: copies with wide guarded zones around them, and who touched what.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace zmlx {

// One access as the sanitizer remembers it.
struct Access {
  uint64_t group = 0;
  uint32_t epoch = 0;  // barriers of the group before it
  uint32_t site = 0;
  uint16_t thread = 0;
  uint16_t sub = 0;  // simdgroup barriers before it
  bool atomic = false;
  bool set = false;
};

// An element: who wrote it last, and two different threads that read it since.
struct Cell {
  Access write, read, other_read;
};

enum class Kind { input, output, shared, facts };

// Memory [begin, end) in the middle of addresses that belong to nothing else. Pages next to it are
// mapped, so that a small overrun can be reported and gone on from; the rest must not be touched.
class Region {
 public:
  Region(std::string name, Kind kind, size_t bytes, uint32_t item, uint32_t grain)
      : name(std::move(name)), kind(kind), item(item), grain(grain) {
    const size_t inner = (bytes + 2 * kSlack + kPage - 1) / kPage * kPage;
    for (size_t zone = size_t(16) << 30; zone >= kPage; zone >>= 3) {
      total_ = inner + 2 * zone;
      void* base = mmap(nullptr, total_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (base != MAP_FAILED) {
        low = reinterpret_cast<uintptr_t>(base);
        mapped = low + zone;
        break;
      }
    }
    if (low == 0 || mprotect(reinterpret_cast<void*>(mapped), inner, PROT_READ | PROT_WRITE) != 0) {
      throw std::bad_alloc();
    }
    high = low + total_;
    mapped_end = mapped + inner;
    begin = mapped + kSlack;
    end = begin + bytes;
    if (kind == Kind::output || kind == Kind::shared) {
      cells.resize(bytes / grain);
    }
  }
  Region(const Region&) = delete;
  ~Region() {
    munmap(reinterpret_cast<void*>(low), total_);
  }

  char* memory() const {
    return reinterpret_cast<char*>(begin);
  }
  int64_t index(uintptr_t address) const {
    const auto offset = static_cast<int64_t>(address - begin);
    return offset >= 0 ? offset / item : -((-offset + item - 1) / item);
  }

  const std::string name;
  const Kind kind;
  const uint32_t item;   // bytes of an element
  const uint32_t grain;  // bytes of a cell
  uintptr_t low = 0, high = 0, mapped = 0, mapped_end = 0, begin = 0, end = 0;
  std::vector<Cell> cells;
  bool filled = false;  // holds numbers before the kernel starts

 private:
  static constexpr size_t kPage = size_t(1) << 16;
  static constexpr size_t kSlack = size_t(1) << 16;
  size_t total_ = 0;
};

}  // namespace zmlx
