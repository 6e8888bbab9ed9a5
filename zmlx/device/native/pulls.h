// Pulls: the gradients of a kernel that one other kernel computes, found without asking Python.
//
// Rules written in Python find out once which kernel computes which gradients, and put it down here,
// in an attribute `pulls`. From then on a primitive of ours (ruled.h) makes that kernel's results itself.
#pragma once

#include <nanobind/nanobind.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "mlx/array.h"

namespace zmlx {

namespace mx = mlx::core;
namespace nb = nanobind;

inline std::vector<int> numbers_of(nb::handle sequence) {
  std::vector<int> numbers;
  for (nb::handle item : sequence) {
    numbers.push_back(nb::cast<int>(item));
  }
  return numbers;
}

inline std::vector<mx::array> picked(
    const std::vector<mx::array>& arrays, const std::vector<int>& places) {
  std::vector<mx::array> found;
  found.reserve(places.size());
  for (const int place : places) {
    found.push_back(arrays.at(place));
  }
  return found;
}

class Pulls {
 public:
  using Pull = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;

  void add(std::vector<int> wanted, std::vector<int> used, Pull pull) {
    known_.push_back({std::move(wanted), std::move(used), std::make_shared<Pull>(std::move(pull))});
  }

  // What computes the gradients `wanted` from primals and the cotangents of the outputs `used`.
  std::shared_ptr<const Pull> find(const std::vector<int>& wanted, const std::vector<int>& used) const {
    for (const auto& known : known_) {
      if (known.wanted == wanted && known.used == used) {
        return known.pull;
      }
    }
    return nullptr;
  }

 private:
  struct Known {
    std::vector<int> wanted, used;
    std::shared_ptr<const Pull> pull;
  };

  std::vector<Known> known_;
};

}  // namespace zmlx
