// Repeater: a custom kernel's lazy outputs again, for other arrays of shapes that it has seen.
//
// mx.fast.metal_kernel and cuda_kernel take 20 us to describe a launch from Python. Everything they
// find out depends on shapes and stream alone, and what is asked of a thread on whether memory runs
// across rows, so the primitive they made once serves again, as mx.compile uses primitives again. So do
// the inputs that a launch adds behind those given.
#pragma once

#include <nanobind/nanobind.h>

#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"
#include "ruled.h"

namespace zmlx {

// Whether memory runs across the rows, as in a transposed array; of one that is not evaluated yet, as
// far as can be told.
inline bool crosses(const mx::array& array) {
  const int rank = static_cast<int>(array.ndim());
  if (rank < 2 || array.size() < 2) {
    return false;
  }
  if (!array.is_available()) {
    return array.has_primitive() && std::strcmp(array.primitive().name(), "Transpose") == 0;
  }
  bool along = false;
  for (int d = 0; d + 1 < rank; ++d) {
    along = along || (array.strides()[d] == 1 && array.shape()[d] > 1);
  }
  return along && array.strides()[rank - 1] > 1 && array.shape()[rank - 1] > 1;
}

// `array` row after row: itself where it is known to be so.
inline mx::array in_rows(const mx::array& array) {
  const bool known = array.is_available() && array.flags().row_contiguous;
  return known ? array : mx::contiguous(array);
}

inline bool any_crosses(nb::handle sequence) {
  for (nb::handle item : sequence) {
    if (crosses(nb::cast<const mx::array&>(item))) {
      return true;
    }
  }
  return false;
}

class Repeater {
 public:
  // `contiguous`: the kernel reads arrays row after row.
  explicit Repeater(bool contiguous) : contiguous_(contiguous) {}

  // Outputs for `sequence`, with `rules` unless they are None; None where nothing was learnt for such
  // arrays on this stream.
  nb::object call(nb::handle sequence, nb::handle rules) const {
    std::vector<mx::array> inputs = flat(arrays_of(sequence));
    const auto found = known_.find(key(inputs));
    if (found == known_.end()) {
      return nb::none();
    }
    const Known& known = found->second;
    std::shared_ptr<mx::Primitive> primitive = known.primitive;
    for (auto& input : inputs) {
      input = contiguous_ ? in_rows(input) : input;
    }
    inputs.insert(inputs.end(), known.behind.begin(), known.behind.end());
    nb::list results;
    std::vector<mx::array> now;
    if (made_now(Runner(*primitive), known.shapes, known.dtypes, inputs, now)) {
      for (auto& array : now) {
        results.append(nb::cast(std::move(array)));
      }
      return results;
    }
    if (!rules.is_none()) {
      Held::bury();
      primitive = std::make_shared<Ruled>(std::move(primitive), rules);
    }
    if (known.shapes.size() == 1) {
      results.append(nb::cast(mx::array(
          known.shapes[0], known.dtypes[0], std::move(primitive), std::move(inputs))));
      return results;
    }
    auto shapes = known.shapes;
    for (auto& array :
         mx::array::make_arrays(std::move(shapes), known.dtypes, primitive, inputs)) {
      results.append(nb::cast(std::move(array)));
    }
    return results;
  }

  // Remember how `outputs`, just made from `sequence` and not evaluated, were made.
  void learn(nb::handle sequence, nb::handle outputs) {
    std::vector<mx::array> made = arrays_of(outputs);
    if (made.empty() || !made[0].has_primitive() || is_zeros(made[0])) {
      return;  // an empty launch gives zeros, which no kernel made
    }
    const std::vector<mx::array> bare = arrays_of(sequence);
    const std::vector<mx::array>& read = made[0].inputs();
    for (size_t i = 0; i < bare.size(); ++i) {
      if (i >= read.size() || !reads(read[i], bare[i])) {
        return;  // another array than the one given, which the next call would not know
      }
    }
    const std::vector<mx::array> given = flat(bare);
    const std::vector<mx::array> behind(read.begin() + given.size(), read.end());
    for (const auto& array : behind) {
      if (array.has_primitive()) {
        return;  // computed from what was given, perhaps
      }
    }
    if (known_.size() >= kMost) {
      known_.clear();
    }
    Known known{made[0].primitive_ptr(), behind, {}, {}};
    for (const auto& array : made) {
      known.shapes.push_back(array.shape());
      known.dtypes.push_back(array.dtype());
    }
    known_.insert_or_assign(key(given), std::move(known));
  }

 private:
  static constexpr size_t kMost = 512;

  struct Known {
    std::shared_ptr<mx::Primitive> primitive;
    std::vector<mx::array> behind;  // inputs that the launch adds, such as a grid on CUDA
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
  };

  // Whether `read` is `given`, row after row or with an axis.
  static bool reads(const mx::array& read, const mx::array& given) {
    const bool copied = read.has_primitive() && read.id() != given.id() &&
        std::strcmp(read.primitive().name(), "Contiguous") == 0;
    return given.ndim() == 0 || (copied ? read.inputs()[0] : read).id() == given.id();
  }

  // MLX passes an array of rank 0 as a reference, which a text cannot index.
  static std::vector<mx::array> flat(std::vector<mx::array> arrays) {
    for (auto& array : arrays) {
      if (array.ndim() == 0) {
        array = mx::reshape(array, {1});
      }
    }
    return arrays;
  }

  static std::string key(const std::vector<mx::array>& arrays) {
    const mx::Stream stream = mx::default_stream(mx::default_device());
    std::string text;
    const auto put = [&text](int32_t number) {
      text.append(reinterpret_cast<const char*>(&number), sizeof number);
    };
    put(stream.index);
    for (const auto& array : arrays) {
      put(static_cast<int32_t>(array.dtype().val()));
      put(static_cast<int32_t>(crosses(array) ? -array.ndim() : array.ndim()));
      for (const auto size : array.shape()) {
        put(static_cast<int32_t>(size));
      }
    }
    return text;
  }

  const bool contiguous_;
  std::unordered_map<std::string, Known> known_;
};

}  // namespace zmlx
