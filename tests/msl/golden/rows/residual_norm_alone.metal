#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
// One element: 2 ops: add, multiply.
inline void zmlx_walk0(float x0, float x1, thread float& y0) {
  const float t0 = x0 + x1;
  const float t1 = t0 * t0;
  y0 = t1;
}
// One element: 3 ops: add, multiply, multiply.
inline void zmlx_walk1(float x0, float x1, float x2, float x3, thread float& y0, thread float& y1) {
  const float t0 = x0 + x1;
  const float t1 = t0 * x2;
  const float t2 = t1 * x3;
  y0 = t0;
  y1 = t2;
}
// One element: 3 ops: divide, add, rsqrt.
inline void zmlx_row1(float x0, float p0, thread float& y0) {
  const float t0 = x0 / p0;
  const float t1 = t0 + 9.99999975e-06f;
  const float t2 = metal::precise::rsqrt(t1);
  y0 = t2;
}
// Body of kernel zmlx_rows_sum_add_multiply(in0, in1, in2, out0, out1); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = EXACT ? LANES : int(in0_shape[1]);
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_step1_0 = in1_strides[0];
const long kk_step1_1 = in1_strides[1];
const long kk_step2_1 = in2_strides[1];
const float n6 = float(in0_shape[1]);
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_span = (kk_rows + kk_groups - 1) / kk_groups;
const long kk_first = kk_group * kk_span;
const long kk_end = (kk_first + kk_span < kk_rows) ? kk_first + kk_span : kk_rows;
const bool kk_live = true;
const int kk_thread = 0;
const int kk_lead = (kk_columns < LANES) ? kk_columns : LANES;
for (long kk_inner = kk_first; kk_inner < kk_end; ++kk_inner) {
  const long kk_row = kk_inner;
  const long kk_row0 = kk_row * kk_step0_0;
  const long kk_row1 = kk_row * kk_step1_0;
  const long kk_row2 = 0;
  float kk_terms5[LANES];
  for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {
    kk_terms5[kk_v] = float(0.0f);
  }
  for (int kk_at = 0; kk_at < kk_columns; kk_at += LANES) {
    const int kk_run = (kk_columns - kk_at < LANES) ? kk_columns - kk_at : LANES;
    const long kk_from = kk_at;  // an int might wrap around: neighbours would not be read together
    if (kk_step0_1 == 1 && kk_step1_1 == 1) {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v)]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v)]);
        float y0;
        zmlx_walk0(x0, x1, y0);
        { const float a = kk_terms5[kk_v], b = y0;
          kk_terms5[kk_v] = a + b; }
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v) * kk_step0_1]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v) * kk_step1_1]);
        float y0;
        zmlx_walk0(x0, x1, y0);
        { const float a = kk_terms5[kk_v], b = y0;
          kk_terms5[kk_v] = a + b; }
      }
    }
  }
  float kk_fold5 = float(0.0f);
  float kk_all5 = 0;
  int kk_left5 = kk_lead;
  for (; kk_lead == LANES && kk_left5 > 16 && kk_left5 % 2 == 0; kk_left5 /= 2) {
    const int kk_half = kk_left5 / 2;
    #pragma omp simd
    for (int kk_v = 0; kk_v < kk_half; ++kk_v) {
      kk_terms5[kk_v] += kk_terms5[kk_v + kk_half];
    }
  }
  #pragma omp simd reduction(+ : kk_all5)
  for (int kk_v = 0; kk_v < kk_left5; ++kk_v) {
    kk_all5 += kk_terms5[kk_v];
  }
  kk_fold5 += kk_all5;
  const float n5 = float(kk_fold5);
  float n10;
  zmlx_row1(n5, n6, n10);
  for (int kk_at = 0; kk_at < kk_columns; kk_at += LANES) {
    const int kk_run = (kk_columns - kk_at < LANES) ? kk_columns - kk_at : LANES;
    const long kk_from = kk_at;  // an int might wrap around: neighbours would not be read together
    if (kk_step0_1 == 1 && kk_step1_1 == 1 && kk_step2_1 == 1) {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v)]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v)]);
        const float x2 = float(in2[kk_row2 + (kk_from + kk_v)]);
        float y0;
        float y1;
        zmlx_walk1(x0, x1, n10, x2, y0, y1);
        out0[kk_row * kk_columns + kk_from + kk_v] = float(y0);
        out1[kk_row * kk_columns + kk_from + kk_v] = float(y1);
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v) * kk_step0_1]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v) * kk_step1_1]);
        const float x2 = float(in2[kk_row2 + (kk_from + kk_v) * kk_step2_1]);
        float y0;
        float y1;
        zmlx_walk1(x0, x1, n10, x2, y0, y1);
        out0[kk_row * kk_columns + kk_from + kk_v] = float(y0);
        out1[kk_row * kk_columns + kk_from + kk_v] = float(y1);
      }
    }
  }
}

#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
// One element: 3 ops: multiply, multiply, multiply.
inline void zmlx_walk0(float x0, float x1, float x2, thread float& y0, thread float& y1) {
  const float t0 = x0 * x1;
  const float t1 = x2 * x2;
  const float t2 = t0 * x2;
  y0 = t1;
  y1 = t2;
}
// One element: 8 ops: multiply, multiply, multiply, multiply, add, multiply, add, add.
inline void zmlx_walk1(float x0, float x1, float x2, float x3, float x4, float x5, thread float& y0, thread float& y1) {
  const float t0 = x0 * x1;
  const float t1 = x2 * x3;
  const float t2 = x0 * t1;
  const float t3 = t0 * x3;
  const float t4 = x4 + t3;
  const float t5 = x5 * x2;
  const float t6 = t4 + t5;
  const float t7 = t6 + t5;
  y0 = t2;
  y1 = t7;
}
// One element: 9 ops: divide, add, rsqrt, multiply, square, multiply, multiply, negative, divide.
inline void zmlx_row1(float x0, float x1, float p0, thread float& y0, thread float& y1) {
  const float t0 = x0 / p0;
  const float t1 = t0 + 9.99999975e-06f;
  const float t2 = metal::precise::rsqrt(t1);
  const float t3 = x1 * 0.5f;
  const float t4 = t2 * t2;
  const float t5 = t2 * t4;
  const float t6 = t3 * t5;
  const float t7 = -t6;
  const float t8 = t7 / p0;
  y0 = t2;
  y1 = t8;
}
// Body of kernel zmlx_rows_sum_multiply_add(in0, in1, in2, in3, s0, out0, sum0); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = EXACT ? LANES : int(in0_shape[1]);
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_step1_1 = in1_strides[1];
const long kk_step2_0 = in2_strides[0];
const long kk_step2_1 = in2_strides[1];
const long kk_step3_0 = in3_strides[0];
const long kk_step3_1 = in3_strides[1];
const float n4 = float(s0[0]);
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_span = (kk_rows + kk_groups - 1) / kk_groups;
const long kk_first = kk_group * kk_span;
const long kk_end = (kk_first + kk_span < kk_rows) ? kk_first + kk_span : kk_rows;
const bool kk_live = true;
const int kk_thread = 0;
const int kk_lead = (kk_columns < LANES) ? kk_columns : LANES;
for (long kk_inner = kk_first; kk_inner < kk_end; ++kk_inner) {
  const long kk_row = kk_inner;
  const long kk_row0 = kk_row * kk_step0_0;
  const long kk_row1 = 0;
  const long kk_row2 = kk_row * kk_step2_0;
  const long kk_row3 = kk_row * kk_step3_0;
  float kk_terms7[LANES];
  for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {
    kk_terms7[kk_v] = float(0.0f);
  }
  float kk_terms17[LANES];
  for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {
    kk_terms17[kk_v] = float(0.0f);
  }
  for (int kk_at = 0; kk_at < kk_columns; kk_at += LANES) {
    const int kk_run = (kk_columns - kk_at < LANES) ? kk_columns - kk_at : LANES;
    const long kk_from = kk_at;  // an int might wrap around: neighbours would not be read together
    if (kk_step0_1 == 1 && kk_step1_1 == 1 && kk_step2_1 == 1) {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v)]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v)]);
        const float x2 = float(in2[kk_row2 + (kk_from + kk_v)]);
        float y0;
        float y1;
        zmlx_walk0(x0, x1, x2, y0, y1);
        { const float a = kk_terms7[kk_v], b = y0;
          kk_terms7[kk_v] = a + b; }
        { const float a = kk_terms17[kk_v], b = y1;
          kk_terms17[kk_v] = a + b; }
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v) * kk_step0_1]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v) * kk_step1_1]);
        const float x2 = float(in2[kk_row2 + (kk_from + kk_v) * kk_step2_1]);
        float y0;
        float y1;
        zmlx_walk0(x0, x1, x2, y0, y1);
        { const float a = kk_terms7[kk_v], b = y0;
          kk_terms7[kk_v] = a + b; }
        { const float a = kk_terms17[kk_v], b = y1;
          kk_terms17[kk_v] = a + b; }
      }
    }
  }
  float kk_fold7 = float(0.0f);
  float kk_all7 = 0;
  int kk_left7 = kk_lead;
  for (; kk_lead == LANES && kk_left7 > 16 && kk_left7 % 2 == 0; kk_left7 /= 2) {
    const int kk_half = kk_left7 / 2;
    #pragma omp simd
    for (int kk_v = 0; kk_v < kk_half; ++kk_v) {
      kk_terms7[kk_v] += kk_terms7[kk_v + kk_half];
    }
  }
  #pragma omp simd reduction(+ : kk_all7)
  for (int kk_v = 0; kk_v < kk_left7; ++kk_v) {
    kk_all7 += kk_terms7[kk_v];
  }
  kk_fold7 += kk_all7;
  float kk_fold17 = float(0.0f);
  float kk_all17 = 0;
  int kk_left17 = kk_lead;
  for (; kk_lead == LANES && kk_left17 > 16 && kk_left17 % 2 == 0; kk_left17 /= 2) {
    const int kk_half = kk_left17 / 2;
    #pragma omp simd
    for (int kk_v = 0; kk_v < kk_half; ++kk_v) {
      kk_terms17[kk_v] += kk_terms17[kk_v + kk_half];
    }
  }
  #pragma omp simd reduction(+ : kk_all17)
  for (int kk_v = 0; kk_v < kk_left17; ++kk_v) {
    kk_all17 += kk_terms17[kk_v];
  }
  kk_fold17 += kk_all17;
  const float n7 = float(kk_fold7);
  const float n17 = float(kk_fold17);
  float n11;
  float n24;
  zmlx_row1(n7, n17, n4, n11, n24);
  for (int kk_at = 0; kk_at < kk_columns; kk_at += LANES) {
    const int kk_run = (kk_columns - kk_at < LANES) ? kk_columns - kk_at : LANES;
    const long kk_from = kk_at;  // an int might wrap around: neighbours would not be read together
    if (kk_step0_1 == 1 && kk_step1_1 == 1 && kk_step2_1 == 1 && kk_step3_1 == 1) {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v)]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v)]);
        const float x2 = float(in2[kk_row2 + (kk_from + kk_v)]);
        const float x3 = float(in3[kk_row3 + (kk_from + kk_v)]);
        float y0;
        float y1;
        zmlx_walk1(x0, x1, x2, n11, x3, n24, y0, y1);
        { float kk_sum = kk_inner == kk_first ? float(0.0f) : sum0[kk_group * kk_columns + kk_from + kk_v];
        { const float a = kk_sum, b = y0;
          kk_sum = a + b; }
        sum0[kk_group * kk_columns + kk_from + kk_v] = kk_sum; }
        out0[kk_row * kk_columns + kk_from + kk_v] = float(y1);
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v) * kk_step0_1]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v) * kk_step1_1]);
        const float x2 = float(in2[kk_row2 + (kk_from + kk_v) * kk_step2_1]);
        const float x3 = float(in3[kk_row3 + (kk_from + kk_v) * kk_step3_1]);
        float y0;
        float y1;
        zmlx_walk1(x0, x1, x2, n11, x3, n24, y0, y1);
        { float kk_sum = kk_inner == kk_first ? float(0.0f) : sum0[kk_group * kk_columns + kk_from + kk_v];
        { const float a = kk_sum, b = y0;
          kk_sum = a + b; }
        sum0[kk_group * kk_columns + kk_from + kk_v] = kk_sum; }
        out0[kk_row * kk_columns + kk_from + kk_v] = float(y1);
      }
    }
  }
}
