// zmlx_astype_a41e5e457d47ba7a
#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
#ifndef ZMLX_NATIVE_TO_INTEGER
template <typename T>
inline T zmlx_to_integer(float x) {
  return T(x);
}
#endif
// One element: 4 ops: astype, astype, astype, astype.
inline void zmlx_region(float x0, thread bool& y0, thread uchar& y1, thread float& y2, thread float& y3) {
  const bool t0 = bool(x0);
  const uchar t1 = zmlx_to_integer<uchar>(x0);
  y0 = t0;
  y1 = t1;
  y2 = x0;
  y3 = x0;
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
  zmlx_results<ELEMS, uchar> r1;
  zmlx_results<ELEMS, float> r2;
  zmlx_results<ELEMS, float> r3;
  ZMLX_UNROLL
  for (int k = 0; k < ELEMS; ++k) {
    const float x0 = float(w0[k]);
    bool y0;
    uchar y1;
    float y2;
    float y3;
    zmlx_region(x0, y0, y1, y2, y3);
    r0[k] = y0;
    r1[k] = y1;
    r2[k] = y2;
    r3[k] = y3;
  }
  zmlx_give<ELEMS>(out0 + begin, r0, apart);
  zmlx_give<ELEMS>(out1 + begin, r1, apart);
  zmlx_give<ELEMS>(out2 + begin, r2, apart);
  zmlx_give<ELEMS>(out3 + begin, r3, apart);
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
      bool y0;
      uchar y1;
      float y2;
      float y3;
      zmlx_region(x0, y0, y1, y2, y3);
      out0[i + k] = bool(y0);
      out1[i + k] = uchar(y1);
      out2[i + k] = half(y2);
      out3[i + k] = float(y3);
    }
  } else
  #endif
  {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k * in0_step0]);
      bool y0;
      uchar y1;
      float y2;
      float y3;
      zmlx_region(x0, y0, y1, y2, y3);
      out0[i + k] = bool(y0);
      out1[i + k] = uchar(y1);
      out2[i + k] = half(y2);
      out3[i + k] = float(y3);
    }
  }
  i += run;
}
