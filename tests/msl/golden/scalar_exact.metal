// zmlx_add_multiply_d7b120da98994467
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
// One element: 2 ops: add, multiply.
inline void zmlx_region(float x0, float p0, thread float& y0) {
  const float t0 = zmlx_round<bfloat16_t>(p0);
  const float t1 = zmlx_round<bfloat16_t>(x0 + 0.100097656f);
  const float t2 = zmlx_round<bfloat16_t>(zmlx_exact_multiply(t1, t0));
  y0 = t2;
}
// body
const INDEX n0 = in0_shape[0];
const INDEX total = n0;
const long in0_step0 = in0_strides[0];
const float p0 = float(s0[0]);
INDEX t = INDEX(thread_position_in_grid.x);
const INDEX begin = t * INDEX(ELEMS);
const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);
for (INDEX i = begin; i < stop;) {
  const INDEX run = stop - i;
  const long at0 = long(i) * in0_step0;
  #ifdef ZMLX_WIDE
  if (run == INDEX(ELEMS)) {
    const auto w0 = zmlx_fetch<ELEMS>(in0 + at0, in0_step0);
    auto r0 = zmlx_wide<ELEMS>(out0);
    ZMLX_UNROLL
    for (int k = 0; k < ELEMS; ++k) {
      const float x0 = float(w0[k]);
      float y0;
      zmlx_region(x0, p0, y0);
      r0[k] = bfloat16_t(y0);
    }
    zmlx_put<ELEMS>(out0 + i, r0);
  #else
  if (in0_step0 == 1) {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k]);
      float y0;
      zmlx_region(x0, p0, y0);
      out0[i + k] = bfloat16_t(y0);
    }
  #endif
  } else {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k * in0_step0]);
      float y0;
      zmlx_region(x0, p0, y0);
      out0[i + k] = bfloat16_t(y0);
    }
  }
  i += run;
}
