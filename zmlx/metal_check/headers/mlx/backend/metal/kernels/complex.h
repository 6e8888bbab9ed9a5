// Stands in for MLX's complex.h, whose member functions carry address spaces, which only Apple's
// compiler parses. Enough for MLX's utils.h; no kernel may compute with complex numbers.
#pragma once
#include "mlx/backend/metal/kernels/bf16.h"
template <typename T>
struct complex_t {
  T real;
  T imag;
  constexpr complex_t(T re, T im) : real(re), imag(im) {}
};
using complex64_t = complex_t<float>;
