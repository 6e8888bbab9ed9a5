// Summands: what a cotangent is the sum of, while MLX has not added it up.
//
// Where several readers of a value have gradients, MLX adds them, one at a time, before it asks for the
// gradient of what made the value. A kernel that reads the summands saves writing and reading sums.
#pragma once

#include <string_view>
#include <vector>

#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "tracing.h"

namespace zmlx {

namespace mx = mlx::core;

// Whether `array` gives its one input another shape or order, and does nothing else.
inline bool reorders(const mx::array& array) {
  const std::string_view name = array.primitive().name();
  const bool shapes = name == "Reshape" || name == "Flatten" || name == "Unflatten" ||
      name == "ExpandDims" || name == "Squeeze";
  return name == "Transpose" || (shapes && !traces_shapeless());  // sizes are examples then
}

// `part` as such an `array` has it. The primitive cannot serve twice: mx.vmap changes it.
inline mx::array reordered(const mx::array& array, const mx::array& part) {
  auto& primitive = array.primitive();
  if (std::string_view(primitive.name()) == "Transpose") {  // MLX hides its type information
    return mx::transpose(part, static_cast<mx::Transpose&>(primitive).state(), primitive.stream());
  }
  return mx::reshape(part, array.shape(), primitive.stream());
}

// Arrays whose sum, from the first on, is `array`: itself where it is no sum, or one of more than `most`.
inline std::vector<mx::array> summands(const mx::array& array, size_t most) {
  if (most < 2 || !array.has_primitive() || array.status() != mx::array::Status::unscheduled) {
    return {array};
  }
  const auto& inputs = array.inputs();
  if (inputs.size() == 1 && reorders(array)) {
    auto parts = summands(inputs[0], most);
    for (auto& part : parts) {
      part = reordered(array, part);
    }
    return parts.size() < 2 ? std::vector<mx::array>{array} : parts;
  }
  if (std::string_view(array.primitive().name()) != "Add" || inputs[0].shape() != array.shape() ||
      inputs[1].shape() != array.shape()) {
    return {array};
  }
  auto parts = summands(inputs[0], most - 1);
  parts.push_back(inputs[1]);
  return parts;
}

}  // namespace zmlx
