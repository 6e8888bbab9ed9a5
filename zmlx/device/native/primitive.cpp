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
#include <sys/mman.h>

#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "chain.h"
#include "compiled.h"
#include "grid.h"
#include "known.h"
#include "launch.h"
#include "library.h"
#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"
#include "pulls.h"
#include "repeater.h"
#include "over.h"
#include "passing.h"
#include "ruled.h"
#include "settle.h"
#include "tapes.h"
#include "tracing.h"

namespace nb = nanobind;

namespace zmlx {

struct Argument {
  std::string name;
  std::string dtype_name;
  mx::Dtype dtype;
  int rank;
};

// A loaded kernel.
struct Compiled {
  std::string name;
  Library library;
  Entry entry;
  std::vector<Argument> inputs;
  std::vector<Argument> outputs;
  int rank;
  int width;  // threads, at most

  Compiled(
      const char* name, const char* path, const char* symbol, std::vector<Argument> inputs,
      std::vector<Argument> outputs, int rank, int width)
      : name(name), library(path), entry(library.symbol<Entry>(symbol)), inputs(std::move(inputs)),
        outputs(std::move(outputs)), rank(rank), width(width) {}

  // The broadcast of the inputs' shapes, padded on the left to `rank` dimensions.
  mx::Shape output_shape(const std::vector<mx::array>& arrays) const {
    mx::Shape shape(static_cast<size_t>(rank), 1);
    for (const auto& array : arrays) {
      const int offset = rank - static_cast<int>(array.ndim());
      for (int own = 0; own < static_cast<int>(array.ndim()); ++own) {
        const auto size = array.shape()[own];
        const int d = own + offset;
        if (size == 1) {
          continue;
        }
        if (d < 0 || (shape[d] != 1 && shape[d] != size)) {
          fail("shapes do not broadcast", arrays);
        }
        shape[d] = size;
      }
    }
    return shape;
  }

  void check(const std::vector<mx::array>& arrays) const {
    if (arrays.size() != inputs.size()) {
      fail("needs " + std::to_string(inputs.size()) + " arrays", arrays);
    }
    for (size_t i = 0; i < arrays.size(); ++i) {
      if (arrays[i].dtype() != inputs[i].dtype) {
        fail(inputs[i].name + " must be " + inputs[i].dtype_name, arrays);
      }
      if (static_cast<int>(arrays[i].ndim()) != inputs[i].rank) {
        fail(inputs[i].name + " must have rank " + std::to_string(inputs[i].rank), arrays);
      }
    }
  }

  [[noreturn]] void fail(const std::string& what, const std::vector<mx::array>& arrays) const {
    std::ostringstream text;
    text << "[zmlx.device] kernel " << name << ": " << what << "; got";
    for (const auto& array : arrays) {
      text << " " << array.dtype() << array.shape();
    }
    text << (arrays.empty() ? " none." : ".") << " Pass arrays as the kernel declares them.";
    throw std::invalid_argument(text.str());
  }
};

// Fresh memory is faulted in page by page, half the time of a large kernel; huge pages end that.
void advise_huge(void* data, size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = uintptr_t(1) << 21;
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kPage - 1);
  if (end > begin) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#endif
}

// MLX's CPU allocator hands on a null pointer, and counts it as memory in use, where the system
// refuses; so a large request is tried first. The trial touches no page.
void require_memory(size_t bytes) {
  constexpr size_t kLarge = size_t(1) << 30;
  if (bytes < kLarge) {
    return;
  }
  void* volatile trial = std::malloc(bytes + sizeof(size_t));
  if (trial == nullptr) {
    throw std::runtime_error(
        "[zmlx.device] no memory for an output of " + std::to_string(bytes) + " bytes.");
  }
  std::free(trial);
}

class HostKernel : public mx::Primitive {
 public:
  HostKernel(mx::Stream stream, std::shared_ptr<const Compiled> kernel)
      : mx::Primitive(stream), kernel_(std::move(kernel)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto launch = std::make_shared<Launch>();
    launch->entry = kernel_->entry;
    launch->kernel = kernel_;
    launch->width = kernel_->width;
    launch->size = static_cast<int64_t>(outputs[0].size());
    Merger(inputs, outputs[0].shape()).present(*launch);
    for (const auto& input : inputs) {
      launch->data.push_back(const_cast<char*>(input.data<char>()));
    }
    std::vector<bool> taken(inputs.size(), false);
    for (auto& output : outputs) {
      allocate(output, inputs, taken);
      launch->data.push_back(output.data<char>());
    }
    if (launch->size == 0) {
      return;
    }
    mx::cpu::get_command_encoder(stream()).dispatch([launch] { launch->run(); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("[zmlx.device] kernel " + kernel_->name + " runs on the CPU only.");
  }

  const char* name() const override {
    return kernel_->name.c_str();
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto* same = dynamic_cast<const HostKernel*>(&other);
    return same != nullptr && same->kernel_ == kernel_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return std::vector<mx::Shape>(kernel_->outputs.size(), kernel_->output_shape(inputs));
  }

 private:
  // An input whose memory nobody else needs becomes the output: every element is read before it is
  // written, at the same place.
  static void allocate(
      mx::array& output, const std::vector<mx::array>& inputs, std::vector<bool>& taken) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto& input = inputs[i];
      if (!taken[i] && input.flags().row_contiguous && input.shape() == output.shape() &&
          input.itemsize() == output.itemsize() && input.is_donatable()) {
        taken[i] = true;
        output.copy_shared_buffer(input);
        return;
      }
    }
    require_memory(output.nbytes());
    output.set_data(mx::allocator::malloc(output.nbytes()));
    advise_huge(output.data<char>(), output.nbytes());
  }

  const std::shared_ptr<const Compiled> kernel_;
};

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
        std::make_shared<HostKernel>(current_stream(), compiled_);
    if (!rules.is_none()) {
      Held::bury();
      primitive = std::make_shared<Ruled>(std::move(primitive), rules);
    }
    if (compiled_->outputs.size() == 1) {
      return {mx::array(
          std::move(shape), compiled_->outputs[0].dtype, std::move(primitive), std::move(inputs))};
    }
    std::vector<mx::Shape> shapes(compiled_->outputs.size(), shape);
    std::vector<mx::Dtype> dtypes;
    for (const auto& output : compiled_->outputs) {
      dtypes.push_back(output.dtype);
    }
    return mx::array::make_arrays(std::move(shapes), dtypes, primitive, inputs);
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

  void link(Chain& chain, nb::handle reads, nb::object rules) const {
    chain.add(with(std::move(rules)), numbers_of(reads));
  }

 private:
  Pulls::Pull with(nb::object rules) const {
    return [kernel = *this, rules](const std::vector<mx::array>& inputs) {
      return kernel.made(inputs, rules);
    };
  }

  std::shared_ptr<const Compiled> compiled_;
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

// What a kernel is made for, as bytes: the default device; then for each array its type, its rank,
// and for each size whether it is one. None where an item is no array. The same bytes as
// zmlx.device.signature.portable.
nb::object signature(nb::handle sequence) {
  std::string text(1, device_sign());
  for (nb::handle item : sequence) {
    const mx::array* array = nullptr;
    if (!nb::try_cast<const mx::array*>(item, array) || array == nullptr) {
      return nb::none();
    }
    sign(text, *array);
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

}  // namespace zmlx

NB_MODULE(zmlx_native, m) {
  // False when this module and mlx.core were built with different nanobinds and share no types.
  m.def("linked", [] { return nb::type<zmlx::mx::array>().is_valid(); });
  m.def("load", &zmlx::load);
  m.def("any_crosses", &zmlx::any_crosses, nb::arg("arrays"));
  m.def("any_tracer", &zmlx::any_tracer, nb::arg("arrays"));
  m.def("ruled", &zmlx::ruled, nb::arg("outputs"), nb::arg("rules"));
  m.def(
      "over", &zmlx::over, nb::arg("outputs"), nb::arg("sources"), nb::arg("views"),
      nb::arg("places"), nb::arg("rules"));
  m.def(
      "passing", &zmlx::passing, nb::arg("results"), nb::arg("arrays"), nb::arg("passes"),
      nb::arg("rules"));
  m.def("signature", &zmlx::signature, nb::arg("arrays"));
  m.def(
      "compiled_cuda", &zmlx::compiled_cuda, nb::arg("name"), nb::arg("code"), nb::arg("inputs"),
      nb::arg("reads"), nb::arg("grid"), nb::arg("threadgroup"), nb::arg("output_shapes"),
      nb::arg("output_dtypes"), nb::arg("init").none(), nb::arg("ensure_row_contiguous"));
  zmlx::bind_grid(m);
  zmlx::bind_chain(m);
  zmlx::bind_known(m);
  zmlx::bind_tapes(m);
  zmlx::bind_tracing(m);
  nb::class_<zmlx::Repeater>(m, "Repeater")
      .def(nb::init<>())
      .def("__call__", &zmlx::Repeater::call, nb::arg("arrays"), nb::arg("rules") = nb::none())
      .def("learn", &zmlx::Repeater::learn, nb::arg("arrays"), nb::arg("outputs"));
  nb::class_<zmlx::Pulls>(m, "Pulls").def(nb::init<>());
  nb::class_<zmlx::Kernel>(m, "Kernel", nb::is_weak_referenceable())
      .def("__call__", &zmlx::Kernel::call, nb::arg("arrays"), nb::arg("rules") = nb::none())
      .def(
          "pull", &zmlx::Kernel::pull, nb::arg("pulls"), nb::arg("wanted"), nb::arg("used"),
          nb::arg("reads"), nb::arg("gives"), nb::arg("rules"))
      .def("link", &zmlx::Kernel::link, nb::arg("chain"), nb::arg("reads"), nb::arg("rules"))
      .def_prop_ro("name", [](const zmlx::Kernel& kernel) { return kernel.name().c_str(); });
}
