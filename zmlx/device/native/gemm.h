// Products of small matrices of float32: by the routine that MLX is linked with, or faster with its bits.
//
// The reference BLAS, which MLX's wheels for Linux bring, adds up each element in the order of its terms,
// one at a time. Where it is seen to do so, vectors of elements are added up in that order here.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace zmlx {

using Gemm = void (*)(
    int order, int transa, int transb, int m, int n, int k, float alpha, const float* a, int lda,
    const float* b, int ldb, float beta, float* c, int ldc);

// The routine that MLX is linked with; null where there is none.
inline Gemm gemm() {
#ifdef __APPLE__
  return nullptr;
#else
  static const auto kGemm = reinterpret_cast<Gemm>(dlsym(RTLD_DEFAULT, "cblas_sgemm"));
  return kGemm;
#endif
}

// A matrix as BLAS reads it.
struct Matrix {
  const float* data;
  int leading;
  bool turned;

  int turn() const {
    return turned ? 112 : 111;  // as BLAS has it
  }
};

inline void multiply_by_blas(
    const Matrix& a, const Matrix& b, int m, int n, int k, float* made) {
  constexpr int kRowMajor = 101;
  gemm()(
      kRowMajor, a.turn(), b.turn(), m, n, k, 1.0f, a.data, a.leading, b.data, b.leading, 0.0f, made, n);
}

using Few = float __attribute__((vector_size(16)));
constexpr int kNeighbours = 4;

// `kCount` vectors of neighbours in a row of the product: of a row of the first matrix, whose elements
// are `along` apart, and columns of the second.
template <int kCount>
void add_up(
    const float* row, int64_t along, const float* columns, int64_t leading, int k, float* made) {
  Few sums[kCount] = {};
  for (int l = 0; l < k; ++l, row += along, columns += leading) {
    for (int v = 0; v < kCount; ++v) {
      Few factors;
      std::memcpy(&factors, columns + v * kNeighbours, sizeof factors);
      sums[v] += *row * factors;
    }
  }
  std::memcpy(made, sums, sizeof sums);
}

inline void multiply_in_order(
    const Matrix& a, const Matrix& second, int m, int n, int k, float* made) {
  Matrix b = second;
  std::vector<float> rows;
  if (b.turned) {  // its rows then lie along memory
    rows.resize(static_cast<size_t>(k) * n);
    for (int j = 0; j < n; ++j) {
      for (int l = 0; l < k; ++l) {
        rows[static_cast<size_t>(l) * n + j] = b.data[static_cast<size_t>(j) * b.leading + l];
      }
    }
    b = {rows.data(), n, false};
  }
  const int64_t down = a.turned ? 1 : a.leading, along = a.turned ? a.leading : 1;
  for (int i = 0; i < m; ++i, made += n) {
    const float* row = a.data + i * down;
    int j = 0;
    for (; j + 4 * kNeighbours <= n; j += 4 * kNeighbours) {
      add_up<4>(row, along, b.data + j, b.leading, k, made + j);
    }
    for (; j + kNeighbours <= n; j += kNeighbours) {
      add_up<1>(row, along, b.data + j, b.leading, k, made + j);
    }
    for (; j < n; ++j) {
      float sum = 0.0f;
      for (int l = 0; l < k; ++l) {
        sum += row[l * along] * b.data[static_cast<int64_t>(l) * b.leading + j];
      }
      made[j] = sum;
    }
  }
}

// Whether the order of terms gives the bits that BLAS gives, however matrices are turned.
inline bool blas_is_in_order() {
  constexpr int kM = 5, kN = 23, kK = 37;
  std::vector<float> a(kM * kK), b(kK * kN), found(kM * kN), wanted(kM * kN);
  uint32_t state = 1;
  const auto draw = [&state](std::vector<float>& numbers) {
    for (auto& number : numbers) {
      state = state * 1664525u + 1013904223u;
      number = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    }
  };
  draw(a);
  draw(b);
  for (int turns = 0; turns < 4; ++turns) {
    const bool first = (turns & 1) != 0, second = (turns & 2) != 0;
    const Matrix x{a.data(), first ? kM : kK, first}, y{b.data(), second ? kK : kN, second};
    multiply_by_blas(x, y, kM, kN, kK, wanted.data());
    multiply_in_order(x, y, kM, kN, kK, found.data());
    if (std::memcmp(found.data(), wanted.data(), found.size() * sizeof(float)) != 0) {
      return false;
    }
  }
  return true;
}

inline void multiply_matrices(
    const Matrix& a, const Matrix& b, int m, int n, int k, float* made) {
  static const bool kInOrder = blas_is_in_order();
  (kInOrder ? multiply_in_order : multiply_by_blas)(a, b, m, n, k, made);
}

}  // namespace zmlx
