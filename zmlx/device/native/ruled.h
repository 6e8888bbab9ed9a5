// Ruled: a lazy computation that MLX's transformations go through by rules written in Python.
//
// Wraps the primitive behind some outputs (a kernel of ours, or MLX's own custom kernel), which alone
// evaluates; vjp, jvp and vmap ask a Python object, with the primitive's stream as the current one.
// Unlike mx.custom_function it passes on which gradients are wanted, and nothing without a vmap stays
// in the graph.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"
#include "pulls.h"
#include "ready.h"
#include "settle.h"
#include "tracing.h"

namespace zmlx {

namespace mx = mlx::core;
namespace nb = nanobind;

// A Python object that a primitive holds. Primitives die on any thread, often without the
// interpreter's lock, so the reference is only put down; `bury` drops it where Python runs.
class Held {
 public:
  explicit Held(nb::handle object) : object_(object.inc_ref()) {}
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  ~Held() {
    std::lock_guard<std::mutex> lock(mutex());
    graveyard().push_back(object_);
  }

  nb::handle get() const {
    return object_;
  }

  static void bury() {
    std::vector<nb::handle> dead;
    {
      std::lock_guard<std::mutex> lock(mutex());
      dead.swap(graveyard());
    }
    for (nb::handle object : dead) {
      object.dec_ref();
    }
  }

 private:
  // Never destroyed: primitives may outlive static objects when the process ends.
  static std::mutex& mutex() {
    static auto* const kMutex = new std::mutex;
    return *kMutex;
  }
  static std::vector<nb::handle>& graveyard() {
    static auto* const kDead = new std::vector<nb::handle>;
    return *kDead;
  }

  nb::handle object_;
};

inline nb::list list_of(const std::vector<mx::array>& arrays) {
  nb::list items;
  for (const auto& array : arrays) {
    items.append(nb::cast(array));
  }
  return items;
}

inline nb::list list_of(const std::vector<int>& numbers) {
  nb::list items;
  for (const int number : numbers) {
    items.append(nb::int_(number));
  }
  return items;
}

inline std::vector<mx::array> arrays_of(nb::handle sequence) {
  std::vector<mx::array> arrays;
  arrays.reserve(nb::len(sequence));
  for (nb::handle item : sequence) {
    arrays.push_back(nb::cast<const mx::array&>(item));
  }
  return arrays;
}

// Whether `array` is lazily filled with an evaluated zero, as mx.zeros_like makes it.
inline bool is_zeros(const mx::array& array) {
  if (array.has_primitive()) {
    const std::string name = array.primitive().name();
    const bool fills = name == "Full" || name == "Broadcast" || name == "AsType";
    return fills && is_zeros(array.inputs()[0]);
  }
  if (array.size() != 1 || !array.is_available()) {
    return false;
  }
  const auto* bytes = array.data<char>();
  return std::all_of(bytes, bytes + array.itemsize(), [](char byte) { return byte == 0; });
}

// A stream and its device as the current ones; what they were comes back, also after an exception.
class Here {
 public:
  explicit Here(mx::Stream stream)
      : device_(mx::default_device()), stream_(mx::default_stream(stream.device)) {
    mx::set_default_device(stream.device);
    mx::set_default_stream(stream);
  }
  Here(const Here&) = delete;
  Here& operator=(const Here&) = delete;

  ~Here() {
    mx::set_default_stream(stream_);
    mx::set_default_device(device_);
  }

 private:
  const mx::Device device_;
  const mx::Stream stream_;
};

// A product of two numbers that are there, such as the cotangent of a mean: a task for it would cost
// more than all the rest.
inline std::optional<mx::array> product(const mx::array& array) {
  const auto& factors = array.inputs();
  for (const auto& factor : factors) {
    if (factor.size() != 1 || factor.dtype() != mx::float32 || factor.has_primitive() ||
        factor.status() != mx::array::Status::available) {
      return std::nullopt;
    }
  }
  if (factors.size() != 2) {
    return std::nullopt;
  }
  return mx::array(*factors[0].data<float>() * *factors[1].data<float>());
}

// The one evaluated number that `array`, not evaluated yet, repeats: the cotangent of a sum.
inline std::optional<mx::array> repeated(const mx::array& array) {
  if (!array.has_primitive()) {
    const bool number = array.size() == 1 && array.is_available();
    return number ? std::optional(array) : std::nullopt;
  }
  const std::string name = array.primitive().name();
  if (name == "Multiply") {
    return product(array);
  }
  const bool views = name == "Broadcast" || name == "ExpandDims";
  return views ? repeated(array.inputs()[0]) : std::nullopt;
}

// `array`, evaluated at once where it repeats a number: a view costs less than a task does. `bounded`:
// the graph behind it is short.
inline mx::array viewed(const mx::array& array, bool bounded = false) {
  if (!array.has_primitive() || traces_shapeless()) {
    return array;
  }
  const auto number = array.size() < 2 ? std::nullopt : repeated(array);
  if (!number) {
    if (!compute(array, bounded)) {
      settle_inputs(array);
    }
    return array;
  }
  mx::array view(array.shape(), array.dtype(), nullptr, {});
  auto flags = number->flags();
  flags.row_contiguous = flags.col_contiguous = false;
  view.copy_shared_buffer(*number, mx::Strides(array.ndim(), 0), flags, number->data_size());
  view.set_status(mx::array::Status::available);
  return view;
}

class Ruled : public mx::Primitive, public Ready {
 public:
  Ruled(std::shared_ptr<mx::Primitive> inner, nb::handle rules)
      : mx::Primitive(inner->stream()), inner_(std::move(inner)), rules_(rules) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    inner_->eval_cpu(inputs, outputs);
  }

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    inner_->eval_gpu(inputs, outputs);
  }

  bool is_ready() const override {
    const auto* ready = dynamic_cast<const Ready*>(inner_.get());
    return ready != nullptr && ready->is_ready();
  }

  int64_t few() const override {
    return dynamic_cast<const Ready&>(*inner_).few();
  }

  void now(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    dynamic_cast<Ready&>(*inner_).now(inputs, outputs);
  }

  // One gradient for each of `argnums`. The cotangent of an output that nobody uses, which MLX makes
  // of zeros, comes as None: times an infinite partial it would spoil the others.
  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override {
    nb::gil_scoped_acquire lock;
    const Here here(stream());
    std::vector<int> used;
    std::vector<mx::array> inputs(primals);
    inputs.reserve(primals.size() + cotangents.size());
    bool alike = true;
    for (size_t i = 0; i < cotangents.size(); ++i) {
      if (!is_zeros(cotangents[i])) {
        used.push_back(static_cast<int>(i));
        inputs.push_back(viewed(cotangents[i]));
        alike = alike && cotangents[i].dtype() == outputs[i].dtype() &&
            cotangents[i].shape() == outputs[i].shape();
      }
    }
    const auto pull = alike ? found(argnums, used) : nullptr;
    const auto gradients = pull != nullptr
        ? (*pull)(inputs)
        : arrays_of(rules_.get().attr("vjp")(
              list_of(primals), seeds(inputs, primals.size(), used, cotangents.size()),
              list_of(argnums), list_of(outputs)));
    compute_all(gradients);
    return gradients;
  }

  // One tangent for each output; tangents[i] belongs to primals[argnums[i]].
  std::vector<mx::array> jvp(
      const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
      const std::vector<int>& argnums) override {
    nb::gil_scoped_acquire lock;
    const Here here(stream());
    return arrays_of(
        rules_.get().attr("jvp")(list_of(primals), list_of(tangents), list_of(argnums)));
  }

  // Axis -1 where an input is not mapped; every output is mapped along its first axis.
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(
      const std::vector<mx::array>& inputs, const std::vector<int>& axes) override {
    nb::gil_scoped_acquire lock;
    const Here here(stream());
    auto outputs = arrays_of(rules_.get().attr("vmap")(list_of(inputs), list_of(axes)));
    std::vector<int> first(outputs.size(), 0);
    return {std::move(outputs), std::move(first)};
  }

  const char* name() const override {
    return inner_->name();
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto* same = dynamic_cast<const Ruled*>(&other);
    return same != nullptr && same->rules_.get().is(rules_.get()) &&
        inner_->is_equivalent(*same->inner_);
  }

  // For inputs of other sizes than those that a shapeless mx.compile traced; the rules may know.
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    nb::gil_scoped_acquire lock;
    nb::object known = nb::getattr(rules_.get(), "output_shapes", nb::none());
    if (known.is_none()) {
      return inner_->output_shapes(inputs);
    }
    nb::list sizes;
    for (const auto& input : inputs) {
      sizes.append(list_of(std::vector<int>(input.shape().begin(), input.shape().end())));
    }
    std::vector<mx::Shape> shapes;
    for (nb::handle shape : known(sizes)) {
      mx::Shape& size = shapes.emplace_back();
      for (nb::handle n : shape) {
        size.push_back(nb::cast<int>(n));
      }
    }
    return shapes;
  }

 private:
  // The cotangents of `count` outputs, which stand in `inputs` from `first` on; None where not `used`.
  static nb::list seeds(
      const std::vector<mx::array>& inputs, size_t first, const std::vector<int>& used, size_t count) {
    nb::list items;
    for (size_t i = 0; i < count; ++i) {
      const bool given = std::find(used.begin(), used.end(), static_cast<int>(i)) != used.end();
      items.append(given ? nb::cast(inputs[first++]) : nb::none());
    }
    return items;
  }

  // What the rules have put down for these gradients; null where Python is to be asked.
  std::shared_ptr<const Pulls::Pull> found(
      const std::vector<int>& wanted, const std::vector<int>& used) const {
    nb::object noted = nb::getattr(rules_.get(), "pulls", nb::none());
    const Pulls* pulls = nullptr;
    return nb::try_cast<const Pulls*>(noted, pulls) && pulls != nullptr ? pulls->find(wanted, used)
                                                                        : nullptr;
  }

  const std::shared_ptr<mx::Primitive> inner_;
  const Held rules_;
};

// The outputs of one unevaluated computation again, with rules; the given ones are left aside.
inline nb::list ruled(nb::handle outputs, nb::handle rules) {
  Held::bury();
  std::vector<mx::array> bare = arrays_of(outputs);
  nb::list results;
  if (bare.empty() || !bare[0].has_primitive() || is_zeros(bare[0])) {  // no kernel's
    for (auto& array : bare) {
      results.append(nb::cast(std::move(array)));
    }
    return results;
  }
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (const auto& array : bare) {
    if (!array.has_primitive() || array.primitive_id() != bare[0].primitive_id()) {
      throw std::invalid_argument("[zmlx.device] rules go to the outputs of one kernel");
    }
    shapes.push_back(array.shape());
    dtypes.push_back(array.dtype());
  }
  auto primitive = std::make_shared<Ruled>(bare[0].primitive_ptr(), rules);
  if (bare.size() == 1) {
    results.append(nb::cast(mx::array(
        std::move(shapes[0]), dtypes[0], std::move(primitive), bare[0].inputs())));
    return results;
  }
  for (auto& array :
       mx::array::make_arrays(std::move(shapes), dtypes, primitive, bare[0].inputs())) {
    results.append(nb::cast(std::move(array)));
  }
  return results;
}

}  // namespace zmlx
