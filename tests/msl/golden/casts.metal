// zmlx_astype_f8c16721c39d5fe6
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
  const float t2 = float(half(x0));
  y0 = t0;
  y1 = t1;
  y2 = t2;
  y3 = x0;
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
    auto r1 = zmlx_wide<ELEMS>(out1);
    auto r2 = zmlx_wide<ELEMS>(out2);
    auto r3 = zmlx_wide<ELEMS>(out3);
    ZMLX_UNROLL
    for (int k = 0; k < ELEMS; ++k) {
      const float x0 = float(w0[k]);
      bool y0;
      uchar y1;
      float y2;
      float y3;
      zmlx_region(x0, y0, y1, y2, y3);
      r0[k] = bool(y0);
      r1[k] = uchar(y1);
      r2[k] = half(y2);
      r3[k] = float(y3);
    }
    zmlx_put<ELEMS>(out0 + i, r0);
    zmlx_put<ELEMS>(out1 + i, r1);
    zmlx_put<ELEMS>(out2 + i, r2);
    zmlx_put<ELEMS>(out3 + i, r3);
  #else
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
  #endif
  } else {
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
