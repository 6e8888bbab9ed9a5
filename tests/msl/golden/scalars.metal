// zmlx_less_astype_where_b4af352f3400704b
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
  zmlx_results<ELEMS, int> r0;
  ZMLX_UNROLL
  for (int k = 0; k < ELEMS; ++k) {
    const float x0 = float(w0[k]);
    int y0;
    zmlx_region(x0, p0, p1, y0);
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
      int y0;
      zmlx_region(x0, p0, p1, y0);
      out0[i + k] = int(y0);
    }
  } else
  #endif
  {
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
