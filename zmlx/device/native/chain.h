// Chain: kernels that feed each other, launched by one call from Python.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>
#include <vector>

#include "mlx/array.h"
#include "pulls.h"
#include "ruled.h"

namespace zmlx {

class Chain {
 public:
  // A launch that reads `reads` of the arrays so far, the inputs first; all its results follow them.
  void add(Pulls::Pull launch, std::vector<int> reads) {
    steps_.push_back({std::move(launch), std::move(reads)});
  }

  // The arrays at the places `gives`, for these inputs.
  nb::list call(nb::handle inputs) const {
    std::vector<mx::array> arrays = arrays_of(inputs);
    for (const auto& step : steps_) {
      for (auto& result : step.launch(picked(arrays, step.reads))) {
        arrays.push_back(std::move(result));
      }
    }
    return list_of(picked(arrays, gives_));
  }

  void give(nb::handle places) {
    gives_ = numbers_of(places);
  }

 private:
  struct Step {
    Pulls::Pull launch;
    std::vector<int> reads;
  };

  std::vector<Step> steps_;
  std::vector<int> gives_;
};

inline void bind_chain(nb::module_& m) {
  nb::class_<Chain>(m, "Chain")
      .def(nb::init<>())
      .def("__call__", &Chain::call, nb::arg("arrays"))
      .def("give", &Chain::give, nb::arg("places"));
}

}  // namespace zmlx
