
#ifdef ZMLX_WIDE
template <typename T, int N>
using kk_pack = zm_pack<N, T>;
template <typename T, int N>
inline kk_pack<T, N> kk_load(const T* from) {
  return zmlx_fetch<N>(from, 1);
}
template <typename T, int N>
inline kk_pack<T, N> kk_fetch(const T* from, long step) {
  return zmlx_fetch<N>(from, step);
}
template <typename T, int N>
inline void kk_store(T* to, const kk_pack<T, N>& pack) {
  zmlx_put<N>(to, pack);
}
#else
template <typename T, int N>
struct kk_pack {
  T item[N];
};
template <typename T, int N, typename P>
inline kk_pack<T, N> kk_load(P from) {
  kk_pack<T, N> pack;
  for (int k = 0; k < N; ++k) {
    pack.item[k] = from[k];
  }
  return pack;
}
template <typename T, int N, typename P>
inline kk_pack<T, N> kk_fetch(P from, long step) {
  if (step == 1) {
    return kk_load<T, N>(from);
  }
  kk_pack<T, N> pack;
  const T first = from[0];
  for (int k = 0; k < N; ++k) {
    pack.item[k] = first;
  }
  for (int k = 1; k < N && step != 0; ++k) {
    pack.item[k] = from[k * step];
  }
  return pack;
}
template <typename T, int N, typename P>
inline void kk_store(P to, thread const kk_pack<T, N>& pack) {
  for (int k = 0; k < N; ++k) {
    to[k] = pack.item[k];
  }
}
#endif
#ifndef ZMLX_UNROLL
#define ZMLX_UNROLL
#endif

template <typename T, int N, typename P>
inline kk_pack<T, N> kk_fetch_some(P from, long step, int count) {
  kk_pack<T, N> pack;
  ZMLX_UNROLL
  for (int k = 0; k < N; ++k) {
    pack.item[k] = T(0.0f);
    if (k < count) {
      pack.item[k] = from[k * step];
    }
  }
  return pack;
}
template <typename T, int N, typename P>
inline void kk_store_some(P to, thread const kk_pack<T, N>& pack, int count) {
  ZMLX_UNROLL
  for (int k = 0; k < N; ++k) {
    if (k < count) {
      to[k] = pack.item[k];
    }
  }
}
inline float kk_near_sum(float value, int near) {
  for (int far = near / 2; far > 0; far >>= 1) {
    value += metal::simd_shuffle_xor(value, ushort(far));
  }
  return value;
}
#ifndef ZMLX_NATIVE_SIGMOID
inline float zmlx_sigmoid(float x) {
  const float e = metal::precise::exp(-metal::abs(x));
  const float numerator = (x < 0.0f) ? e : 1.0f;
  return numerator / (1.0f + e);
}
#endif
// One element: 2 ops: sigmoid, multiply.
inline void zmlx_region(float x0, float x1, thread float& y0) {
  const float t0 = zmlx_sigmoid(x0);
  const float t1 = t0 * x1;
  y0 = t1;
}
// Body of kernel zmlx_zmlx_sums_sigmoid_multiply_9a4128ab69c28028(in0, in1, out0, sum0); its signature is added on launch.
const long kk_outer = 1;
const long kk_rows = in0_shape[1];
const long kk_columns = in0_shape[2];
const long kk_step0_1 = in0_strides[1];
const long kk_step0_2 = in0_strides[2];
const long kk_step1_2 = in1_strides[2];
const long kk_blocks = long(threadgroups_per_grid.y) * long(TY);
const long kk_block = long(thread_position_in_grid.y);
const long kk_span = (kk_rows + kk_blocks - 1) / kk_blocks;
const long kk_left = long(thread_position_in_grid.x) * long(LANES);
const long kk_room = kk_columns - kk_left;
const long kk_layers = long(threadgroups_per_grid.z);

const int kk_run = (kk_room < long(LANES)) ? int(kk_room) : LANES;
for (long kk_o = long(thread_position_in_grid.z); kk_o < kk_outer; kk_o += kk_layers) {
  float kk_lanes0[LANES];
  ZMLX_UNROLL
  for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
    kk_lanes0[kk_v] = 0.0f;
  }
  for (long kk_i = 0; kk_i < kk_span; ++kk_i) {
    const long kk_row = kk_block * kk_span + kk_i;
    const bool kk_live = kk_row < kk_rows;
    if (!kk_live) {
      break;
    }
    const long kk_row0 = kk_row * kk_step0_1;
    const long kk_row1 = 0;
    if (kk_step0_2 == 1 && kk_step1_2 == 1) {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_left + kk_v)]);
        const float x1 = float(in1[kk_row1 + (kk_left + kk_v)]);
        float y0;
        zmlx_region(x0, x1, y0);
        out0[(kk_o * kk_rows + kk_row) * kk_columns + kk_left + kk_v] = float(y0);
        kk_lanes0[kk_v] += y0;
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_left + kk_v) * kk_step0_2]);
        const float x1 = float(in1[kk_row1 + (kk_left + kk_v) * kk_step1_2]);
        float y0;
        zmlx_region(x0, x1, y0);
        out0[(kk_o * kk_rows + kk_row) * kk_columns + kk_left + kk_v] = float(y0);
        kk_lanes0[kk_v] += y0;
      }
    }
  }
  ZMLX_UNROLL
  for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
    const long kk_to = kk_left + long(kk_v);
    if (kk_to < kk_columns) {
      sum0[(kk_o * kk_blocks + kk_block) * kk_columns + kk_to] = kk_lanes0[kk_v];
    }
  }
}
