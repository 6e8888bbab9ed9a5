// One launch of a compiled kernel: what it reads, how its dimensions merge, how it is shared out.
//
// The layout of `Arguments` is known to the text that zmlx/device/host_text.py writes around a kernel.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "mlx/array.h"
#include "mlx/small_vector.h"
#include "pool.h"
#include "tiles.h"

namespace zmlx {

namespace mx = mlx::core;

// Seen by the compiled kernel. `elements` is ELEMS: how many output elements one "thread" computes.
struct Arguments {
  void* const* data;  // inputs, then outputs
  const int32_t* const* shapes;
  const int64_t* const* strides;
  const int32_t* ranks;
  int64_t elements;
};

// Below this many elements waking another thread costs more than it brings.
constexpr int64_t kInline = 1 << 15;
constexpr int64_t kElements = 1 << 13;
constexpr std::chrono::microseconds kWorth{25};  // the same as a time
constexpr size_t kAtHand = 16;  // inputs that take no memory to describe

struct Launch {
  Entry entry;
  std::shared_ptr<const void> kernel;  // keeps the library of `entry` loaded
  int width;  // threads, at most
  int64_t size;
  std::vector<void*> data;
  std::vector<mx::Shape> shapes;
  std::vector<mx::Strides> strides;
  Tiles tiles;

  void run() const {
    mx::SmallVector<const int32_t*, kAtHand> shape_pointers;
    mx::SmallVector<const int64_t*, kAtHand> stride_pointers;
    mx::SmallVector<int32_t, kAtHand> ranks;
    for (size_t i = 0; i < shapes.size(); ++i) {
      shape_pointers.push_back(shapes[i].data());
      stride_pointers.push_back(strides[i].data());
      ranks.push_back(static_cast<int32_t>(shapes[i].size()));
    }
    const bool tiled = size > kInline && tiles.row > 0;
    const int64_t elements = tiled ? kTileElements : std::min(size, size > kInline ? kElements : kInline);
    Arguments arguments{
        data.data(), shape_pointers.data(), stride_pointers.data(), ranks.data(), elements};
    Task task{entry, &arguments, &tiles};
    if (size <= kInline) {
      entry(&arguments, 0, 1);
    } else if (tiled) {
      Pool::run(&Task::run_tiles, &task, tiles.units(), 1, width);
    } else {
      task.share((size + kElements - 1) / kElements, width);
    }
  }

 private:
  struct Task {
    Entry entry;
    const Arguments* arguments;
    const Tiles* tiles;
    int64_t done = 0;  // threads that have run

    // Run so many threads: the first one here, and from the time that it takes it is known whether
    // the others are worth waking a thread of the CPU for.
    void share(int64_t threads, int width) {
      using Clock = std::chrono::steady_clock;
      const auto start = Clock::now();
      entry(arguments, 0, 1);
      const auto rest = (Clock::now() - start) * (threads - 1);
      if (width < 2 || rest < kWorth) {
        entry(arguments, 1, threads);
        return;
      }
      done = 1;
      const int64_t bites = 8 * static_cast<int64_t>(width);
      Pool::run(&run, this, threads - 1, std::max<int64_t>(1, threads / bites), width);
    }

    static void run(void* self, int64_t begin, int64_t end) {
      auto* task = static_cast<Task*>(self);
      task->entry(task->arguments, begin + task->done, end + task->done);
    }

    static void run_tiles(void* self, int64_t begin, int64_t end) {
      auto* task = static_cast<Task*>(self);
      for (int64_t unit = begin; unit < end; ++unit) {
        task->tiles->run(task->entry, task->arguments, unit);
      }
    }
  };
};

// Shapes and strides of the inputs of an elementwise kernel, adjacent dimensions merged where every
// input steps through them as through one. A merged group appears in its last dimension, the others
// as size one; so a kernel whose text knows which dimensions are one sees no other pattern.
class Merger {
 public:
  Merger(const std::vector<mx::array>& inputs, const mx::Shape& output)
      : inputs_(inputs), sizes_(output.begin(), output.end()) {
    int group = -1;
    for (int d = static_cast<int>(sizes_.size()) - 1; d >= 0; --d) {
      if (sizes_[d] == 1) {
        continue;
      }
      if (group >= 0 && mergeable(d, group)) {
        sizes_[group] *= sizes_[d];
        sizes_[d] = 1;
      } else {
        group = d;
      }
    }
  }

  void present(Launch& launch) const {
    launch.shapes.reserve(inputs_.size());
    launch.strides.reserve(inputs_.size());
    for (const auto& input : inputs_) {
      const int rank = static_cast<int>(input.ndim());
      mx::Shape shape(rank, 1);
      mx::Strides strides(rank, 0);
      for (int own = 0; own < rank; ++own) {
        const int d = own + offset(input);
        if (d >= 0 && input.shape()[own] != 1) {
          shape[own] = static_cast<int32_t>(sizes_[d]);
          strides[own] = input.strides()[own];
        }
      }
      launch.shapes.push_back(std::move(shape));
      launch.strides.push_back(std::move(strides));
      if (launch.size > kInline && launch.tiles.row == 0) {
        launch.tiles = tiles_for(input);
      }
    }
  }

 private:
  int offset(const mx::array& input) const {
    return static_cast<int>(sizes_.size()) - static_cast<int>(input.ndim());
  }

  bool mergeable(int d, int group) const {
    if (sizes_[d] * sizes_[group] > std::numeric_limits<int32_t>::max()) {
      return false;
    }
    return std::all_of(inputs_.begin(), inputs_.end(), [&](const mx::array& input) {
      const int outer = d - offset(input);
      const int inner = group - offset(input);
      const bool outer_one = outer < 0 || input.shape()[outer] == 1;
      const bool inner_one = inner < 0 || input.shape()[inner] == 1;
      if (outer_one || inner_one) {
        return outer_one && inner_one;
      }
      return input.strides()[outer] == input.strides()[inner] * sizes_[group];
    });
  }

  // Rows along the dimension in which `input` has its smallest stride, if it also steps through a
  // later dimension.
  Tiles tiles_for(const mx::array& input) const {
    int64_t smallest = 0, below = 1, all = 1;
    Tiles tiles;
    for (int d = static_cast<int>(sizes_.size()) - 1; d >= 0; --d) {
      const int own = d - offset(input);
      const bool varies = own >= 0 && sizes_[d] != 1 && input.shape()[own] != 1;
      const int64_t stride = varies ? std::abs(input.strides()[own]) : 0;
      if (stride != 0 && (smallest == 0 || stride < smallest)) {
        tiles.row = smallest == 0 ? 0 : below;
        smallest = stride;
      }
      below *= sizes_[d];
      all = below;
    }
    const bool worth = tiles.row >= 2 * kTileElements && all >= tiles.row * (kTileRows / 4);
    return worth ? Tiles{tiles.row, all / tiles.row} : Tiles{};
  }

  const std::vector<mx::array>& inputs_;
  mx::Strides sizes_;  // they may be products
};

}  // namespace zmlx
