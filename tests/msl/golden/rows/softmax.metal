#include <metal_stdlib>
using namespace metal;
#ifndef ZMLX_NATIVE_SIGMOID
inline float zmlx_sigmoid(float x) {
  const float e = metal::precise::exp(-metal::abs(x));
  const float numerator = (x < 0.0f) ? e : 1.0f;
  return numerator / (1.0f + e);
}
#endif
#ifndef ZMLX_NATIVE_LOG1P
inline float zmlx_log1p(float x) {
  const float u = 1.0f + x;
  const float logarithm = metal::precise::log(u);
  const float result = logarithm + (x - (u - 1.0f)) / u;
  const float edge = (u == 1.0f) ? x : logarithm;
  return (u == 1.0f || u == 0.0f || u > 3.40282347e+38f) ? edge : result;
}
#endif
#ifndef ZMLX_NATIVE_LOGADDEXP
inline float zmlx_logaddexp(float x, float y) {
  const float gap = (x == y) ? 0.0f : metal::abs(x - y);
  const float top = (x > y || x != x) ? x : y;
  return top + zmlx_log1p(metal::precise::exp(-gap));
}
#endif
#ifndef ZMLX_NATIVE_EXPM1
inline float zmlx_expm1(float x) {
  const float a = (x > -80.0f) ? ((x < 89.0f) ? x : 89.0f) : -80.0f;
  const float j = metal::rint(a * 1.44269502f);
  const float f = metal::fma(j, -1.42860677e-06f, metal::fma(j, -0.693145752f, a));
  float r = 1.97350979e-4f;
  r = metal::fma(r, f, 1.39309070e-3f);
  r = metal::fma(r, f, 8.33343994e-3f);
  r = metal::fma(r, f, 4.16668020e-2f);
  r = metal::fma(r, f, 1.66666716e-1f);
  r = metal::fma(r, f, 4.99999970e-1f);
  const float s = f * f;
  const float v = metal::fma(r, s, f);
  const float v1 = metal::fma(r, s, f + 0.5f);
  const float t = as_type<float>((int(j) + 126) << 23);
  const float y = t - 0.5f;
  const float lost = (t - y) - 0.5f;
  const float e = metal::fma(v, t, lost) + y;
  float result = (j == 0.0f) ? v : ((j == 1.0f) ? v1 + v1 : e + e);
  result = (x > 88.7228394f) ? INFINITY : result;
  result = (x == 0.0f) ? x : result;
  return (x != x) ? x : result;
}
#endif

inline float kk_held(float x, float low, float high) {
  return (x > high) ? high : ((x < low) ? low : x);
}
inline float kk_gelu_slope(float x) {
  return 1.59576912f * x * (1.0f + 0.044715f * x * x);
}
template <typename T>
inline T kk_sigmoid(T x) {
  return T(zmlx_sigmoid(float(x)));
}
template <typename T>
inline T kk_sigmoid_grad(T x) {
  return T(zmlx_sigmoid(float(x)) * zmlx_sigmoid(-float(x)));
}
template <typename T>
inline T kk_silu(T x) {
  return T(float(x) * zmlx_sigmoid(float(x)));
}
template <typename T>
inline T kk_silu_grad(T x) {
  const float s = zmlx_sigmoid(float(x));
  const float z = kk_held(float(x), -110.0f, 110.0f);
  return T(s + z * s * zmlx_sigmoid(-z));
}
template <typename T>
inline T kk_gelu_tanh(T x) {
  return T(float(x) * zmlx_sigmoid(kk_gelu_slope(float(x))));
}
template <typename T>
inline T kk_gelu_tanh_grad(T x) {
  const float z = kk_held(float(x), -15.0f, 15.0f);
  const float s = zmlx_sigmoid(kk_gelu_slope(z));
  const float slope = 1.59576912f * (1.0f + 0.134145f * z * z);
  return T(s + z * slope * s * zmlx_sigmoid(-kk_gelu_slope(z)));
}
template <typename T>
inline T kk_softplus(T x) {
  return T(zmlx_logaddexp(float(x), 0.0f));
}
template <typename T>
inline T kk_softplus_grad(T x) {
  return kk_sigmoid(x);
}
template <typename T>
inline T kk_expm1(T x) {
  return T(zmlx_expm1(float(x)));
}
template <typename T>
inline T kk_log1p(T x) {
  return T(zmlx_log1p(float(x)));
}

template <typename T>
inline T kk_mish(T x) {
  const float e = metal::precise::exp(kk_held(float(x), -110.0f, 20.0f));
  const float n = e * (e + 2.0f);
  return T(float(x) * (n / (n + 2.0f)));
}
template <typename T>
inline T kk_mish_grad(T x) {
  const float z = kk_held(float(x), -110.0f, 20.0f);
  const float e = metal::precise::exp(z);
  const float n = e * (e + 2.0f);
  const float rest = 2.0f * (1.0f + e) / (n + 2.0f);
  return T(n / (n + 2.0f) + z * zmlx_sigmoid(z) * rest * rest);
}

inline uint kk_hash_u32(uint seed, ulong index) {
  uint x = uint(index) * 1664525u + 1013904223u;
  uint y = uint(index >> 32) * 1664525u + 1013904223u;
  uint z = seed * 1664525u + 1013904223u;
  x += y * z;
  y += z * x;
  z += x * y;
  x ^= x >> 16;
  y ^= y >> 16;
  z ^= z >> 16;
  x += y * z;
  y += z * x;
  z += x * y;
  x ^= z;
  x = ((x >> ((x >> 28) + 4u)) ^ x) * 277803737u;
  return (x >> 22) ^ x;
}
inline float kk_uniform01(uint seed, ulong index) {
  return float(kk_hash_u32(seed, index) >> 8) * 5.96046448e-8f;
}

#ifdef ZMLX_WIDE
template <typename T, int N>
using kk_pack = zm_pack<N, T>;
template <typename T, int N>
inline kk_pack<T, N> kk_load(const T* from) {
  return zmlx_fetch<N>(from, 1);
}
template <typename T, int N>
inline kk_pack<T, N> kk_fetch(const T* from, long step) {
  return zmlx_fetch<N>(from, step);
}
template <typename T, int N>
inline void kk_store(T* to, const kk_pack<T, N>& pack) {
  zmlx_put<N>(to, pack);
}
#else
template <typename T, int N>
struct kk_pack {
  T item[N];
};
template <typename T, int N, typename P>
inline kk_pack<T, N> kk_load(P from) {
  kk_pack<T, N> pack;
  for (int k = 0; k < N; ++k) {
    pack.item[k] = from[k];
  }
  return pack;
}
template <typename T, int N, typename P>
inline kk_pack<T, N> kk_fetch(P from, long step) {
  if (step == 1) {
    return kk_load<T, N>(from);
  }
  kk_pack<T, N> pack;
  const T first = from[0];
  for (int k = 0; k < N; ++k) {
    pack.item[k] = first;
  }
  for (int k = 1; k < N && step != 0; ++k) {
    pack.item[k] = from[k * step];
  }
  return pack;
}
template <typename T, int N, typename P>
inline void kk_store(P to, thread const kk_pack<T, N>& pack) {
  for (int k = 0; k < N; ++k) {
    to[k] = pack.item[k];
  }
}
#endif
#ifndef ZMLX_UNROLL
#define ZMLX_UNROLL
#endif

inline float kk_join1(
    float value, threadgroup float* partials, uint index, uint threads, uint row) {
  if (threads == 1u) {
    return value;
  }
  metal::simdgroup_barrier(metal::mem_flags::mem_none);
  const uint place = row * threads + index;
  const uint near = (threads < 32u) ? threads : 32u;
  float a = value;
  for (uint far = near / 2u; far > 0u; far >>= 1) {
    const float b = metal::simd_shuffle_xor(a, ushort(far));
    a = metal::max(a, b);
  }
  a = metal::simd_shuffle(a, ushort(place % 32u / near * near));
  if (threads <= 32u) {
    return a;
  }
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  if (place % 32u == 0u) {
    partials[place / 32u] = a;
  }
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  const uint first = row * threads / 32u;
  a = partials[first];
  for (uint k = 1u; k < threads / 32u; ++k) {
    const float b = partials[first + k];
    a = metal::max(a, b);
  }
  return a;
}

inline float kk_join2(
    float value, threadgroup float* partials, uint index, uint threads, uint row) {
  if (threads == 1u) {
    return value;
  }
  metal::simdgroup_barrier(metal::mem_flags::mem_none);
  const uint place = row * threads + index;
  const uint near = (threads < 32u) ? threads : 32u;
  float a = value;
  for (uint far = near / 2u; far > 0u; far >>= 1) {
    const float b = metal::simd_shuffle_xor(a, ushort(far));
    a = a + b;
  }
  a = metal::simd_shuffle(a, ushort(place % 32u / near * near));
  if (threads <= 32u) {
    return a;
  }
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  if (place % 32u == 0u) {
    partials[place / 32u] = a;
  }
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  const uint first = row * threads / 32u;
  a = partials[first];
  for (uint k = 1u; k < threads / 32u; ++k) {
    const float b = partials[first + k];
    a = a + b;
  }
  return a;
}
// Body of kernel zmlx_softmax_lastdim_6f39d8b85fbcb93d(x_values, out); its signature is added on launch.
const uint kk_thread = thread_position_in_threadgroup.x;
const uint kk_threads = threads_per_threadgroup.x;
const uint kk_line = thread_position_in_threadgroup.y;
const uint kk_rows = uint(x_values_shape[0]);
const uint kk_width = uint(x_values_shape[1]);
const uint kk_whole = kk_width / uint(LANES) * uint(LANES);
const uint kk_span = kk_threads * uint(LANES);
const uint kk_group = threadgroup_position_in_grid.y + threadgroup_position_in_grid.z * 32768u;
const uint kk_asked = kk_group * threads_per_threadgroup.y + kk_line;
// Rows beyond the last are computed as the last one, so that all threads meet, and not written.
const bool kk_live = kk_asked < kk_rows;
const uint kk_row = kk_live ? kk_asked : kk_rows - 1u;
const ulong kk_first = ulong(kk_row) * kk_width;
const float d = float(kk_width);
threadgroup float kk_partials[32];
kk_pack<x_type, LANES> kk_held_x[PACKS > 0 ? PACKS : 1];
if (PACKS > 0) {
  ZMLX_UNROLL
  for (uint kk_p = 0; (PACKS > 0) ? kk_p < uint(PACKS) : kk_p * kk_span < kk_whole; ++kk_p) {
    const uint kk_at = kk_p * kk_span + kk_thread * uint(LANES);
    if (kk_at < kk_whole) {
      kk_held_x[kk_p] = kk_load<x_type, LANES>(x_values + (kk_first + kk_at));
    }
  }
}
float kk_lanes_top_acc[LANES];
ZMLX_UNROLL
for (uint kk_v = 0; kk_v < uint(LANES); ++kk_v) {
  kk_lanes_top_acc[kk_v] = -INFINITY;
}
ZMLX_UNROLL
for (uint kk_p = 0; (PACKS > 0) ? kk_p < uint(PACKS) : kk_p * kk_span < kk_whole; ++kk_p) {
  const uint kk_at = kk_p * kk_span + kk_thread * uint(LANES);
  if (kk_at < kk_whole) {
    const kk_pack<x_type, LANES> kk_in_x = (PACKS > 0) ? kk_held_x[(PACKS > 0) ? kk_p : 0u] : kk_load<x_type, LANES>(x_values + (kk_first + kk_at));
    ZMLX_UNROLL
    for (uint kk_v = 0; kk_v < uint(LANES); ++kk_v) {
      const float x = float(kk_in_x.item[kk_v]);
      float top_acc = kk_lanes_top_acc[kk_v];
      kk_lanes_top_acc[kk_v] = metal::max(top_acc, x);
    }
  }
}
for (uint kk_at = kk_whole + kk_thread; kk_at < kk_width; kk_at += kk_threads) {
  const float x = float(x_values[kk_first + kk_at]);
  float top_acc = kk_lanes_top_acc[0];
  kk_lanes_top_acc[0] = metal::max(top_acc, x);
}
float kk_all_top_acc = kk_lanes_top_acc[0];
for (uint kk_v = 1; kk_v < uint(LANES); ++kk_v) {
  const float a = kk_all_top_acc, b = kk_lanes_top_acc[kk_v];
  kk_all_top_acc = metal::max(a, b);
}
const float top = kk_join1(kk_all_top_acc, kk_partials, kk_thread, kk_threads, kk_line);
float kk_lanes_total_acc[LANES];
ZMLX_UNROLL
for (uint kk_v = 0; kk_v < uint(LANES); ++kk_v) {
  kk_lanes_total_acc[kk_v] = 0.0f;
}
ZMLX_UNROLL
for (uint kk_p = 0; (PACKS > 0) ? kk_p < uint(PACKS) : kk_p * kk_span < kk_whole; ++kk_p) {
  const uint kk_at = kk_p * kk_span + kk_thread * uint(LANES);
  if (kk_at < kk_whole) {
    const kk_pack<x_type, LANES> kk_in_x = (PACKS > 0) ? kk_held_x[(PACKS > 0) ? kk_p : 0u] : kk_load<x_type, LANES>(x_values + (kk_first + kk_at));
    ZMLX_UNROLL
    for (uint kk_v = 0; kk_v < uint(LANES); ++kk_v) {
      const float x = float(kk_in_x.item[kk_v]);
      float total_acc = kk_lanes_total_acc[kk_v];
      kk_lanes_total_acc[kk_v] = total_acc + (metal::exp(x - top));
    }
  }
}
for (uint kk_at = kk_whole + kk_thread; kk_at < kk_width; kk_at += kk_threads) {
  const float x = float(x_values[kk_first + kk_at]);
  float total_acc = kk_lanes_total_acc[0];
  kk_lanes_total_acc[0] = total_acc + (metal::exp(x - top));
}
float kk_all_total_acc = kk_lanes_total_acc[0];
for (uint kk_v = 1; kk_v < uint(LANES); ++kk_v) {
  const float a = kk_all_total_acc, b = kk_lanes_total_acc[kk_v];
  kk_all_total_acc = a + b;
}
const float total = kk_join2(kk_all_total_acc, kk_partials, kk_thread, kk_threads, kk_line);
if (kk_live) {
  ZMLX_UNROLL
  for (uint kk_p = 0; (PACKS > 0) ? kk_p < uint(PACKS) : kk_p * kk_span < kk_whole; ++kk_p) {
    const uint kk_at = kk_p * kk_span + kk_thread * uint(LANES);
    if (kk_at < kk_whole) {
      const kk_pack<x_type, LANES> kk_in_x = (PACKS > 0) ? kk_held_x[(PACKS > 0) ? kk_p : 0u] : kk_load<x_type, LANES>(x_values + (kk_first + kk_at));
      kk_pack<O0, LANES> kk_out0;
      ZMLX_UNROLL
      for (uint kk_v = 0; kk_v < uint(LANES); ++kk_v) {
        const float x = float(kk_in_x.item[kk_v]);
        kk_out0.item[kk_v] = O0(metal::exp(x - top) / total);
      }
      kk_store<O0, LANES>(out + (kk_first + kk_at), kk_out0);
    }
  }
  for (uint kk_at = kk_whole + kk_thread; kk_at < kk_width; kk_at += kk_threads) {
    const float x = float(x_values[kk_first + kk_at]);
    out[kk_first + kk_at] = O0(metal::exp(x - top) / total);
  }
}
