// zmlx_add_34b4c7a6a2664f09
#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
// One element: 1 op: add.
inline void zmlx_region(float x0, float x1, thread float& y0) {
  const float t0 = x0 + x1;
  y0 = t0;
}
// body
const INDEX n0 = in0_shape[0];
const INDEX n1 = in1_shape[0];
const INDEX n2 = in0_shape[2];
const INDEX total = n0 * n1 * n2;
const long in0_step0 = in0_strides[0];
const long in0_step2 = in0_strides[2];
const long in1_step1 = in1_strides[0];
const INDEX t = INDEX(thread_position_in_grid.x);
#ifdef ZMLX_WIDE
INDEX apart = 0;
const INDEX begin = zmlx_deal<ELEMS>(t, total, n2 % (32 * ELEMS) == 0, apart);
if (begin >= total) {
  return;
}
const INDEX reach = zmlx_reach<ELEMS>(apart);
const bool whole = total - begin >= reach;
INDEX c0 = 0, c1 = 0, c2 = 0;
INDEX rest = begin;
c2 = rest % n2;
rest /= n2;
c1 = rest % n1;
rest /= n1;
c0 = rest;
if (whole && n2 - c2 >= reach) {
  const long at0 = long(c0) * in0_step0 + long(c2) * in0_step2;
  const long at1 = long(c1) * in1_step1;
  const float x1 = float(in1[at1]);
  const auto w0 = zmlx_take<ELEMS>(in0 + at0, in0_step2, apart);
  zmlx_results<ELEMS, float> r0;
  ZMLX_UNROLL
  for (int k = 0; k < ELEMS; ++k) {
    const float x0 = float(w0[k]);
    float y0;
    zmlx_region(x0, x1, y0);
    r0[k] = y0;
  }
  zmlx_give<ELEMS>(out0 + begin, r0, apart);
  return;
}
#else
const INDEX begin = t * INDEX(ELEMS);
INDEX c0 = 0, c1 = 0, c2 = 0;
INDEX rest = begin;
c2 = rest % n2;
rest /= n2;
c1 = rest % n1;
rest /= n1;
c0 = rest;
#endif
const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);
for (INDEX i = begin; i < stop;) {
  const INDEX row = n2 - c2;
  const INDEX run = (stop - i < row) ? stop - i : row;
  const long at0 = long(c0) * in0_step0 + long(c2) * in0_step2;
  const long at1 = long(c1) * in1_step1;
  const float x1 = float(in1[at1]);
  #ifndef ZMLX_WIDE
  if (in0_step2 == 1) {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k]);
      float y0;
      zmlx_region(x0, x1, y0);
      out0[i + k] = float(y0);
    }
  } else
  #endif
  {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k * in0_step2]);
      float y0;
      zmlx_region(x0, x1, y0);
      out0[i + k] = float(y0);
    }
  }
  i += run;
  c2 = 0;
  if (++c1 == n1) {
    c1 = 0;
    ++c0;
  }
}
