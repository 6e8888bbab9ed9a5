// Tapes: what a Python function made of arrays, made again for others of the same shapes.
//
// A program of many steps spends its time in Python, and for the same shapes it makes the same graph
// of primitives each time. It is run once on stand-ins, arrays without values, and the graph that came
// of it is copied from then on, as mx.compile copies what it traced. Whatever would look at a value
// fails on a stand-in, so that nothing is put down that depends on one.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <functional>
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
#include "tracing.h"

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
  // The graph between `inputs` and `outputs`; nothing where it cannot be used again.
  static std::optional<Tape> of(
      const std::vector<mx::array>& inputs, const std::vector<mx::array>& outputs) {
    Tape tape;
    for (const auto& array : inputs) {
      tape.place(array);
    }
    for (const auto& array : outputs) {
      if (!tape.reach(array)) {
        return std::nullopt;
      }
      tape.gives_.push_back(tape.places_.at(array.id()));
    }
    tape.places_.clear();
    return tape;
  }

  nb::list play(std::vector<mx::array> arrays) const {
    arrays.reserve(size_);
    for (const auto& step : steps_) {
      if (step.constant.has_value()) {
        arrays.push_back(*step.constant);
        continue;
      }
      std::vector<mx::array> reads = picked(arrays, step.reads);
      if (step.again) {
        arrays.push_back(step.again(reads[0]));
        continue;
      }
      if (step.shapes.size() == 1) {
        arrays.emplace_back(step.shapes[0], step.dtypes[0], step.primitive, std::move(reads));
        continue;
      }
      auto shapes = step.shapes;
      for (auto& made :
           mx::array::make_arrays(std::move(shapes), step.dtypes, step.primitive, reads)) {
        arrays.push_back(std::move(made));
      }
    }
    return list_of(picked(arrays, gives_));
  }

 private:
  struct Step {
    std::optional<mx::array> constant;  // or what follows
    Again again;                        // in place of a primitive that cannot serve twice
    std::shared_ptr<mx::Primitive> primitive;
    std::vector<int> reads;
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
  };

  void place(const mx::array& array) {
    places_.insert_or_assign(array.id(), static_cast<int>(size_++));
  }

  bool known(const mx::array& array) const {
    return places_.count(array.id()) > 0;
  }

  // Put down all that `array` is computed from; whether all of it can be made again.
  bool reach(const mx::array& array) {
    std::vector<mx::array> open{array};
    while (!open.empty()) {
      const mx::array next = open.back();
      if (known(next)) {
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
    steps_.push_back(std::move(step));
  }

  size_t size_ = 0;
  std::unordered_map<std::uintptr_t, int> places_;
  std::vector<Step> steps_;
  std::vector<int> gives_;
};

class Tapes {
 public:
  // The results for `items`, arrays and Python numbers; None where no tape is there for such ones.
  nb::object call(nb::handle items) {
    const Given given(items);
    const auto found = kept_.find(given.key);
    if (found == kept_.end() || !found->second.tape.has_value() || given.shapeless()) {
      return nb::none();
    }
    Held::bury();
    settle_traced(given.arrays);
    return found->second.tape->play(given.arrays);
  }

  // Items like these to record a tape with; None unless such came before, and no tape was tried.
  nb::object stand_ins(nb::handle items) {
    const Given given(items);
    if (given.key.empty() || given.shapeless()) {
      return nb::none();
    }
    if (kept_.size() >= kMost) {
      kept_.clear();
    }
    Kept& kept = kept_[given.key];
    if (++kept.seen != kSecond) {
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

  // Keep how `outputs` were made of `stand_ins`, which stand for `items`.
  void learn(nb::handle items, nb::handle stand_ins, nb::handle outputs) {
    kept_[Given(items).key].tape = Tape::of(Given(stand_ins).arrays, arrays_of(outputs));
  }

 private:
  static constexpr size_t kMost = 512;
  static constexpr int kSecond = 2;

  struct Kept {
    int seen = 0;
    std::optional<Tape> tape;
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

    bool shapeless() const {
      for (const auto& array : arrays) {
        if (array.is_tracer()) {
          return traces_shapeless();
        }
      }
      return false;
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
      .def("stand_ins", &Tapes::stand_ins, nb::arg("items"))
      .def("learn", &Tapes::learn, nb::arg("items"), nb::arg("stand_ins"), nb::arg("outputs"));
}

}  // namespace zmlx
