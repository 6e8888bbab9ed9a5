// Products of small matrices, with the very bits that MLX's task gives.
//
// Where MLX multiplies matrices by other means than BLAS (Apple's), they stay its tasks.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "gemm.h"
#include "mlx/array.h"
#include "strided.h"

namespace zmlx {

namespace mx = mlx::core;

constexpr int64_t kProducts = 1 << 16;  // of two numbers, at most

// Whether `inputs` are matrices, or equally many of them, that are multiplied here.
inline bool is_product(const std::vector<mx::array>& inputs, const mx::array& output) {
  if (inputs.size() != 2 || output.ndim() < 2 || inputs[0].ndim() != output.ndim() ||
      inputs[1].ndim() != output.ndim() || output.dtype() != mx::float32 ||
      inputs[0].dtype() != mx::float32 || inputs[1].dtype() != mx::float32) {
    return false;
  }
  const int64_t depth = inputs[0].shape(-1), work = depth * static_cast<int64_t>(output.size());
  return depth > 0 && work <= kProducts && gemm() != nullptr;
}

// A matrix, or several, as BLAS reads them: as they lie, or copied.
class Factor {
 public:
  explicit Factor(const mx::array& array) : array_(array), data_(array.data<float>()) {
    const auto down = array.strides(-2), along = array.strides(-1);
    steps_ = array.strides();
    if (down == array.shape(-1) && along == 1) {
      leading_ = static_cast<int>(down);
    } else if (down == 1 && along == array.shape(-2)) {
      leading_ = static_cast<int>(along);
      transposed_ = true;
    } else {
      own_.resize(array.size());
      steps_ = dense_strides(array.shape());
      spread(array, reinterpret_cast<char*>(own_.data()), steps_);
      data_ = own_.data();
      leading_ = array.shape(-1);
    }
  }
  Factor(const Factor&) = delete;
  Factor& operator=(const Factor&) = delete;

  // The matrix of that number.
  Matrix at(int64_t number) const {
    int64_t place = 0;
    for (int d = static_cast<int>(array_.ndim()) - 3; d >= 0; --d) {
      place += (number % array_.shape(d)) * steps_[d];
      number /= array_.shape(d);
    }
    return {data_ + place, leading_, transposed_};
  }

 private:
  const mx::array& array_;
  const float* data_;
  mx::Strides steps_;
  std::vector<float> own_;
  int leading_ = 1;
  bool transposed_ = false;
};

inline bool multiply(
    const mx::Primitive&, const std::vector<mx::array>& inputs, mx::array& output) {
  const Factor a(inputs[0]), b(inputs[1]);
  const int m = output.shape(-2), n = output.shape(-1), k = inputs[0].shape(-1);
  const int64_t matrix = int64_t(m) * n, count = static_cast<int64_t>(output.size()) / matrix;
  auto* made = output.data<float>();
  for (int64_t i = 0; i < count; ++i) {
    multiply_matrices(a.at(i), b.at(i), m, n, k, made + i * matrix);
  }
  return true;
}

}  // namespace zmlx
