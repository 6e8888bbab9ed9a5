// Numbers packed into words (specification, chapter 6.12.5): rounded to the nearest, ties to even.
#pragma once

namespace metal {

ZM_INLINE uint zm_packed(float x, float low, float scale, uint mask) {
  const float inside = fmin(fmax(x, low), 1.0f);
  return uint(int(rint((x != x ? 0.0f : inside) * scale))) & mask;
}
ZM_INLINE float zm_signed(uint word, int bits, float scale) {
  return fmax(float(int(word << (32 - bits)) >> (32 - bits)) / scale, -1.0f);
}
ZM_INLINE float zm_to_srgb(float x) {
  const float c = x != x ? 0.0f : saturate(x);
  return c < 0.0031308f ? 12.92f * c : 1.055f * pow(c, 1.0f / 2.4f) - 0.055f;
}
ZM_INLINE float zm_from_srgb(float x) {
  return x <= 0.04045f ? x / 12.92f : pow((x + 0.055f) / 1.055f, 2.4f);
}

#define ZM_PACKERS(T, KIND)                                                                 \
  ZM_INLINE uint pack_##KIND##_to_unorm4x8(T##4 v) {                                        \
    uint word = 0;                                                                          \
    for (int i = 0; i < 4; ++i) word |= zm_packed(float(v[i]), 0.0f, 255.0f, 255u) << 8 * i; \
    return word;                                                                            \
  }                                                                                         \
  ZM_INLINE uint pack_##KIND##_to_snorm4x8(T##4 v) {                                        \
    uint word = 0;                                                                          \
    for (int i = 0; i < 4; ++i) word |= zm_packed(float(v[i]), -1.0f, 127.0f, 255u) << 8 * i; \
    return word;                                                                            \
  }                                                                                         \
  ZM_INLINE uint pack_##KIND##_to_srgb_unorm4x8(T##4 v) {                                   \
    float4 c(zm_to_srgb(float(v[0])), zm_to_srgb(float(v[1])), zm_to_srgb(float(v[2])),     \
             float(v[3]));                                                                  \
    uint word = 0;                                                                          \
    for (int i = 0; i < 4; ++i) word |= zm_packed(c[i], 0.0f, 255.0f, 255u) << 8 * i;       \
    return word;                                                                            \
  }                                                                                         \
  ZM_INLINE uint pack_##KIND##_to_unorm2x16(T##2 v) {                                       \
    return zm_packed(float(v[0]), 0.0f, 65535.0f, 65535u) |                                 \
           zm_packed(float(v[1]), 0.0f, 65535.0f, 65535u) << 16;                            \
  }                                                                                         \
  ZM_INLINE uint pack_##KIND##_to_snorm2x16(T##2 v) {                                       \
    return zm_packed(float(v[0]), -1.0f, 32767.0f, 65535u) |                                \
           zm_packed(float(v[1]), -1.0f, 32767.0f, 65535u) << 16;                           \
  }                                                                                         \
  ZM_INLINE uint pack_##KIND##_to_unorm10a2(T##4 v) {                                       \
    return zm_packed(float(v[0]), 0.0f, 1023.0f, 1023u) |                                   \
           zm_packed(float(v[1]), 0.0f, 1023.0f, 1023u) << 10 |                             \
           zm_packed(float(v[2]), 0.0f, 1023.0f, 1023u) << 20 |                             \
           zm_packed(float(v[3]), 0.0f, 3.0f, 3u) << 30;                                    \
  }                                                                                         \
  ZM_INLINE T##4 unpack_unorm4x8_to_##KIND(uint w) {                                        \
    return T##4(float(w & 255u) / 255.0f, float(w >> 8 & 255u) / 255.0f,                    \
                float(w >> 16 & 255u) / 255.0f, float(w >> 24) / 255.0f);                   \
  }                                                                                         \
  ZM_INLINE T##4 unpack_snorm4x8_to_##KIND(uint w) {                                        \
    return T##4(zm_signed(w, 8, 127.0f), zm_signed(w >> 8, 8, 127.0f),                      \
                zm_signed(w >> 16, 8, 127.0f), zm_signed(w >> 24, 8, 127.0f));              \
  }                                                                                         \
  ZM_INLINE T##4 unpack_srgb_unorm4x8_to_##KIND(uint w) {                                   \
    return T##4(zm_from_srgb(float(w & 255u) / 255.0f),                                     \
                zm_from_srgb(float(w >> 8 & 255u) / 255.0f),                                \
                zm_from_srgb(float(w >> 16 & 255u) / 255.0f), float(w >> 24) / 255.0f);     \
  }                                                                                         \
  ZM_INLINE T##2 unpack_unorm2x16_to_##KIND(uint w) {                                       \
    return T##2(float(w & 65535u) / 65535.0f, float(w >> 16) / 65535.0f);                   \
  }                                                                                         \
  ZM_INLINE T##2 unpack_snorm2x16_to_##KIND(uint w) {                                       \
    return T##2(zm_signed(w, 16, 32767.0f), zm_signed(w >> 16, 16, 32767.0f));              \
  }                                                                                         \
  ZM_INLINE T##4 unpack_unorm10a2_to_##KIND(uint w) {                                       \
    return T##4(float(w & 1023u) / 1023.0f, float(w >> 10 & 1023u) / 1023.0f,               \
                float(w >> 20 & 1023u) / 1023.0f, float(w >> 30) / 3.0f);                   \
  }
ZM_PACKERS(float, float)
ZM_PACKERS(half, half)
#undef ZM_PACKERS

}  // namespace metal
