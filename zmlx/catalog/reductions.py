"""Reductions over the last axis: (..., D) -> (...), of the array's type, in float32 inside.

`max_lastdim` and `min_lastdim` hand their gradient to the first extreme of a row, `topk_lastdim` to
the elements chosen. NaN is the largest number there is for argmax and topk, and extremes are NaN
where a row holds one, as in MLX. Everything but argmax is differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx

from zmlx.catalog.by_hand import ROW, ByHand, Text, by_rows, known_lanes
from zmlx.catalog.chosen import largest
from zmlx.catalog.common import Call
from zmlx.catalog.formulas import fused, length, total, wide
from zmlx.registry import forgets

__all__ = [
    "argmax_lastdim",
    "max_lastdim",
    "mean_lastdim",
    "min_lastdim",
    "std_lastdim",
    "sum_lastdim",
    "topk_lastdim",
    "var_lastdim",
]

MODULE = "reductions"
Arrays = Sequence[mx.array]


# -- formulas -------------------------------------------------------------------------------------
@fused
def _sum(x: mx.array) -> mx.array:
    return mx.sum(wide(x), -1).astype(x.dtype)


@fused
def _mean(x: mx.array) -> mx.array:
    return (total(wide(x)) / length(x)).squeeze(-1).astype(x.dtype)


def _variance(x: mx.array) -> mx.array:
    """Of the centred row; what its mean lost in rounding is taken out again."""
    v, count = wide(x), length(x)
    apart = v - total(v) / count
    shift = mx.stop_gradient(total(apart) / count)
    apart = apart - shift
    return (total(apart * apart) / count).squeeze(-1)


@fused
def _var(x: mx.array) -> mx.array:
    return _variance(x).astype(x.dtype)


@fused
def _std(x: mx.array, eps: mx.array) -> mx.array:
    return mx.sqrt(_variance(x) + eps.reshape(())).astype(x.dtype)


@fused
def _to_one(x: mx.array, place: mx.array, g: mx.array) -> mx.array:
    """A gradient that goes to one element of each row."""
    columns = mx.arange(x.shape[-1], dtype=mx.uint32)
    return mx.where(columns == place[..., None], g[..., None], mx.zeros_like(g)[..., None])


def _to_place(x: mx.array, key: mx.array, g: mx.array) -> list[mx.array]:
    """The gradient where `key` is largest; of no rows, nothing."""
    return [_to_one(x, mx.argmax(key, -1), g) if x.size else mx.zeros_like(x)]


def _first_max(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array]:
    return _to_place(primals[0], primals[0], given[0])


def _first_min(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array]:
    return _to_place(primals[0], -primals[0], given[0])


def _extreme_of(name: str, way: Any, sign: int, pull: Any) -> ByHand:
    def run(x: mx.array) -> list[mx.array]:
        return [way(x, -1) if x.size else mx.zeros(x.shape[:-1], x.dtype)]

    def plain(x: mx.array) -> list[mx.array]:
        place = mx.stop_gradient(mx.argmax(mx.stop_gradient(x) * sign, -1, keepdims=True))
        return [mx.take_along_axis(x, place, -1).squeeze(-1)]

    return ByHand(name, run, plain, pull, composed=True)


_max = _extreme_of("max_lastdim", mx.max, 1, _first_max)
_min = _extreme_of("min_lastdim", mx.min, -1, _first_min)


# -- functions ------------------------------------------------------------------------------------
def sum_lastdim(
    x: mx.array,
    *,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
    kahan: bool = False,
) -> mx.array:
    """The sum over the last axis.

    Args:
        x: (..., D), D >= 1; float32, float16 or bfloat16. A number (rank 0) is its own sum.
        threadgroup: a power of two up to 1024, the threads of a GPU's group at most; 256, the
            default, leaves the launch to the sizes.
        compute_dtype: accepted for the contract; all arithmetic is float32.
        kahan: sum with compensation, within threads and between them, as exact as twice the digits.

    Returns:
        (...) of x's dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    return _summed("sum_lastdim", x, threadgroup, compute_dtype, kahan)


def mean_lastdim(
    x: mx.array,
    *,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
    kahan: bool = False,
) -> mx.array:
    """The mean over the last axis; otherwise as sum_lastdim."""
    return _summed("mean_lastdim", x, threadgroup, compute_dtype, kahan)


def max_lastdim(
    x: mx.array, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """The largest element of each row, NaN where it holds one; otherwise as sum_lastdim.

    The gradient goes to the first of equal elements.
    """
    return _extreme("max_lastdim", _max, x, threadgroup, compute_dtype)


def min_lastdim(
    x: mx.array, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """The smallest element of each row; otherwise as max_lastdim."""
    return _extreme("min_lastdim", _min, x, threadgroup, compute_dtype)


def var_lastdim(
    x: mx.array, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """The population's variance over the last axis, mean((x - mean(x))**2), in two passes.

    A number (rank 0) has variance 0. Otherwise as sum_lastdim.
    """
    call = Call(MODULE, "var_lastdim")
    run = call.launched(_var, threadgroup, compute_dtype)
    if call.array("x", x).ndim == 0:
        return mx.zeros_like(x)
    found: mx.array = run(call.rows("x", x))
    return found


def std_lastdim(
    x: mx.array,
    *,
    eps: float = 1e-6,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """sqrt(var_lastdim(x) + eps); eps is inside the root, and not 0 by default."""
    call = Call(MODULE, "std_lastdim")
    run = call.launched(_std, threadgroup, compute_dtype)
    inside = call.eps(eps, call.array("x", x))
    if x.ndim == 0:
        return mx.sqrt(inside).astype(x.dtype) + mx.zeros_like(x)
    found: mx.array = run(call.rows("x", x), inside)
    return found


def argmax_lastdim(x: mx.array, *, threadgroup: int = 256) -> mx.array:
    """The index of the largest element of each row: the first of equal ones, the first NaN.

    Returns:
        (...), uint32; of a number (rank 0), 0. It has no gradient. Otherwise as sum_lastdim.
    """
    call = Call(MODULE, "argmax_lastdim")
    call.threads(threadgroup)
    if call.array("x", x).ndim == 0:
        return mx.zeros((), mx.uint32)
    x = call.rows("x", x)
    return mx.argmax(x, -1) if x.size else mx.zeros(x.shape[:-1], mx.uint32)


def topk_lastdim(
    x: mx.array, k: int, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> tuple[mx.array, mx.array]:
    """The k largest elements of each row, largest first, and where they stand.

    Of equal elements the first come first; NaN counts as the largest number.

    Args:
        x: (..., D); float32, float16 or bfloat16.
        k: from 1 to D; a run-time number of the kernel.
        compute_dtype: the type of the values, float32 if None.

    Returns:
        values (..., k) of `compute_dtype` and indices (..., k), uint32. The gradient of the values
        goes to the elements chosen.
    """
    call = Call(MODULE, "topk_lastdim")
    call.threads(threadgroup, compute_dtype)
    x = call.known(call.rows("x", x))
    values, places = largest(x, call.whole("k", k, 1, x.shape[-1]))
    return values.astype(call.result(compute_dtype)), places


def _extreme(name: str, op: ByHand, x: mx.array, threadgroup: int, compute: Any) -> mx.array:
    call = Call(MODULE, name)
    call.threads(threadgroup, compute)
    return x if call.array("x", x).ndim == 0 else op(call.known(call.rows("x", x)))[0]


def _summed(name: str, x: mx.array, threadgroup: int, compute: Any, kahan: bool) -> mx.array:
    call, mean = Call(MODULE, name), name == "mean_lastdim"
    run = call.launched(_mean if mean else _sum, threadgroup, compute)
    if not isinstance(kahan, bool):
        raise call.wrong("kahan", repr(kahan), "True or False")
    if call.array("x", x).ndim == 0:
        return x
    found: mx.array = _compensated(mean)(call.rows("x", x))[0] if kahan else run(call.rows("x", x))
    return found


# -- by hand --------------------------------------------------------------------------------------
# Neumaier's sum (1974): the error of each addition is kept, exactly, and added at the end.
_KAHAN = Text("kahan_sum", "x mean", "out", f"const ulong row = {ROW};" + """
const uint lane = thread_index_in_simdgroup, width = LANES;
const ulong d = x_shape[x_ndim - 1];
float sum = 0.0f, lost = 0.0f;
for (ulong i = lane; i < d; i += width) kk_add(float(x[row * d + i]), sum, lost);
for (ushort step = width / 2; step > 0; step /= 2) {
  const float other = simd_shuffle_down(sum, step), missed = simd_shuffle_down(lost, step);
  kk_add(other, sum, lost);
  lost += missed;
}
if (lane == 0) {
  const float whole = isfinite(lost) ? sum + lost : sum;
  out[row] = O(mean[0] != 0.0f ? whole / float(d) : whole);
}
""", """
inline void kk_add(float term, thread float& sum, thread float& lost) {
  const float more = sum + term;
  lost += fabs(sum) >= fabs(term) ? (sum - more) + term : (term - more) + sum;
  sum = more;
}
""")  # fmt: skip


@lru_cache(maxsize=2)
def _compensated(mean: bool) -> ByHand:
    flag = mx.array([float(mean)])

    def run(x: mx.array) -> list[mx.array]:
        lead = x.shape[:-1]
        return _KAHAN([x, flag], [lead], [x.dtype], *by_rows(x.size // x.shape[-1]), known_lanes())

    def plain(x: mx.array) -> list[mx.array]:
        return [(mx.mean if mean else mx.sum)(wide(x), -1).astype(x.dtype)]

    def pull(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array]:
        (x,), g = primals, wide(given[0])[..., None]
        return [mx.broadcast_to(g / x.shape[-1] if mean else g, x.shape)]

    return ByHand("mean_lastdim" if mean else "sum_lastdim", run, plain, pull, rows=True)


forgets(_compensated.cache_clear)
