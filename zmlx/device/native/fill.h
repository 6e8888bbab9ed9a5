// One number in every element of an array.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "mlx/dtype.h"
#include "mlx/types/half_types.h"

namespace zmlx {

template <typename T>
void fill_as(void* data, size_t size, double value) {
  std::fill_n(static_cast<T*>(data), size, static_cast<T>(value));
}

template <typename T>
void fill_whole(void* data, size_t size, double value) {
  if (std::isfinite(value) && std::abs(value) < 0x1p63) {
    std::fill_n(static_cast<T*>(data), size, static_cast<T>(static_cast<int64_t>(value)));
  } else {
    fill_as<T>(data, size, value);
  }
}

inline void fill(void* data, size_t size, mlx::core::Dtype dtype, double value) {
  namespace mx = mlx::core;
  switch (dtype) {
    case mx::bool_:
      std::fill_n(static_cast<bool*>(data), size, value != 0.0);
      return;
    case mx::int8:
    case mx::uint8:
      return fill_whole<uint8_t>(data, size, value);
    case mx::int16:
    case mx::uint16:
      return fill_whole<uint16_t>(data, size, value);
    case mx::int32:
    case mx::uint32:
      return fill_whole<uint32_t>(data, size, value);
    case mx::int64:
      return fill_whole<int64_t>(data, size, value);
    case mx::uint64:
      return fill_whole<uint64_t>(data, size, value);
    case mx::float16:
      return fill_as<mx::float16_t>(data, size, static_cast<float>(value));
    case mx::bfloat16:
      return fill_as<mx::bfloat16_t>(data, size, static_cast<float>(value));
    default:
      return fill_as<float>(data, size, value);
  }
}

}  // namespace zmlx
