// Whole: what a program of many steps gives, as one op to MLX's transformations.
//
// Its gradient is one graph over all of the program, a tape of its score. mx.jvp and mx.vmap, and
// gradients that have no such graph, go through the program's own primitives, one at a time, as MLX
// would take them.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "between.h"
#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "ready.h"
#include "ruled.h"
#include "score.h"
#include "tape.h"

namespace zmlx {

// `value` in type and shape of `pattern`: MLX does not check what a user gave.
inline mx::array fitted(const mx::array& value, const mx::array& pattern) {
  const mx::array cast = value.dtype() == pattern.dtype() ? value : mx::astype(value, pattern.dtype());
  return cast.shape() == pattern.shape() ? cast : mx::broadcast_to(cast, pattern.shape());
}

class Whole : public mx::Primitive, public Ready {
 public:
  // Its gradients are tapes of `score`, made of what is `held`; or what `writer` gives each time.
  Whole(
      mx::Stream stream, const std::vector<mx::array>& inputs, std::vector<mx::array> results,
      std::shared_ptr<Score> score, Tape::Held held, std::unique_ptr<Held> writer)
      : mx::Primitive(stream), count_(inputs.size()), results_(std::move(results)),
        score_(std::move(score)), held_(std::move(held)), writer_(std::move(writer)) {
    for (const auto& input : inputs) {
      inputs_.push_back(input.id());
    }
  }

  ~Whole() override {
    let_go();
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    give(inputs, outputs);
  }

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    give(inputs, outputs);
  }

  // For what is computed of the outputs within the trace: its gradients still ask.
  void now(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    share(inputs, outputs);
  }

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override {
    nb::gil_scoped_acquire lock;
    const Here here(stream());
    check(primals);
    const bool bounded = is_short(primals, cotangents);
    std::vector<int> used, wanted;
    std::vector<mx::array> seeds, ends;
    for (size_t i = 0; i < cotangents.size(); ++i) {
      if (!is_zeros(cotangents[i])) {
        used.push_back(static_cast<int>(i));
        seeds.push_back(fitted(viewed(cotangents[i], bounded), outputs[i]));
        ends.push_back(results_[i]);
      }
    }
    std::vector<mx::array> moving;
    for (const int i : argnums) {
      if (i < static_cast<int>(count_)) {
        wanted.push_back(i);
        moving.push_back(primals[i]);
      }
    }
    auto found = joined(wanted, used, seeds, primals);
    if (!found.has_value()) {
      found = written(wanted, used, seeds, bounded);
    }
    if (!found.has_value()) {
      found = Between(moving, own(primals), ends).pull(moving, ends, seeds);
    }
    std::vector<mx::array> gradients;
    size_t next = 0;
    for (const int i : argnums) {
      const bool known = i < static_cast<int>(count_);
      const auto& gradient = known ? (*found)[next++] : std::nullopt;
      gradients.push_back(gradient.has_value() ? *gradient : mx::zeros_like(primals[i]));
    }
    compute_all(gradients, bounded);
    return gradients;
  }

  std::vector<mx::array> jvp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
      const std::vector<int>& argnums) override {
    const Here here(stream());
    check(primals);
    std::vector<mx::array> moving, moves;
    for (size_t i = 0; i < argnums.size(); ++i) {
      if (argnums[i] < static_cast<int>(count_)) {
        moving.push_back(primals[argnums[i]]);
        moves.push_back(tangents[i]);
      }
    }
    const auto found = Between(moving, own(primals), results_).push(moving, results_, moves);
    std::vector<mx::array> pushed;
    for (size_t i = 0; i < found.size(); ++i) {
      pushed.push_back(found[i].has_value() ? *found[i] : mx::zeros_like(results_[i]));
    }
    return pushed;
  }

  // MLX has mapped the program's own results before, but hides that they depend on anything.
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(
      const std::vector<mx::array>& inputs, const std::vector<int>& axes) override {
    std::vector<mx::array> results(inputs.begin() + count_, inputs.end());
    std::vector<int> mapped(axes.begin() + count_, axes.end());
    const size_t some = std::find_if(axes.begin(), axes.end(), [](int a) { return a >= 0; }) - axes.begin();
    for (size_t i = 0; i < results.size(); ++i) {
      auto& result = results[i];
      if (result.has_primitive() && std::string_view(result.primitive().name()) == "StopGradient") {
        result = result.inputs()[0];
      }
      if (mapped[i] < 0) {
        mx::Shape shape = result.shape();
        shape.insert(shape.begin(), inputs[some].shape(axes[some]));
        result = mx::broadcast_to(result, shape);
        mapped[i] = 0;
      }
    }
    return {std::move(results), std::move(mapped)};
  }

  const char* name() const override {
    return "Whole";
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    std::vector<mx::Shape> shapes;
    for (size_t i = count_; i < inputs.size(); ++i) {
      shapes.push_back(inputs[i].shape());
    }
    return shapes;
  }

 private:
  // Gradients by a program that gives the results as well, which take the place of those that were
  // to be computed: a row of a loss is then read once for both. Only where what the results receive
  // does not wait for them.
  std::optional<Found> joined(
      const std::vector<int>& wanted, const std::vector<int>& used,
      const std::vector<mx::array>& seeds, const std::vector<mx::array>& primals) {
    if (joined_ || seeds.empty() || wait(seeds)) {
      return std::nullopt;
    }
    std::optional<Both> made;
    if (score_) {
      made = score_->both(wanted, used, seeds, own(primals));
    } else if (writer_) {
      made = asked_both(writer_->get(), wanted, used, seeds);
    }
    if (!made.has_value() || made->results.size() != primals.size() - count_) {
      return std::nullopt;
    }
    for (size_t i = 0; i < made->results.size(); ++i) {
      mx::array end = primals[count_ + i];
      if (end.has_primitive() && end.inputs().size() == 1) {
        end.inputs()[0] = made->results[i];
      }
    }
    joined_ = true;
    return std::move(made->gradients);
  }

  // Whether any of `seeds` is computed from what this op gives, or from so much that nobody looks.
  bool wait(const std::vector<mx::array>& seeds) const {
    constexpr size_t kMost = 64;
    std::vector<mx::array> open(seeds);
    std::set<std::uintptr_t> seen;
    while (!open.empty()) {
      const mx::array next = open.back();
      open.pop_back();
      if (!next.has_primitive() || !seen.insert(next.id()).second) {
        continue;
      }
      if (&next.primitive() == this || seen.size() > kMost) {
        return true;
      }
      open.insert(open.end(), next.inputs().begin(), next.inputs().end());
    }
    return false;
  }

  std::optional<Found> written(
      const std::vector<int>& wanted, const std::vector<int>& used,
      const std::vector<mx::array>& seeds, bool bounded) {
    if (score_) {
      return score_->pull(wanted, used, seeds, held_, bounded);
    }
    if (!writer_) {
      return std::nullopt;
    }
    auto found = asked(writer_->get(), wanted, used, seeds);
    writer_ = nullptr;  // it keeps the whole forward pass; who asks again goes through primitives
    Held::bury();
    return found;
  }

  void share(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) const {
    for (size_t i = 0; i < outputs.size(); ++i) {
      outputs[i].copy_shared_buffer(inputs[count_ + i]);
    }
  }

  // Once there are values no gradient is taken any more: what waits for one is let go.
  void give(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
    share(inputs, outputs);
    if (!outputs[0].is_tracer()) {
      let_go();
      inputs_.clear();
      writer_ = nullptr;
    }
  }

  // A result may be computed from that of another such op, and so on: one goes after the other, where
  // each in the destructor of the one before would need a stack as deep as the graph.
  void let_go() {
    thread_local std::vector<mx::array> open;
    thread_local bool going = false;
    std::move(results_.begin(), results_.end(), std::back_inserter(open));
    results_.clear();
    for (auto& array : held_) {
      if (array.has_value()) {
        open.push_back(std::move(*array));
      }
    }
    held_.clear();
    if (going) {
      return;
    }
    going = true;
    while (!open.empty()) {
      const mx::array last = std::move(open.back());
      open.pop_back();
    }
    going = false;
  }

  std::vector<mx::array> own(const std::vector<mx::array>& primals) const {
    return std::vector<mx::array>(primals.begin(), primals.begin() + count_);
  }

  // Whether the graph behind the inputs is short, and what this op, and what the outputs receive, add.
  bool is_short(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents) const {
    Behind behind;
    const auto adds = [&behind](size_t most) {
      return [&behind, most](const mx::array& array) { return behind.add(array, most); };
    };
    const auto own = primals.begin() + count_;
    return std::all_of(primals.begin(), own, adds(kBehind)) &&
        std::all_of(own, primals.end(), adds(kBehind + kWithin)) &&
        std::all_of(cotangents.begin(), cotangents.end(), adds(kBehind + kWithin));
  }

  void check(const std::vector<mx::array>& primals) const {
    bool same = primals.size() >= count_ && inputs_.size() == count_;
    for (size_t i = 0; same && i < count_; ++i) {
      same = primals[i].id() == inputs_[i];
    }
    if (!same) {
      throw std::runtime_error(
          "[zmlx.fuse] a fused function's result is differentiated after it was evaluated, or moved "
          "to other arrays. Please report it, with the function.");
    }
  }

  const size_t count_;
  std::vector<std::uintptr_t> inputs_;  // their names
  std::vector<mx::array> results_;
  const std::shared_ptr<Score> score_;
  Tape::Held held_;
  std::unique_ptr<Held> writer_;
  bool joined_ = false;
};

// `results`, made of `inputs`, as one op of them.
inline nb::list whole(
    std::vector<mx::array> inputs, std::vector<mx::array> results, std::shared_ptr<Score> score,
    Tape::Held held, std::unique_ptr<Held> writer) {
  std::vector<mx::array> given(inputs);
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (const auto& result : results) {
    given.push_back(mx::stop_gradient(result));
    shapes.push_back(result.shape());
    dtypes.push_back(result.dtype());
  }
  const mx::Stream stream = mx::default_stream(mx::default_device());
  auto primitive = std::make_shared<Whole>(
      stream, inputs, std::move(results), std::move(score), std::move(held), std::move(writer));
  return list_of(mx::array::make_arrays(std::move(shapes), dtypes, primitive, given));
}

// The results of the program of `score`, whose arrays are `all`.
inline nb::list whole_of(
    std::vector<mx::array> inputs, const std::vector<mx::array>& all, std::shared_ptr<Score> score) {
  auto held = score->kept(all);
  auto results = picked(all, score->forward().gives());
  return whole(std::move(inputs), std::move(results), std::move(score), std::move(held), nullptr);
}

// The same where Python runs the program each time, and `writer` writes its gradients.
inline nb::list whole_by(nb::handle inputs, nb::handle results, nb::handle writer) {
  Held::bury();
  return whole(
      arrays_of(inputs), arrays_of(results), nullptr, {}, std::make_unique<Held>(writer));
}

// What `moving`, some of `stops`, receive where `ends`, made of `stops`, receive `seeds`. None for
// nothing, and for an array that stands among `stops` twice: what it receives is of both places.
inline nb::list pull_between(
    nb::handle moving, nb::handle stops, nb::handle ends, nb::handle seeds) {
  const auto starts = arrays_of(moving), behind = arrays_of(stops), results = arrays_of(ends);
  const auto pulled = Between(starts, behind, results).pull(starts, results, arrays_of(seeds));
  nb::list found;
  for (size_t i = 0; i < pulled.size(); ++i) {
    const auto same = [&](const mx::array& one) { return one.id() == starts[i].id(); };
    const bool alone = std::count_if(behind.begin(), behind.end(), same) <= 1;
    found.append(alone && pulled[i].has_value() ? nb::cast(*pulled[i]) : nb::none());
  }
  return found;
}

// For each of `moving` which of `ends` depend on it where MLX differentiates, by position.
inline nb::list reached(nb::handle moving, nb::handle stops, nb::handle ends) {
  const auto results = arrays_of(ends), behind = arrays_of(stops);
  nb::list found;
  for (const auto& one : arrays_of(moving)) {
    const Between between({one}, behind, results);
    nb::list own;
    for (size_t i = 0; i < results.size(); ++i) {
      if (between.reaches(results[i])) {
        own.append(nb::int_(i));
      }
    }
    found.append(own);
  }
  return found;
}

}  // namespace zmlx
