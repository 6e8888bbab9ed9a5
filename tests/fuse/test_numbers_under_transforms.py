"""vmap, jvp and gradients of functions that take Python numbers beside arrays: shapes and values
as plain MLX's, down to examples of rank 0. A number has no dimension, whatever carries it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import zmlx

X, M = mx.array([0.3, 0.7, 1.1]), mx.arange(12.0).reshape(3, 4) / 7
ONE, TWO = mx.array(1.0), mx.array(2.0)


def f(a: Any, b: Any, s: float) -> Any:
    return mx.sin(a) * s + b, mx.floor(a) * s + 1


Run = Callable[[Callable[[Any, Any], Any]], Any]
CASES: dict[str, Run] = {
    "vmap": lambda F: mx.vmap(F)(X, X),
    "vmap of rank 0, one side": lambda F: mx.vmap(F, in_axes=(0, None))(X, TWO),
    "vmap of rank 0, other side": lambda F: mx.vmap(F, in_axes=(None, 0))(ONE, X),
    "vmap beside a higher rank": lambda F: mx.vmap(F, in_axes=(0, None))(X, M),
    "vmap along the last axis": lambda F: mx.vmap(F, in_axes=(1, None), out_axes=(1, 0))(M, TWO),
    "two levels": lambda F: mx.vmap(mx.vmap(F))(M, M),
    "two levels, crossed": lambda F: mx.vmap(
        mx.vmap(F, in_axes=(0, None)), in_axes=(None, 0)
    )(X, X),
    "vmap of grad": lambda F: mx.vmap(mx.grad(lambda a, b: F(a, b)[0], argnums=(0, 1)))(X, X),
    "vmap of the second derivative": lambda F: mx.vmap(
        mx.grad(mx.grad(lambda a: F(a, TWO)[0]))
    )(X),
    "grad of vmap": lambda F: mx.grad(lambda x: mx.vmap(F)(x, x)[0].sum())(X),
    "jvp of rank 0": lambda F: mx.jvp(lambda a: F(a, TWO), [ONE], [TWO])[1],
    "jvp of the other": lambda F: mx.jvp(lambda b: F(ONE, b), [TWO], [TWO])[1],
    "vmap of jvp": lambda F: mx.vmap(lambda a: mx.jvp(lambda b: F(b, b), [a], [ONE])[1])(X),
    "jvp of vmap": lambda F: mx.jvp(lambda x: list(mx.vmap(F)(x, x)), [X], [X])[1],
    "vjp of rank 0 beside an array": lambda F: mx.vjp(
        lambda a, b: F(a, b)[0], [ONE, M], [M]
    )[1],
    "compiled": lambda F: mx.compile(mx.vmap(F))(X, X),
    "sliced": lambda F: mx.vmap(lambda a, b: F(a, b)[0].reshape(-1)[0:1])(X, X),
}  # fmt: skip
fused = zmlx.fuse(f)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", [0.5, 3], ids=["float", "int"])
def test_shapes_beside_a_number(case: str, number: float):
    want = CASES[case](lambda a, b: f(a, b, number))
    got = CASES[case](lambda a, b: fused(a, b, number))
    listed = [w if isinstance(w, (list, tuple)) else [w] for w in (want, got)]
    for a, b in zip(*listed, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert mx.allclose(a, b, rtol=1e-5, atol=1e-6).item()
