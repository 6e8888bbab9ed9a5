// Ready: kernels that compute on the thread that asks, where a task of MLX's costs more than they do.
//
// For a task MLX wakes a thread, which wakes the one that waits: longer than a kernel of a thousand
// elements takes. Where all that such a kernel reads is there it runs when it is called.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/primitives.h"
#include "plain.h"

namespace zmlx {

namespace mx = mlx::core;

// What a primitive of ours can do besides.
class Ready {
 public:
  virtual ~Ready() = default;

  // Whether `now` can be asked for.
  virtual bool is_ready() const {
    return true;
  }

  // Elements that it writes at most where nothing but its outputs holds memory.
  virtual int64_t few() const;

  // Compute `outputs`, of which shapes and types are known, of inputs that are there.
  virtual void now(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) = 0;
};

constexpr int64_t kFew = 1 << 11;  // elements that a kernel writes, at most
constexpr int64_t kQuick = 1 << 14;  // the same, of an elementwise kernel of constants
constexpr int64_t kReads = 1 << 14;  // bytes of each buffer that it reads: a result may hold them
constexpr int kBehind = 64;  // arrays of the graph that a result holds while MLX traces it
constexpr size_t kWithin = 256;  // the same for what one function, and its gradient, made of its inputs

inline int64_t Ready::few() const {
  return kFew;
}

// Whether small kernels run when they are called; what looks at lazy results says no.
inline std::atomic<bool>& at_once() {
  static std::atomic<bool> on{true};
  return on;
}

// Whether the primitive of `array` writes little.
inline bool writes_little(const mx::array& array) {
  int64_t size = static_cast<int64_t>(array.size());
  for (const auto& other : array.siblings()) {
    size = std::max(size, static_cast<int64_t>(other.size()));
  }
  return size > 0 && size <= kFew;
}

// Whether what the primitive of `array` reads is there and little.
inline bool reads_little(const mx::array& array) {
  const auto& inputs = array.inputs();
  return std::all_of(inputs.begin(), inputs.end(), [](const mx::array& input) {
    return input.is_available() && static_cast<int64_t>(input.buffer_size()) <= kReads;
  });
}

// What computes a primitive's outputs on this thread: a kernel of ours, or an op of MLX's.
class Runner {
 public:
  Runner() = default;

  Runner(mx::Primitive& primitive, const std::vector<mx::array>& inputs, const mx::array& output)
      : primitive_(&primitive), ready_(dynamic_cast<Ready*>(&primitive)) {
    if (ready_ == nullptr) {
      plain_ = plain_of(primitive, inputs, output);
    }
  }

  explicit Runner(mx::Primitive& ours)
      : primitive_(&ours), ready_(dynamic_cast<Ready*>(&ours)) {}

  // Whether it can be asked.
  explicit operator bool() const {
    return plain_ != nullptr || (ready_ != nullptr && ready_->is_ready());
  }

  int64_t few() const {
    return ready_ != nullptr ? ready_->few() : kFew;
  }

  bool on_cpu() const {
    return primitive_->stream().device == mx::Device::cpu;
  }

  // `inputs` are there; the shapes and types of `outputs` are known. Whether these are there now.
  bool run(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) const {
    if (ready_ != nullptr) {
      ready_->now(inputs, outputs);
      return true;
    }
    outputs[0].set_data(mx::allocator::malloc(outputs[0].nbytes()));
    return plain_(*primitive_, inputs, outputs[0]);
  }

 private:
  mx::Primitive* primitive_ = nullptr;
  Ready* ready_ = nullptr;
  Plain plain_ = nullptr;
};

// What may compute `array` now, which is new and not evaluated.
inline Runner runner_of(const mx::array& array) {
  if (!at_once() || array.status() != mx::array::Status::unscheduled || !writes_little(array) ||
      !array.has_primitive() || array.primitive().stream().device != mx::Device::cpu) {
    return {};
  }
  return Runner(array.primitive(), array.inputs(), array);
}

// Take from `left` one for each array of the graph behind `array`; whether that many are not there.
inline bool shallow(const mx::array& array, int& left) {
  if (!array.has_primitive()) {
    return true;
  }
  const auto& inputs = array.inputs();
  return --left > 0 && std::all_of(inputs.begin(), inputs.end(), [&left](const mx::array& input) {
    return shallow(input, left);
  });
}

// Counts the arrays of graphs, each once.
class Behind {
 public:
  // Count `array` and all behind it, up to `most` in all; whether there are no more.
  bool add(const mx::array& array, size_t most) {
    open_.push_back(array);
    while (!open_.empty() && count_ <= most) {
      const mx::array next = std::move(open_.back());
      open_.pop_back();
      if (next.has_primitive() && fresh(next.id())) {
        ++count_;
        open_.insert(open_.end(), next.inputs().begin(), next.inputs().end());
      }
    }
    return count_ <= most;
  }

 private:
  static constexpr size_t kPlaces = 1024;  // more than are ever counted

  bool fresh(std::uintptr_t id) {
    size_t place = (id >> 4) * 0x9E3779B97F4A7C15u >> 54;
    while (seen_[place] != 0) {
      if (seen_[place] == id) {
        return false;
      }
      place = (place + 1) % kPlaces;
    }
    seen_[place] = id;
    return true;
  }

  std::array<std::uintptr_t, kPlaces> seen_{};
  std::vector<mx::array> open_;
  size_t count_ = 0;
};

// Whether no variable of a transformation can be behind `array`: those that are there are copies, and
// keep their primitive. What MLX notes of it (is_tracer) it forgets where transformations are nested.
inline bool is_constant(const mx::array& array) {
  return array.is_available() && !array.has_primitive();
}

inline bool reads_constants(const mx::array& array) {
  return std::all_of(array.inputs().begin(), array.inputs().end(), is_constant);
}

using Shapes = std::vector<mx::Shape>;
using Dtypes = std::vector<mx::Dtype>;

// What `runner` makes of `inputs`, if all of it is little, and they are constants: without a graph.
// Adds it to `made`; whether it did.
inline bool made_now(
    const Runner& runner, const Shapes& shapes, const Dtypes& dtypes,
    const std::vector<mx::array>& inputs, std::vector<mx::array>& made) {
  const int64_t few = runner ? runner.few() : 0;
  const auto fits = [few](const mx::array& input) {
    return is_constant(input) &&
        (few > kFew || static_cast<int64_t>(input.buffer_size()) <= kReads);
  };
  if (!runner || !at_once() || !runner.on_cpu() ||
      !std::all_of(inputs.begin(), inputs.end(), fits)) {
    return false;
  }
  std::vector<mx::array> outputs;
  outputs.reserve(shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    const auto& output = outputs.emplace_back(shapes[i], dtypes[i], nullptr, std::vector<mx::array>{});
    if (output.size() == 0 || static_cast<int64_t>(output.size()) > few) {
      return false;
    }
  }
  if (!runner.run(inputs, outputs)) {
    return false;
  }
  for (auto& output : outputs) {
    output.set_status(mx::array::Status::available);
    made.push_back(std::move(output));
  }
  return true;
}

// Whether `array` may be there at once: what is computed of variables then keeps its graph as long as
// it lives, so that the graph must not grow from one trace to the next.
inline bool may_keep(const mx::array& array) {
  int left = kBehind;
  return reads_constants(array) || shallow(array, left);
}

// The outputs of one primitive are there; of constants they are constants.
inline void done(std::vector<mx::array> outputs) {
  for (auto& output : outputs) {
    output.set_status(mx::array::Status::available);
  }
  if (reads_constants(outputs[0])) {
    outputs[0].detach();
  }
}

// Compute `array`, which is new, by `runner`, if what it reads is there and little, and the graph that
// it then keeps short: `bounded` says that it is.
inline bool run_now(const mx::array& array, const Runner& runner, bool bounded = false) {
  if (!runner || !reads_little(array) || !(bounded || may_keep(array))) {
    return false;
  }
  auto outputs = array.outputs();
  if (!runner.run(array.inputs(), outputs)) {
    return false;
  }
  done(std::move(outputs));
  return true;
}

}  // namespace zmlx
