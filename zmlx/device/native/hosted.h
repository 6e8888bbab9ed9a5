// Generated kernels as lazy MLX primitives: one launch, or several that share a primitive.
//
// Launches that wait for nothing of each other (an optimizer's step over many arrays) cost MLX one task
// together, and small ones are shared out among the CPU's threads. primitive.cpp hands them to Python.
#pragma once

#include <algorithm>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "launch.h"
#include "library.h"
#include "memory.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "owned.h"
#include "pool.h"
#include "ready.h"

namespace zmlx {

namespace mx = mlx::core;

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
        outputs(std::move(outputs)), rank(rank), width(width) {
    library.guard(symbol);
  }

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

  std::vector<mx::Dtype> dtypes() const {
    std::vector<mx::Dtype> kinds;
    for (const auto& output : outputs) {
      kinds.push_back(output.dtype);
    }
    return kinds;
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

// The launches of one primitive, made ready; they share the threads of the CPU.
class Launches {
 public:
  void add(std::shared_ptr<const Launch> launch) {
    (launch->size > kInline ? large_ : small_).push_back(std::move(launch));
  }

  bool empty() const {
    return small_.empty() && large_.empty();
  }

  void run() {
    for (const auto& launch : large_) {
      launch->run();
    }
    int64_t elements = 0;
    int width = 1;
    for (const auto& launch : small_) {
      elements += launch->size;
      width = std::max(width, launch->width);
    }
    const auto count = static_cast<int64_t>(small_.size());
    Pool::run(&run_small, &small_, count, 1, elements > kInline ? width : 1);
  }

 private:
  using Ready = std::vector<std::shared_ptr<const Launch>>;

  static void run_small(void* self, int64_t begin, int64_t end) {
    const auto& launches = *static_cast<Ready*>(self);
    for (int64_t i = begin; i < end; ++i) {
      launches[i]->run();
    }
  }

  Ready small_, large_;
};

// Bytes of an output from which on it is worth looking for an input's memory.
constexpr size_t kOwned = 1 << 14;

// Reads the arrays of its kernels, one kernel after another, and gives their outputs so.
class HostKernel : public mx::Primitive, public Ready {
 public:
  using Kernels = std::vector<std::shared_ptr<const Compiled>>;

  HostKernel(mx::Stream stream, Kernels kernels)
      : mx::Primitive(stream), kernels_(std::move(kernels)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const bool little = outputs[0].nbytes() < kOwned;
    const Owned owned = little ? Owned() : Owned(inputs, outputs);
    auto launches = std::make_shared<Launches>(made(inputs, outputs, owned));
    if (!launches->empty()) {
      mx::cpu::get_command_encoder(stream()).dispatch([launches] { launches->run(); });
    }
  }

  void now(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    made(inputs, outputs, Owned()).run();
  }

  int64_t few() const override {
    return kernels_.size() == 1 ? kQuick : kFew;
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("[zmlx.device] kernel " + kernels_[0]->name + " runs on the CPU only.");
  }

  const char* name() const override {
    return kernels_[0]->name.c_str();
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto* same = dynamic_cast<const HostKernel*>(&other);
    return same != nullptr && same->kernels_ == kernels_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    std::vector<mx::Shape> shapes;
    size_t reads = 0;
    for (const auto& kernel : kernels_) {
      const auto first = inputs.begin() + reads;
      reads += kernel->inputs.size();
      const std::vector<mx::array> own(first, inputs.begin() + reads);
      shapes.insert(shapes.end(), kernel->outputs.size(), kernel->output_shape(own));
    }
    return shapes;
  }

 private:
  // The inputs of the primitive; those of one of its kernels begin at `first`.
  struct Reads {
    const std::vector<mx::array>& all;
    const Owned& owned;
    size_t first;
  };

  Launches made(
      const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs,
      const Owned& owned) const {
    Launches launches;
    size_t reads = 0, gives = 0;
    for (const auto& kernel : kernels_) {
      auto launch = ready(kernel, {inputs, owned, reads}, outputs, gives);
      reads += kernel->inputs.size();
      gives += kernel->outputs.size();
      if (launch->size > 0) {
        launches.add(std::move(launch));
      }
    }
    return launches;
  }

  static std::shared_ptr<const Launch> ready(
      const std::shared_ptr<const Compiled>& kernel, const Reads& reads,
      std::vector<mx::array>& outputs, size_t gives) {
    const auto begin = reads.all.begin() + reads.first;
    const std::vector<mx::array> inputs(begin, begin + kernel->inputs.size());
    auto launch = std::make_shared<Launch>();
    launch->entry = kernel->entry;
    launch->kernel = kernel;
    launch->width = kernel->width;
    launch->size = static_cast<int64_t>(outputs[gives].size());
    Merger(inputs, outputs[gives].shape()).present(*launch);
    launch->data.reserve(inputs.size() + kernel->outputs.size());
    for (const auto& input : inputs) {
      launch->data.push_back(const_cast<char*>(input.data<char>()));
    }
    std::vector<bool> taken(inputs.size(), false);
    for (size_t i = 0; i < kernel->outputs.size(); ++i) {
      mx::array& output = outputs[gives + i];
      take_or_allocate(output, inputs, reads, taken);
      launch->data.push_back(output.data<char>());
    }
    return launch;
  }

  // An input whose memory nobody else needs becomes the output: every element is read before it is
  // written, at the same place.
  static void take_or_allocate(
      mx::array& output, const std::vector<mx::array>& inputs, const Reads& reads,
      std::vector<bool>& taken) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto& input = inputs[i];
      if (!taken[i] && input.flags().row_contiguous && input.shape() == output.shape() &&
          input.itemsize() == output.itemsize() && reads.owned.alone(reads.first + i)) {
        taken[i] = true;
        output.copy_shared_buffer(input);
        return;
      }
    }
    allocate(output);
  }

  const Kernels kernels_;
};

}  // namespace zmlx
