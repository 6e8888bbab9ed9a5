// Known: the arguments of a call, told to have a structure that was met before.
//
// zmlx/trace/known.py writes a structure (zmlx/trace/tree.py) as a Node: what has to be where, and which
// leaves to take out. `match` walks the values of a call beside it. It says yes only where flattening
// would find that very structure; whatever it is not sure of is a no, and then Python flattens.
// Nothing here runs Python code of the values, so that they stay as they are while it reads.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/utils.h"
#include "tracing.h"

namespace zmlx {

namespace mx = mlx::core;
namespace nb = nanobind;

struct Node {
  // The numbers are those of zmlx/trace/known.py.
  enum Code { kArray, kNumber, kIs, kWeak, kFunction, kSame, kTuple, kObject, kSet };

  Code code;
  nb::object held;  // the type of a number, object or set; the value that it is, or a reference to it
  int number;  // of kSame: which container; of kObject: bit 0: has items, bit 1: has attributes
  std::vector<nb::object> keys;  // of dicts, None in lists; the members of a set
  std::vector<Node> nodes;
  size_t items = 0;  // how many of them are items, before attributes

  explicit Node(nb::handle written)
      : code(static_cast<Code>(nb::cast<int>(written[0]))), held(nb::borrow(written[1])),
        number(nb::cast<int>(written[2])) {
    for (nb::handle key : written[3]) {
      keys.push_back(nb::borrow(key));
    }
    for (nb::handle node : written[4]) {
      nodes.emplace_back(node);
    }
    items = nb::cast<size_t>(written[5]);
  }
};

// The bytes of an array in a signature, see `signature`.
inline void sign(std::string& text, const mx::array& array) {
  text.push_back(static_cast<char>(array.dtype().val()));
  text.push_back(static_cast<char>(array.ndim()));
  for (const auto size : array.shape()) {
    text.push_back(size == 1 ? '1' : 'n');
  }
}

inline char device_sign() {
  return mx::default_device() == mx::Device::cpu ? 'c' : 'g';
}

// Tell a signature of arrays that MLX traces, where their sizes are examples: its device in capitals.
inline void sign_traced(std::string& text) {
  if (traces_shapeless()) {
    text[0] = text[0] == 'c' ? 'C' : 'G';
  }
}

// One walk over the values of a call.
class Walk {
 public:
  explicit Walk(PyObject* drawn) : text_(1, device_sign()), drawn_(drawn) {}

  nb::list arrays, numbers, objects;

  bool all(const std::vector<Node>& nodes, PyObject* tuple) {
    if (!PyTuple_CheckExact(tuple) || PyTuple_GET_SIZE(tuple) != Py_ssize_t(nodes.size())) {
      return false;
    }
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (!one(nodes[i], PyTuple_GET_ITEM(tuple, i))) {
        return false;
      }
    }
    return true;
  }

  // The items of a dict under these keys, in their order: nodes [begin, end).
  bool items(const Node& node, PyObject* dict, size_t begin, size_t end) {
    if (PyDict_GET_SIZE(dict) != Py_ssize_t(end - begin)) {
      return false;
    }
    Py_ssize_t position = 0;
    PyObject *key, *value;
    for (size_t i = begin; PyDict_Next(dict, &position, &key, &value); ++i) {
      if (i >= end || key != node.keys[i].ptr() || !one(node.nodes[i], value)) {
        return false;
      }
    }
    return true;
  }

  // Whether no two containers are one.
  bool containers_apart() {
    return apart(met_);
  }

  bool arrays_apart() {
    return apart(read_);
  }

  const std::string& signature() {
    if (traced_) {
      sign_traced(text_);
    }
    return text_;
  }

 private:
  bool one(const Node& node, PyObject* borrowed) {
    const nb::object holder = nb::borrow(borrowed);  // a collection of garbage may run anything
    PyObject* const value = holder.ptr();
    switch (node.code) {
      case Node::kArray:
        return array(value);
      case Node::kNumber:
        if (reinterpret_cast<PyObject*>(Py_TYPE(value)) != node.held.ptr()) {
          return false;
        }
        numbers.append(nb::handle(value));
        return true;
      case Node::kIs:
        return value == node.held.ptr();
      case Node::kWeak:
        return value != Py_None && value == node.held().ptr();
      case Node::kFunction:
        return value != Py_None && value == node.held().ptr() && bare(value);
      case Node::kSame:
        return node.number < int(nb::len(objects)) && objects[node.number].ptr() == value;
      case Node::kTuple:
        return all(node.nodes, value);
      case Node::kObject:
        return object(node, value);
      case Node::kSet:
        return set(node, value);
    }
    return false;
  }

  bool array(PyObject* value) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(value)) != nb::type<mx::array>().ptr()) {
      return false;
    }
    arrays.append(nb::handle(value));
    read_.push_back(value);
    const mx::array& read = *nb::inst_ptr<mx::array>(nb::handle(value));
    sign(text_, read);
    traced_ = traced_ || read.is_tracer();
    return true;
  }

  void enter(PyObject* value) {
    objects.append(nb::handle(value));
    met_.push_back(value);
  }

  bool object(const Node& node, PyObject* value) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(value)) != node.held.ptr() || value == drawn_) {
      return false;
    }
    enter(value);
    if (node.number & 1) {
      if (PyList_Check(value) ? !list(node, value)
                              : !PyDict_Check(value) || !items(node, value, 0, node.items)) {
        return false;
      }
    }
    if (node.number & 2) {
      nb::object attributes = nb::steal(PyObject_GenericGetDict(value, nullptr));
      if (!attributes.is_valid()) {
        PyErr_Clear();
        return false;
      }
      return items(node, attributes.ptr(), node.items, node.nodes.size());
    }
    return true;
  }

  bool list(const Node& node, PyObject* value) {
    if (PyList_GET_SIZE(value) != Py_ssize_t(node.items)) {
      return false;
    }
    for (size_t i = 0; i < node.items; ++i) {
      if (PyList_GET_SIZE(value) <= Py_ssize_t(i) ||
          !one(node.nodes[i], PyList_GET_ITEM(value, i))) {
        return false;
      }
    }
    return true;
  }

  bool set(const Node& node, PyObject* value) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(value)) != node.held.ptr() ||
        PySet_GET_SIZE(value) != Py_ssize_t(node.keys.size())) {
      return false;
    }
    enter(value);
    if (node.keys.empty()) {
      return true;
    }
    for (nb::handle member : nb::borrow(value)) {
      const auto same = [&](const nb::object& key) { return key.ptr() == member.ptr(); };
      if (std::none_of(node.keys.begin(), node.keys.end(), same)) {
        return false;
      }
    }
    return true;
  }

  // Whether a function holds nothing: no closure, defaults or attributes.
  static bool bare(PyObject* value) {
    if (!PyFunction_Check(value)) {
      return false;
    }
    const auto* function = reinterpret_cast<PyFunctionObject*>(value);
    const auto none = [](PyObject* held) { return held == nullptr || held == Py_None; };
    const bool plain = function->func_dict == nullptr || PyDict_GET_SIZE(function->func_dict) == 0;
    return plain && none(PyFunction_GetClosure(value)) && none(PyFunction_GetDefaults(value)) &&
        none(PyFunction_GetKwDefaults(value));
  }

  static bool apart(std::vector<PyObject*>& values) {
    std::sort(values.begin(), values.end());
    return std::adjacent_find(values.begin(), values.end()) == values.end();
  }

  std::string text_;
  bool traced_ = false;
  PyObject* const drawn_;  // mx.random.state, which is no container
  std::vector<PyObject*> met_, read_;  // containers, arrays
};

class Known {
 public:
  // `written`: nodes of a tuple of positional arguments, of keyword arguments, of captured state.
  Known(nb::handle written, nb::object drawn)
      : args_(written[0]), kwargs_(written[1]), states_(written[2]), drawn_(std::move(drawn)) {}

  // (signature, arrays, numbers, objects, whether no two arrays are one) of a call with this
  // structure; None of any other.
  nb::object match(nb::handle args, nb::handle kwargs, nb::handle states) const {
    Walk walk(drawn_.ptr());
    const bool fits = PyDict_CheckExact(kwargs.ptr()) && walk.all(args_.nodes, args.ptr()) &&
        walk.items(kwargs_, kwargs.ptr(), 0, kwargs_.nodes.size()) &&
        walk.all(states_.nodes, states.ptr()) && walk.containers_apart();
    if (!fits) {
      return nb::none();
    }
    const std::string& text = walk.signature();
    return nb::make_tuple(
        nb::bytes(text.data(), text.size()), walk.arrays, walk.numbers, walk.objects,
        walk.arrays_apart());
  }

 private:
  const Node args_, kwargs_, states_;
  const nb::object drawn_;
};

inline void bind_known(nb::module_& m) {
  nb::class_<Known>(m, "Known")
      .def(nb::init<nb::handle, nb::object>(), nb::arg("written"), nb::arg("drawn"))
      .def("match", &Known::match, nb::arg("args"), nb::arg("kwargs"), nb::arg("states"));
}

}  // namespace zmlx
