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
// One element: 2 ops: astype, multiply.
inline void zmlx_walk0(float x0, thread float& y0) {
  const float t0 = x0 * x0;
  y0 = t0;
}
// One element: 4 ops: astype, multiply, astype, multiply.
inline void zmlx_walk1(float x0, float x1, float x2, thread float& y0) {
  const float t0 = x0 * x1;
  const float t1 = t0 * x2;
  y0 = t1;
}
// One element: 3 ops: divide, add, rsqrt.
inline void zmlx_row1(float x0, float x1, float p0, thread float& y0) {
  const float t0 = x0 / p0;
  const float t1 = t0 + x1;
  const float t2 = metal::precise::rsqrt(t1);
  y0 = t2;
}
// One element: 2 ops: astype, multiply.
inline void zmlx_slow_walk0(float x0, thread float& y0) {
  const float t0 = x0 * x0;
  y0 = t0;
}
// One element: 4 ops: astype, multiply, astype, multiply.
inline void zmlx_slow_walk1(float x0, float x1, float x2, thread float& y0) {
  const float t0 = x0 * x1;
  const float t1 = t0 * x2;
  y0 = t1;
}
// One element: 3 ops: divide, add, rsqrt.
inline void zmlx_slow_row1(float x0, float x1, float p0, thread float& y0) {
  const float t0 = x0 / p0;
  const float t1 = t0 + x1;
  const float t2 = metal::precise::rsqrt(t1);
  y0 = t2;
}
// Body of kernel zmlx_rows_sum_astype_multiply(in0, in1, in2, out0); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = in0_shape[1];
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_step2_1 = in2_strides[1];
const float n1 = float(in1[0]);
const float n6 = float(in0_shape[1]);
const int kk_thread = int(thread_position_in_threadgroup.x);
const int kk_line = int(thread_position_in_threadgroup.y);
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_block = kk_group * long(RY) + long(kk_line);
const long kk_blocks = kk_groups * long(RY);
threadgroup float kk_partials_float[2][1][32];
const int kk_place = kk_line * TX + kk_thread;
int kk_turn = 0;
if (kk_step0_1 == 1 && kk_whole<bfloat16_t, LANES>(in0) && kk_step0_0 % LANES == 0 && kk_step2_1 == 1 && kk_whole<bfloat16_t, LANES>(in2)) {
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = kk_row * kk_step0_0;
    const long kk_row2 = 0;
    kk_part<bfloat16_t, LANES> kk_held0[PACKS];
    float kk_fold5 = float(0.0f);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        kk_held0[kk_p] = kk_take<bfloat16_t, LANES>(in0 + (kk_row0 + kk_at));
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
    float n9;
    zmlx_row1(n5, n1, n6, n9);
    kk_part<bfloat16_t, LANES> w2[PACKS];
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        w2[kk_p] = kk_take<bfloat16_t, LANES>(in2 + (kk_row2 + kk_at));
      }
    }
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        kk_renew<(PACKS * LANES >= 64)>(kk_held0[kk_p]);
        float r0[LANES];
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(kk_held0[kk_p][kk_v]);
          const float x2 = float(w2[kk_p][kk_v]);
          float y0;
          zmlx_walk1(x0, n9, x2, y0);
          r0[kk_v] = y0;
        }
        if (kk_live) {
          kk_give<bfloat16_t, LANES>(out0 + (kk_row * kk_columns + kk_at), r0);
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
    const long kk_row2 = 0;
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
    float n9;
    zmlx_slow_row1(n5, n1, n6, n9);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      const float x2 = float(in2[kk_row2 + kk_at * kk_step2_1]);
      float y0;
      zmlx_slow_walk1(x0, n9, x2, y0);
      if (kk_live) {
        out0[kk_row * kk_columns + kk_at] = bfloat16_t(y0);
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
// One element: 5 ops: astype, multiply, astype, multiply, multiply.
inline void zmlx_walk0(float x0, float x1, float x2, thread float& y0, thread float& y1) {
  const float t0 = x1 * x0;
  const float t1 = x2 * x2;
  const float t2 = t0 * x2;
  y0 = t1;
  y1 = t2;
}
// One element: 9 ops: astype, multiply, astype, multiply, multiply, multiply, multiply, add, add.
inline void zmlx_walk1(float x0, float x1, float x2, float x3, float x4, thread float& y0, thread float& y1) {
  const float t0 = x1 * x0;
  const float t1 = x2 * x3;
  const float t2 = x1 * t1;
  const float t3 = t0 * x3;
  const float t4 = x4 * x2;
  const float t5 = t3 + t4;
  const float t6 = t5 + t4;
  y0 = t2;
  y1 = t6;
}
// One element: 9 ops: divide, add, rsqrt, multiply, square, multiply, multiply, negative, divide.
inline void zmlx_row1(float x0, float x1, float x2, float p0, thread float& y0, thread float& y1) {
  const float t0 = x0 / p0;
  const float t1 = t0 + x1;
  const float t2 = metal::precise::rsqrt(t1);
  const float t3 = x2 * 0.5f;
  const float t4 = t2 * t2;
  const float t5 = t2 * t4;
  const float t6 = t3 * t5;
  const float t7 = -t6;
  const float t8 = t7 / p0;
  y0 = t2;
  y1 = t8;
}
// One element: 5 ops: astype, multiply, astype, multiply, multiply.
inline void zmlx_slow_walk0(float x0, float x1, float x2, thread float& y0, thread float& y1) {
  const float t0 = x1 * x0;
  const float t1 = x2 * x2;
  const float t2 = t0 * x2;
  y0 = t1;
  y1 = t2;
}
// One element: 9 ops: astype, multiply, astype, multiply, multiply, multiply, multiply, add, add.
inline void zmlx_slow_walk1(float x0, float x1, float x2, float x3, float x4, thread float& y0, thread float& y1) {
  const float t0 = x1 * x0;
  const float t1 = x2 * x3;
  const float t2 = x1 * t1;
  const float t3 = t0 * x3;
  const float t4 = x4 * x2;
  const float t5 = t3 + t4;
  const float t6 = t5 + t4;
  y0 = t2;
  y1 = t6;
}
// One element: 9 ops: divide, add, rsqrt, multiply, square, multiply, multiply, negative, divide.
inline void zmlx_slow_row1(float x0, float x1, float x2, float p0, thread float& y0, thread float& y1) {
  const float t0 = x0 / p0;
  const float t1 = t0 + x1;
  const float t2 = metal::precise::rsqrt(t1);
  const float t3 = x2 * 0.5f;
  const float t4 = t2 * t2;
  const float t5 = t2 * t4;
  const float t6 = t3 * t5;
  const float t7 = -t6;
  const float t8 = t7 / p0;
  y0 = t2;
  y1 = t8;
}
// Body of kernel zmlx_rows_sum_astype_multiply_add(in0, in1, in2, in3, out0, sum0); its signature is added on launch.
const long kk_n0 = in1_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = in1_shape[1];
const long kk_step0_1 = in0_strides[1];
const long kk_step1_0 = in1_strides[0];
const long kk_step1_1 = in1_strides[1];
const long kk_step2_0 = in2_strides[0];
const long kk_step2_1 = in2_strides[1];
const float n3 = float(in3[0]);
const float n6 = float(in1_shape[1]);
const int kk_thread = int(thread_position_in_threadgroup.x);
const int kk_line = int(thread_position_in_threadgroup.y);
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_block = kk_group * long(RY) + long(kk_line);
const long kk_blocks = kk_groups * long(RY);
threadgroup float kk_partials_float[2][2][32];
threadgroup float kk_lines_float[1][8][(RY > 1) ? RY * TX : 1];
const int kk_place = kk_line * TX + kk_thread;
int kk_turn = 0;
if (kk_step0_1 == 1 && kk_whole<bfloat16_t, LANES>(in0) && kk_step1_1 == 1 && kk_whole<bfloat16_t, LANES>(in1) && kk_step1_0 % LANES == 0 && kk_step2_1 == 1 && kk_whole<bfloat16_t, LANES>(in2) && kk_step2_0 % LANES == 0) {
  float kk_sink15[PACKS * LANES];
  ZMLX_UNROLL
  for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {
    kk_sink15[kk_k] = float(0.0f);
  }
  kk_part<bfloat16_t, LANES> w0[PACKS];
  ZMLX_UNROLL
  for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
    const int kk_at = (kk_p * TX + kk_thread) * LANES;
    if (EXACT || kk_at < kk_columns) {
      const long kk_row0 = 0;
      w0[kk_p] = kk_take<bfloat16_t, LANES>(in0 + (kk_row0 + kk_at));
    }
  }
  kk_part<bfloat16_t, LANES> kk_next1[PACKS];
  kk_part<bfloat16_t, LANES> kk_next2[PACKS];
  if (KK_AHEAD) {
    const long kk_row = ((kk_block < kk_rows) ? kk_block : kk_rows - 1);
    const long kk_row1 = kk_row * kk_step1_0;
    const long kk_row2 = kk_row * kk_step2_0;
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        kk_next1[kk_p] = kk_take<bfloat16_t, LANES>(in1 + (kk_row1 + kk_at));
        kk_next2[kk_p] = kk_take<bfloat16_t, LANES>(in2 + (kk_row2 + kk_at));
      }
    }
  }
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = 0;
    const long kk_row1 = kk_row * kk_step1_0;
    const long kk_row2 = kk_row * kk_step2_0;
    kk_part<bfloat16_t, LANES> kk_held1[PACKS];
    kk_part<bfloat16_t, LANES> kk_held2[PACKS];
    if (KK_AHEAD) {
      ZMLX_UNROLL
      for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
        const int kk_at = (kk_p * TX + kk_thread) * LANES;
        if (EXACT || kk_at < kk_columns) {
          kk_held1[kk_p] = kk_next1[kk_p];
          kk_held2[kk_p] = kk_next2[kk_p];
        }
      }
      if (kk_base + kk_blocks < kk_rows) {
        const long kk_far = kk_base + kk_blocks + long(kk_line);
        const long kk_row = ((kk_far < kk_rows) ? kk_far : kk_rows - 1);
        const long kk_row1 = kk_row * kk_step1_0;
        const long kk_row2 = kk_row * kk_step2_0;
        ZMLX_UNROLL
        for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
          const int kk_at = (kk_p * TX + kk_thread) * LANES;
          if (EXACT || kk_at < kk_columns) {
            kk_next1[kk_p] = kk_take<bfloat16_t, LANES>(in1 + (kk_row1 + kk_at));
            kk_next2[kk_p] = kk_take<bfloat16_t, LANES>(in2 + (kk_row2 + kk_at));
          }
        }
      }
    } else {
      ZMLX_UNROLL
      for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
        const int kk_at = (kk_p * TX + kk_thread) * LANES;
        if (EXACT || kk_at < kk_columns) {
          kk_held1[kk_p] = kk_take<bfloat16_t, LANES>(in1 + (kk_row1 + kk_at));
          kk_held2[kk_p] = kk_take<bfloat16_t, LANES>(in2 + (kk_row2 + kk_at));
        }
      }
    }
    float kk_fold9 = float(0.0f);
    float kk_fold18 = float(0.0f);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(w0[kk_p][kk_v]);
          const float x1 = float(kk_held1[kk_p][kk_v]);
          const float x2 = float(kk_held2[kk_p][kk_v]);
          float y0;
          float y1;
          zmlx_walk0(x0, x1, x2, y0, y1);
          { const float a = kk_fold9, b = y0;
            kk_fold9 = a + b; }
          { const float a = kk_fold18, b = y1;
            kk_fold18 = a + b; }
        }
      }
    }
    kk_fold9 = kk_near_sum_float(kk_fold9, (TX < 32) ? TX : 32);
    kk_fold18 = kk_near_sum_float(kk_fold18, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold9;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold18;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold9 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold18 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n9 = float(kk_fold9);
    const float n18 = float(kk_fold18);
    float n12;
    float n25;
    zmlx_row1(n9, n3, n18, n6, n12, n25);
    ZMLX_UNROLL
    for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
      const int kk_at = (kk_p * TX + kk_thread) * LANES;
      if (EXACT || kk_at < kk_columns) {
        kk_renew<(PACKS * LANES >= 64)>(kk_held1[kk_p]);
        kk_renew<(PACKS * LANES >= 64)>(kk_held2[kk_p]);
        float r1[LANES];
        ZMLX_UNROLL
        for (int kk_v = 0; kk_v < LANES; ++kk_v) {
          const float x0 = float(w0[kk_p][kk_v]);
          const float x1 = float(kk_held1[kk_p][kk_v]);
          const float x2 = float(kk_held2[kk_p][kk_v]);
          float y0;
          float y1;
          zmlx_walk1(x0, x1, x2, n12, n25, y0, y1);
          kk_sink15[kk_p * LANES + kk_v] += kk_live ? y0 : float(0.0f);
          r1[kk_v] = y1;
        }
        if (kk_live) {
          kk_give<bfloat16_t, LANES>(out0 + (kk_row * kk_columns + kk_at), r1);
        }
      }
    }
    if (ONCE) {
      break;
    }
  }
  ZMLX_UNROLL
  for (int kk_b = 0; kk_b < ((RY > 1) ? PACKS * LANES : 0); kk_b += 8) {
    ZMLX_UNROLL
    for (int kk_k = kk_b; kk_k < ((kk_b + 8 < PACKS * LANES) ? kk_b + 8 : PACKS * LANES); ++kk_k) {
      kk_lines_float[0][kk_k - kk_b][kk_place] = kk_sink15[kk_k];
    }
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    for (int kk_half = RY / 2; kk_half > 0; kk_half /= 2) {
      if (kk_line < kk_half) {
        const int kk_far = kk_place + kk_half * TX;
        ZMLX_UNROLL
        for (int kk_k = kk_b; kk_k < ((kk_b + 8 < PACKS * LANES) ? kk_b + 8 : PACKS * LANES); ++kk_k) {
          { const float a = kk_lines_float[0][kk_k - kk_b][kk_place], b = kk_lines_float[0][kk_k - kk_b][kk_far];
            kk_lines_float[0][kk_k - kk_b][kk_place] = a + b; }
        }
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    }
    ZMLX_UNROLL
    for (int kk_k = kk_b; kk_k < ((kk_b + 8 < PACKS * LANES) ? kk_b + 8 : PACKS * LANES); ++kk_k) {
      kk_sink15[kk_k] = kk_lines_float[0][kk_k - kk_b][kk_place];
    }
  }
  ZMLX_UNROLL
  for (int kk_p = 0; kk_p < PACKS; ++kk_p) {
    const int kk_at = (kk_p * TX + kk_thread) * LANES;
    if (kk_line == 0 && (EXACT || kk_at < kk_columns)) {
      ZMLX_UNROLL
      for (int kk_v = 0; kk_v < LANES; ++kk_v) {
        sum0[kk_group * kk_columns + kk_at + kk_v] = kk_sink15[kk_p * LANES + kk_v];
      }
    }
  }
} else {
  float kk_sink15[PACKS * LANES];
  ZMLX_UNROLL
  for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {
    kk_sink15[kk_k] = float(0.0f);
  }
  for (long kk_base = kk_block - long(kk_line); kk_base < kk_rows; kk_base += kk_blocks) {
    const bool kk_live = FULL || kk_base + long(kk_line) < kk_rows;
    const long kk_row = (kk_live ? kk_base + long(kk_line) : kk_rows - 1);
    const long kk_row0 = 0;
    const long kk_row1 = kk_row * kk_step1_0;
    const long kk_row2 = kk_row * kk_step2_0;
    float kk_fold9 = float(0.0f);
    float kk_fold18 = float(0.0f);
    for (int kk_at = kk_thread; kk_at < kk_columns; kk_at += TX) {
      const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
      const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
      const float x2 = float(in2[kk_row2 + kk_at * kk_step2_1]);
      float y0;
      float y1;
      zmlx_slow_walk0(x0, x1, x2, y0, y1);
      { const float a = kk_fold9, b = y0;
        kk_fold9 = a + b; }
      { const float a = kk_fold18, b = y1;
        kk_fold18 = a + b; }
    }
    kk_fold9 = kk_near_sum_float(kk_fold9, (TX < 32) ? TX : 32);
    kk_fold18 = kk_near_sum_float(kk_fold18, (TX < 32) ? TX : 32);
    if (TX > 32) {
      const int kk_share = (TX > 32) ? TX / 32 : 1;
      if (kk_place % 32 == 0) {
        kk_partials_float[kk_turn][0][kk_place / 32] = kk_fold9;
        kk_partials_float[kk_turn][1][kk_place / 32] = kk_fold18;
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
      const int kk_of = kk_line * kk_share + kk_place % kk_share;
      kk_fold9 = kk_near_sum_float(kk_partials_float[kk_turn][0][kk_of], kk_share);
      kk_fold18 = kk_near_sum_float(kk_partials_float[kk_turn][1][kk_of], kk_share);
      kk_turn ^= 1;
    }
    const float n9 = float(kk_fold9);
    const float n18 = float(kk_fold18);
    float n12;
    float n25;
    zmlx_slow_row1(n9, n3, n18, n6, n12, n25);
    ZMLX_UNROLL
    for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {
      const int kk_at = kk_k * TX + kk_thread;
      if (EXACT || kk_at < kk_columns) {
        const float x0 = float(in0[kk_row0 + kk_at * kk_step0_1]);
        const float x1 = float(in1[kk_row1 + kk_at * kk_step1_1]);
        const float x2 = float(in2[kk_row2 + kk_at * kk_step2_1]);
        float y0;
        float y1;
        zmlx_slow_walk1(x0, x1, x2, n12, n25, y0, y1);
        kk_sink15[kk_k] += kk_live ? y0 : float(0.0f);
        if (kk_live) {
          out0[kk_row * kk_columns + kk_at] = bfloat16_t(y1);
        }
      }
    }
    if (ONCE) {
      break;
    }
  }
  ZMLX_UNROLL
  for (int kk_b = 0; kk_b < ((RY > 1) ? PACKS * LANES : 0); kk_b += 8) {
    ZMLX_UNROLL
    for (int kk_k = kk_b; kk_k < ((kk_b + 8 < PACKS * LANES) ? kk_b + 8 : PACKS * LANES); ++kk_k) {
      kk_lines_float[0][kk_k - kk_b][kk_place] = kk_sink15[kk_k];
    }
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    for (int kk_half = RY / 2; kk_half > 0; kk_half /= 2) {
      if (kk_line < kk_half) {
        const int kk_far = kk_place + kk_half * TX;
        ZMLX_UNROLL
        for (int kk_k = kk_b; kk_k < ((kk_b + 8 < PACKS * LANES) ? kk_b + 8 : PACKS * LANES); ++kk_k) {
          { const float a = kk_lines_float[0][kk_k - kk_b][kk_place], b = kk_lines_float[0][kk_k - kk_b][kk_far];
            kk_lines_float[0][kk_k - kk_b][kk_place] = a + b; }
        }
      }
      metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    }
    ZMLX_UNROLL
    for (int kk_k = kk_b; kk_k < ((kk_b + 8 < PACKS * LANES) ? kk_b + 8 : PACKS * LANES); ++kk_k) {
      kk_sink15[kk_k] = kk_lines_float[0][kk_k - kk_b][kk_place];
    }
  }
  ZMLX_UNROLL
  for (int kk_k = 0; kk_k < PACKS * LANES; ++kk_k) {
    const int kk_at = kk_k * TX + kk_thread;
    if (kk_line == 0 && (EXACT || kk_at < kk_columns)) {
      sum0[kk_group * kk_columns + kk_at] = kk_sink15[kk_k];
    }
  }
}
