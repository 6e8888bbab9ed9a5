#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
#ifndef ZMLX_UNROLL
#define ZMLX_UNROLL
#endif
#if defined(ZMLX_WIDE) || defined(ZM_SANITIZE)
#define KK_AHEAD true
#else
#define KK_AHEAD false
#endif
#ifdef ZMLX_WIDE
template <typename T, int N>
using kk_part = zm_part<N, T>;
template <typename T, int N, typename P>
inline kk_part<T, N> kk_take(const P* from) {
  return *reinterpret_cast<const kk_part<T, N>*>(from);
}
template <typename T, int N, typename P, typename V>
inline void kk_give(P* to, const V (&values)[N]) {
  kk_part<T, N> part;
  part.convert(values);
  *reinterpret_cast<kk_part<T, N>*>(to) = part;
}
template <bool Many, typename P>
inline void kk_renew(P& part) {
  if constexpr (Many) {
    zm_renew(part);
  }
}
template <typename T, int N, typename P>
inline bool kk_whole(const P* from) {
  return zm_aligned<N>(from);
}
template <typename T>
inline T kk_other(T a, int far) {
  return metal::zm_xor_of_all(a, far);
}
inline float kk_max(float a, float b) {
  return zm_max(a, b);
}
inline float kk_min(float a, float b) {
  return zm_min(a, b);
}
#else
template <typename T, int N>
struct kk_part {
  T item[N];
  T operator[](int k) const thread {
    return item[k];
  }
};
template <typename T, int N, typename P>
inline kk_part<T, N> kk_take(P from) {
  kk_part<T, N> part;
  for (int k = 0; k < N; ++k) {
    part.item[k] = from[k];
  }
  return part;
}
template <typename T, int N, typename P, typename V>
inline void kk_give(P to, thread const V (&values)[N]) {
  for (int k = 0; k < N; ++k) {
    to[k] = T(values[k]);
  }
}
template <bool Many, typename P>
inline void kk_renew(thread P&) {
}
template <typename T, int N, typename P>
inline bool kk_whole(P) {
  return true;
}
template <typename T>
inline T kk_other(T a, int far) {
  return metal::simd_shuffle_xor(a, ushort(far));
}
inline float kk_max(float a, float b) {
  return (b > a || b != b) ? b : a;
}
inline float kk_min(float a, float b) {
  return (b < a || b != b) ? b : a;
}
#endif
inline float kk_near_sum_float(float a, int near) {
  ZMLX_UNROLL
  for (int far = near / 2; far > 0; far >>= 1) {
    const float b = kk_other(a, far);
    a = a + b;
  }
  return a;
}
// One element: 2 ops: subtract, power.
inline void zmlx_walk0(float x0, float x1, thread float& y0) {
  const float t0 = x0 - x1;
  const float t1 = t0 * t0;
  y0 = t1;
}
// One element: 2 ops: subtract, power.
inline void zmlx_slow_walk0(float x0, float x1, thread float& y0) {
  const float t0 = x0 - x1;
  const float t1 = t0 * t0;
  y0 = t1;
}
// Body of kernel zmlx_rows_sum_subtract_power(in0, in1, sum0); its signature is added on launch.
const long kk_n0 = 1;
const long kk_rows = kk_n0;
const long kk_wide = in0_shape[1];
const long kk_cut = long(threadgroup_position_in_grid.x);
const long kk_cuts = long(threadgroups_per_grid.x);
const long kk_left = kk_cut * long(CUT);
const int kk_columns = int((kk_wide - kk_left < long(CUT)) ? kk_wide - kk_left : long(CUT));
const long kk_step0_1 = in0_strides[1];
const long kk_step1_1 = in1_strides[1];
const int kk_thread = int(thread_position_in_threadgroup.x);
const int kk_line = int(thread_position_in_threadgroup.y);
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_block = kk_group * long(RY) + long(kk_line);
const long kk_blocks = kk_groups * long(RY);
threadgroup float kk_partials_float[2][1][32];
const int kk_place = kk_line * TX + kk_thread;
int kk_turn = 0;
if (kk_step0_1 == 1 && kk_whole<float, LANES>(in0) && kk_step1_1 == 1 && kk_whole<float, LANES>(in1)) {
  kk_part<float, LANES> w0[PACKS];
  kk_part<float, LANES> w1[PACKS];
  ZMLX_UNROLL
  for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
    const int kk_at = (kk_p * TX + kk_thread) * LANES;
    if (EXACT || kk_at < kk_columns) {
      const long kk_row0 = kk_left * kk_step0_1;
      const long kk_row1 = kk_left * kk_step1_1;
      w0[kk_p] = kk_take<float, LANES>(in0 + (kk_row0 + kk_at));
      w1[kk_p] = kk_take<float, LANES>(in1 + (kk_row1 + kk_at));
    }
  }
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_left * kk_step0_1;
    const long kk_row1 = kk_left * kk_step1_1;
    float kk_fold5 = float(0.0f);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(w0[kk_p][kk_v]);
          const float x1 = float(w1[kk_p][kk_v]);
          float y0;
          zmlx_walk0(x0, x1, y0);
          { const float a = kk_fold5, b = y0;
            kk_fold5 = a + b; }
        }
      }
    }
    kk_fold5 = kk_near_sum_float(kk_fold5, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold5;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold5 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n5 = float(kk_fold5);
    if (kk_live && kk_thread == 0) { sum0[kk_row * kk_cuts + kk_cut] = kk_fold5; }
    if (ONCE) {
      break;
    }
  }
} else {
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_left * kk_step0_1;
    const long kk_row1 = kk_left * kk_step1_1;
    float kk_fold5 = float(0.0f);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
      float y0;
      zmlx_slow_walk0(x0, x1, y0);
      { const float a = kk_fold5, b = y0;
        kk_fold5 = a + b; }
    }
    kk_fold5 = kk_near_sum_float(kk_fold5, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold5;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold5 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n5 = float(kk_fold5);
    if (kk_live && kk_thread == 0) { sum0[kk_row * kk_cuts + kk_cut] = kk_fold5; }
    if (ONCE) {
      break;
    }
  }
}
