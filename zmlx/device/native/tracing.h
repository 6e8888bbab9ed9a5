// Tracing: what MLX is doing while Python builds a graph.
#pragma once

#include <nanobind/nanobind.h>

#include "mlx/array.h"
#include "mlx/ops.h"

namespace zmlx {

// Whether mx.compile(..., shapeless=True) traces now, so that sizes are examples. MLX hides the
// state; number_of_elements is public and gives a computation in place of a number just then.
inline bool traces_shapeless() {
  static const mlx::core::array* const kOne = new mlx::core::array(1.0f);
  return mlx::core::number_of_elements(*kOne, {}, false, mlx::core::float32).has_primitive();
}

inline void bind_tracing(nanobind::module_& m) {
  m.def("traces_shapeless", &traces_shapeless);
}

}  // namespace zmlx
