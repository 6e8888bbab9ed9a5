// zmlx_copy_2f5c2147b87d6ee8
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
      const bool x0 = bool(w0[k]);
      bool y0;
      zmlx_region(x0, y0);
      r0[k] = bool(y0);
    }
    zmlx_put<ELEMS>(out0 + i, r0);
  #else
  if (in0_step0 == 1) {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const bool x0 = bool(in0[at0 + k]);
      bool y0;
      zmlx_region(x0, y0);
      out0[i + k] = bool(y0);
    }
  #endif
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
