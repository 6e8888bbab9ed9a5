"""Softmax and its logarithm over the last axis, and softmax's backward pass.

Three walks over a row that a GPU holds in registers: the maximum, the sum of exp(x - maximum), the
result. A row of -infinity alone gives NaN, as does one that holds +infinity, as in mx.softmax.
"""

from __future__ import annotations

import mlx.core as mx

from zmlx.catalog import formulas
from zmlx.catalog.common import Call

__all__ = ["log_softmax_grad", "log_softmax_lastdim", "softmax_grad", "softmax_lastdim"]

MODULE = "softmax"


def softmax_lastdim(
    x: mx.array, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """e**(x - m) / sum(e**(x - m)) over the last axis, m the largest element of the row.

    Args:
        x: (..., D), D >= 1; float32, float16 or bfloat16.
        threadgroup: a power of two up to 1024, the threads of a GPU's group at most; 256, the
            default, leaves the launch to the sizes, and so does an @zmlx.fuse around the call.
        compute_dtype: accepted for the contract; all arithmetic is float32.

    Returns:
        (..., D) of x's dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "softmax_lastdim")
    run = call.launched(formulas.softmax_lastdim, threadgroup, compute_dtype)
    return run(call.rows("x", x))


def log_softmax_lastdim(
    x: mx.array, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """(x - m) - log(sum(e**(x - m))) over the last axis; otherwise as softmax_lastdim.

    A row that holds +infinity gives NaN.
    """
    call = Call(MODULE, "log_softmax_lastdim")
    run = call.launched(formulas.log_softmax_lastdim, threadgroup, compute_dtype)
    return run(call.rows("x", x))


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
    call = Call(MODULE, "softmax_grad")
    run = call.launched(formulas.softmax_grad, threadgroup, compute_dtype)
    y = call.rows("y", y)
    return run(y, call.shaped("cotan", cotan, y.shape))


def log_softmax_grad(
    y: mx.array,
    cotan: mx.array,
    *,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """The gradient of log_softmax's input: cotan - e**y * sum(cotan); y is what it gave."""
    call = Call(MODULE, "log_softmax_grad")
    run = call.launched(formulas.log_softmax_grad, threadgroup, compute_dtype)
    y = call.rows("y", y)
    return run(y, call.shaped("cotan", cotan, y.shape))
