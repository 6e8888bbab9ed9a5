// zmlx_multiply_where_a03dad6d68919854
#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
// One element: 2 ops: multiply, where.
inline void zmlx_region(float x0, char x1, float x2, thread float& y0) {
  const float t0 = float(x1);
  const float t1 = x0 * t0;
  const bool t2 = x2 != float(0);
  const float t3 = t2 ? t1 : t0;
  y0 = t3;
}
// body
const INDEX n0 = in0_shape[0];
const INDEX total = n0;
const long in0_step0 = in0_strides[0];
const long in1_step0 = in1_strides[0];
const long in2_step0 = in2_strides[0];
INDEX t = INDEX(thread_position_in_grid.x);
const INDEX begin = t * INDEX(ELEMS);
const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);
for (INDEX i = begin; i < stop;) {
  const INDEX run = stop - i;
  const long at0 = long(i) * in0_step0;
  const long at1 = long(i) * in1_step0;
  const long at2 = long(i) * in2_step0;
  #ifdef ZMLX_WIDE
  if (run == INDEX(ELEMS)) {
    const auto w0 = zmlx_fetch<ELEMS>(in0 + at0, in0_step0);
    const auto w1 = zmlx_fetch<ELEMS>(in1 + at1, in1_step0);
    const auto w2 = zmlx_fetch<ELEMS>(in2 + at2, in2_step0);
    auto r0 = zmlx_wide<ELEMS>(out0);
    ZMLX_UNROLL
    for (int k = 0; k < ELEMS; ++k) {
      const float x0 = float(w0[k]);
      const char x1 = char(w1[k]);
      const float x2 = float(w2[k]);
      float y0;
      zmlx_region(x0, x1, x2, y0);
      r0[k] = half(y0);
    }
    zmlx_put<ELEMS>(out0 + i, r0);
  #else
  if (in0_step0 == 1 && in1_step0 == 1 && in2_step0 == 1) {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k]);
      const char x1 = char(in1[at1 + k]);
      const float x2 = float(in2[at2 + k]);
      float y0;
      zmlx_region(x0, x1, x2, y0);
      out0[i + k] = half(y0);
    }
  #endif
  } else {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k * in0_step0]);
      const char x1 = char(in1[at1 + k * in1_step0]);
      const float x2 = float(in2[at2 + k * in2_step0]);
      float y0;
      zmlx_region(x0, x1, x2, y0);
      out0[i + k] = half(y0);
    }
  }
  i += run;
}
