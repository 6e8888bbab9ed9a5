// Hand-written kernels as lazy MLX primitives: launched over a grid of threads, as Metal does.
//
// Kernels without barriers and shared memory run as plain loops over whole groups; the others as
// fibers (crew.h). Python is zmlx/device/host_grid.py.
#pragma once

#include <dlfcn.h>
#include <nanobind/nanobind.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "crew.h"
#include "fill.h"
#include "launch.h"
#include "library.h"
#include "memory.h"
#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "pool.h"
#include "ready.h"
#include "repeater.h"
#include "ruled.h"
#include "sanitized.h"

namespace zmlx {

namespace nb = nanobind;
namespace mx = mlx::core;

mx::Dtype dtype_named(const std::string& name);
mx::Stream current_stream();

using GroupsEntry = void (*)(const Grid*, int64_t first, int64_t last);

// A loaded kernel; `groups` runs it without fibers, else `thread` runs one thread of it.
struct Written {
  std::string name;
  GroupsEntry groups = nullptr;
  ThreadEntry thread = nullptr;
  bool watched = false;
  bool contiguous = false;  // it reads arrays row after row
  int width = 1;  // threads of the CPU, at most
  std::shared_ptr<const Library> library;
  Names names;  // of a watched kernel's arrays
};

struct GridLaunch {
  std::shared_ptr<const Written> kernel;
  std::array<uint32_t, 3> grid;
  std::array<uint32_t, 3> group;
  std::vector<mx::Dtype> dtypes;
  bool fills = false;
  double fill = 0.0;

  bool same(const GridLaunch& other) const {
    return kernel == other.kernel && grid == other.grid && group == other.group &&
        dtypes == other.dtypes && fills == other.fills &&
        std::memcmp(&fill, &other.fill, sizeof(fill)) == 0;
  }

  int64_t groups() const {
    int64_t count = 1;
    for (int d = 0; d < 3; ++d) {
      count *= (int64_t(grid[d]) + group[d] - 1) / group[d];
    }
    return count;
  }
};

// The arrays of one launch, as the kernel sees them.
struct Bound {
  std::vector<void*> data;
  std::vector<mx::Shape> shapes;
  std::vector<mx::Strides> strides;
  mx::SmallVector<const int32_t*, kAtHand> shape_pointers;
  mx::SmallVector<const int64_t*, kAtHand> stride_pointers;
  mx::SmallVector<int32_t, kAtHand> ranks;
  mx::SmallVector<size_t, kAtHand> sizes;  // of the outputs
  int64_t elements = 0;  // read or written: a sum of much writes little

  // `outputs` get their memory.
  Bound(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
    data.reserve(inputs.size() + outputs.size());
    shapes.reserve(inputs.size());
    strides.reserve(inputs.size());
    for (const auto& input : inputs) {
      data.push_back(const_cast<char*>(input.data<char>()));
      shapes.push_back(input.shape());
      strides.push_back(input.strides());
      ranks.push_back(static_cast<int32_t>(input.ndim()));
      elements += static_cast<int64_t>(input.size());
    }
    for (auto& output : outputs) {
      allocate(output);
      data.push_back(output.data<char>());
      sizes.push_back(output.size());
      elements += static_cast<int64_t>(output.size());
    }
  }

  Grid grid(const GridLaunch& launch) {
    shape_pointers.clear();
    stride_pointers.clear();
    for (size_t i = 0; i < shapes.size(); ++i) {
      shape_pointers.push_back(shapes[i].data());
      stride_pointers.push_back(strides[i].data());
    }
    return {
        data.data(), shape_pointers.data(), stride_pointers.data(), ranks.data(),
        {launch.grid[0], launch.grid[1], launch.grid[2]},
        {launch.group[0], launch.group[1], launch.group[2]}};
  }
};

class GridKernel : public mx::Primitive, public Ready {
 public:
  GridKernel(mx::Stream stream, GridLaunch launch, std::vector<mx::Shape> shapes)
      : mx::Primitive(stream), launch_(std::move(launch)), shapes_(std::move(shapes)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    if (launch_.kernel->watched) {
      eval_watched(inputs, outputs);
      return;
    }
    auto bound = std::make_shared<Bound>(inputs, outputs);
    mx::cpu::get_command_encoder(stream()).dispatch(
        [bound = std::move(bound), launch = launch_] { run(launch, *bound); });
  }

  bool is_ready() const override {
    return launch_.kernel->groups != nullptr && !launch_.kernel->watched;
  }

  void now(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    Bound bound(inputs, outputs);
    run(launch_, bound);
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("[zmlx.device] " + launch_.kernel->name + " runs on the CPU only.");
  }

  const char* name() const override {
    return launch_.kernel->name.c_str();
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto* same = dynamic_cast<const GridKernel*>(&other);
    return same != nullptr && same->launch_.same(launch_) && same->shapes_ == shapes_;
  }

 private:
  // At once, on the thread that evaluates, so that what was found is raised where it can be seen.
  void eval_watched(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
    mx::synchronize(stream());
    Sanitizer sanitizer(watching());
    Sandbox sandbox(sanitizer, launch_.kernel->names);
    for (const auto& input : inputs) {
      sandbox.add_input(input);
    }
    for (auto& output : outputs) {
      allocate(output);
      sandbox.add_output(output, launch_.fills, launch_.fill);
    }
    const Grid grid = sandbox.grid(launch_.grid.data(), launch_.group.data());
    run_watched(sanitizer, launch_.kernel->thread, grid, launch_.groups());
    auto findings = sanitizer.findings();
    if (!findings.empty()) {
      SanitizeFault fault(launch_.kernel->name, launch_.kernel->library, std::move(findings));
      if (fault.wrong()) {
        throw fault;
      }
      Notes::mine().add(std::move(fault));
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      sandbox.copy_output(i, outputs[i]);
    }
  }

  struct Task {
    const GridLaunch* launch;
    const Grid* grid;

    static void run(void* self, int64_t begin, int64_t end) {
      const auto* task = static_cast<Task*>(self);
      if (task->launch->kernel->groups != nullptr) {
        task->launch->kernel->groups(task->grid, begin, end);
        return;
      }
      Crew& crew = Crew::mine();
      crew.begin(task->launch->kernel->thread, task->grid, nullptr);
      for (int64_t group = begin; group < end; ++group) {
        crew.run_group(group);
      }
    }
  };

  // Few threads, which read and write few elements, are not worth waking another CPU thread for,
  // unless they are fibers.
  static void run(const GridLaunch& launch, Bound& bound) {
    const size_t first = bound.data.size() - bound.sizes.size();
    for (size_t i = 0; launch.fills && i < bound.sizes.size(); ++i) {
      fill(bound.data[first + i], bound.sizes[i], launch.dtypes[i], launch.fill);
    }
    const Grid grid = bound.grid(launch);
    Task task{&launch, &grid};
    const int64_t groups = launch.groups();
    const int64_t threads = int64_t(grid.grid[0]) * grid.grid[1] * grid.grid[2];
    const int64_t few = launch.kernel->groups != nullptr ? 1 << 13 : 64;
    const bool little = threads < few && bound.elements <= kInline;
    const int64_t bites = little ? 1 : 8 * static_cast<int64_t>(launch.kernel->width);
    const int64_t grain = std::max<int64_t>(1, (groups + bites - 1) / bites);
    Pool::run(&Task::run, &task, groups, grain, launch.kernel->width);
  }

  const GridLaunch launch_;
  const std::vector<mx::Shape> shapes_;
};

class WrittenKernel {
 public:
  explicit WrittenKernel(std::shared_ptr<const Written> written) : written_(std::move(written)) {}

  // Lazy outputs of one launch; `init` is None or a number.
  nb::list call(
      nb::handle arrays, nb::handle grid, nb::handle group, nb::handle shapes, nb::handle dtypes,
      nb::handle init) const {
    GridLaunch launch{written_, triple(grid), triple(group), {}, !init.is_none()};
    for (int d = 0; d < 3; ++d) {
      launch.group[d] = std::min(launch.group[d], launch.grid[d]);
    }
    launch.fill = launch.fills ? nb::cast<double>(init) : 0.0;
    std::vector<mx::Shape> sizes;
    for (nb::handle shape : shapes) {
      mx::Shape& size = sizes.emplace_back();
      for (nb::handle n : shape) {
        size.push_back(nb::cast<int>(n));
      }
    }
    for (nb::handle name : dtypes) {
      launch.dtypes.push_back(dtype_named(nb::cast<const char*>(name)));
    }
    const std::vector<mx::Dtype> kinds = launch.dtypes;
    std::vector<mx::array> inputs = arrays_of(arrays);
    for (auto& input : inputs) {
      input = written_->contiguous ? in_rows(input) : input;
    }
    auto primitive = std::make_shared<GridKernel>(current_stream(), std::move(launch), sizes);
    nb::list results;
    for (auto& array :
         mx::array::make_arrays(std::move(sizes), kinds, primitive, std::move(inputs))) {
      results.append(nb::cast(std::move(array)));
    }
    return results;
  }

 private:
  static std::array<uint32_t, 3> triple(nb::handle three) {
    return {nb::cast<uint32_t>(three[0]), nb::cast<uint32_t>(three[1]), nb::cast<uint32_t>(three[2])};
  }

  std::shared_ptr<const Written> written_;
};

inline std::vector<std::string> texts_of(nb::handle sequence) {
  std::vector<std::string> texts;
  for (nb::handle item : sequence) {
    texts.push_back(nb::cast<const char*>(item));
  }
  return texts;
}

// Loads a library that zmlx/device/host_grid.py wrote; `fibers` says which entry it has, names of
// inputs and outputs that it is to be watched.
inline WrittenKernel load_written(
    const char* path, const char* name, bool fibers, int threads, bool contiguous,
    nb::handle inputs, nb::handle outputs) {
  auto library = std::make_shared<Library>(path);
  library->guard("zm_entry");
  auto attach = library->symbol<void (*)(const Runtime*)>("zm_attach");
  auto written = std::make_shared<Written>();
  written->name = name;
  written->width = threads;
  written->contiguous = contiguous;
  written->library = library;
  written->watched = !inputs.is_none();
  attach(written->watched ? watched_runtime() : Crew::runtime());
  if (written->watched) {
    library->symbol<void (*)(const Hooks*)>("zm_attach_hooks")(watched_hooks());
    written->names = {texts_of(inputs), texts_of(outputs)};
  }
  if (fibers || written->watched) {
    written->thread = library->symbol<ThreadEntry>("zm_entry");
  } else {
    written->groups = library->symbol<GroupsEntry>("zm_entry");
  }
  return WrittenKernel(std::move(written));
}

// An address in the kernel's library as an offset, or line and file.
inline nb::tuple site_tuple(const Site& site) {
  Dl_info info;
  int64_t offset = -1;
  if (site.address != 0 && dladdr(reinterpret_cast<void*>(site.address), &info) != 0) {
    offset = static_cast<int64_t>(site.address - reinterpret_cast<uintptr_t>(info.dli_fbase)) - 1;
  }
  return nb::make_tuple(offset, site.line, site.file.c_str());
}

inline nb::tuple triple_tuple(const uint32_t* v) {
  return nb::make_tuple(v[0], v[1], v[2]);
}

// Kernel, library and findings.
inline nb::tuple fault_tuple(const SanitizeFault& fault) {
  nb::list findings;
  for (const Finding& f : fault.findings) {
    findings.append(nb::make_tuple(
        f.kind.c_str(), f.buffer.c_str(), f.index, f.size, f.count, site_tuple(f.site),
        site_tuple(f.other_site), triple_tuple(f.place.group), triple_tuple(f.place.at),
        triple_tuple(f.other_place.group), triple_tuple(f.other_place.at), f.column));
  }
  return nb::make_tuple(fault.kernel.c_str(), fault.library->path().c_str(), findings);
}

// Notes of the launches since the last call.
inline nb::list notes() {
  nb::list all;
  for (const SanitizeFault& fault : Notes::mine().take()) {
    all.append(fault_tuple(fault));
  }
  return all;
}

// Python's zmlx.device.sanitize turns the findings into a SanitizeError.
inline void raise_fault(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const SanitizeFault& fault) {
    nb::object error = nb::module_::import_("zmlx.device.sanitize")
                           .attr("error")(*fault_tuple(fault));
    PyErr_SetObject(error.type().ptr(), error.ptr());
  }
}

inline void bind_grid(nb::module_& m) {
  nb::register_exception_translator(&raise_fault);
  m.def("notes", &notes);
  m.def(
      "load_written", &load_written, nb::arg("path"), nb::arg("name"), nb::arg("fibers"),
      nb::arg("threads"), nb::arg("contiguous"), nb::arg("inputs").none(), nb::arg("outputs").none());
  nb::class_<WrittenKernel>(m, "WrittenKernel")
      .def(
          "__call__", &WrittenKernel::call, nb::arg("arrays"), nb::arg("grid"),
          nb::arg("threadgroup"), nb::arg("shapes"), nb::arg("dtypes"), nb::arg("init").none());
}

}  // namespace zmlx
