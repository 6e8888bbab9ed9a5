// zmlx_maximum_0606c26469353c2e
#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
// One element: 1 op: maximum.
inline void zmlx_region(float x0, float x1, thread float& y0) {
  const float t0 = (x0 > x1 || x0 != x0) ? x0 : x1;
  y0 = t0;
}
// body
const INDEX total = 1;
const float x0 = float(in0[0]);
const float x1 = float(in1[0]);
const INDEX t = INDEX(thread_position_in_grid.x);
const INDEX begin = t * INDEX(ELEMS);
const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);
for (INDEX i = begin; i < stop;) {
  const INDEX run = stop - i;
  ZMLX_LOOP
  for (INDEX k = 0; k < run; ++k) {
    float y0;
    zmlx_region(x0, x1, y0);
    out0[i + k] = float(y0);
  }
  i += run;
}
