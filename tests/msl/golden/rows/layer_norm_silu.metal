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
#ifndef ZMLX_NATIVE_SIGMOID
inline float zmlx_sigmoid(float x) {
  const float e = metal::precise::exp(-metal::abs(x));
  const float numerator = (x < 0.0f) ? e : 1.0f;
  return numerator / (1.0f + e);
}
#endif
// One element: a copy.
inline void zmlx_walk0(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 2 ops: subtract, square.
inline void zmlx_walk1(float x0, float x1, thread float& y0) {
  const float t0 = x0 - x1;
  const float t1 = t0 * t0;
  y0 = t1;
}
// One element: 6 ops: subtract, multiply, multiply, add, sigmoid, multiply.
inline void zmlx_walk2(float x0, float x1, float x2, float x3, float x4, thread float& y0) {
  const float t0 = x0 - x1;
  const float t1 = t0 * x2;
  const float t2 = t1 * x3;
  const float t3 = t2 + x4;
  const float t4 = zmlx_sigmoid(t3);
  const float t5 = t3 * t4;
  y0 = t5;
}
// One element: 1 op: divide.
inline void zmlx_row1(float x0, float p0, thread float& y0) {
  const float t0 = x0 / p0;
  y0 = t0;
}
// One element: 3 ops: divide, add, rsqrt.
inline void zmlx_row2(float x0, float p0, thread float& y0) {
  const float t0 = x0 / p0;
  const float t1 = t0 + 9.99999975e-06f;
  const float t2 = metal::precise::rsqrt(t1);
  y0 = t2;
}
// One element: a copy.
inline void zmlx_slow_walk0(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 2 ops: subtract, square.
inline void zmlx_slow_walk1(float x0, float x1, thread float& y0) {
  const float t0 = x0 - x1;
  const float t1 = t0 * t0;
  y0 = t1;
}
// One element: 6 ops: subtract, multiply, multiply, add, sigmoid, multiply.
inline void zmlx_slow_walk2(float x0, float x1, float x2, float x3, float x4, thread float& y0) {
  const float t0 = x0 - x1;
  const float t1 = t0 * x2;
  const float t2 = t1 * x3;
  const float t3 = t2 + x4;
  const float t4 = zmlx_sigmoid(t3);
  const float t5 = t3 * t4;
  y0 = t5;
}
// One element: 1 op: divide.
inline void zmlx_slow_row1(float x0, float p0, thread float& y0) {
  const float t0 = x0 / p0;
  y0 = t0;
}
// One element: 3 ops: divide, add, rsqrt.
inline void zmlx_slow_row2(float x0, float p0, thread float& y0) {
  const float t0 = x0 / p0;
  const float t1 = t0 + 9.99999975e-06f;
  const float t2 = metal::precise::rsqrt(t1);
  y0 = t2;
}
// Body of kernel zmlx_rows_sum_subtract_square_multiply_add_sigmoid(in0, in1, in2, out0); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = in0_shape[1];
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_step1_1 = in1_strides[1];
const long kk_step2_1 = in2_strides[1];
const float n4 = float(in0_shape[1]);
const int kk_thread = int(thread_position_in_threadgroup.x);
const int kk_line = int(thread_position_in_threadgroup.y);
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_block = kk_group * long(RY) + long(kk_line);
const long kk_blocks = kk_groups * long(RY);
threadgroup float kk_partials_float[2][1][32];
const int kk_place = kk_line * TX + kk_thread;
int kk_turn = 0;
if (kk_step0_1 == 1 && kk_whole<float, LANES>(in0) && kk_step0_0 % LANES == 0 && kk_step1_1 == 1 && kk_whole<float, LANES>(in1) && kk_step2_1 == 1 && kk_whole<float, LANES>(in2)) {
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const long kk_row1 = 0;
    const long kk_row2 = 0;
    kk_part<float, LANES> kk_held0[PACKS];
    float kk_fold3 = float(0.0f);
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
          { const float a = kk_fold3, b = y0;
            kk_fold3 = a + b; }
        }
      }
    }
    kk_fold3 = kk_near_sum_float(kk_fold3, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold3;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold3 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n3 = float(kk_fold3);
    float n5;
    zmlx_row1(n3, n4, n5);
    float kk_fold8 = float(0.0f);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          float y0;
          zmlx_walk1(x0, n5, y0);
          { const float a = kk_fold8, b = y0;
            kk_fold8 = a + b; }
        }
      }
    }
    kk_fold8 = kk_near_sum_float(kk_fold8, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold8;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold8 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n8 = float(kk_fold8);
    float n12;
    zmlx_row2(n8, n4, n12);
    kk_part<float, LANES> w1[PACKS];
    kk_part<float, LANES> w2[PACKS];
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        w1[kk_p] = kk_take<float, LANES>(in1 + (kk_row1 + kk_at));
        w2[kk_p] = kk_take<float, LANES>(in2 + (kk_row2 + kk_at));
      }
    }
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        float r0[LANES];
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          const float x1 = float(w1[kk_p][kk_v]);
          const float x2 = float(w2[kk_p][kk_v]);
          float y0;
          zmlx_walk2(x0, n5, n12, x1, x2, y0);
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
    const long kk_row1 = 0;
    const long kk_row2 = 0;
    float kk_fold3 = float(0.0f);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      float y0;
      zmlx_slow_walk0(x0, y0);
      { const float a = kk_fold3, b = y0;
        kk_fold3 = a + b; }
    }
    kk_fold3 = kk_near_sum_float(kk_fold3, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold3;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold3 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n3 = float(kk_fold3);
    float n5;
    zmlx_slow_row1(n3, n4, n5);
    float kk_fold8 = float(0.0f);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      float y0;
      zmlx_slow_walk1(x0, n5, y0);
      { const float a = kk_fold8, b = y0;
        kk_fold8 = a + b; }
    }
    kk_fold8 = kk_near_sum_float(kk_fold8, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold8;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold8 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n8 = float(kk_fold8);
    float n12;
    zmlx_slow_row2(n8, n4, n12);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
      const float x2 = float(in2[kk_row2 + kk_at * kk_step2_1]);
      float y0;
      zmlx_slow_walk2(x0, n5, n12, x1, x2, y0);
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
inline float kk_near_sum_float(float a, int near) {
  ZMLX_UNROLL
  for (int far = near / 2; far > 0; far >>= 1) {
    const float b = kk_other(a, far);
    a = a + b;
  }
  return a;
}
#ifndef ZMLX_NATIVE_SIGMOID
inline float zmlx_sigmoid(float x) {
  const float e = metal::precise::exp(-metal::abs(x));
  const float numerator = (x < 0.0f) ? e : 1.0f;
  return numerator / (1.0f + e);
}
#endif
// One element: a copy.
inline void zmlx_walk0(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 2 ops: subtract, square.
inline void zmlx_walk1(float x0, float x1, thread float& y0, thread float& y1) {
  const float t0 = x0 - x1;
  const float t1 = t0 * t0;
  y0 = t1;
  y1 = t0;
}
// One element: 14 ops: subtract, multiply, multiply, add, sigmoid, multiply, multiply, multiply, subtract, multiply, add, multiply, ....
inline void zmlx_walk2(float x0, float x1, float x2, float x3, float x4, float x5, thread float& y0, thread float& y1, thread float& y2) {
  const float t0 = x0 - x1;
  const float t1 = t0 * x2;
  const float t2 = t1 * x3;
  const float t3 = t2 + x4;
  const float t4 = zmlx_sigmoid(t3);
  const float t5 = x5 * t4;
  const float t6 = x5 * t3;
  const float t7 = t6 * t4;
  const float t8 = 1.0f - t4;
  const float t9 = t7 * t8;
  const float t10 = t5 + t9;
  const float t11 = t10 * x3;
  const float t12 = t11 * x2;
  const float t13 = t11 * t0;
  y0 = t13;
  y1 = t12;
  y2 = t4;
}
// One element: 16 ops: subtract, multiply, multiply, add, multiply, multiply, multiply, subtract, multiply, add, multiply, multiply, ....
inline void zmlx_walk3(float x0, float x1, float x2, float x3, float x4, float x5, float x6, float x7, float x8, thread float& y0, thread float& y1, thread float& y2) {
  const float t0 = x0 - x1;
  const float t1 = t0 * x2;
  const float t2 = t1 * x3;
  const float t3 = t2 + x4;
  const float t4 = x5 * x6;
  const float t5 = x5 * t3;
  const float t6 = t5 * x6;
  const float t7 = 1.0f - x6;
  const float t8 = t6 * t7;
  const float t9 = t4 + t8;
  const float t10 = t9 * x3;
  const float t11 = t9 * t1;
  const float t12 = t10 * x2;
  const float t13 = x7 * t0;
  const float t14 = t12 + t13;
  const float t15 = t14 + x8;
  y0 = t9;
  y1 = t11;
  y2 = t15;
}
// One element: 1 op: divide.
inline void zmlx_row1(float x0, float p0, thread float& y0) {
  const float t0 = x0 / p0;
  y0 = t0;
}
// One element: 5 ops: divide, add, rsqrt, square, multiply.
inline void zmlx_row2(float x0, float p0, thread float& y0, thread float& y1) {
  const float t0 = x0 / p0;
  const float t1 = t0 + 9.99999975e-06f;
  const float t2 = metal::precise::rsqrt(t1);
  const float t3 = t2 * t2;
  const float t4 = t2 * t3;
  y0 = t2;
  y1 = t4;
}
// One element: 9 ops: multiply, multiply, negative, divide, multiply, negative, multiply, subtract, divide.
inline void zmlx_row3(float x0, float x1, float x2, float x3, float p0, thread float& y0, thread float& y1) {
  const float t0 = x0 * 0.5f;
  const float t1 = t0 * x1;
  const float t2 = -t1;
  const float t3 = t2 / p0;
  const float t4 = t3 * 2.0f;
  const float t5 = -x2;
  const float t6 = x3 * t4;
  const float t7 = t5 - t6;
  const float t8 = t7 / p0;
  y0 = t4;
  y1 = t8;
}
// One element: a copy.
inline void zmlx_slow_walk0(float x0, thread float& y0) {
  y0 = x0;
}
// One element: 2 ops: subtract, square.
inline void zmlx_slow_walk1(float x0, float x1, thread float& y0, thread float& y1) {
  const float t0 = x0 - x1;
  const float t1 = t0 * t0;
  y0 = t1;
  y1 = t0;
}
// One element: 14 ops: subtract, multiply, multiply, add, sigmoid, multiply, multiply, multiply, subtract, multiply, add, multiply, ....
inline void zmlx_slow_walk2(float x0, float x1, float x2, float x3, float x4, float x5, thread float& y0, thread float& y1) {
  const float t0 = x0 - x1;
  const float t1 = t0 * x2;
  const float t2 = t1 * x3;
  const float t3 = t2 + x4;
  const float t4 = zmlx_sigmoid(t3);
  const float t5 = x5 * t4;
  const float t6 = x5 * t3;
  const float t7 = t6 * t4;
  const float t8 = 1.0f - t4;
  const float t9 = t7 * t8;
  const float t10 = t5 + t9;
  const float t11 = t10 * x3;
  const float t12 = t11 * x2;
  const float t13 = t11 * t0;
  y0 = t13;
  y1 = t12;
}
// One element: 17 ops: subtract, multiply, multiply, add, sigmoid, multiply, multiply, multiply, subtract, multiply, add, multiply, ....
inline void zmlx_slow_walk3(float x0, float x1, float x2, float x3, float x4, float x5, float x6, float x7, thread float& y0, thread float& y1, thread float& y2) {
  const float t0 = x0 - x1;
  const float t1 = t0 * x2;
  const float t2 = t1 * x3;
  const float t3 = t2 + x4;
  const float t4 = zmlx_sigmoid(t3);
  const float t5 = x5 * t4;
  const float t6 = x5 * t3;
  const float t7 = t6 * t4;
  const float t8 = 1.0f - t4;
  const float t9 = t7 * t8;
  const float t10 = t5 + t9;
  const float t11 = t10 * x3;
  const float t12 = t10 * t1;
  const float t13 = t11 * x2;
  const float t14 = x6 * t0;
  const float t15 = t13 + t14;
  const float t16 = t15 + x7;
  y0 = t10;
  y1 = t12;
  y2 = t16;
}
// One element: 1 op: divide.
inline void zmlx_slow_row1(float x0, float p0, thread float& y0) {
  const float t0 = x0 / p0;
  y0 = t0;
}
// One element: 5 ops: divide, add, rsqrt, square, multiply.
inline void zmlx_slow_row2(float x0, float p0, thread float& y0, thread float& y1) {
  const float t0 = x0 / p0;
  const float t1 = t0 + 9.99999975e-06f;
  const float t2 = metal::precise::rsqrt(t1);
  const float t3 = t2 * t2;
  const float t4 = t2 * t3;
  y0 = t2;
  y1 = t4;
}
// One element: 9 ops: multiply, multiply, negative, divide, multiply, negative, multiply, subtract, divide.
inline void zmlx_slow_row3(float x0, float x1, float x2, float x3, float p0, thread float& y0, thread float& y1) {
  const float t0 = x0 * 0.5f;
  const float t1 = t0 * x1;
  const float t2 = -t1;
  const float t3 = t2 / p0;
  const float t4 = t3 * 2.0f;
  const float t5 = -x2;
  const float t6 = x3 * t4;
  const float t7 = t5 - t6;
  const float t8 = t7 / p0;
  y0 = t4;
  y1 = t8;
}
// Body of kernel zmlx_rows_sum_subtract_square_multiply_add_sigmoid(in0, in1, in2, in3, out0, sum0, sum1); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = in0_shape[1];
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_step1_1 = in1_strides[1];
const long kk_step2_1 = in2_strides[1];
const long kk_step3_0 = in3_strides[0];
const long kk_step3_1 = in3_strides[1];
const float n4 = float(in0_shape[1]);
const int kk_thread = int(thread_position_in_threadgroup.x);
const int kk_line = int(thread_position_in_threadgroup.y);
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_block = kk_group * long(RY) + long(kk_line);
const long kk_blocks = kk_groups * long(RY);
threadgroup float kk_partials_float[2][2][32];
threadgroup float kk_lines_float[2][4][(RY > 1) ? RY * TX : 1];
const int kk_place = kk_line * TX + kk_thread;
int kk_turn = 0;
if (kk_step0_1 == 1 && kk_whole<float, LANES>(in0) && kk_step0_0 % LANES == 0 && kk_step1_1 == 1 && kk_whole<float, LANES>(in1) && kk_step2_1 == 1 && kk_whole<float, LANES>(in2) && kk_step3_1 == 1 && kk_whole<float, LANES>(in3) && kk_step3_0 % LANES == 0) {
  float kk_sink47[PACKS * LANES];
  ZMLX_UNROLL
  for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {
    kk_sink47[kk_k] = float(0.0f);
  }
  float kk_sink48[PACKS * LANES];
  ZMLX_UNROLL
  for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {
    kk_sink48[kk_k] = float(0.0f);
  }
  kk_part<float, LANES> w1[PACKS];
  kk_part<float, LANES> w2[PACKS];
  ZMLX_UNROLL
  for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
    const int kk_at = (kk_p * TX + kk_thread) * LANES;
    if (EXACT || kk_at < kk_columns) {
      const long kk_row1 = 0;
      const long kk_row2 = 0;
      w1[kk_p] = kk_take<float, LANES>(in1 + (kk_row1 + kk_at));
      w2[kk_p] = kk_take<float, LANES>(in2 + (kk_row2 + kk_at));
    }
  }
  kk_part<float, LANES> kk_next0[PACKS];
  kk_part<float, LANES> kk_next3[PACKS];
  if (KK_AHEAD) {
    const long kk_row = ((kk_block < kk_rows) ? kk_block : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const long kk_row3 = kk_row * kk_step3_0;
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        kk_next0[kk_p] = kk_take<float, LANES>(in0 + (kk_row0 + kk_at));
        kk_next3[kk_p] = kk_take<float, LANES>(in3 + (kk_row3 + kk_at));
      }
    }
  }
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const long kk_row1 = 0;
    const long kk_row2 = 0;
    const long kk_row3 = kk_row * kk_step3_0;
    float kk_keep17[PACKS * LANES];
    kk_part<float, LANES> kk_held0[PACKS];
    kk_part<float, LANES> kk_held3[PACKS];
    if (KK_AHEAD) {
      ZMLX_UNROLL
      for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
        const int kk_at = (kk_p * TX + kk_thread) * LANES;
        if (EXACT || kk_at < kk_columns) {
          kk_held0[kk_p] = kk_next0[kk_p];
          kk_held3[kk_p] = kk_next3[kk_p];
        }
      }
      if (kk_base + kk_blocks < kk_rows) {
        const long kk_far = kk_base + kk_blocks + long(kk_line);
        const long kk_row = ((kk_far < kk_rows) ? kk_far : kk_rows - 1);
        const long kk_row0 = kk_row * kk_step0_0;
        const long kk_row3 = kk_row * kk_step3_0;
        ZMLX_UNROLL
        for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
          const int kk_at = (kk_p * TX + kk_thread) * LANES;
          if (EXACT || kk_at < kk_columns) {
            kk_next0[kk_p] = kk_take<float, LANES>(in0 + (kk_row0 + kk_at));
            kk_next3[kk_p] = kk_take<float, LANES>(in3 + (kk_row3 + kk_at));
          }
        }
      }
    } else {
      ZMLX_UNROLL
      for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
        const int kk_at = (kk_p * TX + kk_thread) * LANES;
        if (EXACT || kk_at < kk_columns) {
          kk_held0[kk_p] = kk_take<float, LANES>(in0 + (kk_row0 + kk_at));
          kk_held3[kk_p] = kk_take<float, LANES>(in3 + (kk_row3 + kk_at));
        }
      }
    }
    float kk_fold5 = float(0.0f);
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
    float n6;
    zmlx_row1(n5, n4, n6);
    float kk_fold9 = float(0.0f);
    float kk_fold43 = float(0.0f);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          float y0;
          float y1;
          zmlx_walk1(x0, n6, y0, y1);
          { const float a = kk_fold9, b = y0;
            kk_fold9 = a + b; }
          { const float a = kk_fold43, b = y1;
            kk_fold43 = a + b; }
        }
      }
    }
    kk_fold9 = kk_near_sum_float(kk_fold9, (TX < 32) ? TX : 32);
    kk_fold43 = kk_near_sum_float(kk_fold43, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold9;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold43;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold9 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold43 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n9 = float(kk_fold9);
    const float n43 = float(kk_fold43);
    float n13;
    float n33;
    zmlx_row2(n9, n4, n13, n33);
    float kk_fold29 = float(0.0f);
    float kk_fold41 = float(0.0f);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          const float x1 = float(w1[kk_p][kk_v]);
          const float x2 = float(w2[kk_p][kk_v]);
          const float x3 = float(kk_held3[kk_p][kk_v]);
          float y0;
          float y1;
          float y2;
          zmlx_walk2(x0, n6, n13, x1, x2, x3, y0, y1, y2);
          { const float a = kk_fold29, b = y0;
            kk_fold29 = a + b; }
          { const float a = kk_fold41, b = y1;
            kk_fold41 = a + b; }
          kk_keep17[kk_p * LANES + kk_v] = y2;
        }
      }
    }
    kk_fold29 = kk_near_sum_float(kk_fold29, (TX < 32) ? TX : 32);
    kk_fold41 = kk_near_sum_float(kk_fold41, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold29;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold41;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold29 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold41 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n29 = float(kk_fold29);
    const float n41 = float(kk_fold41);
    float n38;
    float n46;
    zmlx_row3(n29, n33, n41, n43, n4, n38, n46);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        float r2[LANES];
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          const float x1 = float(w1[kk_p][kk_v]);
          const float x2 = float(w2[kk_p][kk_v]);
          const float x3 = float(kk_held3[kk_p][kk_v]);
          const float x17 = kk_keep17[kk_p * LANES + kk_v];
          float y0;
          float y1;
          float y2;
          zmlx_walk3(x0, n6, n13, x1, x2, x3, x17, n38, n46, y0, y1, y2);
          kk_sink47[kk_p * LANES + kk_v] += kk_live ? y0 : float(0.0f);
          kk_sink48[kk_p * LANES + kk_v] += kk_live ? y1 : float(0.0f);
          r2[kk_v] = y2;
        }
        if (kk_live) {
          kk_give<float, LANES>(out0 + (kk_row * kk_columns + kk_at), r2);
        }
      }
    }
    if (ONCE) {
      break;
    }
  }
  ZMLX_UNROLL
  for (int kk_b = 0; kk_b < ((RY > 1) ? PACKS * LANES : 0); kk_b += 4) {
    ZMLX_UNROLL
    for (int kk_k = kk_b; kk_k < ((kk_b + 4 < PACKS * LANES) ? kk_b + 4 : PACKS * LANES); ++kk_k) {
      kk_lines_float[0][kk_k - kk_b][kk_place] = kk_sink47[kk_k];
      kk_lines_float[1][kk_k - kk_b][kk_place] = kk_sink48[kk_k];
    }
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    for (int kk_half = RY / 2; kk_half > 0; kk_half /= 2) {
      if (kk_line < kk_half) {
        const int kk_far = kk_place + kk_half * TX;
        ZMLX_UNROLL
        for (int kk_k = kk_b; kk_k < ((kk_b + 4 < PACKS * LANES) ? kk_b + 4 : PACKS * LANES); ++kk_k) {
          { const float a = kk_lines_float[0][kk_k - kk_b][kk_place], b = kk_lines_float[0][kk_k - kk_b][kk_far];
            kk_lines_float[0][kk_k - kk_b][kk_place] = a + b; }
          { const float a = kk_lines_float[1][kk_k - kk_b][kk_place], b = kk_lines_float[1][kk_k - kk_b][kk_far];
            kk_lines_float[1][kk_k - kk_b][kk_place] = a + b; }
        }
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    }
    ZMLX_UNROLL
    for (int kk_k = kk_b; kk_k < ((kk_b + 4 < PACKS * LANES) ? kk_b + 4 : PACKS * LANES); ++kk_k) {
      kk_sink47[kk_k] = kk_lines_float[0][kk_k - kk_b][kk_place];
      kk_sink48[kk_k] = kk_lines_float[1][kk_k - kk_b][kk_place];
    }
  }
  ZMLX_UNROLL
  for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
    const int kk_at = (kk_p * TX + kk_thread) * LANES;
    if (kk_line == 0 && (EXACT || kk_at < kk_columns)) {
      ZMLX_UNROLL
      for (int kk_v = 0; kk_v < LANES; ++kk_v) {
        sum0[kk_group * kk_columns + kk_at + kk_v] = kk_sink47[kk_p * LANES + kk_v];
      }
    }
  }
  ZMLX_UNROLL
  for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
    const int kk_at = (kk_p * TX + kk_thread) * LANES;
    if (kk_line == 0 && (EXACT || kk_at < kk_columns)) {
      ZMLX_UNROLL
      for (int kk_v = 0; kk_v < LANES; ++kk_v) {
        sum1[kk_group * kk_columns + kk_at + kk_v] = kk_sink48[kk_p * LANES + kk_v];
      }
    }
  }
} else {
  float kk_sink47[PACKS * LANES];
  ZMLX_UNROLL
  for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {
    kk_sink47[kk_k] = float(0.0f);
  }
  float kk_sink48[PACKS * LANES];
  ZMLX_UNROLL
  for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {
    kk_sink48[kk_k] = float(0.0f);
  }
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const long kk_row1 = 0;
    const long kk_row2 = 0;
    const long kk_row3 = kk_row * kk_step3_0;
    float kk_fold5 = float(0.0f);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      float y0;
      zmlx_slow_walk0(x0, y0);
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
    float n6;
    zmlx_slow_row1(n5, n4, n6);
    float kk_fold9 = float(0.0f);
    float kk_fold43 = float(0.0f);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      float y0;
      float y1;
      zmlx_slow_walk1(x0, n6, y0, y1);
      { const float a = kk_fold9, b = y0;
        kk_fold9 = a + b; }
      { const float a = kk_fold43, b = y1;
        kk_fold43 = a + b; }
    }
    kk_fold9 = kk_near_sum_float(kk_fold9, (TX < 32) ? TX : 32);
    kk_fold43 = kk_near_sum_float(kk_fold43, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold9;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold43;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold9 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold43 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n9 = float(kk_fold9);
    const float n43 = float(kk_fold43);
    float n13;
    float n33;
    zmlx_slow_row2(n9, n4, n13, n33);
    float kk_fold29 = float(0.0f);
    float kk_fold41 = float(0.0f);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
      const float x2 = float(in2[kk_row2 + kk_at * kk_step2_1]);
      const float x3 = float(in3[kk_row3 + kk_at * kk_step3_1]);
      float y0;
      float y1;
      zmlx_slow_walk2(x0, n6, n13, x1, x2, x3, y0, y1);
      { const float a = kk_fold29, b = y0;
        kk_fold29 = a + b; }
      { const float a = kk_fold41, b = y1;
        kk_fold41 = a + b; }
    }
    kk_fold29 = kk_near_sum_float(kk_fold29, (TX < 32) ? TX : 32);
    kk_fold41 = kk_near_sum_float(kk_fold41, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold29;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold41;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold29 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold41 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n29 = float(kk_fold29);
    const float n41 = float(kk_fold41);
    float n38;
    float n46;
    zmlx_slow_row3(n29, n33, n41, n43, n4, n38, n46);
    ZMLX_UNROLL
    for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {
      const int kk_at = kk_k * TX + kk_thread;
      if (EXACT || kk_at < kk_columns) {
        const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
        const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
        const float x2 = float(in2[kk_row2 + kk_at * kk_step2_1]);
        const float x3 = float(in3[kk_row3 + kk_at * kk_step3_1]);
        float y0;
        float y1;
        float y2;
        zmlx_slow_walk3(x0, n6, n13, x1, x2, x3, n38, n46, y0, y1, y2);
        kk_sink47[kk_k] += kk_live ? y0 : float(0.0f);
        kk_sink48[kk_k] += kk_live ? y1 : float(0.0f);
        if (kk_live) {
          out0[kk_row * kk_columns + kk_at] = float(y2);
        }
      }
    }
    if (ONCE) {
      break;
    }
  }
  ZMLX_UNROLL
  for (int kk_b = 0; kk_b < ((RY > 1) ? PACKS * LANES : 0); kk_b += 4) {
    ZMLX_UNROLL
    for (int kk_k = kk_b; kk_k < ((kk_b + 4 < PACKS * LANES) ? kk_b + 4 : PACKS * LANES); ++kk_k) {
      kk_lines_float[0][kk_k - kk_b][kk_place] = kk_sink47[kk_k];
      kk_lines_float[1][kk_k - kk_b][kk_place] = kk_sink48[kk_k];
    }
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    for (int kk_half = RY / 2; kk_half > 0; kk_half /= 2) {
      if (kk_line < kk_half) {
        const int kk_far = kk_place + kk_half * TX;
        ZMLX_UNROLL
        for (int kk_k = kk_b; kk_k < ((kk_b + 4 < PACKS * LANES) ? kk_b + 4 : PACKS * LANES); ++kk_k) {
          { const float a = kk_lines_float[0][kk_k - kk_b][kk_place], b = kk_lines_float[0][kk_k - kk_b][kk_far];
            kk_lines_float[0][kk_k - kk_b][kk_place] = a + b; }
          { const float a = kk_lines_float[1][kk_k - kk_b][kk_place], b = kk_lines_float[1][kk_k - kk_b][kk_far];
            kk_lines_float[1][kk_k - kk_b][kk_place] = a + b; }
        }
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    }
    ZMLX_UNROLL
    for (int kk_k = kk_b; kk_k < ((kk_b + 4 < PACKS * LANES) ? kk_b + 4 : PACKS * LANES); ++kk_k) {
      kk_sink47[kk_k] = kk_lines_float[0][kk_k - kk_b][kk_place];
      kk_sink48[kk_k] = kk_lines_float[1][kk_k - kk_b][kk_place];
    }
  }
  ZMLX_UNROLL
  for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {
    const int kk_at = kk_k * TX + kk_thread;
    if (kk_line == 0 && (EXACT || kk_at < kk_columns)) {
      sum0[kk_group * kk_columns + kk_at] = kk_sink47[kk_k];
    }
  }
  ZMLX_UNROLL
  for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {
    const int kk_at = kk_k * TX + kk_thread;
    if (kk_line == 0 && (EXACT || kk_at < kk_columns)) {
      sum1[kk_group * kk_columns + kk_at] = kk_sink48[kk_k];
    }
  }
}
