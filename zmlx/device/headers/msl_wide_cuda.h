// Elements that a thread loads or stores in one go, 16 bytes at a time; stands behind msl_on_cuda.h.
// Kernels ask for that where ZMLX_WIDE is defined. Plain C++ but for CUDA's markers: it is tested on
// CPUs too.
#define ZMLX_WIDE 1
template <int N, typename T>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) zm_pack {
  T item[N];
  __device__ T& operator[](int k) {
    return item[k];
  }
  __device__ const T& operator[](int k) const {
    return item[k];
  }
};

template <int N, typename T>
ZM_INLINE bool zm_aligned(const T* place) {
  return reinterpret_cast<ulong>(place) % alignof(zm_pack<N, T>) == 0;
}

// Elements `step` apart, from `place` on.
template <int N, typename T>
ZM_INLINE zm_pack<N, T> zmlx_fetch(const T* place, long step) {
  zm_pack<N, T> pack;
  if (step == 1 && zm_aligned<N>(place)) {
    pack = *reinterpret_cast<const zm_pack<N, T>*>(place);
  } else if (step == 0) {
    const T value = *place;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      pack[k] = value;
    }
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      pack[k] = place[k * step];
    }
  }
  return pack;
}

template <int N, typename T>
ZM_INLINE void zmlx_put(T* place, const zm_pack<N, T>& pack) {
  if (zm_aligned<N>(place)) {
    *reinterpret_cast<zm_pack<N, T>*>(place) = pack;
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      place[k] = pack[k];
    }
  }
}

// A thread of an elementwise kernel takes N elements in chunks of neighbours, of which one fills 16
// bytes of the kernel's widest array (the device says how wide its elements are).
#ifndef ZM_WIDEST
#define ZM_WIDEST 4
#endif
template <int N>
struct zm_chunk {
  static constexpr int kSize = N * ZM_WIDEST < 16 ? N : 16 / ZM_WIDEST;
  static constexpr int kCount = N / kSize;
};

// One chunk as instructions move it. Halves stay two in a word: were each to have a register of its
// own, every element would be taken out of its word and put into one again.
template <int N, typename T, bool Words = sizeof(T) == 2 && N % 2 == 0>
struct zm_part : zm_pack<N, T> {
  __device__ void set(int k, T value) {
    this->item[k] = value;
  }
  template <typename V>
  __device__ void convert(const V* values) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      this->item[k] = T(values[k]);
    }
  }
};

template <typename T, typename V>
ZM_INLINE uint zm_pair(const T*, V low, V high) {
  return uint(as_type<ushort>(T(low))) | uint(as_type<ushort>(T(high))) << 16;
}

template <typename T>
ZM_INLINE T zm_of_pair(const T*, uint word, bool high) {
  return as_type<T>(ushort(high ? word >> 16 : word & 0xffffu));
}

template <int N, typename T>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) zm_part<N, T, true> {
  uint word[N / 2];
  __device__ auto operator[](int k) const {
    return zm_of_pair(static_cast<const T*>(nullptr), word[k / 2], k % 2);
  }
  __device__ void set(int k, T value) {
    const uint bits = as_type<ushort>(value);
    word[k / 2] = k % 2 ? (word[k / 2] & 0xffffu) | bits << 16 : bits;
  }
  template <typename V>
  __device__ void convert(const V* values) {
#pragma unroll
    for (int k = 0; k < N; k += 2) {
      word[k / 2] = zm_pair(static_cast<const T*>(nullptr), values[k], values[k + 1]);
    }
  }
};

// Hides what is known of a part's words: a compiler that has taken them apart once keeps every
// element in a register of its own, where it could take them apart again.
template <int N, typename T>
ZM_INLINE void zm_renew(zm_part<N, T, true>& part) {
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    asm volatile("" : "+r"(part.word[i]));
  }
}

// The elements of a thread in one array.
template <int N, typename T>
struct zm_parts {
  static constexpr int kSize = zm_chunk<N>::kSize;
  zm_part<kSize, T> part[N / kSize];
  __device__ auto operator[](int k) const {
    return part[k / kSize][k % kSize];
  }
};

template <int N, typename T>
ZM_INLINE zm_part<N, T> zm_filled(T value) {
  zm_part<N, T> part;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    part.set(k, value);
  }
  return part;
}

template <int N, typename T>
ZM_INLINE zm_part<N, T> zm_part_of(const T* place, long step) {
  zm_part<N, T> part;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    part.set(k, place[k * step]);
  }
  return part;
}

// Elements `step` apart from `place` on, in chunks `apart`.
template <int N, typename T>
ZM_INLINE zm_parts<N, T> zmlx_take(const T* place, long step, long apart) {
  constexpr int kSize = zm_chunk<N>::kSize;
  zm_parts<N, T> parts;
  if (step == 1 && zm_aligned<kSize>(place)) {
#pragma unroll
    for (int c = 0; c < N / kSize; ++c) {
      parts.part[c] = *reinterpret_cast<const zm_part<kSize, T>*>(place + c * apart);
    }
  } else if (step == 0) {
    const zm_part<kSize, T> filled = zm_filled<kSize>(*place);
#pragma unroll
    for (int c = 0; c < N / kSize; ++c) {
      parts.part[c] = filled;
    }
  } else {
#pragma unroll
    for (int c = 0; c < N / kSize; ++c) {
      parts.part[c] = zm_part_of<kSize>(place + c * apart * step, step);
    }
  }
  return parts;
}

// Results as values of type V.
template <int N, typename V>
struct zmlx_results {
  V value[N];
  __device__ V& operator[](int k) {
    return value[k];
  }
};

// `place` is a whole number of chunks into an array of its own.
template <int N, typename T, typename V>
ZM_INLINE void zmlx_give(T* place, const zmlx_results<N, V>& results, long apart) {
  constexpr int kSize = zm_chunk<N>::kSize;
#pragma unroll
  for (int c = 0; c < N / kSize; ++c) {
    zm_part<kSize, T> part;
    part.convert(results.value + c * kSize);
    *reinterpret_cast<zm_part<kSize, T>*>(place + c * apart) = part;
  }
}

// Where thread `t` begins, and how far `apart` its chunks lie. Where rows are `even`, a warp takes
// chunks in turn, so that each of its instructions moves one block of memory; else each thread takes
// neighbouring chunks.
template <int N, typename Index>
ZM_INLINE Index zmlx_deal(Index t, Index total, bool even, Index& apart) {
  constexpr Index kSize = zm_chunk<N>::kSize;
  const Index warp = (t >> 5) * (32 * N);
  const bool turns = even && total - warp >= 32 * N;
  apart = turns ? 32 * kSize : kSize;
  return turns ? warp + (t & 31) * kSize : t * N;
}

// How many elements lie between the first of a thread and its last, both counted.
template <int N, typename Index>
ZM_INLINE Index zmlx_reach(Index apart) {
  return apart * (zm_chunk<N>::kCount - 1) + zm_chunk<N>::kSize;
}

// The same where an input's memory runs across the rows. A warp takes 2 * kSize rows, so that what its
// threads load across them fills whole sectors of 32 bytes, and of each row chunks that do so too.
// Where rows and columns do not divide evenly each thread takes neighbouring chunks.
template <int N, typename Index>
ZM_INLINE Index zmlx_across(Index t, Index columns, Index rows, Index& apart) {
  constexpr int kSize = zm_chunk<N>::kSize;
  constexpr int kRows = 2 * kSize < 32 ? 2 * kSize : 32;
  constexpr int kColumns = 32 / kRows * N;
  if (columns % kColumns != 0 || rows % kRows != 0) {
    return t * N;
  }
  apart = 32 / kRows * kSize;
  const Index warp = t >> 5, lane = t & 31, across = columns / kColumns;
  const Index row = warp / across * kRows + lane % kRows;
  return row * columns + warp % across * kColumns + lane / kRows * kSize;
}
