// zmlx_power_multiply_add_tanh_7f29ad2c3c1a2cc7
#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
#pragma METAL fp contract(off)
#ifndef ZMLX_NATIVE_ROUND
template <typename T>
inline float zmlx_round(float x) {
  return float(T(x));
}
#endif
#ifndef ZMLX_NATIVE_EXACT_MULTIPLY
inline float zmlx_exact_multiply(float x, float y) {
  return x * y;
}
#endif
// One element: 8 ops: power, multiply, add, multiply, multiply, tanh, add, multiply.
inline void zmlx_region(float x0, thread float& y0) {
  const float t0 = zmlx_round<half>(metal::precise::pow(x0, 3.0f));
  const float t1 = zmlx_round<half>(zmlx_exact_multiply(t0, 0.044708252f));
  const float t2 = zmlx_round<half>(x0 + t1);
  const float t3 = zmlx_round<half>(zmlx_exact_multiply(t2, 0.797851562f));
  const float t4 = zmlx_round<half>(zmlx_exact_multiply(x0, 0.5f));
  const float t5 = zmlx_round<half>(metal::precise::tanh(t3));
  const float t6 = zmlx_round<half>(t5 + 1.0f);
  const float t7 = zmlx_round<half>(zmlx_exact_multiply(t4, t6));
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
      out0[i + k] = half(y0);
    }
  } else
  #endif
  {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k * in0_step0]);
      float y0;
      zmlx_region(x0, y0);
      out0[i + k] = half(y0);
    }
  }
  i += run;
}
