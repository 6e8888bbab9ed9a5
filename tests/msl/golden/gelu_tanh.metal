// zmlx_power_multiply_add_tanh_1e970af0b5ff7cf2
#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
#ifndef ZMLX_NATIVE_TANH_BESIDE_ONE
inline float zmlx_tanh_beside_one(float x) {
  return metal::precise::tanh(x);
}
#endif
// One element: 8 ops: power, multiply, add, multiply, multiply, tanh, add, multiply.
inline void zmlx_region(float x0, thread float& y0) {
  const float t0 = x0 * x0 * x0;
  const float t1 = t0 * 0.0447149985f;
  const float t2 = x0 + t1;
  const float t3 = t2 * 0.797885001f;
  const float t4 = x0 * 0.5f;
  const float t5 = zmlx_tanh_beside_one(t3);
  const float t6 = t5 + 1.0f;
  const float t7 = t4 * t6;
  y0 = t7;
}
// body
const INDEX n0 = in0_shape[0];
const INDEX total = n0;
const long in0_step0 = in0_strides[0];
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
  const auto w0 = zmlx_take<ELEMS>(in0 + at0, in0_step0, apart);
  zmlx_results<ELEMS, float> r0;
  ZMLX_UNROLL
  for (int k = 0; k < ELEMS; ++k) {
    const float x0 = float(w0[k]);
    float y0;
    zmlx_region(x0, y0);
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
  #ifndef ZMLX_WIDE
  if (in0_step0 == 1) {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k]);
      float y0;
      zmlx_region(x0, y0);
      out0[i + k] = float(y0);
    }
  } else
  #endif
  {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k * in0_step0]);
      float y0;
      zmlx_region(x0, y0);
      out0[i + k] = float(y0);
    }
  }
  i += run;
}
