// zmlx_copy_f274e83a8162538d
#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
// One element: a copy.
inline void zmlx_region(bool x0, thread bool& y0) {
  y0 = x0;
}
// body
const INDEX n0 = in0_shape[0];
const INDEX total = n0;
const long in0_step0 = in0_strides[0];
const INDEX begin = INDEX(thread_position_in_grid.x) * INDEX(ELEMS);
const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);
for (INDEX i = begin; i < stop;) {
  const INDEX run = stop - i;
  const long at0 = long(i) * in0_step0;
  if (in0_step0 == 1) {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const bool x0 = bool(in0[at0 + k]);
      bool y0;
      zmlx_region(x0, y0);
      out0[i + k] = bool(y0);
    }
  } else {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const bool x0 = bool(in0[at0 + k * in0_step0]);
      bool y0;
      zmlx_region(x0, y0);
      out0[i + k] = bool(y0);
    }
  }
  i += run;
}
