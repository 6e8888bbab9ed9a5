"""Generated functions that mix elementwise ops, reductions, calls that are written out, views and
matmuls, as plain MLX functions, from a seed.

A function takes a matrix, a row, a column and a square matrix. Every step is bounded and smooth, so
that a rounding error stays one; a maximum is only taken where no gradient flows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

Function = Callable[..., mx.array]


def _spread(x: mx.array, folded: mx.array, axis: int) -> mx.array:
    """`folded`, of which `axis` may be gone, beside `x`."""
    return folded if folded.ndim == x.ndim else mx.expand_dims(folded, axis)


def _softmax(x: mx.array) -> mx.array:
    e = mx.exp(x - mx.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


ELEMENTWISE: tuple[Callable[[mx.array, mx.array], mx.array], ...] = (
    lambda x, y: mx.tanh(x + y),
    lambda x, y: x * mx.sigmoid(y),
    lambda x, y: mx.sin(x) - 0.5 * y,
    lambda x, y: x / (1 + y * y),
    lambda x, y: mx.where(y > 0.1, x * 0.5, y),
)
FOLDS: tuple[Callable[[mx.array, int, bool], mx.array], ...] = (
    lambda x, axis, keep: mx.mean(x, axis, keepdims=keep),
    lambda x, axis, keep: x.sum(axis, keepdims=keep) * 0.125,
    lambda x, axis, keep: mx.var(x, axis, keepdims=keep),
    lambda x, axis, keep: mx.logsumexp(x, axis, keepdims=keep) * 0.25,
    lambda x, axis, keep: mx.rsqrt(mx.mean(x * x, axis, keepdims=keep) + 1),
    lambda x, axis, keep: mx.stop_gradient(mx.max(x, axis, keepdims=keep)),
    lambda x, axis, keep: mx.any(x > 1, axis, keepdims=keep).astype(mx.float32) * 0.5,
)
WHOLE: tuple[Callable[[mx.array, mx.array], mx.array], ...] = (
    lambda x, row: mx.softmax(x * 2, axis=-1) * 3,
    lambda x, row: _softmax(x + row),
    lambda x, row: x * 0.5 - mx.softmax(x, axis=0),
    lambda x, row: mx.fast.rms_norm(x, row, 0.5),
    lambda x, row: mx.fast.layer_norm(x, row, None, 0.5) * 0.5,
    lambda x, row: mx.tanh(x) + mx.fast.rms_norm(x, None, 0.5),
    lambda x, row: x - mx.logsumexp(x, axis=-1, keepdims=True) * 0.2,
)
VIEWS: tuple[Callable[[mx.array], mx.array], ...] = (
    lambda x: x.T.reshape(x.shape),
    lambda x: x[:, ::-1],
    lambda x: x.reshape(-1)[::-1].reshape(x.shape),
    lambda x: mx.concatenate([x[:, 1:] * 0.5, x[:, :1]], axis=1),
)
ENDS: tuple[Callable[[mx.array], mx.array], ...] = (
    lambda x: x,
    lambda x: x.sum(-1) * 0.2,
    lambda x: mx.mean(x * x),
    lambda x: x.sum(0) * 0.2,
    lambda x: mx.var(x, axis=-1),
)


def _drawn(rng: np.random.Generator, count: int) -> list[tuple[str, list[int]]]:
    kinds = ["elementwise", "fold", "whole", "view", "matmul", "column"]
    chances = [0.35, 0.25, 0.2, 0.08, 0.06, 0.06]
    return [
        (str(rng.choice(kinds, p=chances)), rng.integers(0, 2**20, 4).tolist())
        for _ in range(count)
    ]


def mixed_function(seed: int, most: int = 7) -> Function:
    """Two to `most` steps, then an end."""
    rng = np.random.default_rng(seed)
    steps = _drawn(rng, int(rng.integers(2, most + 1)))
    end = ENDS[int(rng.integers(len(ENDS)))]

    def function(x: mx.array, row: mx.array, column: mx.array, square: mx.array) -> mx.array:
        values = [x, mx.tanh(x + row)]
        for kind, picks in steps:
            values.append(_step(kind, picks, values, row, column, square))
        return end(values[-1] + 0.1 * values[len(values) // 2])

    return function


def _step(
    kind: str, picks: Sequence[int], values: list[mx.array], row: Any, column: Any, square: Any
) -> mx.array:
    first, second, which, flag = picks
    a, b = values[-1 - first % min(3, len(values))], values[second % len(values)]
    if kind == "elementwise":
        return ELEMENTWISE[which % len(ELEMENTWISE)](a, b)
    if kind == "fold":
        axis = -1 if flag % 4 else 0
        folded = FOLDS[which % len(FOLDS)](a, axis, bool(flag % 3))
        return b * 0.5 + _spread(a, folded, axis)
    if kind == "whole":
        return WHOLE[which % len(WHOLE)](a, row)
    if kind == "view":
        return VIEWS[which % len(VIEWS)](a)
    if kind == "matmul":
        return a @ square * 0.3
    return a * mx.sigmoid(column) - 0.1 * b


def mixed_inputs(seed: int, rows: int, columns: int) -> list[mx.array]:
    rng = np.random.default_rng(seed)
    shapes = ((rows, columns), (columns,), (rows, 1), (columns, columns))
    scales = (1.0, 1.0, 1.0, columns**-0.5)
    return [
        mx.array(rng.normal(0, scale, shape).astype(np.float32))
        for scale, shape in zip(scales, shapes, strict=True)
    ]
