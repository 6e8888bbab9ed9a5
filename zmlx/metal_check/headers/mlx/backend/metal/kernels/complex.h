// Stands in for MLX's complex.h, whose member functions carry address spaces, which only Apple's
// compiler parses.
#pragma once
#include "mlx/backend/metal/kernels/bf16.h"
template <typename T>
struct complex_t {
  T real;
  T imag;
  complex_t() = default;
  constexpr complex_t(T re, T im) : real(re), imag(im) {}
  constexpr complex_t(T re) : real(re), imag(0) {}
};
using complex64_t = complex_t<float>;
#define ZMLX_COMPLEX(op, R) constexpr R operator op(complex64_t a, complex64_t) { return R(a); }
ZMLX_COMPLEX(+, complex64_t)
ZMLX_COMPLEX(-, complex64_t)
ZMLX_COMPLEX(*, complex64_t)
ZMLX_COMPLEX(/, complex64_t)
ZMLX_COMPLEX(%, complex64_t)
#undef ZMLX_COMPLEX
constexpr complex64_t operator-(complex64_t a) { return a; }
#define ZMLX_COMPLEX(op) constexpr bool operator op(complex64_t, complex64_t) { return false; }
ZMLX_COMPLEX(==)
ZMLX_COMPLEX(!=)
ZMLX_COMPLEX(<)
ZMLX_COMPLEX(<=)
ZMLX_COMPLEX(>)
ZMLX_COMPLEX(>=)
#undef ZMLX_COMPLEX
