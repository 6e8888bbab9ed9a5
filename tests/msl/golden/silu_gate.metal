// zmlx_sigmoid_multiply_e4c998c89c9a30cb
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
// One element: 3 ops: sigmoid, multiply, multiply.
inline void zmlx_region(float x0, float x1, thread float& y0) {
  const float t0 = zmlx_sigmoid(x0);
  const float t1 = x0 * t0;
  const float t2 = t1 * x1;
  y0 = t2;
}
// body
const INDEX n0 = in0_shape[0];
const INDEX n1 = in0_shape[1];
const INDEX total = n0 * n1;
const long in0_step0 = in0_strides[0];
const long in0_step1 = in0_strides[1];
const long in1_step0 = in1_strides[0];
const long in1_step1 = in1_strides[1];
const INDEX t = INDEX(thread_position_in_grid.x);
#ifdef ZMLX_WIDE
const bool flat = ((in0_step1 == 1 && in0_step0 == long(n1)) || (in0_step0 == 0 && in0_step1 == 0)) && ((in1_step1 == 1 && in1_step0 == long(n1)) || (in1_step0 == 0 && in1_step1 == 0));
const bool across = (in0_step0 == 1 && in0_step1 != 1) || (in1_step0 == 1 && in1_step1 != 1);
INDEX apart = 0;
INDEX begin = zmlx_deal<ELEMS>(t, total, !across && (flat || n1 % (32 * ELEMS) == 0), apart);
if (across) {
  begin = zmlx_across<ELEMS>(t, n1, n0, apart);
}
if (begin >= total) {
  return;
}
const INDEX reach = zmlx_reach<ELEMS>(apart);
const bool whole = total - begin >= reach;
INDEX c0 = 0, c1 = 0;
if (!flat || !whole) {
  INDEX rest = begin;
  c1 = rest % n1;
  rest /= n1;
  c0 = rest;
}
if (whole && (flat || n1 - c1 >= reach)) {
  const long at0 = flat ? long(in0_step1 == 1 ? begin : 0) : long(c0) * in0_step0 + long(c1) * in0_step1;
  const long at1 = flat ? long(in1_step1 == 1 ? begin : 0) : long(c0) * in1_step0 + long(c1) * in1_step1;
  const auto w0 = zmlx_take<ELEMS>(in0 + at0, in0_step1, apart);
  const auto w1 = zmlx_take<ELEMS>(in1 + at1, in1_step1, apart);
  zmlx_results<ELEMS, float> r0;
  ZMLX_UNROLL
  for (int k = 0; k < ELEMS; ++k) {
    const float x0 = float(w0[k]);
    const float x1 = float(w1[k]);
    float y0;
    zmlx_region(x0, x1, y0);
    r0[k] = y0;
  }
  zmlx_give<ELEMS>(out0 + begin, r0, apart);
  return;
}
#else
const INDEX begin = t * INDEX(ELEMS);
INDEX c0 = 0, c1 = 0;
INDEX rest = begin;
c1 = rest % n1;
rest /= n1;
c0 = rest;
#endif
const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);
for (INDEX i = begin; i < stop;) {
  const INDEX row = n1 - c1;
  const INDEX run = (stop - i < row) ? stop - i : row;
  const long at0 = long(c0) * in0_step0 + long(c1) * in0_step1;
  const long at1 = long(c0) * in1_step0 + long(c1) * in1_step1;
  #ifndef ZMLX_WIDE
  if (in0_step1 == 1 && in1_step1 == 1) {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k]);
      const float x1 = float(in1[at1 + k]);
      float y0;
      zmlx_region(x0, x1, y0);
      out0[i + k] = bfloat16_t(y0);
    }
  } else
  #endif
  {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k * in0_step1]);
      const float x1 = float(in1[at1 + k * in1_step1]);
      float y0;
      zmlx_region(x0, x1, y0);
      out0[i + k] = bfloat16_t(y0);
    }
  }
  i += run;
  c1 = 0;
  ++c0;
}
