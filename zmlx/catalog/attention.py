"""Attention in tiles, and parts: logsumexp, softmax under a mask or with cap, a tile of scores.

Arithmetic is float32, rounded once. Everything is differentiable in its float arrays, to any order;
a mask has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from zmlx.catalog.by_hand import ByHand, Text
from zmlx.catalog.common import FLOATS, Call
from zmlx.catalog.flash import MOST, How, attention
from zmlx.catalog.formulas import fused, logsumexp, total, wide
from zmlx.fuse.by_size import alone

__all__ = [
    "attention_tile_proto",
    "flash_attention",
    "logsumexp_lastdim",
    "masked_softmax",
    "scale_mask_softmax",
    "softcap_mask_softmax",
]

MODULE = "attention"
TILE = 16  # rows of a tile
Arrays = Sequence[mx.array]


# -- formulas -------------------------------------------------------------------------------------
@fused
def _logsumexp(x: mx.array) -> mx.array:
    return logsumexp(wide(x)).astype(x.dtype)


def _kept(v: mx.array, mask: mx.array) -> mx.array:
    """Softmax over kept elements; a row without any is all zeros."""
    kept = mx.max(mx.where(mask, mx.stop_gradient(v), -mx.inf), -1, keepdims=True)
    top = mx.where(kept == -mx.inf, 0.0, kept)
    powers = mx.where(mask, mx.exp(mx.where(mask, v - top, 0.0)), 0.0)
    whole = total(powers)
    return powers / mx.where(whole == 0.0, 1.0, whole)


@fused
def _masked(x: mx.array, mask: mx.array) -> mx.array:
    return _kept(wide(x), mask).astype(x.dtype)


@fused
def _scaled_masked(x: mx.array, mask: mx.array, scale: mx.array) -> mx.array:
    return _kept(wide(x) * scale, mask).astype(x.dtype)


@fused
def _capped_masked(x: mx.array, mask: mx.array, scale: mx.array, cap: mx.array) -> mx.array:
    return _kept(cap * mx.tanh(wide(x) * scale / cap), mask).astype(x.dtype)


# -- functions ------------------------------------------------------------------------------------
def logsumexp_lastdim(
    x: mx.array, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """m + log(sum(e**(x - m))) over the last axis, m the largest element of the row.

    A row of -infinity alone gives -infinity, one that holds +infinity gives +infinity.

    Args:
        x: (..., D), D >= 1; float32, float16 or bfloat16. A number (rank 0) is returned as it is.
        threadgroup: a power of two up to 1024, the threads of a GPU's group at most; 256, the
            default, leaves the launch to the sizes.
        compute_dtype: accepted for the contract; all arithmetic is float32.

    Returns:
        (...) of x's dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "logsumexp_lastdim")
    run = call.launched(_logsumexp, threadgroup, compute_dtype)
    if call.array("x", x).ndim == 0:
        return x
    found: mx.array = run(call.rows("x", x))
    return found


def masked_softmax(
    x: mx.array,
    mask: mx.array,
    *,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """Softmax over the elements of a row that `mask` keeps; the others are exactly 0.

    A row without kept elements, or whose kept ones are all -infinity, is all zeros.

    Args:
        x: (..., D), D >= 1; float32, float16 or bfloat16.
        mask: booleans, True keeps; of x's shape or one that broadcasts to it, which is not copied.

    Returns:
        (..., D) of x's dtype. Otherwise as logsumexp_lastdim.
    """
    call = Call(MODULE, "masked_softmax")
    run = call.launched(_masked, threadgroup, compute_dtype)
    x = call.rows("x", x)
    found: mx.array = run(x, _mask(call, mask, x))
    return found


def scale_mask_softmax(
    x: mx.array,
    mask: mx.array,
    scale: float,
    *,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """masked_softmax(scale * x, mask) in one kernel; `scale` is a number, at run time."""
    call = Call(MODULE, "scale_mask_softmax")
    run = call.launched(_scaled_masked, threadgroup, compute_dtype)
    x = call.rows("x", x)
    found: mx.array = run(x, _mask(call, mask, x), call.scalar("scale", scale, x.ndim))
    return found


def softcap_mask_softmax(
    x: mx.array,
    mask: mx.array,
    scale: float = 1.0,
    cap: float = 50.0,
    *,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """masked_softmax(cap * tanh(scale * x / cap), mask), the scores of Gemma 2, in one kernel.

    `scale` and `cap`, which is positive, are numbers at run time.
    """
    call = Call(MODULE, "softcap_mask_softmax")
    run = call.launched(_capped_masked, threadgroup, compute_dtype)
    x = call.rows("x", x)
    if not isinstance(cap, mx.array) and call.number("cap", cap, 0.0, float("inf")) == 0.0:
        raise call.wrong("cap", repr(cap), "a positive number")
    numbers = call.scalar("scale", scale, x.ndim), call.scalar("cap", cap, x.ndim)
    found: mx.array = run(x, _mask(call, mask, x), *numbers)
    return found


def attention_tile_proto(q: mx.array, k: mx.array) -> mx.array:
    """q @ k.T in float32, of two arrays of 16 rows: one tile of the scores of attention.

    Args:
        q, k: (16, D), D >= 1; float32, float16 or bfloat16. Any D: columns go slab by slab.

    Returns:
        (16, 16), float32, neither scaled nor normalised.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "attention_tile_proto")
    q, k = call.rows("q", q), call.rows("k", k)
    if q.ndim != 2 or q.shape[0] != TILE:
        raise call.wrong("q", f"of shape {q.shape}", f"shape ({TILE}, D)")
    return _tile(q, call.shaped("k", k, q.shape))[0]


def flash_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    scale: float | None = None,
    causal: bool = False,
    mask: mx.array | None = None,
    cap: float | None = None,
) -> mx.array:
    """softmax(scale q k^T + mask) v, in tiles: memory grows with L and S, not with their product.

    Means what mx.fast.scaled_dot_product_attention means, which is the quicker forward pass where
    MLX has a kernel for it (Metal, CUDA); this one has a backward pass in tiles as well. Gradients
    of q, k and v add in a fixed order. Tangents, second derivatives and the gradient of a mask of
    numbers hold the scores, as MLX's ops do. A row of which masks leave nothing weighs all keys
    alike, where booleans or `causal` say so; where a mask adds -infinity everywhere, it is NaN.

    Args:
        q: (B, H, L, D), D <= 256; float32, float16 or bfloat16.
        k, v: (B, G, S, D) of q's type, G a divisor of H, S >= 1: neighbouring heads of q share one.
        scale: a number, 1/sqrt(D) if None.
        causal: row i sees the keys up to i + S - L: the ends of both are aligned.
        mask: booleans, True keeps, or numbers to be added to the scores; of a shape that broadcasts
            to (B, H, L, S), and is not copied along axes of 1. With `causal`, both hold.
        cap: a positive number, if scores z are to be cap * tanh(z / cap) before they are masked.

    Returns:
        (B, H, L, D) of q's type; arithmetic is float32, rounded once. A kernel is compiled for each
        of the widths D up to 64, up to 128 and up to 256, kind of mask, and with a cap or without.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "flash_attention")
    q = call.of_rank("q", call.known(call.rows("q", q)), 4, "(B, H, L, D)")
    k = call.of_rank("k", call.known(call.rows("k", k)), 4, "(B, G, S, D)")
    batch, heads, length, width = q.shape
    if width > MOST:
        raise call.wrong("q", f"of shape {q.shape}", f"rows of {MOST} at most")
    if k.shape[0] != batch or k.shape[3] != width or not k.shape[2]:
        raise call.wrong("k", f"of shape {k.shape}", f"shape ({batch}, G, S, {width}), S >= 1")
    if not k.shape[1] or heads % k.shape[1]:
        wanted = f"heads that divide the {heads} of q"
        raise call.wrong("k", f"of shape {k.shape}", wanted)
    v = call.shaped("v", v, k.shape)
    for name, other in (("k", k), ("v", v)):
        if other.dtype != q.dtype:
            raise call.wrong(name, other.dtype, f"{q.dtype}, as q is")
    if not isinstance(causal, bool):
        raise call.wrong("causal", repr(causal), "True or False")
    number = width**-0.5 if scale is None else call.number("scale", scale, -math.inf, math.inf)
    masks = [] if mask is None else [_broadcast(call, mask, (batch, heads, length, k.shape[2]))]
    most = 0.0 if cap is None else call.number("cap", cap, 0.0, math.inf)
    if cap is not None and most == 0.0:
        raise call.wrong("cap", repr(cap), "a positive number")
    return attention(How(number, causal, most))(q, k, v, *masks)[0]


def _broadcast(call: Call, mask: object, shape: tuple[int, ...]) -> mx.array:
    """A mask with all axes of the scores."""
    found = call.integers("mask", mask, (mx.bool_, *FLOATS))
    axes = (1,) * (len(shape) - found.ndim) + found.shape
    if len(axes) != len(shape) or any(n not in (1, m) for n, m in zip(axes, shape, strict=True)):
        raise call.wrong("mask", f"of shape {found.shape}", f"one that broadcasts to {shape}")
    return found.reshape(axes)


def _mask(call: Call, mask: object, x: mx.array) -> mx.array:
    found = call.integers("mask", mask, (mx.bool_,))
    if call.broadcast("mask", found, "x", x) != x.shape:
        raise call.wrong("mask", f"of shape {found.shape}", f"one that broadcasts to {x.shape}")
    return found


# -- by hand --------------------------------------------------------------------------------------
_TILE = Text("attention_tile", "q k", "out", """
threadgroup float left[16][33], right[16][33];
const uint row = thread_position_in_threadgroup.y, col = thread_position_in_threadgroup.x;
const uint d = q_shape[1];
float sum = 0.0f;
for (uint first = 0; first < d; first += 32) {
  for (uint part = col; part < 32; part += 16) {
    const uint at = first + part;
    left[row][part] = at < d ? float(q[row * d + at]) : 0.0f;
    right[row][part] = at < d ? float(k[row * d + at]) : 0.0f;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint part = 0; part < 32; ++part) sum += left[row][part] * right[col][part];
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
out[row * 16 + col] = O(sum);
""")  # fmt: skip
# Where threads take turns, one computes the tile: columns of q beside those of k, 16 at a time.
_TILE_ALONE = Text("attention_tile_alone", "q k", "out", """
const uint d = q_shape[1], whole = d / 16 * 16;
for (uint row = 0; row < 16; ++row) {
  for (uint col = 0; col < 16; ++col) {
    float parts[16];
    for (uint l = 0; l < 16; ++l) parts[l] = 0.0f;
    for (uint at = 0; at < whole; at += 16) {
      for (uint l = 0; l < 16; ++l) {
        parts[l] += float(q[row * d + at + l]) * float(k[col * d + at + l]);
      }
    }
    for (uint at = whole; at < d; ++at) {
      parts[at - whole] += float(q[row * d + at]) * float(k[col * d + at]);
    }
    for (uint w = 8; w > 0; w /= 2) {
      for (uint l = 0; l < w; ++l) parts[l] += parts[l + w];
    }
    out[row * 16 + col] = O(parts[0]);
  }
}
""")  # fmt: skip
_TILE_GRAD_ALONE = Text("attention_tile_grad_alone", "q k g", "dq dk", """
const uint d = q_shape[1], row = thread_position_in_grid.x;
for (uint at = 0; at < d; at += 64) {
  const uint count = min(64u, d - at);
  float left[64], right[64];
  for (uint l = 0; l < count; ++l) left[l] = right[l] = 0.0f;
  for (uint col = 0; col < 16; ++col) {
    const float over = g[row * 16 + col], down = g[col * 16 + row];
    for (uint l = 0; l < count; ++l) {
      left[l] += over * float(k[col * d + at + l]);
      right[l] += down * float(q[col * d + at + l]);
    }
  }
  for (uint l = 0; l < count; ++l) {
    dq[row * d + at + l] = left[l];
    dk[row * d + at + l] = right[l];
  }
}
""")  # fmt: skip


def _run_tile(q: mx.array, k: mx.array) -> list[mx.array]:
    if alone():
        return _TILE_ALONE([q, k], [(TILE, TILE)], [mx.float32], (1, 1, 1), (1, 1, 1))
    group = (TILE, TILE, 1)
    return _TILE([q, k], [(TILE, TILE)], [mx.float32], group, group)


def _plain_tile(q: mx.array, k: mx.array) -> list[mx.array]:
    return [wide(q) @ wide(k).swapaxes(-1, -2)]


def _run_pulled(q: mx.array, k: mx.array, g: mx.array) -> list[mx.array]:
    grid = (TILE, 1, 1)
    return _TILE_GRAD_ALONE([q, k, g], [q.shape] * 2, [mx.float32] * 2, grid, grid)


def _plain_pulled(q: mx.array, k: mx.array, g: mx.array) -> list[mx.array]:
    return [g @ wide(k), g.swapaxes(-1, -2) @ wide(q)]


def _pull_pulled(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
    (q, k, g), (a, b) = primals, given
    return [g @ b, g.T @ a, a @ wide(k).T + wide(q) @ b.T]


_pulled_tile = ByHand("attention_tile_proto gradient", _run_pulled, _plain_pulled, _pull_pulled)


def _pull_tile(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array]:
    pulled = (*primals, given[0])
    return _pulled_tile(*pulled) if alone() else _plain_pulled(*pulled)


_tile = ByHand("attention_tile_proto", _run_tile, _plain_tile, _pull_tile)
