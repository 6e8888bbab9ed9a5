"""Linear layers with what follows them: MLX's matrix product and one kernel behind it.

Weights are (N, K), as MLX has them; x is (..., K). Products are float32, as are results unless
`compute_dtype` says otherwise. Everything is differentiable in its float arrays, to any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from zmlx.catalog.by_hand import ByHand, Text, lanes
from zmlx.catalog.common import Call
from zmlx.catalog.formulas import fused, gelu, root, silu, wide
from zmlx.catalog.quant import like, nibbles

__all__ = [
    "dequantize_int4_matmul",
    "fused_linear_bias_gelu",
    "fused_linear_bias_silu",
    "fused_linear_rmsnorm",
    "int4_matmul",
]

MODULE = "linear"
GROUPS = (32, 64, 128)  # of mx.quantize
FEW = 8  # rows of x up to which weights are read once, and not unpacked into memory
Arrays = Sequence[mx.array]


# -- formulas -------------------------------------------------------------------------------------
@fused
def _bias_silu(z: mx.array, bias: mx.array, kind: mx.array) -> mx.array:
    return silu(z + wide(bias)).astype(kind.dtype)


@fused
def _bias_gelu(z: mx.array, bias: mx.array, kind: mx.array) -> mx.array:
    return gelu(z + wide(bias)).astype(kind.dtype)


@fused
def _rmsnorm(z: mx.array, gamma: mx.array, eps: mx.array, kind: mx.array) -> mx.array:
    return (z * root(z, eps) * wide(gamma)).astype(kind.dtype)


@fused
def _unpacked(w: mx.array) -> mx.array:
    """(N, K/2) bytes as (N, K) signed numbers."""
    return nibbles(w, True).reshape(w.shape[0], -1)


@fused
def _grouped(w: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
    """(N, K/8) words as (N, K) numbers: those of a group times its scale, plus its bias."""
    halves = mx.stack([wide((w >> (4 * i)) & 15) for i in range(8)], -1)
    groups = halves.reshape(*scales.shape, -1)
    found = groups * wide(scales)[..., None] + wide(biases)[..., None]
    return found.reshape(w.shape[0], -1)


# -- functions ------------------------------------------------------------------------------------
def fused_linear_bias_silu(
    x: mx.array, w: mx.array, bias: mx.array, *, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """silu(x @ w.T + bias).

    Args:
        x: (..., K); float32, float16 or bfloat16.
        w: (N, K).
        bias: (N,).
        compute_dtype: the type of the result, float32 if None; all arithmetic is float32.

    Returns:
        (..., N).

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "fused_linear_bias_silu")
    kind = like(call.result(compute_dtype))
    found: mx.array = _bias_silu(*_product(call, x, w, "bias", bias), kind)
    return found


def fused_linear_bias_gelu(
    x: mx.array, w: mx.array, bias: mx.array, *, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """gelu(x @ w.T + bias), gelu's tanh form; otherwise as fused_linear_bias_silu."""
    call = Call(MODULE, "fused_linear_bias_gelu")
    kind = like(call.result(compute_dtype))
    found: mx.array = _bias_gelu(*_product(call, x, w, "bias", bias), kind)
    return found


def fused_linear_rmsnorm(
    x: mx.array,
    w: mx.array,
    gamma: mx.array,
    *,
    eps: float = 1e-6,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """z * rsqrt(mean(z**2) + eps) * gamma, z = x @ w.T; otherwise as fused_linear_bias_silu."""
    call = Call(MODULE, "fused_linear_rmsnorm")
    kind = like(call.result(compute_dtype))
    z, gamma = _product(call, x, w, "gamma", gamma)
    found: mx.array = _rmsnorm(z, gamma, call.eps(eps, z), kind)
    return found


def dequantize_int4_matmul(
    x: mx.array, w_int4: mx.array, scales: mx.array, *, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """x @ (scales[n] * q[n, k]).T for signed four-bit weights.

    Up to 8 rows of x read the packed weights; more are MLX's product with unpacked ones.

    Args:
        x: (..., K), K even; float32, float16 or bfloat16.
        w_int4: (N, K/2), uint8: the low half of byte j is column 2j, the high one 2j + 1, both
            from -8 to 7.
        scales: (N,), floats.
        compute_dtype: the type of the result, float32 if None.

    Returns:
        (..., N). Differentiable in x and scales.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "dequantize_int4_matmul")
    kind, x = call.result(compute_dtype), call.rows("x", x)
    w = call.of_rank("w_int4", call.integers("w_int4", w_int4, (mx.uint8,)), 2, "(N, K/2)")
    if 2 * w.shape[1] != x.shape[-1] or not w.shape[0]:
        wanted = f"shape (N, K/2), and twice its row the {x.shape[-1]} columns of x"
        raise call.wrong("w_int4", f"of shape {w.shape}", wanted)
    scales = call.shaped("scales", scales, w.shape[:1])
    rows = call.known(x).reshape(-1, x.shape[-1])
    (found,) = _int4(rows, w, scales) if rows.shape[0] <= FEW else _plain_int4(rows, w, scales)
    return found.reshape(*x.shape[:-1], w.shape[0]).astype(kind)


def int4_matmul(
    x: mx.array,
    w_q: mx.array,
    scales: mx.array,
    biases: mx.array,
    *,
    group_size: int = 64,
    bits: int = 4,
    transpose: bool = True,
) -> mx.array:
    """x @ w.T, or x @ w, for weights w (N, K) as mx.quantize packs them in four bits.

    w = scale * q + bias for each group of a row. With `transpose`, up to 8 rows of x read the
    packed weights once, by a kernel for 1, 2, 4 and 8 rows; else weights are unpacked by one
    kernel, in float32, for MLX's product.

    Args:
        x: (..., K), or (..., N) without transpose; float32, float16 or bfloat16.
        w_q: (N, K/8), uint32; column 8j + i is in bits 4i to 4i + 3 of word j.
        scales, biases: (N, K/group_size), floats.
        group_size: 32, 64 or 128.
        bits: 4.
        transpose: whether rows of w are summed over, as in a linear layer.

    Returns:
        (..., N), or (..., K) without transpose, of x's type; arithmetic is float32, rounded once.
        Differentiable in x, scales and biases.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "int4_matmul")
    x = call.known(call.rows("x", x))
    w = call.of_rank("w_q", call.integers("w_q", w_q, (mx.uint32,)), 2, "(N, K/8)")
    if group_size not in GROUPS:
        raise call.wrong("group_size", repr(group_size), "32, 64 or 128")
    if bits != 4:
        raise call.wrong("bits", repr(bits), "4")
    if not isinstance(transpose, bool):
        raise call.wrong("transpose", repr(transpose), "True or False")
    n, columns = w.shape[0], 8 * w.shape[1]
    summed, kept = (columns, n) if transpose else (n, columns)
    if x.shape[-1] != summed or not n or not columns or columns % group_size:
        wanted = f"shape (N, K/8), K a multiple of {group_size}, for the {x.shape[-1]} columns of x"
        raise call.wrong("w_q", f"of shape {w.shape}", wanted)
    groups = (n, columns // group_size)
    packed = w, call.shaped("scales", scales, groups), call.shaped("biases", biases, groups)
    rows = x.reshape(-1, summed)
    if not transpose:
        found = wide(rows) @ _grouped(*packed)
    elif rows.shape[0] <= FEW:
        (found,) = _int4_groups(rows, *packed)
    else:
        (found,) = _plain_groups(rows, *packed)
    return found.reshape(*x.shape[:-1], kept).astype(x.dtype)


def _product(
    call: Call, x: mx.array, w: mx.array, name: str, weights: mx.array
) -> tuple[mx.array, mx.array]:
    x, w = call.rows("x", x), call.of_rank("w", call.rows("w", w), 2, "(N, K)")
    if w.shape[1] != x.shape[-1] or not w.shape[0]:
        wanted = f"shape (N, {x.shape[-1]}), rows as long as those of x"
        raise call.wrong("w", f"of shape {w.shape}", wanted)
    weights = call.shaped(name, weights, w.shape[:1])
    return wide(x) @ wide(w).T, weights


# -- by hand --------------------------------------------------------------------------------------
_INT4 = Text("int4_rows", "x w scales", "out", """
const uint lane = thread_index_in_simdgroup, width = threads_per_threadgroup.x;
const uint n = thread_position_in_grid.y, rows = x_shape[0], half_k = w_shape[1];
float sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
for (uint j = lane; j < half_k; j += width) {
  const int byte = w[ulong(n) * half_k + j];
  const float low = float(((byte & 15) ^ 8) - 8), high = float(((byte >> 4) ^ 8) - 8);
  for (uint m = 0; m < rows; ++m) {
    const ulong at = (ulong(m) * half_k + j) * 2;
    sums[m] += float(x[at]) * low + float(x[at + 1]) * high;
  }
}
for (uint m = 0; m < rows; ++m) {
  const float sum = simd_sum(sums[m]);
  if (lane == 0) out[ulong(m) * w_shape[0] + n] = O(sum * float(scales[n]));
}
""")  # fmt: skip


def _run_int4(x: mx.array, w: mx.array, scales: mx.array) -> list[mx.array]:
    width, n = lanes(), w.shape[0]
    group = (width, min(4, n) if width > 1 else 1, 1)
    return _INT4([x, w, scales], [(x.shape[0], n)], [mx.float32], (width, n, 1), group)


def _plain_int4(x: mx.array, w: mx.array, scales: mx.array) -> list[mx.array]:
    return [(wide(x) @ _unpacked(w).T) * wide(scales)]


def _pull_int4(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
    (x, w, scales), g = primals, given[0]
    q = _unpacked(w)
    return [(g * wide(scales)) @ q, None, (g * (wide(x) @ q.T)).sum(0)]


_int4 = ByHand("dequantize_int4_matmul", _run_int4, _plain_int4, _pull_int4)


# `M` is the number of rows, or the next power of two: their sums are in registers.
_INT4_GROUPS = Text("int4_groups", "x w scales biases", "out", """
const uint lane = thread_index_in_simdgroup, width = threads_per_threadgroup.x;
const uint n = thread_position_in_grid.y, rows = x_shape[0], words = w_shape[1];
const uint groups = scales_shape[1], per = words / groups;
float sums[M][8];
for (uint m = 0; m < M; ++m) {
  for (uint i = 0; i < 8; ++i) sums[m][i] = 0.0f;
}
for (uint j = lane; j < words; j += width) {
  const uint word = w[ulong(n) * words + j];
  const ulong group = ulong(n) * groups + j / per;
  const float scale = float(scales[group]), bias = float(biases[group]);
  float part[8];
  for (uint i = 0; i < 8; ++i) part[i] = float((word >> (4 * i)) & 15u) * scale + bias;
  for (uint m = 0; m < M; ++m) {
    const ulong at = (ulong(min(m, rows - 1)) * words + j) * 8;
    for (uint i = 0; i < 8; ++i) sums[m][i] += float(x[at + i]) * part[i];
  }
}
for (uint m = 0; m < M; ++m) {
  float sum = 0.0f;
  for (uint i = 0; i < 8; ++i) sum += sums[m][i];
  sum = simd_sum(sum);
  if (lane == 0 && m < rows) out[ulong(m) * w_shape[0] + n] = O(sum);
}
""")  # fmt: skip


def _run_groups(x: mx.array, w: mx.array, scales: mx.array, biases: mx.array) -> list[mx.array]:
    width, n, rows = lanes(), w.shape[0], x.shape[0]
    group = (width, min(4, n) if width > 1 else 1, 1)
    together = 1 << (max(rows, 1) - 1).bit_length()
    return _INT4_GROUPS(
        [x, w, scales, biases], [(rows, n)], [mx.float32], (width, n, 1), group,
        [("M", together)],
    )  # fmt: skip


def _plain_groups(x: mx.array, w: mx.array, scales: mx.array, biases: mx.array) -> list[mx.array]:
    return [wide(x) @ _grouped(w, scales, biases).T]


def _pull_groups(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
    x, w, scales, biases = primals
    _, (dx, ds, db) = mx.vjp(lambda v, s, b: _plain_groups(v, w, s, b), [x, scales, biases], given)
    return [dx, None, ds, db]


_int4_groups = ByHand("int4_matmul", _run_groups, _plain_groups, _pull_groups)
