// Settled: views that a transformation made of arrays that are there, without a task for each.
//
// mx.grad copies what it is given, and functions slice and reshape it. Such an array takes no work, but
// MLX evaluates it by a task on its thread, which costs more than a small kernel does. `settle` lets
// its primitive make the view at once. As MLX does with what is evaluated while it is traced, the
// array keeps its primitive, so that every transformation still finds its way through it; MLX cuts it off
// when it evaluates what reads it.
#pragma once

#include <algorithm>
#include <string_view>
#include <vector>

#include "mlx/array.h"
#include "mlx/primitives.h"
#include "ready.h"

namespace zmlx {

namespace mx = mlx::core;

// Whether a primitive looks at an array without gaps in another way: one with gaps it may copy.
inline bool is_shape(std::string_view name) {
  return name == "Reshape" || name == "Flatten" || name == "Unflatten";
}

// Whether a primitive only looks at its input in another way, or may do so.
inline bool only_views(const mx::Primitive& primitive) {
  const std::string_view name = primitive.name();
  return is_shape(name) || name == "Copy" || name == "StopGradient" || name == "Broadcast" ||
      name == "ExpandDims" || name == "Squeeze" || name == "Transpose" || name == "Slice" ||
      name == "Split";
}

// Whether the primitive of `array` only looks at its input in another way, where that is there.
inline bool is_view(const mx::array& array) {
  const bool dense = array.inputs()[0].is_available() && array.inputs()[0].flags().row_contiguous;
  return only_views(array.primitive()) && (dense || !is_shape(array.primitive().name()));
}

constexpr int kViews = 16;  // one above the other, at most

// Make the view that `array` is, if it is one of an array that is there. Whether it is there now.
inline bool settle(const mx::array& array, int most = kViews) {
  if (array.is_available() || !array.has_primitive()) {
    return array.is_available();
  }
  const bool one = array.inputs().size() == 1 && array.size() > 0;
  const bool here = array.primitive().stream().device == mx::Device::cpu;
  if (!one || !here || most == 0 || array.status() != mx::array::Status::unscheduled ||
      !settle(array.inputs()[0], most - 1) || !is_view(array)) {
    return false;
  }
  auto outputs = array.outputs();
  array.primitive().eval_cpu(array.inputs(), outputs);
  for (auto& output : outputs) {
    output.set_status(mx::array::Status::available);
  }
  return true;
}

// The same for what little kernels and views compute, of a trace on this thread.
// `bounded`: the graph behind it is short (see run_now).
inline bool compute(const mx::array& array, bool bounded = false, int most = kViews) {
  if (settle(array)) {
    return true;
  }
  if (most == 0 || !array.has_primitive()) {
    return false;
  }
  const Runner runner = runner_of(array);
  if (!runner && !only_views(array.primitive())) {
    return false;
  }
  const auto& inputs = array.inputs();
  const bool there = std::all_of(inputs.begin(), inputs.end(), [=](const mx::array& input) {
    return compute(input, bounded, most - 1);
  });
  return there && (runner ? run_now(array, runner, bounded) : settle(array, 1));
}

// `array` is new: a view of what is there is made, a little kernel of constants run, and what came of
// constants is one. A kernel of what MLX traces waits, as its value may never be asked for.
inline void run_plain(const mx::array& array) {
  if (!array.has_primitive() || !reads_constants(array)) {
    settle(array, 1);
  } else if (settle(array, 1)) {
    array.outputs()[0].detach();
  } else {
    run_now(array, runner_of(array));
  }
}

inline void compute_all(const std::vector<mx::array>& arrays, bool bounded = false) {
  for (const auto& array : arrays) {
    compute(array, bounded);
  }
}

// Settle what MLX traces on this thread, and so nobody else can be evaluating.
inline void settle_traced(const std::vector<mx::array>& arrays) {
  for (const auto& array : arrays) {
    if (array.has_primitive() && array.is_tracer()) {
      settle(array);
    }
  }
}

// Settle the views that an array, not evaluated yet, is computed from, so many levels down.
inline void settle_inputs(const mx::array& array, int levels = 3) {
  if (levels == 0 || !array.has_primitive() || settle(array)) {
    return;
  }
  for (const auto& input : array.inputs()) {
    settle_inputs(input, levels - 1);
  }
}

}  // namespace zmlx
