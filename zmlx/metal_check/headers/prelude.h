// What stands in front of every kernel: Metal's standard library, then the headers that MLX
// prepends (its own files), then what the language lacks, which MLX's files may not name either.
#include <metal_stdlib>
#include "mlx/backend/metal/kernels/utils.h"
// A threadgroup variable of a kernel; clang wants a storage class in front of the address space, and
// one that calls no constructor: those of structs know no address spaces.
#define threadshare extern threadgroup
// What front_end.py makes of (float4)x: converts, as a cast between vectors does in Metal.
template <class To>
struct zmlx_to {};
template <class To, class From>
To operator->*(zmlx_to<To>, From from) {
  return To(from);
}
template <class To, class T, int N>
To operator->*(zmlx_to<To>, metal::vec<T, N> from) {
  return __builtin_convertvector(from, To);
}
#pragma GCC poison double goto new virtual throw try catch typeid dynamic_cast register
#pragma GCC poison thread_local asm wchar_t char16_t char32_t
