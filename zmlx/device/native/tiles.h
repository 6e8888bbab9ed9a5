// The order in which one launch visits its grid: straight, or in tiles when an input is transposed.
//
// Thread t computes the output elements [t * elements, (t + 1) * elements); the order of the threads
// is free. Where an input's memory runs along an outer dimension, going straight through the output
// touches another cache line for every element; tiles of kTileRows rows use each line they fetch.
#pragma once

#include <algorithm>
#include <cstdint>

namespace zmlx {

struct Arguments;
using Entry = void (*)(const Arguments*, int64_t first, int64_t last);

constexpr int64_t kTileRows = 64;
constexpr int64_t kTileElements = 64;
constexpr int64_t kTileColumns = 16;  // segments of kTileElements in one unit of work

// Output elements come in `rows` rows of `row` elements; row 0 means that tiles bring nothing.
struct Tiles {
  int64_t row = 0;
  int64_t rows = 0;

  int64_t columns() const {
    return (row + kTileElements - 1) / kTileElements;
  }

  int64_t column_units() const {
    return (columns() + kTileColumns - 1) / kTileColumns;
  }

  int64_t units() const {
    return (rows + kTileRows - 1) / kTileRows * column_units();
  }

  // The first thread whose elements begin in row r; rows need not be multiples of a segment.
  int64_t first_thread(int64_t r) const {
    return (r * row + kTileElements - 1) / kTileElements;
  }

  void run(Entry entry, const Arguments* arguments, int64_t unit) const {
    const int64_t top = unit / column_units() * kTileRows;
    const int64_t left = unit % column_units() * kTileColumns;
    for (int64_t column = left; column < std::min(left + kTileColumns, columns()); ++column) {
      for (int64_t r = top; r < std::min(top + kTileRows, rows); ++r) {
        const int64_t thread = first_thread(r) + column;
        if (thread < first_thread(r + 1)) {
          entry(arguments, thread, thread + 1);
        }
      }
    }
  }
};

}  // namespace zmlx
