// Elements of an array with strides, put into memory with others.
#pragma once

#include <cstdint>
#include <cstring>

#include "mlx/array.h"

namespace zmlx {

namespace mx = mlx::core;

// The strides of an array of that shape whose elements lie row after row.
inline mx::Strides dense_strides(const mx::Shape& shape) {
  mx::Strides strides(shape.size(), 1);
  for (int d = static_cast<int>(shape.size()) - 2; d >= 0; --d) {
    strides[d] = strides[d + 1] * shape[d + 1];
  }
  return strides;
}

inline void copy_row(
    const char* from, int64_t step, char* to, int64_t far, int64_t count, int64_t size) {
  if (step == 1 && far == 1) {
    std::memcpy(to, from, count * size);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to + i * far * size, from + i * step * size, size);
  }
}

// Call `use` with where each row of `shape` along the last dimension (or the one element) begins, at
// strides `steps` and at `others`.
template <typename Use>
void each_row(
    const mx::Shape& shape, const mx::Strides& steps, const mx::Strides& others, const Use& use) {
  const int last = static_cast<int>(shape.size()) - 1;
  mx::Shape at(shape.size(), 0);
  int64_t from = 0, to = 0;
  for (;;) {
    use(from, to);
    int d = last - 1;
    for (; d >= 0; --d) {
      from += steps[d];
      to += others[d];
      if (++at[d] < shape[d]) {
        break;
      }
      from -= at[d] * steps[d];
      to -= at[d] * others[d];
      at[d] = 0;
    }
    if (d < 0) {
      return;
    }
  }
}

// Copy the elements of `array`, of which there are some, to `to` and on, with `strides` there.
inline void spread(const mx::array& array, char* to, const mx::Strides& strides) {
  const int last = static_cast<int>(array.ndim()) - 1;
  const auto size = static_cast<int64_t>(array.itemsize());
  const char* from = array.data<char>();
  const int64_t count = last < 0 ? 1 : array.shape(last);
  const int64_t step = last < 0 ? 1 : array.strides(last), far = last < 0 ? 1 : strides[last];
  each_row(array.shape(), array.strides(), strides, [&](int64_t begin, int64_t end) {
    copy_row(from + begin * size, step, to + end * size, far, count, size);
  });
}

// Call `use` with the number of each element of `shape`, of which there are some, row after row, and
// its place at `strides`.
template <typename Use>
void each(const mx::Shape& shape, const mx::Strides& strides, const Use& use) {
  const int64_t count = shape.empty() ? 1 : shape.back();
  const int64_t step = shape.empty() ? 0 : strides.back();
  size_t number = 0;
  each_row(shape, strides, strides, [&](int64_t begin, int64_t) {
    for (int64_t i = 0; i < count; ++i) {
      use(number++, begin + i * step);
    }
  });
}

}  // namespace zmlx
