// zmlx_less_exp_add_1ad5d7115c07be3f
#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
// One element: 3 ops: less, exp, add.
inline void zmlx_region(float x0, float x1, thread bool& y0, thread float& y1, thread float& y2) {
  const bool t0 = x0 < x1;
  const float t1 = metal::precise::exp(x0);
  const float t2 = t1 + x1;
  y0 = t0;
  y1 = t1;
  y2 = t2;
}
// body
const INDEX n0 = in0_shape[0];
const INDEX n1 = in0_shape[1];
const INDEX total = n0 * n1;
const long in0_step0 = in0_strides[0];
const long in0_step1 = in0_strides[1];
const long in1_step1 = in1_strides[0];
const INDEX t = INDEX(thread_position_in_grid.x);
#ifdef ZMLX_WIDE
const bool across = (in0_step0 == 1 && in0_step1 != 1);
const bool lined = SHORT && !across && in0_step1 == 1 && in0_step0 == long(n1);
if (SHORT && !across && !lined) {
  constexpr int kTurn = ELEMS < 8 ? ELEMS : 8;  // loads of an array under way
  const INDEX begin = (t >> 5) * INDEX(32 * ELEMS) + (t & 31);
  INDEX c0 = 0, c1 = 0;
  INDEX rest = begin;
  c1 = rest % n1;
  rest /= n1;
  c0 = rest;
  INDEX far = 32;
  const INDEX d1 = far % n1;
  far /= n1;
  const long back0_1 = long(1) * in0_step0 + long(-n1) * in0_step1;
  const long back1_1 = long(-n1) * in1_step1;
  const INDEX d0 = far;
  long at0 = long(c0) * in0_step0 + long(c1) * in0_step1;
  const long far0 = long(d0) * in0_step0 + long(d1) * in0_step1;
  long at1 = long(c1) * in1_step1;
  const long far1 = long(d1) * in1_step1;
  for (int b = 0; b < ELEMS; b += kTurn) {
    const INDEX from = begin + INDEX(b * 32);
    float v0[kTurn];
    float v1[kTurn];
    ZMLX_UNROLL
    for (int k = 0; k < kTurn; ++k) {
      if (total - from > INDEX(k * 32)) {
        v0[k] = float(in0[at0]);
        v1[k] = float(in1[at1]);
      }
      at0 += far0;
      at1 += far1;
      c1 += d1;
      const INDEX carry1 = c1 >= n1;
      c1 -= carry1 * n1;
      at0 += carry1 ? back0_1 : 0;
      at1 += carry1 ? back1_1 : 0;
      c0 += d0 + carry1;
    }
    ZMLX_UNROLL
    for (int k = 0; k < kTurn; ++k) {
      if (total - from > INDEX(k * 32)) {
        const float x0 = v0[k];
        const float x1 = v1[k];
        bool y0;
        float y1;
        float y2;
        zmlx_region(x0, x1, y0, y1, y2);
        out0[from + k * 32] = bool(y0);
        out1[from + k * 32] = float(y1);
        out2[from + k * 32] = float(y2);
      }
    }
  }
  return;
}
INDEX apart = 0;
INDEX begin = zmlx_deal<ELEMS>(t, total, !across && (n1 % (32 * ELEMS) == 0), apart);
if (across) {
  begin = zmlx_across<ELEMS>(t, n1, n0, apart);
}
if (begin >= total) {
  return;
}
const INDEX reach = zmlx_reach<ELEMS>(apart);
const bool whole = total - begin >= reach;
INDEX c0 = 0, c1 = 0;
INDEX rest = begin;
c1 = rest % n1;
rest /= n1;
c0 = rest;
if (lined && whole) {
  long at1 = long(c1) * in1_step1;
  const auto w0 = zmlx_take<ELEMS>(in0 + begin, 1, apart);
  zmlx_results<ELEMS, bool> r0;
  zmlx_results<ELEMS, float> r1;
  zmlx_results<ELEMS, float> r2;
  ZMLX_UNROLL
  for (int k = 0; k < ELEMS; ++k) {
    const float x0 = float(w0[k]);
    const float x1 = float(in1[at1]);
    bool y0;
    float y1;
    float y2;
    zmlx_region(x0, x1, y0, y1, y2);
    r0[k] = y0;
    r1[k] = y1;
    r2[k] = y2;
    at1 += in1_step1;
    c1 += 1;
    const INDEX carry1 = c1 >= n1;
    c1 -= carry1 * n1;
    at1 += carry1 ? long(-n1) * in1_step1 : 0;
    c0 += carry1;
  }
  zmlx_give<ELEMS>(out0 + begin, r0, apart);
  zmlx_give<ELEMS>(out1 + begin, r1, apart);
  zmlx_give<ELEMS>(out2 + begin, r2, apart);
  return;
}
if (whole && n1 - c1 >= reach) {
  const long at0 = long(c0) * in0_step0 + long(c1) * in0_step1;
  const long at1 = long(c1) * in1_step1;
  const auto w0 = zmlx_take<ELEMS>(in0 + at0, in0_step1, apart);
  const auto w1 = zmlx_take<ELEMS>(in1 + at1, in1_step1, apart);
  zmlx_results<ELEMS, bool> r0;
  zmlx_results<ELEMS, float> r1;
  zmlx_results<ELEMS, float> r2;
  ZMLX_UNROLL
  for (int k = 0; k < ELEMS; ++k) {
    const float x0 = float(w0[k]);
    const float x1 = float(w1[k]);
    bool y0;
    float y1;
    float y2;
    zmlx_region(x0, x1, y0, y1, y2);
    r0[k] = y0;
    r1[k] = y1;
    r2[k] = y2;
  }
  zmlx_give<ELEMS>(out0 + begin, r0, apart);
  zmlx_give<ELEMS>(out1 + begin, r1, apart);
  zmlx_give<ELEMS>(out2 + begin, r2, apart);
  return;
}
#else
const INDEX begin = t * INDEX(ELEMS);
INDEX c0 = 0, c1 = 0;
INDEX rest = begin;
c1 = rest % n1;
rest /= n1;
c0 = rest;
#endif
const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);
for (INDEX i = begin; i < stop;) {
  const INDEX row = n1 - c1;
  const INDEX run = (stop - i < row) ? stop - i : row;
  const long at0 = long(c0) * in0_step0 + long(c1) * in0_step1;
  const long at1 = long(c1) * in1_step1;
  #ifndef ZMLX_WIDE
  if (in0_step1 == 1 && in1_step1 == 1) {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k]);
      const float x1 = float(in1[at1 + k]);
      bool y0;
      float y1;
      float y2;
      zmlx_region(x0, x1, y0, y1, y2);
      out0[i + k] = bool(y0);
      out1[i + k] = float(y1);
      out2[i + k] = float(y2);
    }
  } else
  #endif
  {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const float x0 = float(in0[at0 + k * in0_step1]);
      const float x1 = float(in1[at1 + k * in1_step1]);
      bool y0;
      float y1;
      float y2;
      zmlx_region(x0, x1, y0, y1, y2);
      out0[i + k] = bool(y0);
      out1[i + k] = float(y1);
      out2[i + k] = float(y2);
    }
  }
  i += run;
  c1 = 0;
  ++c0;
}
