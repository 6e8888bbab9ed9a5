// Functions of Metal that the generator never writes. Part of msl_written.h, and of a hand-written
// kernel's header on CUDA.
#pragma once

namespace metal {

ZM_INLINE float smoothstep(float low, float high, float x) {
  const float t = saturate((x - low) / (high - low));
  return t * t * (3.0f - 2.0f * t);
}
ZM_INLINE float fdim(float x, float y) {
  return x > y ? x - y : (x != x || y != y ? NAN : 0.0f);
}
// Floats of one sign lie in the order of their bits; at equal operands it is the second, as in C.
ZM_INLINE float nextafter(float x, float y) {
  const uint bits = as_type<uint>(x);
  const float next = as_type<float>((x < y) == (x > 0.0f) ? bits + 1u : bits - 1u);
  const float least = copysign(as_type<float>(1u), y);
  const float found = x == 0.0f ? least : next;
  return x != x || y != y ? x + y : (x == y ? y : found);
}
#ifndef ZM_EXACT
ZM_INLINE float sincos(float x, float& cosine) {
  cosine = cos(x);
  return sin(x);
}
#endif
ZM_INLINE uint mulhi(uint a, uint b) {
  return uint(ulong(a) * b >> 32);
}
ZM_INLINE int mulhi(int a, int b) {
  return int(long(a) * b >> 32);
}
ZM_INLINE uint rotate(uint x, uint count) {
  return x << (count & 31u) | x >> (-count & 31u);
}
ZM_INLINE uint reverse_bits(uint x) {
  uint y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
ZM_INLINE int popcount(int x) {
  return popcount(uint(x));
}
ZM_INLINE int clz(int x) {
  return int(clz(uint(x)));
}
ZM_INLINE int ctz(int x) {
  return int(ctz(uint(x)));
}

}  // namespace metal
