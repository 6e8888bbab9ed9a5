"""Derivatives keep their digits over the whole range: beside the exact ones, and as close as plain
MLX's own. 1 - tanh**2 is 0 where tanh is rounded to 1, though the derivative is not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mpmath
import numpy as np
import pytest
import sympy as sp

import zmlx
from zmlx.derive.partials import formula

_U = "sqrt(2/pi)*(x + 0.044715*x**3)"
COMPOSITES = {
    "softplus": "log(1 + exp(x))",
    "silu": "x/(1 + exp(-x))",
    "log_sigmoid": "-log(1 + exp(-x))",
    "gelu": "x*(1 + erf(x/sqrt(2)))/2",
    "gelu_approx": f"x/2*(1 + tanh({_U}))",
    "mish": "x*tanh(log(1 + exp(x)))",
}
ROWS = [
    *("square", "reciprocal", "exp", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan"),
    *("sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh"),
    *("sqrt", "rsqrt", "erf", "erfinv", "sigmoid"),
]
GROUPS = [("tanh", "arcsin", "arccos", "arccosh", "arctanh", "gelu_approx", "mish")]
REST = [n for n in (*ROWS, *COMPOSITES) if n not in GROUPS[0]]
GROUPS += [tuple(REST[i : i + 6]) for i in range(0, len(REST), 6)]
ULP = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TINY = {"float32": 1e-37, "float16": 6e-5, "bfloat16": 1e-37}  # below, MLX flushes to zero


def points(dtype: str) -> mx.array:
    """Both signs, small and large, and close to 1; as numbers of the type."""
    sizes = [*np.logspace(-6, 2, 49), 5.0, 8.0, 9.1, 20.0, 40.0, 50.0, 88.0]
    sizes += [1 + s * 2.0**-k for k in range(2, 23, 2) for s in (1, -1)]
    return mx.array(np.array([*sizes, *[-s for s in sizes]], np.float32)).astype(getattr(mx, dtype))


@functools.cache
def exact(name: str, order: int) -> Callable[[Any], Any]:
    x = sp.Symbol("x", real=True)
    expression = sp.sympify(COMPOSITES[name], locals={"x": x}) if name in COMPOSITES else None
    if expression is None:
        expression = formula(name)
    return sp.lambdify(x, sp.diff(expression, x, order), "mpmath")


def truth(name: str, order: int, x: float) -> float:
    """NaN where the derivative is not a real number of the type's range."""
    with mpmath.workdps(120):
        try:
            value = exact(name, order)(mpmath.mpf(x))
        except (ZeroDivisionError, ValueError):
            return float("nan")
        real = not isinstance(value, mpmath.mpc) and mpmath.isfinite(value) and abs(value) < 6e4
        return float(value) if real else float("nan")


def computed(functions: Sequence[Callable[[Any], Any]], x: mx.array, order: int, fuse: Any) -> Any:
    """The derivatives of all functions at x, by one kernel where fused."""
    together = fuse(lambda *xs: [f(x) for f, x in zip(functions, xs, strict=True)])
    inputs, seeds = [x] * len(functions), [mx.ones_like(x)] * len(functions)
    first = lambda *xs: mx.vjp(together, list(xs), seeds)[1]  # noqa: E731
    found = first(*inputs) if order == 1 else mx.vjp(first, inputs, seeds)[1]
    return [np.array(f.astype(mx.float32), np.float64) for f in found]


def check(names: Sequence[str], dtype: str, order: int, numerics: str) -> None:
    functions = [
        (lambda x, n=n: getattr(nn, n)(x))
        if n in COMPOSITES
        else (lambda x, n=n: getattr(mx, n)(x))
        for n in names
    ]
    x = points(dtype)
    plain = computed(functions, x, order, lambda f: f)
    fused = computed(functions, x, order, lambda f: zmlx.fuse(f, numerics=numerics))
    at = np.array(x.astype(mx.float32), np.float64)
    for name, theirs, mine in zip(names, plain, fused, strict=True):
        want = np.array([truth(name, order, v) for v in at])
        known = np.isfinite(want)
        with np.errstate(all="ignore"):
            errors = [np.abs(v - want)[known] for v in (mine, theirs)]
        units = 8 if order == 1 else 16
        size = np.abs(want[known])
        # Sums of terms that pass through zero there, sigmoid's second derivative (1 - 2s) too.
        if name in COMPOSITES or (name, order) == ("sigmoid", 2):
            size = np.where(np.abs(at[known]) < 3, np.maximum(size, 0.2), size)
        allowed = units * ULP[dtype] * size + TINY[dtype]
        bad = ~(errors[0] <= np.fmax(2 * errors[1], allowed))
        bad &= ~np.isnan(theirs[known]) | (errors[0] > allowed)
        rows = np.stack([at[known], want[known], mine[known], theirs[known]], axis=1)[bad]
        assert not len(rows), f"{name}: x, exact, fused, plain\n{rows[:8]}"


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_that_could_cancel(order: int):
    check(GROUPS[0], "float32", order, "fp32")


@pytest.mark.exhaustive
@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.parametrize("names", GROUPS, ids="-".join)
def test_every_derivative_keeps_its_digits(names: Any, dtype: str, order: int, numerics: str):
    check(names, dtype, order, numerics)


@pytest.mark.smoke
def test_tanh_far_out():
    """What 1 - tanh**2 cannot see; half of float32's digits would be gone at 5 already."""
    x = mx.array([5.0, 8.0, 9.1, 20.0, 40.0, -15.0])
    got = mx.grad(lambda x: zmlx.fuse(lambda x: mx.tanh(x) * 1.0)(x).sum())(x)
    np.testing.assert_allclose(np.array(got), 1 / np.cosh(np.array(x, np.float64)) ** 2, rtol=5e-7)
    tangent = mx.jvp(zmlx.fuse(lambda x: mx.tanh(x) * 1.0), [x], [mx.ones_like(x)])[1][0]
    assert mx.allclose(tangent, got, rtol=1e-6, atol=0).item()


EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -2.0, 9.0, -9.0, 100.0, -100.0, 1e30, -1e30, 3e38, 1e-40]
EDGES += [float("inf"), -float("inf"), float("nan")]


@pytest.mark.parametrize("name", ["arccosh", "leaky_relu", "hardswish", "gelu_approx"])
def test_no_new_nan(name: str):
    """A derivative that MLX has a number for is a number: a mask may multiply it by 0."""
    function = lambda x: getattr(mx if hasattr(mx, name) else nn, name)(x) * 1.0  # noqa: E731
    x = mx.array(EDGES)
    want, got = (mx.vjp(f, [x], [mx.ones_like(x)])[1][0] for f in (function, zmlx.fuse(function)))
    assert not mx.any(mx.isfinite(want) & ~mx.isfinite(got)).item(), (want, got)
    masked = lambda x: mx.where(x > 1, function(x), 0)  # noqa: E731
    want, got = (mx.vjp(f, [x], [mx.ones_like(x)])[1][0] for f in (masked, zmlx.fuse(masked)))
    assert not mx.any(mx.isfinite(want) & ~mx.isfinite(got)).item(), (want, got)


def test_at_nan_maximum_passes_no_gradient():
    x, y = mx.array([float("nan"), 1.0, 2.0, 2.0]), mx.array([1.0, float("nan"), 1.0, 2.0])
    for op in ("maximum", "minimum"):
        scaled = lambda x, y, op=op: getattr(mx, op)(x, y) * 2.0  # noqa: E731
        function, fused = (lambda x, y, f=f: f(x, y).sum() for f in (scaled, zmlx.fuse(scaled)))
        want, got = (mx.grad(f, argnums=(0, 1))(x, y) for f in (function, fused))
        assert [w.tolist() for w in want] == [g.tolist() for g in got]


HUGE = mx.array([3e38, -3e38, 1e30, 3.6e13, 1e17, 2.0, -1e9, 1e19])
TALL = ("gelu", "gelu_approx", "gelu_fast_approx", "silu", "mish", "softplus", "log_sigmoid")


@pytest.mark.parametrize("push", [False, True])
def test_no_product_overflows_that_the_chain_rule_keeps_small(push: bool) -> None:
    """Where plain MLX has a number at huge values, so has the fused derivative."""

    def slopes(fuse: Any, x: mx.array, seed: mx.array) -> list[mx.array]:
        together = fuse(lambda *xs: [getattr(nn, n)(v) for n, v in zip(TALL, xs, strict=True)])
        inputs, seeds = [x] * len(TALL), [seed] * len(TALL)
        return list((mx.jvp if push else mx.vjp)(together, inputs, seeds)[1])

    for seed in (mx.ones_like(HUGE), mx.zeros_like(HUGE)):
        plain = slopes(lambda fn: fn, HUGE, seed)
        for name, got, wanted in zip(TALL, slopes(zmlx.fuse, HUGE, seed), plain, strict=True):
            found, known = np.array(got), np.array(wanted)
            sound = ~np.isnan(known)
            np.testing.assert_allclose(found[sound], known[sound], 1e-5, 1e-5, err_msg=name)


def test_a_masked_polynomial_has_no_gradient_however_large_its_argument_is() -> None:
    def masked(x: mx.array) -> mx.array:
        return mx.where(mx.abs(x) < 1e6, 1 + x * (2 + x * (3 + x * x)) + mx.exp(-x * x) * x, 0)

    x = mx.array([-3.4e38, 1e30, 2.0, -1e20])
    got = mx.grad(lambda x: zmlx.fuse(masked)(x).sum())(x)
    wanted = mx.grad(lambda x: masked(x).sum())(x)
    sound = ~np.isnan(np.array(wanted))
    np.testing.assert_allclose(np.array(got)[sound], np.array(wanted)[sound], 1e-5)
