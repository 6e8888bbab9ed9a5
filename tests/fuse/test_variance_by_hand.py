"""Variances and covariances written as E[xy] - E[x] E[y]: from the differences, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from zmlx.fuse.moments import centred

Function = Callable[[Any, Any], Any]
VARIANCES: dict[str, Function] = {
    "means": lambda x, y: (x * x).mean(-1) - x.mean(-1) ** 2,
    "squares": lambda x, y: mx.square(x).mean(-1) - mx.square(x.mean(-1)),
    "kept": lambda x, y: mx.mean(x**2, -1, True) - mx.mean(x, -1, True) * mx.mean(x, -1, True),
    "turned": lambda x, y: -(x.mean(-1) ** 2) + mx.power(x, 2).mean(-1),
    "size": lambda x, y: x.square().sum(-1) / x.shape[-1] - (x.sum(-1) / x.shape[-1]) ** 2,
    "number": lambda x, y: x.square().sum(-1) / 4096 - (x.sum(-1) / 4096) ** 2,
    "sums": lambda x, y: ((x * x).sum(-1) - x.sum(-1) ** 2 / x.shape[-1]) / x.shape[-1],
    "scaled": lambda x, y: ((x * x).sum(-1) - x.mean(-1) ** 2 * x.shape[-1]) / x.shape[-1],
    "clipped": lambda x, y: mx.maximum((x * x).mean(-1) - x.mean(-1) ** 2, 0),
}
COVARIANCES: dict[str, Function] = {
    "means": lambda x, y: (x * y).mean(-1) - x.mean(-1) * y.mean(-1),
    "sums": lambda x, y: ((y * x).sum(-1) - x.sum(-1) * y.sum(-1) / 4096) / 4096,
}
# Alike, and something else: the divisor counts other elements, one factor is another's.
OTHERS: dict[str, Function] = {
    "fewer": lambda x, y: (x * x).sum(-1) / 4000 - (x.sum(-1) / 4000) ** 2,
    "once": lambda x, y: (x * x).sum(-1) / 4096 - x.sum(-1) ** 2 / 4096,
    "mean of another": lambda x, y: (x * x).mean(-1) - y.mean(-1) ** 2,
    "mean of one": lambda x, y: (x * x).mean(-1) - x.mean(-1) * y.mean(-1),
    "cubes": lambda x, y: (x * x * x).mean(-1) - x.mean(-1) ** 2,
    "broadcast": lambda x, y: (x * y[:1, :1]).mean(-1) - x.mean(-1) * y[:1, :1].mean(-1),
}


def far(key: int, shape: tuple[int, ...] = (4, 4096)) -> mx.array:
    """Rows of mean 1000 and deviation 0.01."""
    return 1000 + 0.01 * mx.random.normal(shape, key=mx.random.key(key))


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32)).astype(np.float64)


def moments(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    return ((X - X.mean(-1, keepdims=True)) * (Y - Y.mean(-1, keepdims=True))).mean(-1)


def test_far_from_zero() -> None:
    x = far(1)
    y = far(2) + x
    fused = zmlx.fuse(lambda x, y: [f(x, y) for f in (*VARIANCES.values(), *COVARIANCES.values())])
    found = [wide(r).reshape(-1) for r in fused(x, y)]
    X, Y = wide(x), wide(y)
    for name, value in zip(VARIANCES, found, strict=False):
        np.testing.assert_allclose(value, moments(X, X), rtol=2e-3, err_msg=name)
    for name, value in zip(COVARIANCES, found[len(VARIANCES) :], strict=True):
        np.testing.assert_allclose(value, moments(X, Y), rtol=2e-2, err_msg=name)
    shorter = far(3, (2, 1000))  # the same trace
    sized = [f for name, f in VARIANCES.items() if name != "number"]
    several = zmlx.fuse(lambda x: [f(x, x) for f in sized])
    for rows in (x, shorter):
        for value in several(rows):
            np.testing.assert_allclose(
                wide(value).reshape(-1), moments(wide(rows), wide(rows)), rtol=2e-3
            )
    assert several.cache_info().misses == 1


def test_what_is_no_variance_stays_what_it_is() -> None:
    x, y = mx.random.normal((4, 4096)) + 2, mx.random.normal((4, 4096)) * 3 - 1
    fused = zmlx.fuse(lambda x, y: [f(x, y) for f in OTHERS.values()])
    for name, value in zip(OTHERS, fused(x, y), strict=True):
        X, Y = mx.array(wide(x).tolist(), mx.float64), mx.array(wide(y).tolist(), mx.float64)
        with mx.stream(mx.cpu):
            wanted = np.array(OTHERS[name](X, Y))
        np.testing.assert_allclose(wide(value), wanted, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("function", [VARIANCES["means"], COVARIANCES["sums"]], ids=["var", "cov"])
def test_derivatives(function: Function) -> None:
    x, y = mx.random.normal((4, 4096)) + 3, mx.random.normal((4, 4096)) * 2
    fused = zmlx.fuse(function)

    def slope(f: Function) -> Callable[..., Any]:
        return mx.grad(lambda x, y: f(x, y).square().sum(), argnums=(0, 1))

    def second(f: Function) -> Any:
        return mx.grad(lambda x: (slope(f)(x, y)[0] * y).sum())(x)

    for found, wanted in (
        *zip(slope(fused)(x, y), slope(function)(x, y), strict=True),
        (second(fused), second(function)),
        (mx.jvp(fused, [x, y], [y, x])[1][0], mx.jvp(function, [x, y], [y, x])[1][0]),
        (mx.vmap(fused)(x[None], y[None]), function(x, y)[None]),
    ):
        scale = float(mx.abs(wanted).max())
        np.testing.assert_allclose(np.array(found), np.array(wanted), atol=2e-4 * scale)


def test_halves_and_plain_bits() -> None:
    function = VARIANCES["means"]
    h = (mx.random.normal((4, 300), key=mx.random.key(3)) * 0.5 + 8).astype(mx.bfloat16)
    found = zmlx.fuse(function)(h, h)
    assert found.dtype == mx.bfloat16
    np.testing.assert_allclose(wide(found), moments(wide(h), wide(h)), rtol=2.0**-8)
    exact = zmlx.fuse(function, numerics="mlx")(h, h)
    assert mx.array_equal(exact, function(h, h))


def test_a_graph_without_moments_is_itself() -> None:
    for function in OTHERS.values():
        x = mx.ones((4, 64))
        plan = zmlx.fuse(function).entry(x, x * 2).program.plan
        if function not in (OTHERS["fewer"], OTHERS["once"]):
            assert centred(plan.graph) is plan.graph
