// zmlx_floor_divide_left_shift_bitwise_xor_5a5b8d5467f2a4fa
#ifndef ZMLX_LOOP
#define ZMLX_LOOP
#endif
#ifndef ZMLX_NATIVE_INT_FLOOR_DIVIDE
template <typename T>
inline T zmlx_int_floor_divide(T x, T y) {
  const bool zero = y == T(0);
  const bool minus = T(-1) < T(0) && y == T(-1);
  const T d = (zero || minus) ? T(1) : y;
  const T q = T(x / d);
  const T r = T(x - q * d);
  const T floored = (r != T(0) && (r < T(0)) != (d < T(0))) ? T(q - T(1)) : q;
  return zero ? T(0) : (minus ? T(T(0) - x) : floored);
}
#endif
#ifndef ZMLX_NATIVE_LEFT_SHIFT
template <typename T>
inline T zmlx_left_shift(T x, T y) {
  return (sizeof(T) == 8) ? T(ulong(x) << (ulong(y) & 63)) : T(uint(x) << (uint(y) & 31));
}
#endif
// One element: 3 ops: floor_divide, left_shift, bitwise_xor.
inline void zmlx_region(short x0, short x1, thread short& y0) {
  const short t0 = zmlx_int_floor_divide<short>(x0, x1);
  const short t1 = zmlx_left_shift<short>(x0, short(3));
  const short t2 = t0 ^ t1;
  y0 = t2;
}
// body
const INDEX n0 = in0_shape[0];
const INDEX total = n0;
const long in0_step0 = in0_strides[0];
const long in1_step0 = in1_strides[0];
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
  const long at1 = long(begin) * in1_step0;
  const auto w0 = zmlx_take<ELEMS>(in0 + at0, in0_step0, apart);
  const auto w1 = zmlx_take<ELEMS>(in1 + at1, in1_step0, apart);
  zmlx_results<ELEMS, short> r0;
  ZMLX_UNROLL
  for (int k = 0; k < ELEMS; ++k) {
    const short x0 = short(w0[k]);
    const short x1 = short(w1[k]);
    short y0;
    zmlx_region(x0, x1, y0);
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
  const long at1 = long(i) * in1_step0;
  #ifndef ZMLX_WIDE
  if (in0_step0 == 1 && in1_step0 == 1) {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const short x0 = short(in0[at0 + k]);
      const short x1 = short(in1[at1 + k]);
      short y0;
      zmlx_region(x0, x1, y0);
      out0[i + k] = short(y0);
    }
  } else
  #endif
  {
    ZMLX_LOOP
    for (INDEX k = 0; k < run; ++k) {
      const short x0 = short(in0[at0 + k * in0_step0]);
      const short x1 = short(in1[at1 + k * in1_step0]);
      short y0;
      zmlx_region(x0, x1, y0);
      out0[i + k] = short(y0);
    }
  }
  i += run;
}
