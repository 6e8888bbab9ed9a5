"""Gradients and tangents through integers and bool: arguments, and what crosses from region to
region, as plain MLX passes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx

# Each is locally linear with whole slopes, so that no cast of a cotangent can fall either way.
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "affine": lambda a: a * 2 + 1,
    "float factor": lambda a: a * 2.5 - a,
    "square": lambda a: a * a * 3 - a,
    "where": lambda a: mx.where(a > 0, a * 2, a),
    "maximum": lambda a: mx.maximum(a, 1) - mx.minimum(a, 3) * 2,
    "absolute": lambda a: abs(a) * 3 + a % 3,
    "compared": lambda a: (a > 1) * 2.0 + a,
    "bits": lambda a: (a > 1).astype(mx.int32) & 3 | (a < 0),
    "to bool": lambda a: a.astype(mx.bool_) * 3 + a,
    "narrow": lambda a: a.astype(mx.int16) * 3 + a.astype(mx.int32),
    "steps": lambda a: mx.floor(a) + mx.sign(a) + a // 3 + a,
    "inverted": lambda a: mx.isfinite(~a.astype(mx.bool_)) * 1 + a,
}
# Where the integer stands: an argument, between regions, in a smaller shape, before a sum.
PLACES: dict[str, Callable[[Callable[[Any], Any], Any], Any]] = {
    "argument": lambda f, a: f(a) * 1 + a,
    "between": lambda f, a: f((a * 4 + 1).astype(mx.int32).reshape(2, 2)) * 3.0 + 1.0,
    "small": lambda f, a: f((a * 1 + 0)[:, None] * mx.ones((1, 3), mx.int32)) * 2 + a[:, None],
    "mask": lambda f, a: f((a > 1).reshape(2, 2).astype(mx.int32) * a.reshape(2, 2)) * 1.5,
}
KINDS = ("float32", "int32", "uint8", "bool")
WAYS = ("vjp", "jvp", "twice")


def argument(kind: str) -> mx.array:
    values = [3, 0, 2, 7] if kind == "uint8" else [-3, 0, 2, 5]
    return mx.array(values).astype(mx.bool_ if kind == "bool" else getattr(mx, kind))


def derived(function: Callable[[Any], Any], a: mx.array, way: str) -> mx.array:
    seed = mx.full(function(a).shape, 2.0).astype(function(a).dtype)
    if way == "vjp":
        return mx.vjp(function, [a], [seed])[1][0]
    if way == "jvp":  # a float tangent of an integer stays one
        return mx.jvp(function, [a], [mx.full(a.shape, 2.75)])[1][0]
    gradient = lambda a: mx.vjp(function, [a], [seed])[1][0]  # noqa: E731
    return mx.vjp(gradient, [a], [mx.ones_like(a)])[1][0]


def check(name: str, place: str, kind: str, numerics: str = "fp32") -> None:
    function = lambda a: PLACES[place](FUNCTIONS[name], a)  # noqa: E731
    fused, a = zmlx.fuse(function, numerics=numerics), argument(kind)
    for way in WAYS:
        want, got = derived(function, a, way), derived(fused, a, way)
        assert got.shape == want.shape and (got.dtype == want.dtype or not want.any()), way
        np.testing.assert_allclose(
            np.array(got.astype(mx.float32)),
            np.array(want.astype(mx.float32)),
            rtol=1e-5,
            err_msg=way,
        )


@pytest.mark.parametrize("place", PLACES)
def test_gradients_pass_integers(place: str):
    for kind in KINDS:
        check("affine", place, kind)
    check("where", place, "int32", "mlx")


@pytest.mark.exhaustive
@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_pass_every_op_and_type(name: str, kind: str, numerics: str):
    for place in PLACES:
        check(name, place, kind, numerics)


def test_a_straight_through_quantiser():
    def quantised(x: Any) -> Any:
        q = mx.clip(mx.round(x * 8), -128, 127).astype(mx.int8)
        return x + mx.stop_gradient(q.astype(mx.float32).reshape(-1) / 8 - x)

    def rounded(x: Any) -> Any:
        return (x * 4 + 1).astype(mx.int32).reshape(2, 2) * 3.0 + 1.0

    x = mx.array([0.4, 1.6, 2.7, -1.2])
    for function in (quantised, rounded):
        gradients = [mx.grad(lambda x, f=f: f(x).sum())(x) for f in (function, zmlx.fuse(function))]
        within = zmlx.fuse(mx.grad(lambda x, f=function: f(x).sum()))(x)
        assert gradients[0].tolist() == gradients[1].tolist() == within.tolist()
    assert gradients[1].tolist() == [12.0] * 4


def test_sums_of_a_broadcast_integers_gradient_are_cast_once():
    function = lambda x, n: mx.sin(x) * n + n  # noqa: E731
    x, n = mx.linspace(0, 1, 40).reshape(10, 4), mx.array([1, 2, 3, 4])
    both = [
        mx.grad(lambda x, n, f=f: f(x, n).sum(), argnums=(0, 1))(x, n)
        for f in (function, zmlx.fuse(function))
    ]
    assert both[1][1].dtype == mx.int32
    assert both[0][1].tolist() == both[1][1].tolist() and min(both[1][1].tolist()) > 10
    assert mx.allclose(both[0][0], both[1][0], rtol=1e-6).item()


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.filterwarnings("ignore:.*ZMLX_DEVICE=replay:RuntimeWarning")
def test_without_kernels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZMLX_DEVICE", "replay")
    function = lambda n: mx.isfinite(~n) * 2.0 + n  # noqa: E731
    n = mx.array([1, 2])
    got = mx.grad(lambda n: zmlx.fuse(function)(n).sum())(n)
    assert got.tolist() == mx.grad(lambda n: function(n).sum())(n).tolist() == [1, 1]
