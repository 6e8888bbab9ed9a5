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
// One element: a copy.
inline void zmlx_walk0(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 5 ops: subtract, equal, where, subtract, exp.
inline void zmlx_walk1(float x0, float x1, int x2, int x3, float x4, thread float& y0, thread float& y1) {
  const float t0 = x0 - x1;
  const bool t1 = x2 == x3;
  const float t2 = t1 ? t0 : 0.0f;
  const float t3 = t0 - x4;
  const float t4 = metal::precise::exp(t3);
  y0 = t2;
  y1 = t4;
}
// One element: 3 ops: add, less, where.
inline void zmlx_row0(int x0, int p0, thread int& y0) {
  const int t0 = x0 + p0;
  const bool t1 = x0 < int(0);
  const int t2 = t1 ? t0 : x0;
  y0 = t2;
}
// One element: 6 ops: stop_gradient, subtract, stop_gradient, abs, equal, where.
inline void zmlx_row1(float x0, thread float& y0, thread float& y1) {
  const float t0 = x0 - x0;
  const float t1 = metal::abs(t0);
  const bool t2 = t1 == INFINITY;
  const float t3 = t2 ? 0.0f : t0;
  y0 = x0;
  y1 = t3;
}
// One element: 3 ops: log, add, subtract.
inline void zmlx_row2(float x0, float x1, float x2, thread float& y0) {
  const float t0 = metal::precise::log(x0);
  const float t1 = t0 + x1;
  const float t2 = t1 - x2;
  y0 = t2;
}
// One element: a copy.
inline void zmlx_slow_walk0(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 5 ops: subtract, equal, where, subtract, exp.
inline void zmlx_slow_walk1(float x0, float x1, int x2, int x3, float x4, thread float& y0, thread float& y1) {
  const float t0 = x0 - x1;
  const bool t1 = x2 == x3;
  const float t2 = t1 ? t0 : 0.0f;
  const float t3 = t0 - x4;
  const float t4 = metal::precise::exp(t3);
  y0 = t2;
  y1 = t4;
}
// One element: 3 ops: add, less, where.
inline void zmlx_slow_row0(int x0, int p0, thread int& y0) {
  const int t0 = x0 + p0;
  const bool t1 = x0 < int(0);
  const int t2 = t1 ? t0 : x0;
  y0 = t2;
}
// One element: 6 ops: stop_gradient, subtract, stop_gradient, abs, equal, where.
inline void zmlx_slow_row1(float x0, thread float& y0, thread float& y1) {
  const float t0 = x0 - x0;
  const float t1 = metal::abs(t0);
  const bool t2 = t1 == INFINITY;
  const float t3 = t2 ? 0.0f : t0;
  y0 = x0;
  y1 = t3;
}
// One element: 3 ops: log, add, subtract.
inline void zmlx_slow_row2(float x0, float x1, float x2, thread float& y0) {
  const float t0 = metal::precise::log(x0);
  const float t1 = t0 + x1;
  const float t2 = t1 - x2;
  y0 = t2;
}
// Body of kernel zmlx_rows_max_sum_subtract_equal_where_exp(in0, in1, in2, s0, out0); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = in0_shape[1];
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_step1_0 = in1_strides[0];
const long kk_step2_1 = in2_strides[1];
const int n3 = int(s0[0]);
const int kk_thread = int(thread_position_in_threadgroup.x);
const int kk_line = int(thread_position_in_threadgroup.y);
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_block = kk_group * long(RY) + long(kk_line);
const long kk_blocks = kk_groups * long(RY);
threadgroup float kk_partials_float[2][2][32];
const int kk_place = kk_line * TX + kk_thread;
int kk_turn = 0;
if (kk_step0_1 == 1 && kk_whole<float, LANES>(in0) && kk_step0_0 % LANES == 0) {
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const int n1 = int(in1[kk_row * kk_step1_0]);
    const long kk_row2 = 0;
    kk_part<float, LANES> kk_held0[PACKS];
    int n10;
    zmlx_row0(n1, n3, n10);
    float kk_fold4 = float((-INFINITY));
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        kk_held0[kk_p] = kk_take<float, LANES>(in0 + (kk_row0 + kk_at));
      }
    }
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          float y0;
          zmlx_walk0(x0, y0);
          { const float a = kk_fold4, b = y0;
            kk_fold4 = kk_max(a, b); }
        }
      }
    }
    kk_fold4 = kk_near_max_float(kk_fold4, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold4;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold4 = kk_near_max_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n4 = float(kk_fold4);
    float n5;
    float n20;
    zmlx_row1(n4, n5, n20);
    float kk_fold14 = float(0.0f);
    float kk_fold23 = float(0.0f);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const int x2 = int(kk_at + kk_v);
          const float x0 = float(kk_held0[kk_p][kk_v]);
          float y0;
          float y1;
          zmlx_walk1(x0, n5, x2, n10, n20, y0, y1);
          { const float a = kk_fold14, b = y0;
            kk_fold14 = a + b; }
          { const float a = kk_fold23, b = y1;
            kk_fold23 = a + b; }
        }
      }
    }
    kk_fold14 = kk_near_sum_float(kk_fold14, (TX < 32) ? TX : 32);
    kk_fold23 = kk_near_sum_float(kk_fold23, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold14;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold23;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold14 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold23 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n14 = float(kk_fold14);
    const float n23 = float(kk_fold23);
    float n26;
    zmlx_row2(n23, n20, n14, n26);
    if (kk_live && kk_thread == 0) { out0[kk_row] = float(n26); }
    if (ONCE) {
      break;
    }
  }
} else {
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const int n1 = int(in1[kk_row * kk_step1_0]);
    const long kk_row2 = 0;
    int n10;
    zmlx_slow_row0(n1, n3, n10);
    float kk_fold4 = float((-INFINITY));
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      float y0;
      zmlx_slow_walk0(x0, y0);
      { const float a = kk_fold4, b = y0;
        kk_fold4 = kk_max(a, b); }
    }
    kk_fold4 = kk_near_max_float(kk_fold4, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold4;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold4 = kk_near_max_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n4 = float(kk_fold4);
    float n5;
    float n20;
    zmlx_slow_row1(n4, n5, n20);
    float kk_fold14 = float(0.0f);
    float kk_fold23 = float(0.0f);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const int x2 = int(kk_at);
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      float y0;
      float y1;
      zmlx_slow_walk1(x0, n5, x2, n10, n20, y0, y1);
      { const float a = kk_fold14, b = y0;
        kk_fold14 = a + b; }
      { const float a = kk_fold23, b = y1;
        kk_fold23 = a + b; }
    }
    kk_fold14 = kk_near_sum_float(kk_fold14, (TX < 32) ? TX : 32);
    kk_fold23 = kk_near_sum_float(kk_fold23, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold14;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold23;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold14 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold23 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n14 = float(kk_fold14);
    const float n23 = float(kk_fold23);
    float n26;
    zmlx_slow_row2(n23, n20, n14, n26);
    if (kk_live && kk_thread == 0) { out0[kk_row] = float(n26); }
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
// One element: a copy.
inline void zmlx_walk0(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 5 ops: subtract, equal, where, subtract, exp.
inline void zmlx_walk1(float x0, float x1, int x2, int x3, float x4, thread float& y0, thread float& y1) {
  const float t0 = x0 - x1;
  const bool t1 = x2 == x3;
  const float t2 = t1 ? t0 : 0.0f;
  const float t3 = t0 - x4;
  const float t4 = metal::precise::exp(t3);
  y0 = t2;
  y1 = t4;
}
// One element: 4 ops: equal, multiply, multiply, add.
inline void zmlx_walk2(int x0, int x1, float x2, float x3, float x4, thread float& y0) {
  const bool t0 = x0 == x1;
  const float t1 = x2 * x3;
  const float t2 = t0 ? 1.0f : 0.0f;
  const float t3 = x4 * t2;
  const float t4 = t1 + t3;
  y0 = t4;
}
// One element: 4 ops: add, less, where, negative.
inline void zmlx_row0(int x0, float x1, int p0, thread int& y0, thread float& y1) {
  const int t0 = x0 + p0;
  const bool t1 = x0 < int(0);
  const int t2 = t1 ? t0 : x0;
  const float t3 = -x1;
  y0 = t2;
  y1 = t3;
}
// One element: 6 ops: stop_gradient, subtract, stop_gradient, abs, equal, where.
inline void zmlx_row1(float x0, thread float& y0, thread float& y1) {
  const float t0 = x0 - x0;
  const float t1 = metal::abs(t0);
  const bool t2 = t1 == INFINITY;
  const float t3 = t2 ? 0.0f : t0;
  y0 = x0;
  y1 = t3;
}
// One element: 12 ops: log, add, subtract, abs, greater, less, where, where, multiply, reciprocal, multiply, multiply.
inline void zmlx_row2(float x0, float x1, float x2, float x3, thread float& y0, thread float& y1) {
  const float t0 = metal::precise::log(x0);
  const float t1 = t0 + x1;
  const float t2 = t1 - x2;
  const float t3 = metal::abs(x0);
  const bool t4 = t3 > 1.84467441e+19f;
  const bool t5 = t3 < 5.42101086e-20f;
  const float t6 = t4 ? 5.42101086e-20f : 1.0f;
  const float t7 = t5 ? 1.84467441e+19f : t6;
  const float t8 = x0 * t7;
  const float t9 = 1.0f / t8;
  const float t10 = x3 * t7;
  const float t11 = t10 * t9;
  y0 = t2;
  y1 = t11;
}
// One element: a copy.
inline void zmlx_slow_walk0(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 5 ops: subtract, equal, where, subtract, exp.
inline void zmlx_slow_walk1(float x0, float x1, int x2, int x3, float x4, thread float& y0, thread float& y1) {
  const float t0 = x0 - x1;
  const bool t1 = x2 == x3;
  const float t2 = t1 ? t0 : 0.0f;
  const float t3 = t0 - x4;
  const float t4 = metal::precise::exp(t3);
  y0 = t2;
  y1 = t4;
}
// One element: 7 ops: subtract, equal, subtract, exp, multiply, multiply, add.
inline void zmlx_slow_walk2(float x0, float x1, int x2, int x3, float x4, float x5, float x6, thread float& y0) {
  const float t0 = x0 - x1;
  const bool t1 = x2 == x3;
  const float t2 = t0 - x4;
  const float t3 = metal::precise::exp(t2);
  const float t4 = x5 * t3;
  const float t5 = t1 ? 1.0f : 0.0f;
  const float t6 = x6 * t5;
  const float t7 = t4 + t6;
  y0 = t7;
}
// One element: 4 ops: add, less, where, negative.
inline void zmlx_slow_row0(int x0, float x1, int p0, thread int& y0, thread float& y1) {
  const int t0 = x0 + p0;
  const bool t1 = x0 < int(0);
  const int t2 = t1 ? t0 : x0;
  const float t3 = -x1;
  y0 = t2;
  y1 = t3;
}
// One element: 6 ops: stop_gradient, subtract, stop_gradient, abs, equal, where.
inline void zmlx_slow_row1(float x0, thread float& y0, thread float& y1) {
  const float t0 = x0 - x0;
  const float t1 = metal::abs(t0);
  const bool t2 = t1 == INFINITY;
  const float t3 = t2 ? 0.0f : t0;
  y0 = x0;
  y1 = t3;
}
// One element: 12 ops: log, add, subtract, abs, greater, less, where, where, multiply, reciprocal, multiply, multiply.
inline void zmlx_slow_row2(float x0, float x1, float x2, float x3, thread float& y0, thread float& y1) {
  const float t0 = metal::precise::log(x0);
  const float t1 = t0 + x1;
  const float t2 = t1 - x2;
  const float t3 = metal::abs(x0);
  const bool t4 = t3 > 1.84467441e+19f;
  const bool t5 = t3 < 5.42101086e-20f;
  const float t6 = t4 ? 5.42101086e-20f : 1.0f;
  const float t7 = t5 ? 1.84467441e+19f : t6;
  const float t8 = x0 * t7;
  const float t9 = 1.0f / t8;
  const float t10 = x3 * t7;
  const float t11 = t10 * t9;
  y0 = t2;
  y1 = t11;
}
// Body of kernel zmlx_rows_max_sum_subtract_equal_where_exp_multiply_add(in0, in1, in2, in3, s0, out0, out1); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = in0_shape[1];
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_step1_0 = in1_strides[0];
const long kk_step2_1 = in2_strides[1];
const long kk_step3_0 = in3_strides[0];
const int n4 = int(s0[0]);
const int kk_thread = int(thread_position_in_threadgroup.x);
const int kk_line = int(thread_position_in_threadgroup.y);
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_block = kk_group * long(RY) + long(kk_line);
const long kk_blocks = kk_groups * long(RY);
threadgroup float kk_partials_float[2][2][32];
const int kk_place = kk_line * TX + kk_thread;
int kk_turn = 0;
if (kk_step0_1 == 1 && kk_whole<float, LANES>(in0) && kk_step0_0 % LANES == 0) {
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const int n1 = int(in1[kk_row * kk_step1_0]);
    const long kk_row2 = 0;
    const float n3 = float(in3[kk_row * kk_step3_0]);
    float kk_keep23[PACKS * LANES];
    kk_part<float, LANES> kk_held0[PACKS];
    int n11;
    float n28;
    zmlx_row0(n1, n3, n4, n11, n28);
    float kk_fold5 = float((-INFINITY));
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        kk_held0[kk_p] = kk_take<float, LANES>(in0 + (kk_row0 + kk_at));
      }
    }
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          float y0;
          zmlx_walk0(x0, y0);
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
    float n21;
    zmlx_row1(n5, n6, n21);
    float kk_fold15 = float(0.0f);
    float kk_fold24 = float(0.0f);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const int x2 = int(kk_at + kk_v);
          const float x0 = float(kk_held0[kk_p][kk_v]);
          float y0;
          float y1;
          zmlx_walk1(x0, n6, x2, n11, n21, y0, y1);
          { const float a = kk_fold15, b = y0;
            kk_fold15 = a + b; }
          { const float a = kk_fold24, b = y1;
            kk_fold24 = a + b; }
          kk_keep23[kk_p * LANES + kk_v] = y1;
        }
      }
    }
    kk_fold15 = kk_near_sum_float(kk_fold15, (TX < 32) ? TX : 32);
    kk_fold24 = kk_near_sum_float(kk_fold24, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold15;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold24;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold15 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold24 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n15 = float(kk_fold15);
    const float n24 = float(kk_fold24);
    float n27;
    float n40;
    zmlx_row2(n24, n21, n15, n3, n27, n40);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        float r1[LANES];
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const int x2 = int(kk_at + kk_v);
          const float x23 = kk_keep23[kk_p * LANES + kk_v];
          float y0;
          zmlx_walk2(x2, n11, n40, x23, n28, y0);
          r1[kk_v] = y0;
        }
        if (kk_live) {
          kk_give<float, LANES>(out1 + (kk_row * kk_columns + kk_at), r1);
        }
      }
    }
    if (kk_live && kk_thread == 0) { out0[kk_row] = float(n27); }
    if (ONCE) {
      break;
    }
  }
} else {
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const int n1 = int(in1[kk_row * kk_step1_0]);
    const long kk_row2 = 0;
    const float n3 = float(in3[kk_row * kk_step3_0]);
    int n11;
    float n28;
    zmlx_slow_row0(n1, n3, n4, n11, n28);
    float kk_fold5 = float((-INFINITY));
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      float y0;
      zmlx_slow_walk0(x0, y0);
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
    float n21;
    zmlx_slow_row1(n5, n6, n21);
    float kk_fold15 = float(0.0f);
    float kk_fold24 = float(0.0f);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const int x2 = int(kk_at);
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      float y0;
      float y1;
      zmlx_slow_walk1(x0, n6, x2, n11, n21, y0, y1);
      { const float a = kk_fold15, b = y0;
        kk_fold15 = a + b; }
      { const float a = kk_fold24, b = y1;
        kk_fold24 = a + b; }
    }
    kk_fold15 = kk_near_sum_float(kk_fold15, (TX < 32) ? TX : 32);
    kk_fold24 = kk_near_sum_float(kk_fold24, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold15;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold24;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold15 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold24 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n15 = float(kk_fold15);
    const float n24 = float(kk_fold24);
    float n27;
    float n40;
    zmlx_slow_row2(n24, n21, n15, n3, n27, n40);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const int x2 = int(kk_at);
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      float y0;
      zmlx_slow_walk2(x0, n6, x2, n11, n21, n40, n28, y0);
      if (kk_live) {
        out1[kk_row * kk_columns + kk_at] = float(y0);
      }
    }
    if (kk_live && kk_thread == 0) { out0[kk_row] = float(n27); }
    if (ONCE) {
      break;
    }
  }
}
