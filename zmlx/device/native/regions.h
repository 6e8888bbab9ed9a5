// The memory of a watched launch: which buffer an address belongs to.
#pragma once

#include <dlfcn.h>

#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "guarded.h"

namespace zmlx {

class Regions {
 public:
  Region& add(const std::string& name, Kind kind, size_t bytes, uint32_t item, uint32_t grain) {
    all_.push_back(std::make_unique<Region>(name, kind, bytes, item, grain));
    return *all_.back();
  }

  const std::vector<std::unique_ptr<Region>>& all() const {
    return all_;
  }

  // That whose buffer or zones hold the address; null for none.
  Region* find(uintptr_t address) {
    if (last_ != nullptr && address >= last_->low && address < last_->high) {
      return last_;
    }
    for (auto& region : all_) {
      if (address >= region->low && address < region->high) {
        return last_ = region.get();
      }
    }
    return nullptr;
  }

  const Region* nearest(uintptr_t address) const {
    const Region* nearest = nullptr;
    uint64_t least = ~uint64_t(0);
    for (const auto& region : all_) {
      const uint64_t gap = address < region->begin ? region->begin - address : address - region->end;
      if (gap < least) {
        least = gap;
        nearest = region.get();
      }
    }
    return nearest;
  }

  // Constants of the library, and what the runtime itself keeps.
  bool in_an_image(uintptr_t address) {
    if (known_pages_.count(address >> 12) != 0) {
      return true;
    }
    Dl_info info;
    if (dladdr(reinterpret_cast<void*>(address), &info) == 0) {
      return false;
    }
    known_pages_.insert(address >> 12);
    return true;
  }

  // Threadgroup memory of a new group holds nothing.
  void empty_shared() {
    for (auto& region : all_) {
      if (region->kind == Kind::shared) {
        std::fill(region->cells.begin(), region->cells.end(), Cell{});
        std::memset(region->memory(), 0xff, region->end - region->begin);
      }
    }
  }

 private:
  std::vector<std::unique_ptr<Region>> all_;
  Region* last_ = nullptr;
  std::unordered_set<uintptr_t> known_pages_;
};

}  // namespace zmlx
