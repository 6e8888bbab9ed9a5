// zmlx_native: compiled kernels as lazy MLX primitives.
//
// Built once on the user's machine against the headers of the installed mlx. Python hands in a
// shared library and a description of a kernel; calling the resulting Kernel with arrays gives lazy
// arrays. Nothing here touches Python once a call has been built.
#undef _FORTIFY_SOURCE  // its longjmp refuses to change stacks, which fibers do
#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700  // macOS hides ucontext.h otherwise
#endif
#ifndef _DARWIN_C_SOURCE
#define _DARWIN_C_SOURCE 1
#endif
#include <nanobind/nanobind.h>

#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "compiled.h"
#include "grid.h"
#include "handed.h"
#include "hosted.h"
#include "known.h"
#include "launch.h"
#include "library.h"
#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"
#include "pulls.h"
#include "ready.h"
#include "repeater.h"
#include "ruled.h"
#include "settle.h"
#include "tapes.h"
#include "tracing.h"
#include "whole.h"

namespace nb = nanobind;

namespace zmlx {

mx::Stream current_stream() {
  const mx::Device& device = mx::default_device();
  return mx::default_stream(device == mx::Device::cpu ? device : mx::Device(mx::Device::cpu));
}

class Kernel {
 public:
  explicit Kernel(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}

  // Lazy results for `sequence`, with `rules` unless they are None.
  nb::list call(nb::handle sequence, nb::handle rules) const {
    nb::list results;
    for (auto& array : made(arrays_of(sequence), rules)) {
      results.append(nb::cast(std::move(array)));
    }
    return results;
  }

  std::vector<mx::array> made(std::vector<mx::array> inputs, nb::handle rules) const {
    compiled_->check(inputs);
    mx::Shape shape = compiled_->output_shape(inputs);
    settle_traced(inputs);
    std::shared_ptr<mx::Primitive> primitive =
        std::make_shared<HostKernel>(current_stream(), HostKernel::Kernels{compiled_});
    const Shapes shapes(compiled_->outputs.size(), shape);
    std::vector<mx::array> outputs;
    if (made_now(Runner(*primitive), shapes, compiled_->dtypes(), inputs, outputs)) {
      return outputs;
    }
    if (!rules.is_none()) {
      Held::bury();
      primitive = std::make_shared<Ruled>(std::move(primitive), rules);
    }
    if (shapes.size() == 1) {
      return {mx::array(
          std::move(shape), compiled_->outputs[0].dtype, std::move(primitive), std::move(inputs))};
    }
    return mx::array::make_arrays(shapes, compiled_->dtypes(), primitive, inputs);
  }

  const std::string& name() const {
    return compiled_->name;
  }

  // Remember in `pulls` that this kernel, with `rules`, computes exactly the gradients `wanted` from
  // the primals and the cotangents of the outputs `used`: it reads these of them, and gives those.
  void pull(
      Pulls& pulls, nb::handle wanted, nb::handle used, nb::handle reads, nb::handle gives,
      nb::object rules) const {
    auto run = [launch = with(std::move(rules)), reads = numbers_of(reads),
                gives = numbers_of(gives)](const std::vector<mx::array>& inputs) {
      return picked(launch(picked(inputs, reads)), gives);
    };
    pulls.add(numbers_of(wanted), numbers_of(used), std::move(run));
  }

  const std::shared_ptr<const Compiled>& compiled() const {
    return compiled_;
  }

 private:
  Pulls::Pull with(nb::object rules) const {
    return [kernel = *this, rules](const std::vector<mx::array>& inputs) {
      return kernel.made(inputs, rules);
    };
  }

  std::shared_ptr<const Compiled> compiled_;
};

// Kernels that wait for nothing of each other, launched as one.
class Group {
 public:
  explicit Group(nb::handle kernels) {
    for (nb::handle kernel : kernels) {
      kernels_.push_back(nb::cast<const Kernel&>(kernel).compiled());
    }
  }

  // Lazy results for the arrays of all, one kernel after another.
  nb::list call(nb::handle sequence) const {
    const std::vector<mx::array> inputs = arrays_of(sequence);
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    size_t reads = 0;
    for (const auto& kernel : kernels_) {
      const size_t end = reads + kernel->inputs.size();
      if (end > inputs.size()) {
        kernel->fail("needs more arrays", inputs);
      }
      const std::vector<mx::array> own(inputs.begin() + reads, inputs.begin() + end);
      kernel->check(own);
      shapes.insert(shapes.end(), kernel->outputs.size(), kernel->output_shape(own));
      for (const auto dtype : kernel->dtypes()) {
        dtypes.push_back(dtype);
      }
      reads = end;
    }
    const auto primitive = std::make_shared<HostKernel>(current_stream(), kernels_);
    std::vector<mx::array> outputs;
    if (!made_now(Runner(*primitive), shapes, dtypes, inputs, outputs)) {
      outputs = mx::array::make_arrays(std::move(shapes), dtypes, primitive, inputs);
    }
    return list_of(outputs);
  }

 private:
  HostKernel::Kernels kernels_;
};

mx::Dtype dtype_named(const std::string& name) {
  static const std::unordered_map<std::string, mx::Dtype> kDtypes{
      {"bool", mx::bool_},       {"int8", mx::int8},       {"int16", mx::int16},
      {"int32", mx::int32},      {"int64", mx::int64},     {"uint8", mx::uint8},
      {"uint16", mx::uint16},    {"uint32", mx::uint32},   {"uint64", mx::uint64},
      {"float16", mx::float16},  {"float32", mx::float32}, {"bfloat16", mx::bfloat16}};
  const auto found = kDtypes.find(name);
  if (found == kDtypes.end()) {
    throw std::invalid_argument("[zmlx.device] no kernel can hold elements of type " + name + ".");
  }
  return found->second;
}

std::string text_of(nb::handle object) {
  return nb::cast<const char*>(object);
}

std::vector<Argument> arguments_of(nb::handle sequence) {
  std::vector<Argument> arguments;
  for (nb::handle item : sequence) {
    const std::string dtype = text_of(item[1]);
    arguments.push_back({text_of(item[0]), dtype, dtype_named(dtype), nb::cast<int>(item[2])});
  }
  return arguments;
}

// Loads `symbol` from the shared library at `path`; arguments are (name, dtype, rank) triples.
Kernel load(
    const char* path, const char* symbol, const char* name, nb::handle inputs, nb::handle outputs,
    int rank, int threads) {
  auto compiled = std::make_shared<Compiled>(
      name, path, symbol, arguments_of(inputs), arguments_of(outputs), rank, threads);
  return Kernel(std::move(compiled));
}

// What a kernel is made for, as bytes: the default device, in capitals where sizes of traced arrays
// are examples; then for each array its type, its rank, and for each size whether it is one. None where
// an item is no array. Else the same bytes as zmlx.device.signature.portable.
nb::object signature(nb::handle sequence) {
  std::string text(1, device_sign());
  bool traced = false;
  for (nb::handle item : sequence) {
    const mx::array* array = nullptr;
    if (!nb::try_cast<const mx::array*>(item, array) || array == nullptr) {
      return nb::none();
    }
    sign(text, *array);
    traced = traced || array->is_tracer();
  }
  if (traced) {
    sign_traced(text);
  }
  return nb::bytes(text.data(), text.size());
}

bool any_tracer(nb::handle sequence) {
  for (nb::handle item : sequence) {
    if (nb::cast<const mx::array&>(item).is_tracer()) {
      return true;
    }
  }
  return false;
}

// What tells an array from what it is after it was written in place: MLX gives it another one then.
nb::object identities(nb::handle sequence) {
  nb::list found;
  for (nb::handle item : sequence) {
    found.append(nb::cast<const mx::array&>(item).id());
  }
  return found;
}

}  // namespace zmlx

NB_MODULE(zmlx_native, m) {
  // False when this module and mlx.core were built with different nanobinds and share no types.
  m.def("linked", [] { return nb::type<zmlx::mx::array>().is_valid(); });
  m.def("load", &zmlx::load);
  m.def("any_crosses", &zmlx::any_crosses, nb::arg("arrays"));
  m.def("any_tracer", &zmlx::any_tracer, nb::arg("arrays"));
  m.def("identities", &zmlx::identities, nb::arg("arrays"));
  m.def("ruled", &zmlx::ruled, nb::arg("outputs"), nb::arg("rules"));
  m.def("signature", &zmlx::signature, nb::arg("arrays"));
  m.def("set_at_once", [](bool on) { return zmlx::at_once().exchange(on); }, nb::arg("on"));
  m.def(
      "compiled_cuda", &zmlx::compiled_cuda, nb::arg("name"), nb::arg("code"), nb::arg("inputs"),
      nb::arg("reads"), nb::arg("grid"), nb::arg("threadgroup"), nb::arg("output_shapes"),
      nb::arg("output_dtypes"), nb::arg("init").none(), nb::arg("ensure_row_contiguous"));
  zmlx::bind_grid(m);
  zmlx::bind_known(m);
  zmlx::bind_tapes(m);
  m.def(
      "pull_between", &zmlx::pull_between, nb::arg("moving"), nb::arg("stops"), nb::arg("ends"),
      nb::arg("seeds"));
  m.def("handed", &zmlx::handed, nb::arg("results"), nb::arg("arrays"), nb::arg("rules"));
  m.def("whole", &zmlx::whole_by, nb::arg("inputs"), nb::arg("results"), nb::arg("writer"));
  m.def("reached", &zmlx::reached, nb::arg("moving"), nb::arg("stops"), nb::arg("ends"));
  zmlx::bind_tracing(m);
  nb::class_<zmlx::Repeater>(m, "Repeater")
      .def(nb::init<bool>(), nb::arg("contiguous") = false)
      .def("__call__", &zmlx::Repeater::call, nb::arg("arrays"), nb::arg("rules") = nb::none())
      .def("learn", &zmlx::Repeater::learn, nb::arg("arrays"), nb::arg("outputs"));
  nb::class_<zmlx::Pulls>(m, "Pulls").def(nb::init<>());
  nb::class_<zmlx::Group>(m, "Group")
      .def(nb::init<nb::handle>(), nb::arg("kernels"))
      .def("__call__", &zmlx::Group::call, nb::arg("arrays"));
  nb::class_<zmlx::Kernel>(m, "Kernel", nb::is_weak_referenceable())
      .def("__call__", &zmlx::Kernel::call, nb::arg("arrays"), nb::arg("rules") = nb::none())
      .def(
          "pull", &zmlx::Kernel::pull, nb::arg("pulls"), nb::arg("wanted"), nb::arg("used"),
          nb::arg("reads"), nb::arg("gives"), nb::arg("rules"))
      .def_prop_ro("name", [](const zmlx::Kernel& kernel) { return kernel.name().c_str(); });
}
