// A CUDA kernel that was compiled before the call, as MLX's own custom kernel.
//
// mx.fast.precompiled_cuda_kernel launches machine code, but hands it neither shapes nor strides of
// its inputs, which the primitive itself can do: it is told to, before anybody evaluates it.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/fast.h"
#include "mlx/fast_primitives.h"
#include "ruled.h"

namespace zmlx {

// Of each input, whether the kernel takes its shape, its strides and its rank.
using Reads = std::vector<std::tuple<bool, bool, bool>>;

// An explicit instantiation may name private members: the one way to this one.
Reads& reads_of(mx::fast::CustomKernel& kernel);
template <Reads mx::fast::CustomKernel::* Member>
struct Opened {
  friend Reads& reads_of(mx::fast::CustomKernel& kernel) {
    return kernel.*Member;
  }
};
template struct Opened<&mx::fast::CustomKernel::shape_infos_>;

inline std::tuple<int, int, int> extent_of(nb::handle sequence) {
  return {nb::cast<int>(sequence[0]), nb::cast<int>(sequence[1]), nb::cast<int>(sequence[2])};
}

inline nb::list compiled_cuda(
    const char* name, nb::bytes code, nb::handle inputs, nb::handle reads, nb::handle grid,
    nb::handle threadgroup, nb::handle output_shapes, nb::handle output_dtypes, nb::handle init,
    bool ensure_row_contiguous) {
  std::vector<mx::Shape> shapes;
  for (nb::handle sizes : output_shapes) {
    mx::Shape shape;
    for (nb::handle size : sizes) {
      shape.push_back(nb::cast<int>(size));
    }
    shapes.push_back(std::move(shape));
  }
  std::vector<mx::Dtype> dtypes;
  for (nb::handle dtype : output_dtypes) {
    dtypes.push_back(nb::cast<const mx::Dtype&>(dtype));
  }
  Reads infos;
  for (nb::handle read : reads) {
    infos.emplace_back(
        nb::cast<bool>(read[0]), nb::cast<bool>(read[1]), nb::cast<bool>(read[2]));
  }
  std::optional<float> value;
  if (!init.is_none()) {
    value = nb::cast<float>(init);
  }
  auto made = mx::fast::precompiled_cuda_kernel(
      name, std::string(code.c_str(), code.size()), arrays_of(inputs), shapes, dtypes, {},
      extent_of(grid), extent_of(threadgroup), 0, value, ensure_row_contiguous);
  reads_of(static_cast<mx::fast::CustomKernel&>(made[0].primitive())) = std::move(infos);
  return list_of(made);
}

}  // namespace zmlx
