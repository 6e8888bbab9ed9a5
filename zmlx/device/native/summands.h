// Summands: what a cotangent is the sum of, while MLX has not added it up.
//
// Where several readers of a value have gradients, MLX adds them, one at a time, before it asks for the
// gradient of what made the value. A kernel that reads the summands saves writing and reading sums.
#pragma once

#include <string_view>
#include <vector>

#include "mlx/array.h"
#include "mlx/primitives.h"

namespace zmlx {

namespace mx = mlx::core;

// Whether a sum may pass through the primitive of `array`: it gives its one input another shape or order.
inline bool reorders(const mx::array& array) {
  const std::string_view name = array.primitive().name();
  return name == "Reshape" || name == "Flatten" || name == "Unflatten" || name == "ExpandDims" ||
      name == "Squeeze" || name == "Transpose";
}

// Arrays whose sum, from the first on, is `array`: itself where it is no sum, or one of more than `most`.
inline std::vector<mx::array> summands(const mx::array& array, size_t most) {
  if (most < 2 || !array.has_primitive() || array.status() != mx::array::Status::unscheduled) {
    return {array};
  }
  const auto& inputs = array.inputs();
  if (inputs.size() == 1 && reorders(array)) {
    auto parts = summands(inputs[0], most);
    if (parts.size() < 2) {
      return {array};
    }
    for (auto& part : parts) {
      part = mx::array(array.shape(), array.dtype(), array.primitive_ptr(), {part});
    }
    return parts;
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
