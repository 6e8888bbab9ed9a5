// Handed: what MLX's own ops compute, as one op whose rules are given.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "ruled.h"

namespace zmlx {

// Gives its inputs behind the first `count`, as they are.
class Handed : public mx::Primitive {
 public:
  Handed(mx::Stream stream, size_t count) : mx::Primitive(stream), count_(count) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    give(inputs, outputs);
  }

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    give(inputs, outputs);
  }

  const char* name() const override {
    return "Handed";
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto* same = dynamic_cast<const Handed*>(&other);
    return same != nullptr && same->count_ == count_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    std::vector<mx::Shape> shapes;
    for (size_t i = count_; i < inputs.size(); ++i) {
      shapes.push_back(inputs[i].shape());
    }
    return shapes;
  }

 private:
  void give(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) const {
    for (size_t i = 0; i < outputs.size(); ++i) {
      outputs[i].copy_shared_buffer(inputs[count_ + i]);
    }
  }

  const size_t count_;
};

// `results` as a function of `arrays` with `rules`, which see the results behind the arrays.
inline nb::list handed(nb::handle results, nb::handle arrays, nb::handle rules) {
  Held::bury();
  std::vector<mx::array> inputs = arrays_of(arrays);
  const size_t count = inputs.size();
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (const auto& result : arrays_of(results)) {
    shapes.push_back(result.shape());
    dtypes.push_back(result.dtype());
    inputs.push_back(mx::stop_gradient(result));
  }
  const mx::Stream stream = mx::default_stream(mx::default_device());
  auto primitive = std::make_shared<Ruled>(std::make_shared<Handed>(stream, count), rules);
  return list_of(mx::array::make_arrays(std::move(shapes), dtypes, primitive, inputs));
}

}  // namespace zmlx
