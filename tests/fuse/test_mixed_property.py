"""Generated functions of elementwise ops, reductions, norms, views and matmuls, fused: values,
gradients, second order, jvp, vmap and other sizes, against plain MLX.

A failure names the seed of the function that reproduces it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mixed import mixed_function, mixed_inputs

import zmlx

pytestmark = pytest.mark.usefixtures("default_device")

Arrays = Sequence[mx.array]
ROWS, COLUMNS = 5, 12


def compare(got: Arrays, want: Arrays, seeds: Sequence[int], what: str, rtol: float) -> None:
    for mine, theirs, seed in zip(got, want, seeds, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype, (seed, what)
        a, b = np.array(mine, np.float64), np.array(theirs, np.float64)
        error, scale = np.abs(a - b), max(1.0, float(np.abs(b).max(initial=0)))
        assert np.isfinite(error).all() and (error <= rtol * scale).all(), (
            f"mixed_function({seed}): {what} off by {error.max()} of {scale}"
        )


def total(functions: Sequence[Callable[..., mx.array]]) -> Callable[..., list[mx.array]]:
    return lambda *arrays: [f(*arrays) for f in functions]


def pulled(f: Any, arrays: Arrays, position: int) -> mx.array:
    """The gradient of one result's weighted sum by the first array."""

    def loss(x: mx.array) -> mx.array:
        out = f(x, *arrays[1:])[position]
        return (out * mx.cos(mx.arange(out.size).reshape(out.shape))).sum()

    return mx.grad(loss)(arrays[0])


def bent(f: Any, arrays: Arrays, position: int) -> mx.array:
    return mx.grad(lambda x: (pulled(f, [x, *arrays[1:]], position) ** 2).sum())(arrays[0])


def check(seed: int, count: int, deep: bool) -> None:
    seeds = range(seed, seed + count)
    plain = total([mixed_function(s) for s in seeds])
    fused = zmlx.fuse(plain)
    arrays = mixed_inputs(seed, ROWS, COLUMNS)
    compare(fused(*arrays), plain(*arrays), seeds, "values", 2e-5)
    places = range(count)
    got, want = ([pulled(f, arrays, i) for i in places] for f in (fused, plain))
    compare(got, want, seeds, "gradient", 1e-4)
    tangents = mixed_inputs(seed + 1, ROWS, COLUMNS)
    got, want = (mx.jvp(f, arrays, tangents)[1] for f in (fused, plain))
    compare(got, want, seeds, "jvp", 1e-4)
    if not deep:
        return
    got, want = ([bent(f, arrays, i) for i in places] for f in (fused, plain))
    compare(got, want, seeds, "second order", 2e-3)
    several = [mx.stack([a, a * 0.5]) for a in arrays]
    compare(mx.vmap(fused)(*several), mx.vmap(plain)(*several), seeds, "vmap", 5e-5)
    for rows, columns in ((1, 12), (7, 33), (3, 2)):
        other = mixed_inputs(seed + 2, rows, columns)
        compare(fused(*other), plain(*other), seeds, f"{rows} rows of {columns}", 5e-5)


@pytest.mark.parametrize("seed", [0, 100])
def test_mixed_functions(seed: int) -> None:
    check(seed, 4, deep=False)


@pytest.mark.exhaustive
@pytest.mark.parametrize("block", range(100))
def test_many_mixed_functions(block: int, quick_compiler: None) -> None:
    check(1000 + 10 * block, 10, deep=True)
