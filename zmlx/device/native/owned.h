// Owned: which inputs of a primitive nobody else needs, so that an output may take their memory.
//
// MLX asks whether an array has one handle; but each output of a primitive with several holds all of
// its inputs, so that none of them ever had. Here handles are counted, and those of the outputs left out.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "mlx/array.h"

namespace zmlx {

namespace mx = mlx::core;

// An explicit instantiation may name private members: the one way to this one.
long handles_of(const mx::array& array);
template <auto Member>
struct Described {
  friend long handles_of(const mx::array& array) {
    return (array.*Member).use_count();
  }
};
template struct Described<&mx::array::array_desc_>;

class Owned {
 public:
  // To be made where no handle of an input was copied yet.
  Owned(const std::vector<mx::array>& inputs, const std::vector<mx::array>& outputs) {
    std::unordered_map<std::uintptr_t, long> held;
    for (const auto& output : outputs) {
      for (const auto& input : output.inputs()) {
        ++held[input.id()];
      }
    }
    const long once = static_cast<long>(outputs.size());
    for (const auto& input : inputs) {
      const auto& data = input.data_shared_ptr();
      const auto found = held.find(input.id());
      alone_.push_back(
          found != held.end() && found->second == once && handles_of(input) == once &&
          data.use_count() == 1 && data->is_owned());
    }
  }

  // None of them, which so stay as they are.
  Owned() = default;

  // Whether input `i` is needed by this primitive alone, and in one place.
  bool alone(size_t i) const {
    return i < alone_.size() && alone_[i];
  }

 private:
  std::vector<bool> alone_;
};

}  // namespace zmlx
