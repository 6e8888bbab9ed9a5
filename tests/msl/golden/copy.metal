// zmlx_copy_50b059de1c543e2e
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
  zmlx_results<ELEMS, bool> r0;
  ZMLX_UNROLL
  for (int k = 0; k < ELEMS; ++k) {
    const bool x0 = bool(w0[k]);
    bool y0;
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
      const bool x0 = bool(in0[at0 + k]);
      bool y0;
      zmlx_region(x0, y0);
      out0[i + k] = bool(y0);
    }
  } else
  #endif
  {
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
