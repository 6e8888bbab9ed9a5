// Tape: the graph of primitives between some arrays and others, to be made again for other arrays.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "pulls.h"
#include "settle.h"

namespace zmlx {

using Again = std::function<mx::array(const mx::array&)>;

// How to make `array` of another input; null where its primitive serves: mx.vmap changes these three.
inline Again again(const mx::array& array) {
  auto& primitive = array.primitive();
  const std::string_view name = primitive.name();
  const mx::Stream stream = primitive.stream();
  if (array.inputs().size() != 1) {
    return nullptr;
  }
  if (name == "Transpose") {
    return [axes = static_cast<mx::Transpose&>(primitive).state(), stream](const mx::array& x) {
      return mx::transpose(x, axes, stream);
    };
  }
  if (name == "Reshape") {
    return [shape = array.shape(), stream](const mx::array& x) { return mx::reshape(x, shape, stream); };
  }
  if (name == "Broadcast") {
    return [shape = array.shape(), stream](const mx::array& x) {
      return mx::broadcast_to(x, shape, stream);
    };
  }
  return nullptr;
}

class Tape {
 public:
  // Arrays by place, as far as they are at hand.
  using Held = std::vector<std::optional<mx::array>>;

  // The graph between `inputs` and `outputs`; nothing where it cannot be used again. What it finds of
  // the tape `before` it does not make: it reads it at its place there.
  static std::optional<Tape> of(
      const std::vector<mx::array>& inputs, const std::vector<mx::array>& outputs,
      const Tape* before = nullptr) {
    Tape tape;
    tape.before_ = before;
    for (const auto& array : inputs) {
      tape.place(array);
    }
    for (const auto& array : outputs) {
      if (!tape.reach(array)) {
        return std::nullopt;
      }
      tape.gives_.push_back(tape.places_.at(array.id()));
    }
    tape.before_ = nullptr;
    return tape;
  }

  // Forget where which array of the recording stands: no tape can then begin where this one ends.
  void close() {
    places_.clear();
  }

  // All arrays of the graph, for these inputs; `held` has what it reads of the tape before.
  std::vector<mx::array> play(std::vector<mx::array> arrays, const Held* held = nullptr) const {
    arrays.reserve(size_);
    for (const auto& step : steps_) {
      if (step.source >= 0) {
        arrays.push_back(*(*held)[step.source]);
        continue;
      }
      if (step.constant.has_value()) {
        arrays.push_back(*step.constant);
        continue;
      }
      std::vector<mx::array> reads = picked(arrays, step.reads);
      if (step.again) {
        mx::array made = step.again(reads[0]);
        if (made.id() != reads[0].id()) {
          run_plain(made);
        }
        arrays.push_back(std::move(made));
      } else {
        make(step, std::move(reads), arrays);
      }
    }
    return arrays;
  }

  // How many arrays there are.
  size_t size() const {
    return size_;
  }

  // Which of all arrays are the outputs.
  const std::vector<int>& gives() const {
    return gives_;
  }

  // Which arrays of the tape before it reads.
  const std::vector<int>& sources() const {
    return sources_;
  }

 private:
  struct Step {
    std::optional<mx::array> constant;  // or what follows
    Again again;                        // in place of a primitive that cannot serve twice
    std::shared_ptr<mx::Primitive> primitive;
    std::vector<int> reads;
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    int source = -1;  // or this: a place in the tape before
    Runner runner;    // of the primitive
  };

  static void make(const Step& step, std::vector<mx::array> reads, std::vector<mx::array>& arrays) {
    const size_t first = arrays.size();
    if (made_now(step.runner, step.shapes, step.dtypes, reads, arrays)) {
      return;
    }
    if (step.shapes.size() == 1) {
      arrays.emplace_back(step.shapes[0], step.dtypes[0], step.primitive, std::move(reads));
    } else {
      auto shapes = step.shapes;
      for (auto& made :
           mx::array::make_arrays(std::move(shapes), step.dtypes, step.primitive, reads)) {
        arrays.push_back(std::move(made));
      }
    }
    run_plain(arrays[first]);
  }

  void place(const mx::array& array) {
    places_.insert_or_assign(array.id(), static_cast<int>(size_++));
  }

  bool known(const mx::array& array) const {
    return places_.count(array.id()) > 0;
  }

  // Whether `array` is of the tape before; it is then put down.
  bool takes(const mx::array& array) {
    if (before_ == nullptr) {
      return false;
    }
    const auto found = before_->places_.find(array.id());
    if (found == before_->places_.end()) {
      return false;
    }
    Step step{std::nullopt, nullptr, nullptr, {}, {}, {}};
    step.source = found->second;
    sources_.push_back(found->second);
    steps_.push_back(std::move(step));
    place(array);
    return true;
  }

  // Put down all that `array` is computed from; whether all of it can be made again.
  bool reach(const mx::array& array) {
    std::vector<mx::array> open{array};
    while (!open.empty()) {
      const mx::array next = open.back();
      if (known(next) || takes(next)) {
        open.pop_back();
        continue;
      }
      if (!next.has_primitive()) {
        if (!next.is_available()) {
          return false;
        }
        steps_.push_back({next, nullptr, nullptr, {}, {}, {}});
        place(next);
        continue;
      }
      const std::string_view name = next.primitive().name();
      if (name == "RandomBits" || name == "CustomTransforms") {
        return false;  // of a state that is not seen here, or of a Python function that keeps itself
      }
      bool ready = true;
      for (const auto& input : next.inputs()) {
        if (!known(input)) {
          ready = false;
          open.push_back(input);
        }
      }
      if (ready) {
        put(next);
        open.pop_back();
      }
    }
    return true;
  }

  void put(const mx::array& array) {
    Step step{std::nullopt, again(array), array.primitive_ptr(), {}, {}, {}};
    for (const auto& input : array.inputs()) {
      step.reads.push_back(places_.at(input.id()));
    }
    for (const auto& made : array.outputs()) {
      step.shapes.push_back(made.shape());
      step.dtypes.push_back(made.dtype());
      place(made);
    }
    step.runner = Runner(array.primitive(), array.inputs(), array);
    steps_.push_back(std::move(step));
  }

  size_t size_ = 0;
  const Tape* before_ = nullptr;
  std::unordered_map<std::uintptr_t, int> places_;
  std::vector<Step> steps_;
  std::vector<int> gives_, sources_;
};

}  // namespace zmlx
