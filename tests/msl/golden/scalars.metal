// zmlx_less_astype_where_cc6ab54f6be843e6
#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
#ifndef ZMLX_NATIVE_TO_INTEGER
template <typename T>
inline T zmlx_to_integer(float x) {
  return T(x);
}
#endif
// One element: 3 ops: less, astype, where.
inline void zmlx_region(float x0, float p0, int p1, thread int& y0) {
  const bool t0 = x0 < p0;
  const int t1 = zmlx_to_integer<int>(x0);
  const int t2 = t0 ? t1 : p1;
  y0 = t2;
}
// body
const INDEX n0 = in0_shape[0];
const INDEX total = n0;
const long in0_step0 = in0_strides[0];
const float p0 = float(s0[0]);
const int p1 = int(s1[0]);
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
      int y0;
      zmlx_region(x0, p0, p1, y0);
      r0[k] = int(y0);
    }
    zmlx_put<ELEMS>(out0 + i, r0);
  #else
  if (in0_step0 == 1) {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k]);
      int y0;
      zmlx_region(x0, p0, p1, y0);
      out0[i + k] = int(y0);
    }
  #endif
  } else {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k * in0_step0]);
      int y0;
      zmlx_region(x0, p0, p1, y0);
      out0[i + k] = int(y0);
    }
  }
  i += run;
}
