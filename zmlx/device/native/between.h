// Between: what MLX's transformations make of a graph that is already there, from some arrays to others.
//
// mx.vjp and mx.jvp run a function to get such a graph. Here the forward pass has made it: nothing runs
// twice, and what a call's gradient needs of the call is what the call left in the graph.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"

namespace zmlx {

namespace mx = mlx::core;

using Arrays = std::vector<mx::array>;
using Found = std::vector<std::optional<mx::array>>;

// The arrays (one of each primitive's) on ways from `moving` to `ends`, in the order of their making.
class Between {
 public:
  // Nothing is looked for behind `moving` and `stops`.
  Between(const Arrays& moving, const Arrays& stops, const Arrays& ends) {
    for (const auto& array : stops) {
      seen_.insert(array.id());
    }
    for (const auto& array : moving) {
      seen_.insert(array.id());
      moves_.insert(array.id());
    }
    for (const auto& array : ends) {
      reach(array);
    }
  }

  // What `moving` receive where `ends` receive `seeds`; nothing where no way leads there.
  Found pull(const Arrays& moving, const Arrays& ends, const Arrays& seeds) const {
    std::unordered_map<std::uintptr_t, mx::array> given;
    for (size_t i = 0; i < ends.size(); ++i) {
      add(given, ends[i], seeds[i], nullptr);
    }
    for (auto it = tape_.rbegin(); it != tape_.rend(); ++it) {
      pull_through(*it, given);
    }
    Found found;
    std::unordered_set<std::uintptr_t> told;  // the same array twice receives once
    for (const auto& array : moving) {
      const auto at = given.find(array.id());
      const bool fresh = told.insert(array.id()).second;
      found.push_back(at != given.end() && fresh ? std::optional(at->second) : std::nullopt);
    }
    return found;
  }

  // How `ends` move where `moving` move by `tangents`; nothing where no way leads there.
  Found push(const Arrays& moving, const Arrays& ends, const Arrays& tangents) const {
    std::unordered_map<std::uintptr_t, mx::array> known;
    for (size_t i = 0; i < moving.size(); ++i) {
      known.insert_or_assign(moving[i].id(), tangents[i]);
    }
    for (const auto& array : tape_) {
      const auto& inputs = array.inputs();
      std::vector<int> argnums;
      Arrays own;
      for (size_t i = 0; i < inputs.size(); ++i) {
        if (const auto at = known.find(inputs[i].id()); at != known.end()) {
          argnums.push_back(static_cast<int>(i));
          own.push_back(at->second);
        }
      }
      if (argnums.empty()) {
        continue;
      }
      const auto pushed = array.primitive().jvp(inputs, own, argnums);
      const auto outputs = array.outputs();
      for (size_t i = 0; i < outputs.size(); ++i) {
        known.insert_or_assign(outputs[i].id(), pushed[i]);
      }
    }
    Found found;
    for (const auto& array : ends) {
      const auto at = known.find(array.id());
      found.push_back(at != known.end() ? std::optional(at->second) : std::nullopt);
    }
    return found;
  }

  bool reaches(const mx::array& array) const {
    return moves_.count(array.id()) > 0;
  }

 private:
  static void add(
      std::unordered_map<std::uintptr_t, mx::array>& given, const mx::array& array,
      const mx::array& value, const mx::Stream* stream) {
    const auto at = given.find(array.id());
    if (at == given.end()) {
      given.insert({array.id(), value});
    } else {
      at->second = stream == nullptr ? mx::add(at->second, value) : mx::add(at->second, value, *stream);
    }
  }

  void pull_through(
      const mx::array& array, std::unordered_map<std::uintptr_t, mx::array>& given) const {
    const auto outputs = array.outputs();
    const auto receives = [&given](const mx::array& one) { return given.count(one.id()) > 0; };
    if (std::none_of(outputs.begin(), outputs.end(), receives)) {
      return;
    }
    const auto& inputs = array.inputs();
    std::vector<int> argnums;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (moves_.count(inputs[i].id()) > 0) {
        argnums.push_back(static_cast<int>(i));
      }
    }
    const mx::Stream stream = array.primitive().stream();
    Arrays seeds;
    for (const auto& output : outputs) {
      const auto at = given.find(output.id());
      seeds.push_back(at != given.end() ? at->second : mx::zeros_like(output, stream));
    }
    const auto pulled = array.primitive().vjp(inputs, seeds, argnums, outputs);
    for (size_t i = 0; i < argnums.size(); ++i) {
      add(given, inputs[argnums[i]], pulled[i], &stream);
    }
  }

  // Graphs are deep: no recursion.
  void reach(const mx::array& end) {
    std::vector<std::pair<mx::array, size_t>> open;  // and how many of its inputs were looked at
    if (seen_.insert(end.id()).second) {
      open.emplace_back(end, 0);
    }
    while (!open.empty()) {
      auto& [array, next] = open.back();
      if (array.has_primitive() && next < array.inputs().size()) {
        const mx::array input = array.inputs()[next++];
        if (seen_.insert(input.id()).second) {
          open.emplace_back(input, 0);
        }
        continue;
      }
      const mx::array done = array;
      open.pop_back();
      put(done);
    }
  }

  void put(const mx::array& array) {
    if (!array.has_primitive() || std::string_view(array.primitive().name()) == "StopGradient") {
      return;
    }
    const auto& inputs = array.inputs();
    const auto moves = [this](const mx::array& input) { return moves_.count(input.id()) > 0; };
    if (std::none_of(inputs.begin(), inputs.end(), moves)) {
      return;
    }
    tape_.push_back(array);
    for (const auto& made : array.outputs()) {
      seen_.insert(made.id());
      moves_.insert(made.id());
    }
  }

  std::unordered_set<std::uintptr_t> seen_, moves_;
  Arrays tape_;
};

}  // namespace zmlx
