// Scores: what a program of many steps does, and its gradients, as tapes that native code copies.
//
// Python plans the gradients once for each set that is asked for.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "between.h"
#include "mlx/array.h"
#include "ruled.h"
#include "settle.h"
#include "tape.h"

namespace zmlx {

// The gradients that the Python function `writer` gives, None for one that receives nothing; nothing
// where it gives None in place of all.
inline std::optional<Found> asked(
    nb::handle writer, const std::vector<int>& wanted, const std::vector<int>& used,
    const std::vector<mx::array>& seeds) {
  const nb::object given = writer(list_of(wanted), list_of(used), list_of(seeds));
  if (given.is_none()) {
    return std::nullopt;
  }
  Found found;
  for (nb::handle item : given) {
    found.push_back(
        item.is_none() ? std::nullopt : std::optional(nb::cast<const mx::array&>(item)));
  }
  return found;
}

// What a program gives, and its gradients.
struct Both {
  std::vector<mx::array> results;
  Found gradients;
};

// Those that `writer` has one program give; nothing where it has none.
inline std::optional<Both> asked_both(
    nb::handle writer, const std::vector<int>& wanted, const std::vector<int>& used,
    const std::vector<mx::array>& seeds) {
  const nb::object given = writer.attr("joint")(list_of(wanted), list_of(used), list_of(seeds));
  if (given.is_none()) {
    return std::nullopt;
  }
  Both both{arrays_of(given[0]), {}};
  for (nb::handle item : given[1]) {
    both.gradients.push_back(
        item.is_none() ? std::nullopt : std::optional(nb::cast<const mx::array&>(item)));
  }
  return both;
}

// The tape of a program, and those of its gradients that were asked for.
class Score {
 public:
  // `writer` writes gradients: see `learn`.
  Score(Tape tape, std::vector<mx::array> inputs, nb::handle writer)
      : forward_(std::move(tape)), recorded_(std::move(inputs)), writer_(writer) {}

  const Tape& forward() const {
    return forward_;
  }

  // Of `all` arrays of the program those that gradients read, all while none is known.
  Tape::Held kept(const std::vector<mx::array>& all) const {
    Tape::Held held(all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      if (pulls_.empty() || reads_.count(static_cast<int>(i)) > 0) {
        held[i] = all[i];
      }
    }
    return held;
  }

  // What the program gives for `given`, with its gradients, by a tape of both; nothing where there
  // is none.
  std::optional<Both> both(
      const std::vector<int>& wanted, const std::vector<int>& used,
      const std::vector<mx::array>& seeds, std::vector<mx::array> given) {
    const Pull* pull = find(both_, wanted, used);
    if (pull == nullptr) {
      learn_both(wanted, used, seeds);
      pull = find(both_, wanted, used);
    }
    if (!pull->tape.has_value()) {
      return std::nullopt;
    }
    given.insert(given.end(), seeds.begin(), seeds.end());
    const auto all = pull->tape->play(std::move(given));
    const auto& gives = pull->tape->gives();
    const size_t count = gives.size() - pull->found.size();
    Both made{{}, Found(wanted.size())};
    for (size_t i = 0; i < gives.size(); ++i) {
      if (i < count) {
        made.results.push_back(all[gives[i]]);
      } else {
        made.gradients[pull->found[i - count]] = all[gives[i]];
      }
    }
    return made;
  }

  // The gradients `wanted` (positions of inputs), of what the outputs `used` receive; nothing where
  // no tape makes them of what is `held`. `bounded`: the graph behind that is short.
  std::optional<Found> pull(
      const std::vector<int>& wanted, const std::vector<int>& used,
      const std::vector<mx::array>& seeds, const Tape::Held& held, bool bounded) {
    const Pull* pull = find(pulls_, wanted, used);
    if (pull == nullptr) {
      learn(wanted, used, seeds);
      pull = find(pulls_, wanted, used);
    }
    if (!pull->tape.has_value()) {
      return std::nullopt;
    }
    for (const int place : pull->tape->sources()) {
      if (!held[place].has_value()) {
        return std::nullopt;
      }
      compute(*held[place], bounded);
    }
    const auto all = pull->tape->play(seeds, &held);
    Found found(wanted.size());
    const auto& gives = pull->tape->gives();
    for (size_t i = 0; i < gives.size(); ++i) {
      found[pull->found[i]] = all[gives[i]];
    }
    return found;
  }

 private:
  struct Pull {
    std::vector<int> wanted, used;
    std::optional<Tape> tape;
    std::vector<int> found;  // which of `wanted` it gives; the others receive nothing
  };

  using Pulls = std::vector<std::unique_ptr<Pull>>;

  static const Pull* find(
      const Pulls& pulls, const std::vector<int>& wanted, const std::vector<int>& used) {
    for (const auto& pull : pulls) {
      if (pull->wanted == wanted && pull->used == used) {
        return pull.get();
      }
    }
    return nullptr;
  }

  // Ask Python once, of arrays without values: a gradient or None for each of `wanted`; None where
  // the whole has no graph of its own.
  void learn(
      const std::vector<int>& wanted, const std::vector<int>& used,
      const std::vector<mx::array>& like) {
    auto pull = std::make_unique<Pull>(Pull{wanted, used, std::nullopt, {}});
    const auto seeds = stand_ins(like);
    const auto given = asked(writer_.get(), wanted, used, seeds);
    if (given.has_value()) {
      std::vector<mx::array> gradients;
      put(*given, gradients, pull->found);
      pull->tape = Tape::of(seeds, gradients, &forward_);
    }
    if (pull->tape.has_value()) {
      pull->tape->close();
      reads_.insert(pull->tape->sources().begin(), pull->tape->sources().end());
    }
    pulls_.push_back(std::move(pull));
  }

  // The same for the results and gradients of one program.
  void learn_both(
      const std::vector<int>& wanted, const std::vector<int>& used,
      const std::vector<mx::array>& like) {
    auto pull = std::make_unique<Pull>(Pull{wanted, used, std::nullopt, {}});
    const auto seeds = stand_ins(like);
    auto given = asked_both(writer_.get(), wanted, used, seeds);
    if (given.has_value()) {
      put(given->gradients, given->results, pull->found);
      std::vector<mx::array> inputs(recorded_);
      inputs.insert(inputs.end(), seeds.begin(), seeds.end());
      pull->tape = Tape::of(inputs, given->results);
    }
    if (pull->tape.has_value()) {
      pull->tape->close();
    }
    both_.push_back(std::move(pull));
  }

  static std::vector<mx::array> stand_ins(const std::vector<mx::array>& like) {
    std::vector<mx::array> made;
    for (const auto& array : like) {
      made.emplace_back(array.shape(), array.dtype(), nullptr, std::vector<mx::array>{});
    }
    return made;
  }

  // Append those gradients that are there, and which they are.
  static void put(const Found& given, std::vector<mx::array>& arrays, std::vector<int>& found) {
    for (size_t i = 0; i < given.size(); ++i) {
      if (given[i].has_value()) {
        arrays.push_back(*given[i]);
        found.push_back(static_cast<int>(i));
      }
    }
  }

  const Tape forward_;
  const std::vector<mx::array> recorded_;  // so that nothing else gets their names
  const Held writer_;
  Pulls pulls_;
  Pulls both_;
  std::set<int> reads_;  // places of the program's tape
};

}  // namespace zmlx
