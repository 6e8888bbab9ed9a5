"""Softmax and its logarithm over the last axis, and softmax's backward pass.

Three walks over a row that a GPU holds in registers: the maximum, the sum of exp(x - maximum), the
result. A row of -infinity alone gives NaN, as does one that holds +infinity, as in mx.softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import mlx.core as mx

from zmlx.catalog.common import Call
from zmlx.registry import forgets
from zmlx.rows.op import RowOp
from zmlx.rows.rules import RowRules
from zmlx.rows.spec import Output, RowSpec, add, maximum

__all__ = ["log_softmax_grad", "log_softmax_lastdim", "softmax_grad", "softmax_lastdim"]

Arrays = Sequence[mx.array]
MODULE = "softmax"
_EXP_SUM = ((maximum("top", "x"),), (add("total", "metal::exp(x - top)"),))
_SOFTMAX = RowSpec(
    "softmax_lastdim", ("x",), _EXP_SUM, (Output("out", "metal::exp(x - top) / total"),),
    where=MODULE,
)  # fmt: skip
_LOG_SOFTMAX = RowSpec(
    "log_softmax_lastdim", ("x",), _EXP_SUM, (Output("out", "(x - top) - metal::log(total)"),),
    where=MODULE,
)  # fmt: skip
_SOFTMAX_GRAD = RowSpec(
    "softmax_grad", ("y", "cotan"), ((add("dot", "y * cotan"),),),
    (Output("out", "y * (cotan - dot)"),), where=MODULE,
)  # fmt: skip
_LOG_SOFTMAX_GRAD = RowSpec(
    "log_softmax_grad", ("y", "cotan"), ((add("total", "cotan"),),),
    (Output("out", "cotan - metal::exp(y) * total"),), where=MODULE,
)  # fmt: skip
_BACKWARD = {_SOFTMAX: _SOFTMAX_GRAD, _LOG_SOFTMAX: _LOG_SOFTMAX_GRAD}


def softmax_lastdim(
    x: mx.array, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """e**(x - m) / sum(e**(x - m)) over the last axis, m the largest element of the row.

    Args:
        x: (..., D), D >= 1; float32, float16 or bfloat16.
        threadgroup: threads of a GPU that share the rows of a group, a power of two up to 1024.
        compute_dtype: accepted for the contract; all arithmetic is float32.

    Returns:
        (..., D) of x's dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    return _called(_SOFTMAX, x, threadgroup, compute_dtype)


def log_softmax_lastdim(
    x: mx.array, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """(x - m) - log(sum(e**(x - m))) over the last axis; otherwise as softmax_lastdim.

    A row that holds +infinity gives NaN.
    """
    return _called(_LOG_SOFTMAX, x, threadgroup, compute_dtype)


def softmax_grad(
    y: mx.array,
    cotan: mx.array,
    *,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """The gradient of softmax's input: y * (cotan - sum(y * cotan)).

    Args:
        y: what softmax gave, (..., D).
        cotan: its cotangent, of the same shape.

    Returns:
        (..., D) of y's dtype. Errors as for softmax_lastdim.
    """
    return _backward_called(_SOFTMAX_GRAD, y, cotan, threadgroup, compute_dtype)


def log_softmax_grad(
    y: mx.array,
    cotan: mx.array,
    *,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """The gradient of log_softmax's input: cotan - e**y * sum(cotan); y is what it gave."""
    return _backward_called(_LOG_SOFTMAX_GRAD, y, cotan, threadgroup, compute_dtype)


def _called(row: RowSpec, x: mx.array, threadgroup: int, compute: mx.Dtype | None) -> mx.array:
    call = Call(MODULE, row.name)
    threads = call.launch(threadgroup, compute)
    return _op(row, threads)(call.rows("x", x))[0]


def _backward_called(
    row: RowSpec, y: mx.array, cotan: mx.array, threadgroup: int, compute: mx.Dtype | None
) -> mx.array:
    call = Call(MODULE, row.name)
    threads = call.launch(threadgroup, compute)
    return _op(row, threads)(call.rows("y", y), call.shaped("cotan", cotan, y.shape))[0]


@lru_cache(maxsize=64)
def _op(row: RowSpec, threadgroup: int) -> RowOp:
    if row not in _BACKWARD:
        return RowOp(row, threadgroup)

    def pull(
        primals: Arrays, cotangents: Arrays, argnums: Sequence[int], outputs: Arrays
    ) -> dict[int, mx.array]:
        return {0: _op(_BACKWARD[row], threadgroup)(outputs[0], cotangents[0])[0]}

    def again(arrays: Arrays) -> list[mx.array]:
        return _op(row, threadgroup)(*arrays)

    return RowOp(row, threadgroup, rules=RowRules(row, again, pull))


forgets(_op.cache_clear)
