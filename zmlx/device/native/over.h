// Over: a ruled kernel that reads slices of its inputs, where MLX's transformations see the arrays
// that were sliced. A gradient is then asked for once for an array, not once for each slice of it.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "ruled.h"

namespace zmlx {

// How an input of the kernel comes from the inputs that MLX sees: as it is (`axis` -1), or as what
// begins at `start` along an axis, of shape `shape`; the axis is dropped where the rank is smaller.
struct Slice {
  int source;
  int axis;
  int64_t start;
  mx::Shape shape;

  bool operator==(const Slice& other) const {
    return source == other.source && axis == other.axis && start == other.start &&
        shape == other.shape;
  }

  mx::array of(const std::vector<mx::array>& inputs) const {
    const mx::array& whole = inputs[source];
    if (axis < 0) {
      return whole;
    }
    mx::Strides strides = whole.strides();
    const int64_t offset = start * strides[axis];
    if (shape.size() < whole.ndim()) {
      strides.erase(strides.begin() + axis);
    }
    size_t reach = 1;
    int64_t step = 1;
    bool rows = true;
    for (size_t i = shape.size(); i-- > 0;) {
      reach += (shape[i] - 1) * std::max<int64_t>(strides[i], 0);
      rows = rows && (shape[i] == 1 || strides[i] == step);
      step *= shape[i];
    }
    auto flags = whole.flags();
    flags.contiguous = flags.row_contiguous = rows;
    flags.col_contiguous = rows && shape.size() == 1;
    mx::array part(shape, whole.dtype(), nullptr, {});
    part.copy_shared_buffer(whole, strides, flags, reach, offset);
    part.set_status(mx::array::Status::available);
    return part;
  }
};

class Over : public Ruled {
 public:
  Over(std::shared_ptr<mx::Primitive> inner, std::vector<Slice> slices, nb::handle rules)
      : Ruled(std::move(inner), rules), slices_(std::move(slices)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    Ruled::eval_cpu(sliced(inputs), outputs);
  }

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    Ruled::eval_gpu(sliced(inputs), outputs);
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto* same = dynamic_cast<const Over*>(&other);
    return same != nullptr && same->slices_ == slices_ && Ruled::is_equivalent(other);
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>&) override {
    throw std::invalid_argument("[zmlx.device] a kernel over slices has the sizes it was made for");
  }

 private:
  std::vector<mx::array> sliced(const std::vector<mx::array>& inputs) const {
    std::vector<mx::array> given;
    given.reserve(slices_.size());
    for (const auto& slice : slices_) {
      given.push_back(slice.of(inputs));
    }
    return given;
  }

  const std::vector<Slice> slices_;
};

// The outputs of one kernel again, as a function of `sources`, of which it read `views`: for each its
// place (source, axis, start). What else it read comes behind the sources. None where the outputs are
// not those of one kernel that waits to be run.
inline nb::object over(
    nb::handle outputs, nb::handle sources, nb::handle views, nb::handle places, nb::handle rules) {
  Held::bury();
  const std::vector<mx::array> bare = arrays_of(outputs);
  for (const auto& array : bare) {
    if (!array.has_primitive() || array.primitive_id() != bare[0].primitive_id()) {
      return nb::none();
    }
  }
  if (bare.empty() || is_zeros(bare[0])) {
    return nb::none();
  }
  std::vector<mx::array> inputs = arrays_of(sources);
  const std::vector<mx::array> parts = arrays_of(views);
  const auto same = [](const mx::array& wanted) {
    return [&wanted](const mx::array& array) { return array.id() == wanted.id(); };
  };
  std::vector<Slice> slices;
  for (const auto& read : bare[0].inputs()) {
    const auto part = std::find_if(parts.begin(), parts.end(), same(read));
    if (part != parts.end()) {
      const nb::handle place = places[part - parts.begin()];
      slices.push_back(
          {nb::cast<int>(place[0]), nb::cast<int>(place[1]), nb::cast<int64_t>(place[2]),
           read.shape()});
      continue;
    }
    const auto source = std::find_if(inputs.begin(), inputs.end(), same(read));
    slices.push_back({static_cast<int>(source - inputs.begin()), -1, 0, {}});
    if (source == inputs.end()) {
      inputs.push_back(read);
    }
  }
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (const auto& array : bare) {
    shapes.push_back(array.shape());
    dtypes.push_back(array.dtype());
  }
  auto primitive = std::make_shared<Over>(bare[0].primitive_ptr(), std::move(slices), rules);
  auto made = mx::array::make_arrays(std::move(shapes), dtypes, primitive, inputs);
  return list_of(made);
}

}  // namespace zmlx
