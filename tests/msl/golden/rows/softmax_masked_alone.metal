#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
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
// Body of kernel zmlx_rows_max_sum_multiply_add_subtract_exp(in0, in1, out0); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = EXACT ? LANES : int(in0_shape[1]);
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_step1_0 = in1_strides[0];
const long kk_step1_1 = in1_strides[1];
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_span = (kk_rows + kk_groups - 1) / kk_groups;
const long kk_first = kk_group * kk_span;
const long kk_end = (kk_first + kk_span < kk_rows) ? kk_first + kk_span : kk_rows;
const bool kk_live = true;
const int kk_thread = 0;
const int kk_lead = (kk_columns < LANES) ? kk_columns : LANES;
float kk_keep8[ROOM];
for (long kk_inner = kk_first; kk_inner < kk_end; ++kk_inner) {
  const long kk_row = kk_inner;
  const long kk_row0 = kk_row * kk_step0_0;
  const long kk_row1 = kk_row * kk_step1_0;
  float kk_terms5[LANES];
  for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {
    kk_terms5[kk_v] = float((-INFINITY));
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
          kk_terms5[kk_v] = (b > a || b != b) ? b : a; }
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v) * kk_step0_1]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v) * kk_step1_1]);
        float y0;
        zmlx_walk0(x0, x1, y0);
        { const float a = kk_terms5[kk_v], b = y0;
          kk_terms5[kk_v] = (b > a || b != b) ? b : a; }
      }
    }
  }
  float kk_fold5 = float((-INFINITY));
  float kk_all5 = kk_fold5;
  int kk_odd5 = 0;
  #pragma omp simd reduction(max : kk_all5) reduction(+ : kk_odd5)
  for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {
    const float kk_b = kk_terms5[kk_v];
    kk_all5 = (kk_b > kk_all5) ? kk_b : kk_all5;
    kk_odd5 += (kk_b != kk_b) ? 1 : 0;
  }
  kk_fold5 = (kk_odd5 != 0 || kk_fold5 != kk_fold5) ? NAN : kk_all5;
  const float n5 = float(kk_fold5);
  float n6;
  zmlx_row1(n5, n6);
  float kk_terms9[LANES];
  for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {
    kk_terms9[kk_v] = float(0.0f);
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
        zmlx_walk1(x0, x1, n6, y0);
        { const float a = kk_terms9[kk_v], b = y0;
          kk_terms9[kk_v] = a + b; }
        kk_keep8[kk_from + kk_v] = y0;
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v) * kk_step0_1]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v) * kk_step1_1]);
        float y0;
        zmlx_walk1(x0, x1, n6, y0);
        { const float a = kk_terms9[kk_v], b = y0;
          kk_terms9[kk_v] = a + b; }
        kk_keep8[kk_from + kk_v] = y0;
      }
    }
  }
  float kk_fold9 = float(0.0f);
  float kk_all9 = 0;
  int kk_left9 = kk_lead;
  for (; kk_lead == LANES && kk_left9 > 16 && kk_left9 % 2 == 0; kk_left9 /= 2) {
    const int kk_half = kk_left9 / 2;
    #pragma omp simd
    for (int kk_v = 0; kk_v < kk_half; ++kk_v) {
      kk_terms9[kk_v] += kk_terms9[kk_v + kk_half];
    }
  }
  #pragma omp simd reduction(+ : kk_all9)
  for (int kk_v = 0; kk_v < kk_left9; ++kk_v) {
    kk_all9 += kk_terms9[kk_v];
  }
  kk_fold9 += kk_all9;
  const float n9 = float(kk_fold9);
  float n17;
  float n19;
  zmlx_row2(n9, n17, n19);
  for (int kk_at = 0; kk_at < kk_columns; kk_at += LANES) {
    const int kk_run = (kk_columns - kk_at < LANES) ? kk_columns - kk_at : LANES;
    const long kk_from = kk_at;  // an int might wrap around: neighbours would not be read together
    if (true) {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x8 = kk_keep8[kk_from + kk_v];
        float y0;
        zmlx_walk2(x8, n17, n19, y0);
        out0[kk_row * kk_columns + kk_from + kk_v] = float(y0);
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x8 = kk_keep8[kk_from + kk_v];
        float y0;
        zmlx_walk2(x8, n17, n19, y0);
        out0[kk_row * kk_columns + kk_from + kk_v] = float(y0);
      }
    }
  }
}

#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
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
// Body of kernel zmlx_rows_max_sum_multiply_add_subtract_exp(in0, in1, in2, out0, out1); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const int kk_columns = EXACT ? LANES : int(in0_shape[1]);
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_step1_0 = in1_strides[0];
const long kk_step1_1 = in1_strides[1];
const long kk_step2_0 = in2_strides[0];
const long kk_step2_1 = in2_strides[1];
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_span = (kk_rows + kk_groups - 1) / kk_groups;
const long kk_first = kk_group * kk_span;
const long kk_end = (kk_first + kk_span < kk_rows) ? kk_first + kk_span : kk_rows;
const bool kk_live = true;
const int kk_thread = 0;
const int kk_lead = (kk_columns < LANES) ? kk_columns : LANES;
float kk_keep9[ROOM];
for (long kk_inner = kk_first; kk_inner < kk_end; ++kk_inner) {
  const long kk_row = kk_inner;
  const long kk_row0 = kk_row * kk_step0_0;
  const long kk_row1 = kk_row * kk_step1_0;
  const long kk_row2 = kk_row * kk_step2_0;
  float kk_terms6[LANES];
  for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {
    kk_terms6[kk_v] = float((-INFINITY));
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
        { const float a = kk_terms6[kk_v], b = y0;
          kk_terms6[kk_v] = (b > a || b != b) ? b : a; }
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v) * kk_step0_1]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v) * kk_step1_1]);
        float y0;
        zmlx_walk0(x0, x1, y0);
        { const float a = kk_terms6[kk_v], b = y0;
          kk_terms6[kk_v] = (b > a || b != b) ? b : a; }
      }
    }
  }
  float kk_fold6 = float((-INFINITY));
  float kk_all6 = kk_fold6;
  int kk_odd6 = 0;
  #pragma omp simd reduction(max : kk_all6) reduction(+ : kk_odd6)
  for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {
    const float kk_b = kk_terms6[kk_v];
    kk_all6 = (kk_b > kk_all6) ? kk_b : kk_all6;
    kk_odd6 += (kk_b != kk_b) ? 1 : 0;
  }
  kk_fold6 = (kk_odd6 != 0 || kk_fold6 != kk_fold6) ? NAN : kk_all6;
  const float n6 = float(kk_fold6);
  float n7;
  zmlx_row1(n6, n7);
  float kk_terms10[LANES];
  for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {
    kk_terms10[kk_v] = float(0.0f);
  }
  float kk_terms24[LANES];
  for (int kk_v = 0; kk_v < kk_lead; ++kk_v) {
    kk_terms24[kk_v] = float(0.0f);
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
        zmlx_walk1(x0, x1, n7, x2, y0, y1);
        { const float a = kk_terms10[kk_v], b = y0;
          kk_terms10[kk_v] = a + b; }
        { const float a = kk_terms24[kk_v], b = y1;
          kk_terms24[kk_v] = a + b; }
        kk_keep9[kk_from + kk_v] = y0;
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v) * kk_step0_1]);
        const float x1 = float(in1[kk_row1 + (kk_from + kk_v) * kk_step1_1]);
        const float x2 = float(in2[kk_row2 + (kk_from + kk_v) * kk_step2_1]);
        float y0;
        float y1;
        zmlx_walk1(x0, x1, n7, x2, y0, y1);
        { const float a = kk_terms10[kk_v], b = y0;
          kk_terms10[kk_v] = a + b; }
        { const float a = kk_terms24[kk_v], b = y1;
          kk_terms24[kk_v] = a + b; }
        kk_keep9[kk_from + kk_v] = y0;
      }
    }
  }
  float kk_fold10 = float(0.0f);
  float kk_all10 = 0;
  int kk_left10 = kk_lead;
  for (; kk_lead == LANES && kk_left10 > 16 && kk_left10 % 2 == 0; kk_left10 /= 2) {
    const int kk_half = kk_left10 / 2;
    #pragma omp simd
    for (int kk_v = 0; kk_v < kk_half; ++kk_v) {
      kk_terms10[kk_v] += kk_terms10[kk_v + kk_half];
    }
  }
  #pragma omp simd reduction(+ : kk_all10)
  for (int kk_v = 0; kk_v < kk_left10; ++kk_v) {
    kk_all10 += kk_terms10[kk_v];
  }
  kk_fold10 += kk_all10;
  float kk_fold24 = float(0.0f);
  float kk_all24 = 0;
  int kk_left24 = kk_lead;
  for (; kk_lead == LANES && kk_left24 > 16 && kk_left24 % 2 == 0; kk_left24 /= 2) {
    const int kk_half = kk_left24 / 2;
    #pragma omp simd
    for (int kk_v = 0; kk_v < kk_half; ++kk_v) {
      kk_terms24[kk_v] += kk_terms24[kk_v + kk_half];
    }
  }
  #pragma omp simd reduction(+ : kk_all24)
  for (int kk_v = 0; kk_v < kk_left24; ++kk_v) {
    kk_all24 += kk_terms24[kk_v];
  }
  kk_fold24 += kk_all24;
  const float n10 = float(kk_fold10);
  const float n24 = float(kk_fold24);
  float n18;
  float n20;
  float n29;
  zmlx_row2(n10, n24, n18, n20, n29);
  for (int kk_at = 0; kk_at < kk_columns; kk_at += LANES) {
    const int kk_run = (kk_columns - kk_at < LANES) ? kk_columns - kk_at : LANES;
    const long kk_from = kk_at;  // an int might wrap around: neighbours would not be read together
    if (kk_step2_1 == 1) {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x2 = float(in2[kk_row2 + (kk_from + kk_v)]);
        const float x9 = kk_keep9[kk_from + kk_v];
        float y0;
        float y1;
        zmlx_walk2(x2, n18, n20, n29, x9, y0, y1);
        out0[kk_row * kk_columns + kk_from + kk_v] = float(y0);
        out1[kk_row * kk_columns + kk_from + kk_v] = float(y1);
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x2 = float(in2[kk_row2 + (kk_from + kk_v) * kk_step2_1]);
        const float x9 = kk_keep9[kk_from + kk_v];
        float y0;
        float y1;
        zmlx_walk2(x2, n18, n20, n29, x9, y0, y1);
        out0[kk_row * kk_columns + kk_from + kk_v] = float(y0);
        out1[kk_row * kk_columns + kk_from + kk_v] = float(y1);
      }
    }
  }
}
