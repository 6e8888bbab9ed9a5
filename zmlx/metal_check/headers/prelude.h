// What stands in front of every kernel: Metal's standard library, then the headers that MLX
// prepends (its own files), then what the language lacks, which MLX's files may not name either.
#include <metal_stdlib>
#include "mlx/backend/metal/kernels/utils.h"
// A threadgroup array of a kernel; clang wants a storage class in front of the address space.
#define threadshare static threadgroup
#pragma GCC poison double goto new virtual throw try catch typeid dynamic_cast register
#pragma GCC poison thread_local asm wchar_t char16_t char32_t
