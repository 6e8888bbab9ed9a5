"""Ints that cut slices and make shapes: caches with a Python offset need no trace a position."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import zmlx

STEP = 8


class Cache:
    """As mlx-lm's KVCache: grown in steps, written at an int offset."""

    def __init__(self) -> None:
        self.keys: Any = None
        self.offset = 0

    def update(self, keys: mx.array) -> mx.array:
        before, count = self.offset, keys.shape[1]
        if self.keys is None or before + count > self.keys.shape[1]:
            rows = (count + STEP - 1) // STEP * STEP
            new = mx.zeros((keys.shape[0], rows, keys.shape[2]), keys.dtype)
            if self.keys is not None:
                if before % STEP != 0:
                    self.keys = self.keys[:, :before]
                new = mx.concatenate([self.keys, new], axis=1)
            self.keys = new
        self.offset += count
        self.keys[:, before : self.offset] = keys
        return self.keys[:, : self.offset]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key, self.rope = nn.Linear(8, 8), nn.RoPE(8)

    def __call__(self, x: mx.array, cache: Cache) -> mx.array:
        query = self.rope(x[:, None], offset=cache.offset)[:, 0]
        keys = cache.update(self.rope(self.key(x)[:, None], offset=cache.offset)[:, 0])
        weights = mx.softmax(query @ keys.swapaxes(1, 2) / keys.shape[1] ** 0.5, axis=-1)
        return x + nn.silu(weights @ keys) * x


def close(got: mx.array, want: mx.array) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype
    assert np.allclose(np.array(got), np.array(want), atol=1e-5)


def test_a_cache_with_an_int_offset_has_few_traces() -> None:
    mx.random.seed(0)
    layer = Layer()
    fused, mine, theirs = zmlx.fuse(layer), Cache(), Cache()
    for position in range(60):
        x = mx.random.normal((1, 5 if position == 0 else 1, 8))
        close(fused(x, mine), layer(x, theirs))
        assert mine.offset == theirs.offset == 5 + position
        close(mine.keys, theirs.keys)
    misses = fused.cache_info().misses
    assert misses <= 6
    second, plain = Cache(), Cache()  # another prompt, of another length
    for length in (3, 1, 1, 1, 1, 1, 1):
        x = mx.random.normal((1, length, 8))
        close(fused(x, second), layer(x, plain))
    assert fused.cache_info().misses <= misses + 1


X = mx.array(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
BODIES: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "an index": (lambda x, n: x[n] * 2, (0, 1, 2, -1), 1),
    "a start": (lambda x, n: mx.exp(x[:, n:]) + 1, (0, 1, 3, 4, -2), 1),
    "a step": (lambda x, n: x[:, ::n] + 1, (1, 2, 3, -1), 1),
    "a length": (lambda x, n: mx.zeros((n, 4)) + x[0], (0, 2, 3), 1),
    "a reshape": (lambda x, n: (x * 2).reshape(n * 2, -1) + 1, (2, 3, 6), 1),
    "a shape's part": (lambda x, n: x.reshape(-1)[: x.shape[0] * n] * 2, (2, 3, 4, 0), 1),
    "a branch": (lambda x, n: x * n if n > 2 else x - n, (0, 1, 2, 3, 9), 2),
    "an axis": (lambda x, n: x / x.sum(axis=n, keepdims=True), (0, 1, -1), 3),
    "a count": (lambda x, n: mx.split(x, n, axis=1)[-1] * 2, (1, 2, 4), 3),
    "a loop": (lambda x, n: sum([x * i for i in range(n)], x), (0, 1, 3, 1), 3),
    "a write": (lambda x, n: written(x * 1, n), (0, 1, 2, 3), 1),
    "another order": (lambda x, n: mx.transpose(x * 2, (n, 1 - n)) + 1, (0, 1), 2),
}


def written(x: mx.array, n: int) -> mx.array:
    x[:, n : n + 2] = n
    return x * 2


@pytest.mark.parametrize("case", BODIES)
def test_an_int_argument_steers(case: str) -> None:
    body, values, traces = BODIES[case]
    fused = zmlx.fuse(body)
    for n in values:
        close(fused(X, n), body(X, n))
        gradient = mx.grad(lambda x, n=n, f=fused: f(x, n).sum())(X)
        close(gradient, mx.grad(lambda x, n=n: body(x, n).sum())(X))
    assert fused.cache_info().misses == traces


def test_an_axis_that_is_an_argument_is_still_fused() -> None:
    def softmax(x: mx.array, axis: int) -> mx.array:
        e = mx.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)

    rows = mx.ones((64, 96))
    report = zmlx.explain(softmax, rows, -1)
    assert len(report.regions) == 1 and not report.unfused
    assert any("axis is -1" in read for read in report.shape_reads)
