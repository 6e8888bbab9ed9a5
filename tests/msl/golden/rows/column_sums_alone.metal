#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
#ifndef ZMLX_NATIVE_SIGMOID
inline float zmlx_sigmoid(float x) {
  const float e = metal::precise::exp(-metal::abs(x));
  const float numerator = (x < 0.0f) ? e : 1.0f;
  return numerator / (1.0f + e);
}
#endif
// One element: 2 ops: sigmoid, multiply.
inline void zmlx_walk0(float x0, thread float& y0) {
  const float t0 = zmlx_sigmoid(x0);
  const float t1 = x0 * t0;
  y0 = t1;
}
// Body of kernel zmlx_rows_sigmoid_multiply(in0, sum0); its signature is added on launch.
const long kk_n0 = in0_shape[0];
const long kk_rows = kk_n0;
const long kk_wide = in0_shape[1];
const long kk_cut = long(threadgroup_position_in_grid.x);
const long kk_cuts = long(threadgroups_per_grid.x);
const long kk_left = kk_cut * long(CUT);
const int kk_columns = int((kk_wide - kk_left < long(CUT)) ? kk_wide - kk_left : long(CUT));
const long kk_step0_0 = in0_strides[0];
const long kk_step0_1 = in0_strides[1];
const long kk_group = long(threadgroup_position_in_grid.y);
const long kk_groups = long(threadgroups_per_grid.y);
const long kk_span = (kk_rows + kk_groups - 1) / kk_groups;
const long kk_first = kk_group * kk_span;
const long kk_end = (kk_first + kk_span < kk_rows) ? kk_first + kk_span : kk_rows;
const bool kk_live = true;
const int kk_thread = 0;
const int kk_lead = (kk_columns < LANES) ? kk_columns : LANES;
float kk_sink3[CUT];
for (int kk_v = 0; kk_v < kk_columns; ++kk_v) {
  kk_sink3[kk_v] = float(0.0f);
}
for (long kk_inner = kk_first; kk_inner < kk_end; ++kk_inner) {
  const long kk_row = kk_inner;
  const long kk_row0 = kk_row * kk_step0_0 + kk_left * kk_step0_1;
  for (int kk_at = 0; kk_at < kk_columns; kk_at += LANES) {
    const int kk_run = (kk_columns - kk_at < LANES) ? kk_columns - kk_at : LANES;
    const long kk_from = kk_at;  // an int might wrap around: neighbours would not be read together
    if (kk_step0_1 == 1) {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v)]);
        float y0;
        zmlx_walk0(x0, y0);
        kk_sink3[kk_from + kk_v] += y0;
      }
    } else {
      ZMLX_LOOP
      for (int kk_v = 0; kk_v < kk_run; ++kk_v) {
        const float x0 = float(in0[kk_row0 + (kk_from + kk_v) * kk_step0_1]);
        float y0;
        zmlx_walk0(x0, y0);
        kk_sink3[kk_from + kk_v] += y0;
      }
    }
  }
}
for (int kk_v = 0; kk_v < kk_columns; ++kk_v) {
  sum0[kk_group * kk_wide + kk_left + kk_v] = kk_sink3[kk_v];
}
