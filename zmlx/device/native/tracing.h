// Tracing: what MLX is doing while Python builds a graph.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/ops.h"

namespace zmlx {

// Whether mx.compile(..., shapeless=True) traces now, so that sizes are examples. MLX hides the
// state; number_of_elements is public and gives a computation in place of a number just then.
inline bool traces_shapeless() {
  static const mlx::core::array* const kOne = new mlx::core::array(1.0f);
  return mlx::core::number_of_elements(*kOne, {}, false, mlx::core::float32).has_primitive();
}

// How many elements `x` has along `axes`, a float32: of a traced array, when its size is there.
inline mlx::core::array elements(const mlx::core::array& x, nanobind::handle axes) {
  std::vector<int> places;
  for (nanobind::handle axis : axes) {
    places.push_back(nanobind::cast<int>(axis));
  }
  return mlx::core::number_of_elements(
      mlx::core::stop_gradient(x), std::move(places), false, mlx::core::float32);
}

inline void bind_tracing(nanobind::module_& m) {
  m.def("traces_shapeless", &traces_shapeless);
  m.def("elements", &elements, nanobind::arg("x"), nanobind::arg("axes"));
}

}  // namespace zmlx
