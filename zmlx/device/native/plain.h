// Plain: MLX's own ops of few elements, computed on the thread that asks, bit for bit as by MLX's tasks.
//
// For a task MLX wakes a thread, which costs more than such an op does (see ready.h).
#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>
#include <tuple>
#include <vector>

#include "arithmetic.h"
#include "mlx/array.h"
#include "mlx/primitives.h"
#include "products.h"
#include "strided.h"

namespace zmlx {

namespace mx = mlx::core;

// Fills `output`, which has memory, with what the primitive makes of `inputs`, which are there. Whether
// it could: where the order of MLX's own loop decides about the result it does not.
using Plain = bool (*)(
    const mx::Primitive& primitive, const std::vector<mx::array>& inputs, mx::array& output);

// The parts of an array, one after another along an axis.
inline bool concatenate(
    const mx::Primitive& primitive, const std::vector<mx::array>& inputs, mx::array& output) {
  const int axis = static_cast<const mx::Concatenate&>(primitive).state();
  const auto& strides = output.strides();
  int64_t place = 0;
  for (const auto& input : inputs) {
    if (input.size() > 0) {
      spread(input, output.data<char>() + place * static_cast<int64_t>(output.itemsize()), strides);
    }
    place += strides[axis] * input.shape(axis);
  }
  return true;
}

// The largest or smallest of the elements along axes that `output` has sizes of one for. Of several
// zeros, and of what is no number, the loop of MLX's decides which one it is.
template <bool kLargest>
bool extreme(const mx::Primitive&, const std::vector<mx::array>& inputs, mx::array& output) {
  const mx::array& input = inputs[0];
  const Elements all(input);
  auto strides = output.strides();
  for (int d = 0; d < static_cast<int>(output.ndim()); ++d) {
    strides[d] = output.shape(d) == 1 ? 0 : strides[d];
  }
  auto* made = output.data<float>();
  std::fill(made, made + output.size(), kLargest ? -INFINITY : INFINITY);
  bool numbers = true;
  each(input.shape(), strides, [&](size_t i, int64_t place) {
    numbers = numbers && all[i] == all[i];
    made[place] = kLargest ? std::max(made[place], all[i]) : std::min(made[place], all[i]);
  });
  return numbers && std::none_of(made, made + output.size(), [](float x) { return x == 0.0f; });
}

// Sums along one axis that is not the last one: MLX adds row to row. (Sums of neighbours in memory it
// makes in an order of its own.)
inline bool add_rows(
    const mx::Primitive&, const std::vector<mx::array>& inputs, mx::array& output) {
  const mx::array& input = inputs[0];
  int axis = 0;
  while (axis < static_cast<int>(input.ndim()) && input.shape(axis) == output.shape(axis)) {
    ++axis;
  }
  int64_t inner = 1;
  for (int d = axis + 1; d < static_cast<int>(input.ndim()); ++d) {
    inner *= input.shape(d);
  }
  const auto size = static_cast<int64_t>(output.size());
  if (axis == static_cast<int>(input.ndim()) || inner < 2 || !input.flags().row_contiguous) {
    return false;
  }
  auto* made = output.data<float>();
  const auto* from = input.data<float>();
  std::fill(made, made + size, 0.0f);
  for (int64_t begin = 0; begin < size; begin += inner) {
    for (int row = 0; row < input.shape(axis); ++row, from += inner) {
      for (int64_t i = 0; i < inner; ++i) {
        made[begin + i] += from[i];
      }
    }
  }
  return true;
}

inline Plain reduction_of(
    mx::Primitive& primitive, const std::vector<mx::array>& inputs, const mx::array& output) {
  const auto [kind, axes] = static_cast<mx::Reduce&>(primitive).state();
  const bool fits = inputs[0].dtype() == mx::float32 && output.dtype() == mx::float32 &&
      inputs[0].ndim() == output.ndim() && inputs[0].size() > 0;
  return !fits                                          ? nullptr
      : kind == mx::Reduce::Max                         ? extreme<true>
      : kind == mx::Reduce::Min                         ? extreme<false>
      : kind == mx::Reduce::Sum && axes.size() == 1 ? add_rows
                                                        : nullptr;
}

// A copy of the first input, with the second one in a part of it.
inline bool update(
    const mx::Primitive& primitive, const std::vector<mx::array>& inputs, mx::array& output) {
  const auto [kind, begin, end, steps] = static_cast<const mx::SliceUpdate&>(primitive).state();
  const auto size = static_cast<int64_t>(output.itemsize());
  spread(inputs[0], output.data<char>(), output.strides());
  auto strides = output.strides();
  int64_t place = 0;
  for (size_t d = 0; d < strides.size(); ++d) {
    place += begin[d] * strides[d];
    strides[d] *= steps[d];
  }
  if (inputs[1].size() > 0) {
    spread(inputs[1], output.data<char>() + place * size, strides);
  }
  return true;
}

inline bool fill(const mx::Primitive&, const std::vector<mx::array>& inputs, mx::array& output) {
  spread(inputs[0], output.data<char>(), output.strides());
  return true;
}

// What computes `output`, of which shape and type are known, as `primitive` would; null where nothing
// here does.
inline Plain plain_of(
    mx::Primitive& primitive, const std::vector<mx::array>& inputs, const mx::array& output) {
  const std::string_view name = primitive.name();
  if (name == "Matmul") {
    return is_product(inputs, output) ? multiply : nullptr;
  }
  if (name == "Concatenate") {
    return concatenate;
  }
  if (name == "SliceUpdate") {
    return inputs.size() == 2 && inputs[0].shape() == output.shape() &&
            inputs[1].ndim() == output.ndim() ? update : nullptr;
  }
  if (name == "Full") {
    return inputs[0].shape() == output.shape() ? fill : nullptr;
  }
  if (name == "Max" || name == "Min" || name == "Sum") {
    return reduction_of(primitive, inputs, output);
  }
  return binary_of(name, inputs.size()) != nullptr && alike(inputs, output) ? calculate : nullptr;
}

}  // namespace zmlx
