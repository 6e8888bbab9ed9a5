// zmlx_multiply_where_51389b1cd076f199
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
const INDEX t = INDEX(thread_position_in_grid.x);
#ifdef ZMLX_WIDE
INDEX apart = 0;
const INDEX begin = zmlx_deal<ELEMS>(t, total, true, apart);
if (begin >= total) {
  return;
}
const INDEX reach = zmlx_reach<ELEMS>(apart);
const bool whole = total - begin >= reach;
if (whole) {
  const long at0 = long(begin) * in0_step0;
  const long at1 = long(begin) * in1_step0;
  const long at2 = long(begin) * in2_step0;
  const auto w0 = zmlx_take<ELEMS>(in0 + at0, in0_step0, apart);
  const auto w1 = zmlx_take<ELEMS>(in1 + at1, in1_step0, apart);
  const auto w2 = zmlx_take<ELEMS>(in2 + at2, in2_step0, apart);
  zmlx_results<ELEMS, float> r0;
  ZMLX_UNROLL
  for (int k = 0; k < ELEMS; ++k) {
    const float x0 = float(w0[k]);
    const char x1 = char(w1[k]);
    const float x2 = float(w2[k]);
    float y0;
    zmlx_region(x0, x1, x2, y0);
    r0[k] = y0;
  }
  zmlx_give<ELEMS>(out0 + begin, r0, apart);
  return;
}
#else
const INDEX begin = t * INDEX(ELEMS);
#endif
const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);
for (INDEX i = begin; i < stop;) {
  const INDEX run = stop - i;
  const long at0 = long(i) * in0_step0;
  const long at1 = long(i) * in1_step0;
  const long at2 = long(i) * in2_step0;
  #ifndef ZMLX_WIDE
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
  } else
  #endif
  {
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
