"""Definitions: functions of MLX as ops, reductions and counts, so that they may join a kernel.

DEFINITIONS maps "mean", "linalg.norm", ... (names on mlx.core) to functions that take `F` and then
MLX's own parameters. `F` has one function for each row of the op table (F.add(a, b)), and
F.reduce(row, x, axes), F.count(x, axes), F.squeeze(x, axes), F.unsqueeze(x), F.above(x) (a
dimension of one before the last), F.turned(x) (a matrix transposed), F.places(x, axis),
F.size(x, axis), and F.narrow(x, dtype), which gives a result its type and rounds where it is
written; values have `dtype`, `shape` and `ndim`. A definition raises Undefined for what it does not
say. The tracer notes which calls have one, zmlx.fuse.inline writes it out.

They compute in float32 where the operand is of a half type, and round once. A variance is that of
the differences from the mean. A maximum that is only there to keep exponentials small is a constant
for derivatives: it cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx

Axes = tuple[int, ...]


class Undefined(ValueError):
    """The call is of a form that no definition says."""


# -- operands -------------------------------------------------------------------------------------
def _axes(x: Any, axis: Any) -> Axes:
    """The axes in order, none negative: at least one."""
    several = range(x.ndim) if axis is None else axis
    several = several if isinstance(several, (list, tuple, range)) else (several,)
    if not all(type(a) is int and -x.ndim <= a < x.ndim for a in several):
        raise Undefined(f"axis {axis!r} of an array of rank {x.ndim}")
    found = tuple(sorted({a % x.ndim for a in several}))
    if not found or len(found) != len(several):
        raise Undefined(f"axis {axis!r} of an array of rank {x.ndim}")
    return found


def _needs(known: bool, what: str) -> None:
    if not known:
        raise Undefined(what)


def _result(x: Any) -> mx.Dtype:
    """The type of a result: the operand's, or float32 for integers."""
    _needs(x.dtype not in (mx.complex64, mx.float64), str(x.dtype))
    return x.dtype if mx.issubdtype(x.dtype, mx.floating) else mx.float32


def _wide(F: Any, x: Any) -> Any:
    return x if x.dtype == mx.float32 else F.astype(x, mx.float32)


def _given(F: Any, value: Any, dtype: mx.Dtype, axes: Axes = (), keepdims: Any = True) -> Any:
    """`value` as the call gives it: of its type, with or without the folded axes."""
    _needs(type(keepdims) is bool, "keepdims")
    value = value if value.dtype == dtype else F.narrow(value, dtype)
    return value if keepdims else F.squeeze(value, axes)


# -- statistics -----------------------------------------------------------------------------------
def _mean(F: Any, x: Any, axes: Axes) -> Any:
    return F.divide(F.reduce("sum", x, axes), F.count(x, axes))


def _variance(F: Any, x: Any, axes: Axes, ddof: Any = 0) -> Any:
    squares = F.reduce("sum", F.square(F.subtract(x, _mean(F, x, axes))), axes)
    count = F.count(x, axes)
    if type(ddof) is not int or ddof != 0:
        count = F.maximum(F.subtract(count, ddof), 0.0)
    return F.divide(squares, count)


def mean(F: Any, a: Any, /, axis: Any = None, keepdims: Any = False) -> Any:
    axes, dtype = _axes(a, axis), _result(a)
    whole = not mx.issubdtype(a.dtype, mx.floating)  # their sum is exact
    return _given(F, _mean(F, a if whole else _wide(F, a), axes), dtype, axes, keepdims)


def var(F: Any, a: Any, /, axis: Any = None, keepdims: Any = False, ddof: Any = 0) -> Any:
    axes, dtype = _axes(a, axis), _result(a)
    return _given(F, _variance(F, _wide(F, a), axes, ddof), dtype, axes, keepdims)


def std(F: Any, a: Any, /, axis: Any = None, keepdims: Any = False, ddof: Any = 0) -> Any:
    axes, dtype = _axes(a, axis), _result(a)
    return _given(F, F.sqrt(_variance(F, _wide(F, a), axes, ddof)), dtype, axes, keepdims)


# -- exponentials ---------------------------------------------------------------------------------
def softmax(F: Any, a: Any, /, axis: Any = None, *, precise: Any = False) -> Any:
    axes, dtype = _axes(a, axis), _result(a)
    x = _wide(F, a)
    powers = F.exp(F.subtract(x, F.stop_gradient(F.reduce("max", x, axes))))
    return _given(F, F.divide(powers, F.reduce("sum", powers, axes)), dtype)


def logsumexp(F: Any, a: Any, /, axis: Any = None, keepdims: Any = False) -> Any:
    axes, dtype = _axes(a, axis), _result(a)
    return _given(F, _lse(F, _wide(F, a), axes), dtype, axes, keepdims)


def _lse(F: Any, x: Any, axes: Axes) -> Any:
    largest = F.stop_gradient(F.reduce("max", x, axes))
    largest = F.where(F.equal(F.abs(largest), math.inf), 0.0, largest)  # inf - inf would be NaN
    total = F.reduce("sum", F.exp(F.subtract(x, largest)), axes)
    return F.add(F.log(total), largest)


# -- norms ----------------------------------------------------------------------------------------
def norm(F: Any, a: Any, /, ord: Any = None, axis: Any = None, keepdims: Any = False) -> Any:
    axes, dtype = _axes(a, axis), _result(a)
    _needs(mx.issubdtype(a.dtype, mx.floating), "MLX squares integers in their own type")
    _needs(ord is None or (len(axes) == 1 and type(ord) in (int, float)), "a matrix norm")
    x = _wide(F, a)
    if ord in (None, 2):
        found = F.sqrt(F.reduce("sum", F.square(x), axes))
    elif ord in (1, math.inf):
        found = F.reduce("sum" if ord == 1 else "max", F.abs(x), axes)
    else:
        raise Undefined(f"ord {ord!r}")
    return _given(F, found, dtype, axes, keepdims)


def rms_norm(F: Any, x: Any, weight: Any, eps: Any) -> Any:
    return _normed(F, x, weight, None, eps, centred=False)


def layer_norm(F: Any, x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    return _normed(F, x, weight, bias, eps, centred=True)


def _normed(F: Any, x: Any, weight: Any, bias: Any, eps: Any, centred: bool) -> Any:
    """Over the last axis; `weight` and `bias` are one row, or None."""
    given = [v for v in (x, weight, bias) if v is not None]
    _needs(all(mx.issubdtype(v.dtype, mx.floating) for v in given), "an integer")
    dtype = given[0].dtype
    for value in given[1:]:
        dtype = mx.result_type(mx.zeros((), dtype), mx.zeros((), value.dtype))
    _needs(dtype != mx.float64, "float64")
    axes, moved = _axes(x, -1), _wide(F, x)
    if centred:
        moved = F.subtract(moved, _mean(F, moved, axes))
    scale = F.rsqrt(F.add(_mean(F, F.square(moved), axes), eps))
    result = F.multiply(moved, scale)
    if weight is not None:
        result = F.multiply(result, _wide(F, weight))
    if bias is not None:
        result = F.add(result, _wide(F, bias))
    return _given(F, result, dtype)


# -- one element of each row ----------------------------------------------------------------------
def take_along_axis(F: Any, a: Any, /, indices: Any, axis: Any = -1) -> Any:
    """Where each row gives one element."""
    _needs(type(axis) is int and indices.ndim == a.ndim > 0, "one index for each row")
    axes = _axes(a, axis)
    _needs(indices.shape[axes[0]] == 1 != a.shape[axes[0]], "one index for each row")
    _needs(mx.issubdtype(a.dtype, mx.floating), str(a.dtype))
    return _taken(F, a, indices, axes)


def cross_entropy(F: Any, logits: Any, targets: Any) -> Any:
    _needs(mx.issubdtype(logits.dtype, mx.floating) and logits.ndim > 0, str(logits.dtype))
    axes, x = _axes(logits, -1), _wide(F, logits)
    _needs(targets.ndim == logits.ndim - 1 and logits.shape[-1] != 1, "one target for each row")
    return F.squeeze(F.subtract(_lse(F, x, axes), _taken(F, x, F.unsqueeze(targets), axes)), axes)


def _taken(F: Any, a: Any, indices: Any, axes: Axes) -> Any:
    _needs(mx.issubdtype(indices.dtype, mx.integer), "indices that are no integers")
    if indices.dtype in (mx.int8, mx.int16, mx.int32, mx.int64):
        from_end = F.add(indices, F.size(a, axes[0]))
        indices = F.where(F.less(indices, 0), from_end, indices)
    hit = F.equal(F.places(a, axes[0]), indices)
    return F.reduce("sum", F.where(hit, a, 0.0), axes)


# -- products of one row --------------------------------------------------------------------------
def matmul(F: Any, a: Any, b: Any, /) -> Any:
    """One row by a matrix: each of its columns is a row of what is summed, and what follows joins.

    `b` is a transposed matrix, a layer's weight say: zmlx.fuse.written looks.
    """
    _needs(a.ndim > 1 and b.ndim == 2 and a.dtype == b.dtype, "more than one row, or a batch")
    _needs(all(n == 1 for n in a.shape[:-1]), "more than one row")
    _needs(mx.issubdtype(a.dtype, mx.floating) and a.dtype != mx.float64, str(a.dtype))
    _needs(1 not in b.shape, "a matrix of one row or column")
    found = F.reduce("sum", F.multiply(_wide(F, F.turned(b)), _wide(F, F.above(a))), (a.ndim,))
    return _given(F, found, a.dtype, (a.ndim,), False)


def addmm(F: Any, c: Any, a: Any, b: Any, /, alpha: Any = 1.0, beta: Any = 1.0) -> Any:
    _needs(type(alpha) in (int, float) and type(beta) in (int, float), "numbers that are arrays")
    _needs(alpha == beta == 1 and c.dtype == a.dtype and c.ndim <= a.ndim, "another sum")
    product = matmul(F, a, b)
    _needs(c.shape[-1:] == product.shape[-1:], "a sum of one number")
    return F.add(product, c)


DEFINITIONS: dict[str, Callable[..., Any]] = {
    "mean": mean,
    "var": var,
    "std": std,
    "softmax": softmax,
    "logsumexp": logsumexp,
    "linalg.norm": norm,
    "fast.rms_norm": rms_norm,
    "fast.layer_norm": layer_norm,
    "fast.cross_entropy": cross_entropy,
    "take_along_axis": take_along_axis,
    "matmul": matmul,
    "addmm": addmm,
}
# Those that are written out only where something joins them: MLX's own kernel is as good alone.
PRODUCTS = ("matmul", "addmm")
# Those for which MLX runs one kernel; the others are several of its ops.
ONE_KERNEL = (
    "mean", "softmax", "logsumexp", "fast.rms_norm", "fast.layer_norm", "take_along_axis",
)  # fmt: skip
