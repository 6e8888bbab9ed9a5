// One sanitized launch: guarded copies of the arrays in, the watched run, results out; and a count
// of all such launches.
#pragma once

#include <map>
#include <mutex>

#include "fill.h"
#include "checks.h"

#include "mlx/array.h"

namespace zmlx {

namespace mx = mlx::core;

struct Names {
  std::vector<std::string> inputs, outputs;
};

// The bytes that an array's elements reach, relative to its data pointer.
inline std::pair<int64_t, int64_t> reach(const mx::array& a) {
  int64_t low = 0, high = 0;
  for (size_t d = 0; d < a.ndim(); ++d) {
    const int64_t step = (a.shape()[d] - 1) * a.strides()[d];
    (step < 0 ? low : high) += step;
  }
  const auto item = static_cast<int64_t>(a.itemsize());
  return a.size() == 0 ? std::pair<int64_t, int64_t>{0, 0}
                       : std::pair<int64_t, int64_t>{low * item, (high + 1) * item};
}

// Copies of what a kernel sees, owned by the sanitizer.
class Sandbox {
 public:
  Sandbox(Sanitizer& sanitizer, const Names& names) : sanitizer_(sanitizer), names_(names) {}

  void add_input(const mx::array& a) {
    const std::string& name = names_.inputs[ranks_.size()];
    const auto [low, high] = reach(a);
    const auto item = static_cast<uint32_t>(a.itemsize());
    Region& region = sanitizer_.add(name, Kind::input, high - low, item, item);
    if (high > low) {
      std::memcpy(region.memory(), a.data<char>() + low, high - low);
    }
    data_.push_back(region.memory() - low);
    shapes_.push_back(facts<int32_t>(name + "_shape", a.shape().begin(), a.ndim()));
    strides_.push_back(facts<int64_t>(name + "_strides", a.strides().begin(), a.ndim()));
    ranks_.push_back(static_cast<int32_t>(a.ndim()));
  }

  void add_output(mx::array& a, bool fills, double value) {
    const auto item = static_cast<uint32_t>(a.itemsize());
    Region& region = sanitizer_.add(names_.outputs[outputs_.size()], Kind::output, a.nbytes(), item, item);
    std::memset(region.memory(), a.dtype() == mx::bool_ ? 1 : 0xff, a.nbytes());
    region.filled = fills;
    if (fills) {
      fill(region.memory(), a.size(), a.dtype(), value);
    }
    data_.push_back(region.memory());
    outputs_.push_back(&region);
  }

  Grid grid(const uint32_t* grid, const uint32_t* group) const {
    return {
        data_.data(), shapes_.data(), strides_.data(), ranks_.data(),
        {grid[0], grid[1], grid[2]}, {group[0], group[1], group[2]}};
  }

  void copy_output(size_t i, mx::array& a) const {
    std::memcpy(a.data<char>(), outputs_[i]->memory(), a.nbytes());
  }

 private:
  template <typename T, typename From>
  const T* facts(const std::string& name, From from, size_t count) {
    Region& region = sanitizer_.add(name, Kind::facts, count * sizeof(T), sizeof(T), sizeof(T));
    T* values = reinterpret_cast<T*>(region.memory());
    std::copy_n(from, count, values);
    return values;
  }

  Sanitizer& sanitizer_;
  const Names& names_;
  std::vector<void*> data_;
  std::vector<const int32_t*> shapes_;
  std::vector<const int64_t*> strides_;
  std::vector<int32_t> ranks_;
  std::vector<Region*> outputs_;
};

// What has run watched in this process, by library: nobody need believe that it did.
class Record {
 public:
  static Record& mine() {
    static Record* record = new Record();
    return *record;
  }

  void add(ThreadEntry entry, const Sanitizer& sanitizer) {
    Dl_info info;
    const bool known = dladdr(reinterpret_cast<void*>(entry), &info) != 0;
    std::lock_guard<std::mutex> lock(mutex_);
    Counts& counts = counts_[known ? info.dli_fname : ""];
    ++counts.launches;
    counts.accesses += sanitizer.accesses();
  }

  // A line for each library: path, launches, accesses, with tabs between.
  std::string text() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::string all;
    for (const auto& [path, counts] : counts_) {
      all += path + "\t" + std::to_string(counts.launches) + "\t" +
          std::to_string(counts.accesses) + "\n";
    }
    return all;
  }

 private:
  struct Counts {
    int64_t launches = 0, accesses = 0;
  };

  std::mutex mutex_;
  std::map<std::string, Counts> counts_;
};

// For zmlx.device.sanitize; the text lives until the same CPU thread asks again.
extern "C" __attribute__((visibility("default"), used)) const char* zmlx_watched() {
  static thread_local std::string text;
  text = Record::mine().text();
  return text.c_str();
}

// How the launches of this process are watched from now on.
inline Watching& watching() {
  static Watching how;
  return how;
}

// For zmlx.device.sanitize.
extern "C" __attribute__((visibility("default"), used)) void zmlx_watching(
    int64_t budget, double seconds, int reverse, int fill) {
  watching() = {budget, seconds, {reverse != 0, fill}};
}

// Runs all groups; the sanitizer holds what was found.
inline void run_watched(
    Sanitizer& sanitizer, ThreadEntry entry, const Grid& grid, int64_t groups) {
  const Watching how = watching();
  Crew& crew = Crew::mine();
  crew.begin(entry, &grid, &sanitizer, how.order);
  Sanitizer::current() = &sanitizer;
  {
    const Guards guards(&sanitizer, how.seconds);
    for (int64_t group = 0; group < groups && !sanitizer.stopped(); ++group) {
      crew.run_group(how.order.reverse ? groups - 1 - group : group);
    }
  }
  Sanitizer::current() = nullptr;
  sanitizer.finish();
  Record::mine().add(entry, sanitizer);
}

}  // namespace zmlx
