// Tapes: what a Python function made of arrays, made again for others of the same shapes.
//
// A program of many steps spends its time in Python, and for the same shapes it makes the same graph
// of primitives each time. It is run once on stand-ins, arrays without values, and the graph that came
// of it is copied from then on, as mx.compile copies what it traced. Whatever would look at a value
// fails on a stand-in, so that nothing is put down that depends on one.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"
#include "repeater.h"
#include "ruled.h"
#include "settle.h"
#include "tape.h"
#include "tracing.h"
#include "whole.h"

namespace zmlx {

class Tapes {
 public:
  // The results for `items`, arrays and Python numbers; None where no tape is there for such ones.
  nb::object call(nb::handle items) {
    const Given given(items);
    const auto found = kept_.find(given.key);
    if (found == kept_.end() || !found->second.known() || given.shapeless()) {
      return nb::none();
    }
    Held::bury();
    settle_traced(given.arrays);
    const Kept& kept = found->second;
    const Tape& tape = kept.score ? kept.score->forward() : *kept.tape;
    const auto all = tape.play(given.arrays);
    return kept.score ? whole_of(given.arrays, all, kept.score) : list_of(picked(all, tape.gives()));
  }

  // Items like these to record a tape with; None where a tape was tried before. They are asked for by
  // the second call with such items, where MLX traces and `whole` by the first.
  nb::object stand_ins(nb::handle items, bool whole) {
    const Given given(items);
    if (given.key.empty() || given.shapeless()) {
      return nb::none();
    }
    if (kept_.size() >= kMost) {
      kept_.clear();
    }
    whole = whole && given.traced();
    Kept& kept = kept_[given.key];
    if (++kept.seen != (whole ? 1 : kSecond)) {
      return nb::none();
    }
    nb::list made;
    for (nb::handle item : items) {
      const mx::array* array = nullptr;
      if (!nb::try_cast<const mx::array*>(item, array)) {
        made.append(item);
        continue;
      }
      mx::array stand_in(array->shape(), array->dtype(), nullptr, {});
      stand_in.set_tracer(array->is_tracer());
      made.append(nb::cast(std::move(stand_in)));
    }
    return made;
  }

  // Keep how `outputs` were made of `stand_ins`, which stand for `items`. With a `writer` of gradients
  // (see Score) the results are one op to the transformation that traces `items`.
  void learn(nb::handle items, nb::handle stand_ins, nb::handle outputs, nb::handle writer) {
    const Given given(items);
    Kept& kept = kept_[given.key];
    auto inputs = Given(stand_ins).arrays;
    auto tape = Tape::of(inputs, arrays_of(outputs));
    if (tape.has_value() && !writer.is_none() && given.traced()) {
      kept.score = std::make_shared<Score>(std::move(*tape), std::move(inputs), writer);
    } else if (tape.has_value()) {
      tape->close();
      kept.tape = std::move(tape);
    }
  }

 private:
  static constexpr size_t kMost = 512;
  static constexpr int kSecond = 2;

  struct Kept {
    int seen = 0;
    std::optional<Tape> tape;      // or
    std::shared_ptr<Score> score;  // where MLX traces

    bool known() const {
      return tape.has_value() || score != nullptr;
    }
  };

  // Arrays, and all that decides which primitives are made of them: device, streams, numbers, and of
  // each array what can be told without its values. The key is empty where a number has no place in it.
  struct Given {
    std::vector<mx::array> arrays;
    std::string key;

    explicit Given(nb::handle items) {
      const mx::Device& device = mx::default_device();
      const bool here = device == mx::Device::cpu;
      put(mx::default_stream(device).index);
      put(here ? -1 : mx::default_stream(mx::Device(mx::Device::cpu)).index);
      bool known = true;
      key.reserve(64);
      for (nb::handle item : items) {
        const mx::array* array = nullptr;
        if (!nb::try_cast<const mx::array*>(item, array)) {
          known = number(item.ptr()) && known;
          continue;
        }
        key.push_back(static_cast<char>(array->dtype().val()));
        key.push_back(static_cast<char>(array->ndim()));
        key.push_back((array->is_tracer() ? 1 : 0) + (!here && crosses(*array) ? 2 : 0));
        for (const auto size : array->shape()) {
          put(static_cast<int32_t>(size));
        }
        arrays.push_back(*array);
      }
      if (!known) {
        key.clear();
      }
    }

    bool traced() const {
      return std::any_of(
          arrays.begin(), arrays.end(), [](const mx::array& array) { return array.is_tracer(); });
    }

    bool shapeless() const {
      return traced() && traces_shapeless();
    }

   private:
    template <typename T>
    void put(T number) {
      key.append(reinterpret_cast<const char*>(&number), sizeof number);
    }

    bool number(PyObject* item) {
      if (PyBool_Check(item)) {
        key.push_back(item == Py_True ? 'T' : 'F');
        return true;
      }
      if (PyFloat_CheckExact(item)) {
        key.push_back('d');
        put(PyFloat_AS_DOUBLE(item));
        return true;
      }
      int overflow = 1;
      const long long value = PyLong_CheckExact(item) ? PyLong_AsLongLongAndOverflow(item, &overflow) : 0;
      key.push_back('i');
      put(value);
      return overflow == 0;
    }
  };

  std::unordered_map<std::string, Kept> kept_;
};

inline void bind_tapes(nb::module_& m) {
  nb::class_<Tapes>(m, "Tapes")
      .def(nb::init<>())
      .def("__call__", &Tapes::call, nb::arg("items"))
      .def("stand_ins", &Tapes::stand_ins, nb::arg("items"), nb::arg("whole") = false)
      .def(
          "learn", &Tapes::learn, nb::arg("items"), nb::arg("stand_ins"), nb::arg("outputs"),
          nb::arg("writer") = nb::none());
}

}  // namespace zmlx
