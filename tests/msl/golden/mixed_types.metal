// zmlx_multiply_where_2ba5b23900040bd6
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
const INDEX begin = INDEX(thread_position_in_grid.x) * INDEX(ELEMS);
const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);
for (INDEX i = begin; i < stop;) {
  const INDEX run = stop - i;
  const long at0 = long(i) * in0_step0;
  const long at1 = long(i) * in1_step0;
  const long at2 = long(i) * in2_step0;
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
