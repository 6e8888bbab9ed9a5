// What stands in front of a kernel that ZMLX compiles itself: the types that MLX's own headers bring
// otherwise. Those take a second to compile, these 0.03.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;
typedef unsigned long uintptr_t;

// The shape and the strides of an input, as MLX hands them to a kernel.
template <typename T>
struct zm_sizes {
  T size[10];
  __device__ T operator[](int k) const {
    return size[k];
  }
};
