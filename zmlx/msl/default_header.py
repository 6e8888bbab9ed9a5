"""The header of hand-written kernels that name none: functions whose names begin with kk_.

Goes out: DEFAULT_HEADER, Metal text for the `header` of zmlx.metal.kernel, and REDUCE_HEADER, which
may follow it, with reductions over a threadgroup; `reduction` makes one for an operator, as
zmlx.rowwise needs it. zmlx.msl exports all three. All computes in float32, so that half types
neither overflow nor round in between. Nothing names a thread attribute or the memory of an input:
MLX declares attributes for the body alone, and small inputs lie in another memory than large ones.
"""

from __future__ import annotations

from zmlx.msl.helpers import helper_text

_PROLOGUE = """\
#include <metal_stdlib>
using namespace metal;
"""

# T -> T for any float type; the _grad twins are derivatives with respect to x.
# Two arguments are held inside a range in which nothing overflows; outside of it the product that
# they stand in is 0 in float32 already.
_ACTIVATIONS = """
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
"""

# tanh(softplus(x)) = n / (n + 2) with n = e^x * (e^x + 2), which is 1 in float32 from x = 20 on.
_MISH = """
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
"""

# Counter-based: the value depends on (seed, index) alone. Three LCG steps, two rounds of products
# between the words (Jarzynski and Olano's pcg3d), then PCG's RXS-M-XS output permutation.
_RANDOM = """
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
"""

# A tree of shuffles inside each simdgroup, then one pass over its results, at most 32. Every
# thread of the group must call it; `partials` are 32 floats of threadgroup memory. The first
# barrier lets threads finish with them, and brings those that left a loop early together again.
_REDUCTION = """
inline float {name}_simd(float value, uint lane, uint lanes) {{
  float a = value;
  for (uint far = 16u; far > 0u; far >>= 1) {{
    const float b = metal::simd_shuffle_down(a, ushort(far));
    a = (lane + far < lanes) ? float({op}) : a;
  }}
  return metal::simd_broadcast_first(a);
}}
inline float {name}(float value, threadgroup float* partials, uint index, uint count) {{
  if (count == 1u) {{
    return value;
  }}
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  const uint rest = count - index / 32u * 32u;
  float a = {name}_simd(value, index % 32u, (rest < 32u) ? rest : 32u);
  if (count <= 32u) {{
    return a;
  }}
  if (index % 32u == 0u) {{
    partials[index / 32u] = a;
  }}
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  a = partials[0];
  for (uint i = 1u; i < (count + 31u) / 32u; ++i) {{
    const float b = partials[i];
    a = {op};
  }}
  return a;
}}
"""


def reduction(name: str, op: str) -> str:
    """Text of float name(float value, threadgroup float* partials, uint index, uint count).

    `op` joins `a` and `b` and must be associative and commutative. `index` is the thread's place
    in a one-dimensional threadgroup of `count` threads, of any size; all get the result.
    """
    return _REDUCTION.format(name=name, op=op)


DEFAULT_HEADER = "".join(
    (
        _PROLOGUE,
        helper_text(("sigmoid", "logaddexp", "expm1")),
        _ACTIVATIONS,
        _MISH,
        _RANDOM,
    )
)
# Apart, since the CPU runs a kernel in whose text threads meet slower than one in which none do.
REDUCE_HEADER = "".join(
    (
        reduction("kk_threadgroup_sum", "a + b"),
        reduction("kk_threadgroup_max", "metal::max(a, b)"),
        reduction("kk_threadgroup_min", "metal::min(a, b)"),
    )
)
