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
inline float kk_near_max_float(float a, int near) {
  ZMLX_UNROLL
  for (int far = near / 2; far > 0; far >>= 1) {
    const float b = kk_other(a, far);
    a = kk_max(a, b);
  }
  return a;
}
inline float kk_near_sum_float(float a, int near) {
  ZMLX_UNROLL
  for (int far = near / 2; far > 0; far >>= 1) {
    const float b = kk_other(a, far);
    a = a + b;
  }
  return a;
}
// One element: 2 ops: multiply, add.
inline void zmlx_walk0(float x0, float x1, thread float& y0) {
  const float t0 = x0 * 0.125f;
  const float t1 = t0 + x1;
  y0 = t1;
}
// One element: 4 ops: multiply, add, subtract, exp.
inline void zmlx_walk1(float x0, float x1, float x2, thread float& y0) {
  const float t0 = x0 * 0.125f;
  const float t1 = t0 + x1;
  const float t2 = t1 - x2;
  const float t3 = metal::precise::exp(t2);
  y0 = t3;
}
// One element: 2 ops: multiply, multiply.
inline void zmlx_walk2(float x0, float x1, float x2, thread float& y0) {
  const float t0 = x0 * x1;
  const float t1 = t0 * x2;
  y0 = t1;
}
// One element: 1 op: stop_gradient.
inline void zmlx_row1(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 7 ops: abs, greater, less, where, where, multiply, reciprocal.
inline void zmlx_row2(float x0, thread float& y0, thread float& y1) {
  const float t0 = metal::abs(x0);
  const bool t1 = t0 > 1.84467441e+19f;
  const bool t2 = t0 < 5.42101086e-20f;
  const float t3 = t1 ? 5.42101086e-20f : 1.0f;
  const float t4 = t2 ? 1.84467441e+19f : t3;
  const float t5 = x0 * t4;
  const float t6 = 1.0f / t5;
  y0 = t4;
  y1 = t6;
}
// One element: 2 ops: multiply, add.
inline void zmlx_slow_walk0(float x0, float x1, thread float& y0) {
  const float t0 = x0 * 0.125f;
  const float t1 = t0 + x1;
  y0 = t1;
}
// One element: 4 ops: multiply, add, subtract, exp.
inline void zmlx_slow_walk1(float x0, float x1, float x2, thread float& y0) {
  const float t0 = x0 * 0.125f;
  const float t1 = t0 + x1;
  const float t2 = t1 - x2;
  const float t3 = metal::precise::exp(t2);
  y0 = t3;
}
// One element: 6 ops: multiply, add, subtract, exp, multiply, multiply.
inline void zmlx_slow_walk2(float x0, float x1, float x2, float x3, float x4, thread float& y0) {
  const float t0 = x0 * 0.125f;
  const float t1 = t0 + x1;
  const float t2 = t1 - x2;
  const float t3 = metal::precise::exp(t2);
  const float t4 = t3 * x3;
  const float t5 = t4 * x4;
  y0 = t5;
}
// One element: 1 op: stop_gradient.
inline void zmlx_slow_row1(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 7 ops: abs, greater, less, where, where, multiply, reciprocal.
inline void zmlx_slow_row2(float x0, thread float& y0, thread float& y1) {
  const float t0 = metal::abs(x0);
  const bool t1 = t0 > 1.84467441e+19f;
  const bool t2 = t0 < 5.42101086e-20f;
  const float t3 = t1 ? 5.42101086e-20f : 1.0f;
  const float t4 = t2 ? 1.84467441e+19f : t3;
  const float t5 = x0 * t4;
  const float t6 = 1.0f / t5;
  y0 = t4;
  y1 = t6;
}
// Body of kernel zmlx_rows_max_sum_multiply_add_subtract_exp(in0, in1, out0); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = in0_shape[1];
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_step1_0 = in1_strides[0];
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
if (kk_step0_1 == 1 && kk_whole<float, LANES>(in0) && kk_step0_0 % LANES == 0 && kk_step1_1 == 1 && kk_whole<float, LANES>(in1) && kk_step1_0 % LANES == 0) {
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const long kk_row1 = kk_row * kk_step1_0;
    float kk_keep8[PACKS * LANES];
    kk_part<float, LANES> kk_held0[PACKS];
    kk_part<float, LANES> kk_held1[PACKS];
    float kk_fold5 = float((-INFINITY));
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        kk_held0[kk_p] = kk_take<float, LANES>(in0 + (kk_row0 + kk_at));
        kk_held1[kk_p] = kk_take<float, LANES>(in1 + (kk_row1 + kk_at));
      }
    }
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          const float x1 = float(kk_held1[kk_p][kk_v]);
          float y0;
          zmlx_walk0(x0, x1, y0);
          { const float a = kk_fold5, b = y0;
            kk_fold5 = kk_max(a, b); }
        }
      }
    }
    kk_fold5 = kk_near_max_float(kk_fold5, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold5;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold5 = kk_near_max_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n5 = float(kk_fold5);
    float n6;
    zmlx_row1(n5, n6);
    float kk_fold9 = float(0.0f);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          const float x1 = float(kk_held1[kk_p][kk_v]);
          float y0;
          zmlx_walk1(x0, x1, n6, y0);
          { const float a = kk_fold9, b = y0;
            kk_fold9 = a + b; }
          kk_keep8[kk_p * LANES + kk_v] = y0;
        }
      }
    }
    kk_fold9 = kk_near_sum_float(kk_fold9, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold9;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold9 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n9 = float(kk_fold9);
    float n17;
    float n19;
    zmlx_row2(n9, n17, n19);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        float r0[LANES];
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x8 = kk_keep8[kk_p * LANES + kk_v];
          float y0;
          zmlx_walk2(x8, n17, n19, y0);
          r0[kk_v] = y0;
        }
        if (kk_live) {
          kk_give<float, LANES>(out0 + (kk_row * kk_columns + kk_at), r0);
        }
      }
    }
    if (ONCE) {
      break;
    }
  }
} else {
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const long kk_row1 = kk_row * kk_step1_0;
    float kk_fold5 = float((-INFINITY));
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
      float y0;
      zmlx_slow_walk0(x0, x1, y0);
      { const float a = kk_fold5, b = y0;
        kk_fold5 = kk_max(a, b); }
    }
    kk_fold5 = kk_near_max_float(kk_fold5, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold5;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold5 = kk_near_max_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n5 = float(kk_fold5);
    float n6;
    zmlx_slow_row1(n5, n6);
    float kk_fold9 = float(0.0f);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
      float y0;
      zmlx_slow_walk1(x0, x1, n6, y0);
      { const float a = kk_fold9, b = y0;
        kk_fold9 = a + b; }
    }
    kk_fold9 = kk_near_sum_float(kk_fold9, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold9;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold9 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n9 = float(kk_fold9);
    float n17;
    float n19;
    zmlx_slow_row2(n9, n17, n19);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
      float y0;
      zmlx_slow_walk2(x0, x1, n6, n17, n19, y0);
      if (kk_live) {
        out0[kk_row * kk_columns + kk_at] = float(y0);
      }
    }
    if (ONCE) {
      break;
    }
  }
}

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
inline float kk_near_max_float(float a, int near) {
  ZMLX_UNROLL
  for (int far = near / 2; far > 0; far >>= 1) {
    const float b = kk_other(a, far);
    a = kk_max(a, b);
  }
  return a;
}
inline float kk_near_sum_float(float a, int near) {
  ZMLX_UNROLL
  for (int far = near / 2; far > 0; far >>= 1) {
    const float b = kk_other(a, far);
    a = a + b;
  }
  return a;
}
// One element: 2 ops: multiply, add.
inline void zmlx_walk0(float x0, float x1, thread float& y0) {
  const float t0 = x0 * 0.125f;
  const float t1 = t0 + x1;
  y0 = t1;
}
// One element: 5 ops: multiply, add, subtract, exp, multiply.
inline void zmlx_walk1(float x0, float x1, float x2, float x3, thread float& y0, thread float& y1) {
  const float t0 = x0 * 0.125f;
  const float t1 = t0 + x1;
  const float t2 = t1 - x2;
  const float t3 = metal::precise::exp(t2);
  const float t4 = x3 * t3;
  y0 = t3;
  y1 = t4;
}
// One element: 5 ops: multiply, multiply, add, multiply, multiply.
inline void zmlx_walk2(float x0, float x1, float x2, float x3, float x4, thread float& y0, thread float& y1) {
  const float t0 = x0 * x1;
  const float t1 = t0 * x2;
  const float t2 = t1 + x3;
  const float t3 = t2 * x4;
  const float t4 = t3 * 0.125f;
  y0 = t3;
  y1 = t4;
}
// One element: 1 op: stop_gradient.
inline void zmlx_row1(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 12 ops: abs, greater, less, where, where, multiply, reciprocal, multiply, multiply, multiply, multiply, negative.
inline void zmlx_row2(float x0, float x1, thread float& y0, thread float& y1, thread float& y2) {
  const float t0 = metal::abs(x0);
  const bool t1 = t0 > 1.84467441e+19f;
  const bool t2 = t0 < 5.42101086e-20f;
  const float t3 = t1 ? 5.42101086e-20f : 1.0f;
  const float t4 = t2 ? 1.84467441e+19f : t3;
  const float t5 = x0 * t4;
  const float t6 = 1.0f / t5;
  const float t7 = x1 * t4;
  const float t8 = t7 * t6;
  const float t9 = t8 * t4;
  const float t10 = t9 * t6;
  const float t11 = -t10;
  y0 = t4;
  y1 = t6;
  y2 = t11;
}
// One element: 2 ops: multiply, add.
inline void zmlx_slow_walk0(float x0, float x1, thread float& y0) {
  const float t0 = x0 * 0.125f;
  const float t1 = t0 + x1;
  y0 = t1;
}
// One element: 5 ops: multiply, add, subtract, exp, multiply.
inline void zmlx_slow_walk1(float x0, float x1, float x2, float x3, thread float& y0, thread float& y1) {
  const float t0 = x0 * 0.125f;
  const float t1 = t0 + x1;
  const float t2 = t1 - x2;
  const float t3 = metal::precise::exp(t2);
  const float t4 = x3 * t3;
  y0 = t3;
  y1 = t4;
}
// One element: 9 ops: multiply, add, subtract, exp, multiply, multiply, add, multiply, multiply.
inline void zmlx_slow_walk2(float x0, float x1, float x2, float x3, float x4, float x5, float x6, thread float& y0, thread float& y1) {
  const float t0 = x0 * 0.125f;
  const float t1 = t0 + x1;
  const float t2 = t1 - x2;
  const float t3 = metal::precise::exp(t2);
  const float t4 = x3 * x4;
  const float t5 = t4 * x5;
  const float t6 = t5 + x6;
  const float t7 = t6 * t3;
  const float t8 = t7 * 0.125f;
  y0 = t7;
  y1 = t8;
}
// One element: 1 op: stop_gradient.
inline void zmlx_slow_row1(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 12 ops: abs, greater, less, where, where, multiply, reciprocal, multiply, multiply, multiply, multiply, negative.
inline void zmlx_slow_row2(float x0, float x1, thread float& y0, thread float& y1, thread float& y2) {
  const float t0 = metal::abs(x0);
  const bool t1 = t0 > 1.84467441e+19f;
  const bool t2 = t0 < 5.42101086e-20f;
  const float t3 = t1 ? 5.42101086e-20f : 1.0f;
  const float t4 = t2 ? 1.84467441e+19f : t3;
  const float t5 = x0 * t4;
  const float t6 = 1.0f / t5;
  const float t7 = x1 * t4;
  const float t8 = t7 * t6;
  const float t9 = t8 * t4;
  const float t10 = t9 * t6;
  const float t11 = -t10;
  y0 = t4;
  y1 = t6;
  y2 = t11;
}
// Body of kernel zmlx_rows_max_sum_multiply_add_subtract_exp(in0, in1, in2, out0, out1); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = in0_shape[1];
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_step1_0 = in1_strides[0];
const long kk_step1_1 = in1_strides[1];
const long kk_step2_0 = in2_strides[0];
const long kk_step2_1 = in2_strides[1];
const int kk_thread = int(thread_position_in_threadgroup.x);
const int kk_line = int(thread_position_in_threadgroup.y);
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_block = kk_group * long(RY) + long(kk_line);
const long kk_blocks = kk_groups * long(RY);
threadgroup float kk_partials_float[2][2][32];
const int kk_place = kk_line * TX + kk_thread;
int kk_turn = 0;
if (kk_step0_1 == 1 && kk_whole<float, LANES>(in0) && kk_step0_0 % LANES == 0 && kk_step1_1 == 1 && kk_whole<float, LANES>(in1) && kk_step1_0 % LANES == 0 && kk_step2_1 == 1 && kk_whole<float, LANES>(in2) && kk_step2_0 % LANES == 0) {
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const long kk_row1 = kk_row * kk_step1_0;
    const long kk_row2 = kk_row * kk_step2_0;
    float kk_keep9[PACKS * LANES];
    kk_part<float, LANES> kk_held0[PACKS];
    kk_part<float, LANES> kk_held1[PACKS];
    kk_part<float, LANES> kk_held2[PACKS];
    float kk_fold6 = float((-INFINITY));
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        kk_held0[kk_p] = kk_take<float, LANES>(in0 + (kk_row0 + kk_at));
        kk_held1[kk_p] = kk_take<float, LANES>(in1 + (kk_row1 + kk_at));
      }
    }
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          const float x1 = float(kk_held1[kk_p][kk_v]);
          float y0;
          zmlx_walk0(x0, x1, y0);
          { const float a = kk_fold6, b = y0;
            kk_fold6 = kk_max(a, b); }
        }
      }
    }
    kk_fold6 = kk_near_max_float(kk_fold6, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold6;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold6 = kk_near_max_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n6 = float(kk_fold6);
    float n7;
    zmlx_row1(n6, n7);
    float kk_fold10 = float(0.0f);
    float kk_fold24 = float(0.0f);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        kk_held2[kk_p] = kk_take<float, LANES>(in2 + (kk_row2 + kk_at));
      }
    }
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          const float x1 = float(kk_held1[kk_p][kk_v]);
          const float x2 = float(kk_held2[kk_p][kk_v]);
          float y0;
          float y1;
          zmlx_walk1(x0, x1, n7, x2, y0, y1);
          { const float a = kk_fold10, b = y0;
            kk_fold10 = a + b; }
          { const float a = kk_fold24, b = y1;
            kk_fold24 = a + b; }
          kk_keep9[kk_p * LANES + kk_v] = y0;
        }
      }
    }
    kk_fold10 = kk_near_sum_float(kk_fold10, (TX < 32) ? TX : 32);
    kk_fold24 = kk_near_sum_float(kk_fold24, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold10;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold24;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold10 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold24 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n10 = float(kk_fold10);
    const float n24 = float(kk_fold24);
    float n18;
    float n20;
    float n29;
    zmlx_row2(n10, n24, n18, n20, n29);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        float r0[LANES];
        float r1[LANES];
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x2 = float(kk_held2[kk_p][kk_v]);
          const float x9 = kk_keep9[kk_p * LANES + kk_v];
          float y0;
          float y1;
          zmlx_walk2(x2, n18, n20, n29, x9, y0, y1);
          r0[kk_v] = y0;
          r1[kk_v] = y1;
        }
        if (kk_live) {
          kk_give<float, LANES>(out0 + (kk_row * kk_columns + kk_at), r0);
          kk_give<float, LANES>(out1 + (kk_row * kk_columns + kk_at), r1);
        }
      }
    }
    if (ONCE) {
      break;
    }
  }
} else {
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const long kk_row1 = kk_row * kk_step1_0;
    const long kk_row2 = kk_row * kk_step2_0;
    float kk_fold6 = float((-INFINITY));
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
      float y0;
      zmlx_slow_walk0(x0, x1, y0);
      { const float a = kk_fold6, b = y0;
        kk_fold6 = kk_max(a, b); }
    }
    kk_fold6 = kk_near_max_float(kk_fold6, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold6;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold6 = kk_near_max_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n6 = float(kk_fold6);
    float n7;
    zmlx_slow_row1(n6, n7);
    float kk_fold10 = float(0.0f);
    float kk_fold24 = float(0.0f);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
      const float x2 = float(in2[kk_row2 + kk_at * kk_step2_1]);
      float y0;
      float y1;
      zmlx_slow_walk1(x0, x1, n7, x2, y0, y1);
      { const float a = kk_fold10, b = y0;
        kk_fold10 = a + b; }
      { const float a = kk_fold24, b = y1;
        kk_fold24 = a + b; }
    }
    kk_fold10 = kk_near_sum_float(kk_fold10, (TX < 32) ? TX : 32);
    kk_fold24 = kk_near_sum_float(kk_fold24, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold10;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold24;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold10 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold24 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n10 = float(kk_fold10);
    const float n24 = float(kk_fold24);
    float n18;
    float n20;
    float n29;
    zmlx_slow_row2(n10, n24, n18, n20, n29);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
      const float x2 = float(in2[kk_row2 + kk_at * kk_step2_1]);
      float y0;
      float y1;
      zmlx_slow_walk2(x0, x1, n7, x2, n18, n20, n29, y0, y1);
      if (kk_live) {
        out0[kk_row * kk_columns + kk_at] = float(y0);
        out1[kk_row * kk_columns + kk_at] = float(y1);
      }
    }
    if (ONCE) {
      break;
    }
  }
}
