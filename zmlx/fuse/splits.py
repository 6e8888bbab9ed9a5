"""Splits: mx.split where sizes are still to come, mx.expand_dims of several axes where MLX maps.

Comes in: the arguments of either. Goes out: its result. MLX's own primitive of a split cannot infer
shapes under mx.compile(..., shapeless=True); equal parts are gathered there. That of several new
axes is mapped wrongly by mx.vmap along another axis than the first. What runs calls of MLX in a
program asks `anywhere`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from zmlx.device.rules import traces_shapeless
from zmlx.trace import intercept

_SPLIT, _EXPAND = mx.split, mx.expand_dims
MOST = 4  # dimensions of an array that MLX's convolutions take


def anywhere(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, or what does the same whatever traces."""
    return split if fn is _SPLIT else expand_dims if fn is _EXPAND else fn


def expand_dims(x: mx.array, /, axis: Any, **kwargs: Any) -> mx.array:
    """As mx.expand_dims: one axis after another."""
    if not isinstance(axis, (list, tuple)) or len(axis) < 2:
        return mx.expand_dims(x, axis, **kwargs)
    rank = x.ndim + len(axis)
    places = {a % rank for a in axis if type(a) is int and -rank <= a < rank}
    if len(places) < len(axis):
        return mx.expand_dims(x, axis, **kwargs)  # which says what is wrong
    for place in sorted(places):
        x = mx.expand_dims(x, place, **kwargs)
    return x


def split(x: mx.array, /, indices_or_sections: Any, axis: int = 0, **kwargs: Any) -> list[mx.array]:
    """As mx.split."""
    sections, tracer = indices_or_sections, intercept.current()
    recorded = tracer is not None and tracer.sees(x)
    if recorded or type(sections) is not int or sections < 1 or not traces_shapeless():
        return mx.split(x, sections, axis, **kwargs)
    if x.ndim > MOST:
        raise ValueError(
            f"[zmlx.fuse] split of an array of rank {x.ndim} under a shapeless mx.compile: at most "
            f"{MOST}. Reshape it to fewer dimensions, or compile without shapeless=True."
        )
    first, length = _every(mx.stop_gradient(x), axis, sections)
    return [mx.take_along_axis(x, first + k * length, axis) for k in range(sections)]


def _every(x: mx.array, axis: int, step: int) -> tuple[mx.array, mx.array]:
    """0, 1, … along `axis`, a `step`-th as long as `x` is there, and how long that is.

    A convolution is the one primitive that makes a dimension shorter whatever its size. Nothing is
    folded: MLX's folds of dimensions that were one when it traced break down later.
    """
    ones = mx.logical_or(mx.equal(x, x), True).astype(mx.float32)
    ones = mx.expand_dims(mx.swapaxes(ones, axis, -1), -1)
    if x.ndim == 1:
        ones = mx.expand_dims(ones, 0)
    flat = [1] * max(0, x.ndim - 2)
    picks = (mx.arange(step) == 0).astype(mx.float32).reshape(1, *flat, step, 1)
    picked = mx.conv_general(ones, picks, stride=[*flat, step])
    if x.ndim == 1:
        picked = mx.squeeze(picked, 0)
    there = mx.swapaxes(mx.squeeze(picked, -1), axis, -1).astype(mx.int32)
    first = mx.cumsum(there, axis) - 1
    return first, first + mx.cumsum(there, axis, reverse=True)
