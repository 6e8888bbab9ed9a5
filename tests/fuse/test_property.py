"""Generated graphs: fused equals plain MLX in values, gradients, second order, jvp and vmap.

Many graphs share one fused function, so that one run of the compiler serves them all. What a result
may be off by is measured: how far plain MLX in float32 is from plain MLX in float64, how far that
moves when the inputs move by a unit in the last place, and a few units of the result itself. A
failure names the seed of the function that reproduces it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
import mlx.core as mx
import numpy as np
import pytest
from fuse_cases import equal
from generated import (
    BROADCAST,
    SQUARE,
    float_function,
    inputs,
    int_function,
    int_inputs,
    together,
)
from hypothesis import strategies as st

import zmlx
from zmlx import dtypes

pytestmark = pytest.mark.usefixtures("default_device")

UNITS = 2e-5  # what a handful of ops may lose in float32, of the largest element
FACTOR = 16.0  # on the error that plain MLX makes itself, and on that of the inputs
UNIT = 2.0**-23
ILL = 1e-3  # graphs for which plain float32 MLX is off by this much say nothing
few = hypothesis.settings(max_examples=2, phases=[hypothesis.Phase.generate])
seeds = st.integers(0, 2**31)

Arrays = Sequence[mx.array]
Transform = Callable[..., list[mx.array]]


class Batch:
    """Functions, their inputs, cotangents that weigh their gradients alike, and tangents."""

    def __init__(self, seed: int, count: int) -> None:
        rng = np.random.default_rng(seed)
        self.shapes = BROADCAST if seed % 4 == 0 else SQUARE
        self.arrays = inputs(seed, self.shapes)
        self.tangents = inputs(seed + 1, self.shapes)
        chosen = [(seed + i, float_function(seed + i)) for i in range(count)]
        self.names, self.functions, self.weights = [], [], []
        for name, function in chosen:
            shape = function(*self.arrays).shape
            weight = mx.array(rng.normal(0, 1, shape).astype(np.float32))
            size = self._size(function, weight)
            if size is not None:
                self.names.append(name)
                self.functions.append(function)
                self.weights.append(weight / max(size, 1e-3))
        self.skipped = count - len(self.functions)
        self.axes = self._axes(rng)

    def _size(self, function: Callable, weight: mx.array) -> float | None:
        """The largest gradient of `function`; None where float32 cannot tell it."""

        def pull(*p: mx.array) -> list[np.ndarray]:
            gradients = mx.vjp(lambda *a: [function(*a)], p, [weight.astype(p[0].dtype)])[1]
            return [np.array(g) for g in gradients]

        plain = pull(*self.arrays)
        with mx.stream(mx.cpu):  # which alone has float64
            truth = pull(*wide(self.arrays))
        sizes = [np.abs(t).max() for t in truth]
        errors = [np.abs(a - b).max() for a, b in zip(plain, truth, strict=True)]
        fine = np.isfinite(errors).all() and max(errors) <= ILL * max(1e-3, *sizes)
        return float(max(sizes)) if fine and max(sizes) < 1e4 else None

    def _axes(self, rng: np.random.Generator) -> tuple[int | None, ...]:
        choices: list[list[Any]] = [[None, *range(len(s))] for s in self.shapes]
        if self.shapes is BROADCAST:
            choices[2] = [None, 0]  # axis 1 of (4, 1) has another size
        axes = tuple(c[int(rng.integers(len(c)))] for c in choices)
        return axes if any(a is not None for a in axes) else (0, None, None)

    def transforms(self) -> dict[str, tuple[Transform, list[str]]]:
        """By name: how to compute it for a function f, and what its results are."""
        weights, axes, ends = self.weights, self.axes, ["gradient of input"] * 3

        def vjp(f: Any, *p: mx.array) -> list[mx.array]:
            return mx.vjp(f, list(p), [w.astype(p[0].dtype) for w in weights])[1]

        def tangents(p: Arrays) -> list[mx.array]:
            return [t.astype(p[0].dtype) for t in self.tangents]

        return {
            "value": (lambda f, *p: f(*p), self._named()),
            "vjp": (vjp, ends),
            "jvp": (lambda f, *p: mx.jvp(f, list(p), tangents(p))[1], self._named()),
            "vmap": (lambda f, *p: mx.vmap(f, in_axes=axes)(*p), self._named()),
            "one by one": (lambda f, *p: one_by_one(f, axes, p), self._named()),
            "second": (
                lambda f, *p: mx.vjp(lambda *q: vjp(f, *q), list(p), tangents(p))[1],
                ends,
            ),
        }

    def _named(self) -> list[str]:
        return [f"float_function({name})" for name in self.names]


def one_by_one(f: Any, axes: Sequence[int | None], arrays: Arrays) -> list[mx.array]:
    """What mx.vmap promises. MLX's own vmap of `where` adds a dimension too many at times."""
    picked = [
        [
            mx.take(a, i, axis) if axis is not None else a
            for a, axis in zip(arrays, axes, strict=True)
        ]
        for i in range(4)
    ]
    return [mx.stack(results) for results in zip(*[f(*p) for p in picked], strict=True)]


def wide(arrays: Arrays) -> list[mx.array]:
    return [a.astype(mx.float64, stream=mx.cpu) for a in arrays]


def check(batch: Batch) -> int:
    """Compare all transforms of a batch; returns how many graphs were compared."""
    plain = together(batch.functions)
    fused = zmlx.fuse(plain)
    transforms = batch.transforms()
    reference = {**transforms, "vmap": transforms.pop("one by one")}
    for name, (transform, names) in transforms.items():
        wanted = reference[name][0]
        with mx.stream(mx.cpu):  # which alone has float64
            truth = wanted(plain, *wide(batch.arrays))
            moved = wanted(plain, *[a * (1 + UNIT) for a in wide(batch.arrays)])
        mine, theirs = transform(fused, *batch.arrays), wanted(plain, *batch.arrays)
        assert len(mine) == len(theirs) == len(truth)
        for what, *values in zip(names, mine, theirs, truth, moved, strict=False):
            as_near(f"{name} of {what} in batch of {batch.names}", *values)
    return len(batch.functions)


def as_near(what: str, mine: mx.array, theirs: mx.array, truth: mx.array, moved: mx.array) -> None:
    """`mine` is about as near to `truth` as `theirs` is."""
    assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, what
    a, b, t, m = (np.array(v).astype(np.float64) for v in (mine, theirs, truth, moved))
    assert np.isfinite(t).all(), what
    b = np.where(np.isfinite(b), b, t)  # MLX's own derivatives overflow at times
    conditioned = np.abs(b - t).max() + np.abs(m - t).max()
    allowed = UNITS * np.abs(t).max() + FACTOR * conditioned + 1e-7
    error = np.abs(a - t).max()
    assert error <= allowed, f"{what}: off by {error}, allowed {allowed}"


@few
@hypothesis.given(seeds)
def test_generated_floats_equal_plain_mlx(seed):
    assert check(Batch(seed, 6)) >= 4


def check_half(seed: int, count: int) -> None:
    """numerics="mlx" gives plain MLX's bits, in every float type."""
    for dtype in (mx.float16, mx.bfloat16, mx.float32):
        arrays = inputs(seed, BROADCAST, dtype)
        plain = together([float_function(seed + i) for i in range(count)])
        equal(zmlx.fuse(plain, numerics="mlx")(*arrays), plain(*arrays))


@few
@hypothesis.given(seeds)
def test_generated_floats_have_the_bits_of_plain_mlx(seed):
    check_half(seed, 8)


def check_integers(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = [str(k) for k in rng.choice([*dtypes.INTEGERS, "bool"], 3)]
    arrays = int_inputs(seed, kinds)
    plain = together([int_function(seed + i) for i in range(count)])
    equal(zmlx.fuse(plain, numerics="mlx")(*arrays), plain(*arrays))


@few
@hypothesis.given(seeds)
@pytest.mark.usefixtures("on_cpu")  # MLX's integer division by zero is another on each GPU
def test_generated_integers_equal_plain_mlx(seed):
    check_integers(seed, 10)


# -- ten thousand graphs --------------------------------------------------------------------------
BLOCKS, PER_BLOCK, BATCH = 50, 200, 25


@pytest.mark.exhaustive
@pytest.mark.parametrize("block", range(BLOCKS))
def test_ten_thousand_graphs(block, quick_compiler, tally):
    checked = 0
    for first in range(0, PER_BLOCK, BATCH):
        checked += check(Batch(10_000_000 + 1000 * (block * PER_BLOCK + first), BATCH))
    assert checked >= 0.9 * PER_BLOCK
    tally("generated graphs: values, gradients, second order, jvp, vmap", checked)


@pytest.mark.exhaustive
@pytest.mark.parametrize("block", range(2))
def test_hundreds_of_graphs_with_the_real_flags(block, tally):
    checked = sum(check(Batch(90_000_000 + 1000 * (10 * block + i), 10)) for i in range(10))
    tally("generated graphs, optimised kernels", checked)


@pytest.mark.exhaustive
@pytest.mark.parametrize("block", range(10))
def test_exact_graphs(block, quick_compiler, tally):
    for i in range(10):
        check_half(50_000_000 + 1000 * (10 * block + i), 20)
        check_integers(60_000_000 + 1000 * (10 * block + i), 20)
    tally("generated graphs, bit by bit", 10 * 4 * 20)
