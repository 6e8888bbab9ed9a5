"""Functions with views between their elementwise parts, from a seed, and graphs run op by op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np

from zmlx.fuse.plan import Native
from zmlx.fuse.program import _initial
from zmlx.fuse.regions import STEPS
from zmlx.fuse.steps import native_step
from zmlx.trace.graph import Graph

View = Callable[[mx.array], mx.array]
UNARY = (
    lambda v: mx.sin(v), lambda v: mx.abs(v), lambda v: v * 2.5, lambda v: 1 - v,
    lambda v: mx.tanh(v), lambda v: v.astype(mx.bfloat16).astype(mx.float32),
)  # fmt: skip
BINARY = (
    lambda v, w: v + w, lambda v, w: v - w, lambda v, w: v * w, lambda v, w: mx.maximum(v, w)
)  # fmt: skip


def evaluated(graph: Graph, arrays: Sequence[mx.array]) -> list[mx.array]:
    """The graph's outputs, each node by MLX's own op."""
    values: list[Any] = [_initial(graph[node]) for node in graph]
    for node, value in zip(graph.inputs, arrays, strict=True):
        values[node] = value
    for node in graph:
        if graph.kind(node) in STEPS:
            native_step(graph, Native(node, ""))(values)
    return [values[node] for node in graph.outputs]


def function(seed: int, most: int = 12) -> tuple[Callable[..., list[mx.array]], list[mx.array]]:
    """A function of two to four arrays, which returns one to three, and arrays for it."""
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 5))
    full = tuple(rng.choice([1, 2, 3, 4, 6], rank, p=[0.15, 0.2, 0.2, 0.25, 0.2]).tolist())
    arrays = [_array(rng, full)]
    for _ in range(int(rng.integers(1, 4))):
        part = [1 if rng.random() < 0.3 else size for size in full]
        arrays.append(_array(rng, tuple(part[int(rng.integers(0, rank + 1)) :])))
    choices = rng.integers(0, 2**31, int(rng.integers(3, most + 1))).tolist()
    returned = rng.integers(1, 5, int(rng.integers(1, 4))).tolist()

    def run(*given: mx.array) -> list[mx.array]:
        values = list(given)
        for choice in choices:
            _grow(np.random.default_rng(choice), values)
        return [values[-min(place, len(values))] for place in returned]

    return run, arrays


def _array(rng: np.random.Generator, shape: tuple[int, ...]) -> mx.array:
    return mx.array(rng.normal(0, 1, shape).astype(np.float32))


def _grow(rng: np.random.Generator, values: list[mx.array]) -> None:
    """Append what one op or view makes of some of `values`, the latest ones most often."""
    x = values[-1 - min(int(rng.geometric(0.6)) - 1, len(values) - 1)]
    shape = list(mx.array.shape.fget(x))  # a trace does not hear of it
    if rng.random() < 0.5:
        made = views(rng, shape)
        values += made[int(rng.integers(len(made)))](x)
        return
    fits = [v for v in values if _broadcasts(shape, mx.array.shape.fget(v))]
    if rng.random() < 0.6:
        other = fits[-1 - min(int(rng.geometric(0.5)) - 1, len(fits) - 1)]
        operands = (x, other) if rng.random() < 0.5 else (other, x)
        values.append(BINARY[int(rng.integers(len(BINARY)))](*operands))
    else:
        values.append(UNARY[int(rng.integers(len(UNARY)))](x))


def _broadcasts(a: Sequence[int], b: Sequence[int]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False))


def views(rng: np.random.Generator, shape: list[int]) -> list[Callable[[mx.array], list]]:
    """Views of an array of `shape`, some of every kind; each gives one array or several."""
    rank = len(shape)
    pick = lambda n: int(rng.integers(n))  # noqa: E731
    place = pick(rank + 1)
    order, anew = rng.permutation(rank).tolist(), _shape(rng, prod(shape))
    made: list[Callable] = [
        lambda x: [mx.expand_dims(x, place)],
        lambda x: [x[..., None]],
        lambda x: [x[None]],
        lambda x: [x.transpose(*order)],
        lambda x: [x.T],
        lambda x: [x.reshape(anew)],
        lambda x: [x.squeeze()],
        lambda x: [mx.broadcast_to(x, (2, *shape))],
    ]
    if not rank:
        return made
    axis, other = pick(rank), pick(rank)
    size = shape[axis]
    index: list[Any] = [slice(None)] * rank
    index[axis] = _cut(rng, size)
    index[other] = index[other] if rng.random() < 0.5 else _cut(rng, shape[other])
    part = _cut(rng, shape[-1])
    made += [
        lambda x: [mx.swapaxes(x, axis, other)],
        lambda x: [mx.moveaxis(x, axis, other)],
        lambda x: [x.flatten(min(axis, other), max(axis, other))],
        lambda x: [x[tuple(index)]],
        lambda x: [x[..., part]],
        lambda x: [x[axis % size]] if axis == 0 else [x[:, None]],
    ]
    halves = next((n for n in (2, 3) if size % n == 0), 1)
    ones = [d for d, n in enumerate(shape) if n == 1]
    made += [
        lambda x: mx.split(x, halves, axis),
        lambda x: mx.split(x, [size // 2], axis - rank),
        lambda x: [mx.unflatten(x, axis, (halves, -1))],
        lambda x: [mx.squeeze(x, ones[0])] if ones else [x.reshape(-1)],
        lambda x: [x[..., : shape[-1] // 2], x[..., shape[-1] // 2 :]],
    ]
    return made


def _cut(rng: np.random.Generator, size: int) -> Any:
    start, step = int(rng.integers(size + 1)), int(rng.choice([1, 1, 1, 2, -1, -2]))
    return [
        slice(start, None, step), slice(None, start, step), slice(None, None, step),
        int(rng.integers(-size, size)), slice(-1, None), slice(start, start + 2),
    ][int(rng.integers(6))]  # fmt: skip


def _shape(rng: np.random.Generator, count: int) -> list[int]:
    """A shape for `count` elements, maybe with one size left open."""
    left, shape = count, []
    while left > 1:
        size = int(rng.choice([n for n in range(2, left + 1) if left % n == 0]))
        shape.append(size)
        left //= size
    shape = shape if count else [0]
    if shape and count and rng.random() < 0.3:
        shape[int(rng.integers(len(shape)))] = -1
    if rng.random() < 0.3:
        shape.insert(int(rng.integers(len(shape) + 1)), 1)
    return shape
