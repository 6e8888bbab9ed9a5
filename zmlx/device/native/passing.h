// Passing: what a computation gives, and some of what it reads, as one op to MLX's transformations.
//
// Whoever reads such an input after the computation reads it from here, so that what they send back
// comes to the computation's own gradient, which adds it up, and not to MLX.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "pulls.h"
#include "ruled.h"

namespace zmlx {

// Gives inputs, by position, as they are.
class Passing : public mx::Primitive {
 public:
  Passing(mx::Stream stream, std::vector<int> places)
      : mx::Primitive(stream), places_(std::move(places)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    pass(inputs, outputs);
  }

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    pass(inputs, outputs);
  }

  const char* name() const override {
    return "Passing";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto* same = dynamic_cast<const Passing*>(&other);
    return same != nullptr && same->places_ == places_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    std::vector<mx::Shape> shapes;
    for (const int place : places_) {
      shapes.push_back(inputs.at(place).shape());
    }
    return shapes;
  }

 private:
  void pass(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) const {
    for (size_t i = 0; i < places_.size(); ++i) {
      outputs[i].copy_shared_buffer(inputs[places_[i]]);
    }
  }

  const std::vector<int> places_;
};

// `results`, then those of `arrays` at the places `passes`, as a function of `arrays` with `rules`.
// The rules see the results behind the arrays.
inline nb::list passing(nb::handle results, nb::handle arrays, nb::handle passes, nb::handle rules) {
  Held::bury();
  std::vector<mx::array> inputs = arrays_of(arrays);
  const std::vector<int> given = numbers_of(passes);
  std::vector<int> places;
  for (const auto& result : arrays_of(results)) {
    places.push_back(static_cast<int>(inputs.size()));
    inputs.push_back(mx::stop_gradient(result));
  }
  places.insert(places.end(), given.begin(), given.end());
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (const int place : places) {
    shapes.push_back(inputs[place].shape());
    dtypes.push_back(inputs[place].dtype());
  }
  const mx::Stream stream = mx::default_stream(mx::default_device());
  auto primitive =
      std::make_shared<Ruled>(std::make_shared<Passing>(stream, std::move(places)), rules);
  auto made = mx::array::make_arrays(std::move(shapes), dtypes, primitive, inputs);
  return list_of(made);
}

}  // namespace zmlx
