"""Gradients: reverse and forward mode against MLX, float64 differences, MLX's rules at kinks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from fuse_cases import array, close, counting, kernels, numpy, primitives, program_of

import zmlx

pytestmark = pytest.mark.usefixtures("default_device")

x, y = array(0, 4, 6), array(1, 4, 6)
row, column, scalar = array(2, 6), array(3, 4, 1), array(4)


def gradient(function: Callable, *arrays: mx.array) -> list[mx.array]:
    """Of the weighted sum of everything that `function` returns, by every float argument."""
    floats = [i for i, a in enumerate(arrays) if mx.issubdtype(a.dtype, mx.floating)]

    def loss(*arrays: mx.array) -> mx.array:
        results = function(*arrays)
        results = results if isinstance(results, (list, tuple)) else [results]
        total = mx.array(0.0)
        for i, result in enumerate(results):
            weights = mx.cos(mx.arange(result.size).reshape(result.shape) + i)
            total = total + (result * weights).sum()
        return total

    return list(mx.grad(loss, argnums=floats)(*arrays))


def both(function: Callable, *arrays: mx.array, **limits: float) -> list[mx.array]:
    """The fused function's gradients, compared with the plain function's."""
    got = gradient(zmlx.fuse(function), *arrays)
    close(got, gradient(function, *arrays), **limits)
    return got


# -- against MLX ----------------------------------------------------------------------------------
def attention_like(x, y, row):
    s = x * y + row
    return mx.exp(s - mx.maximum(s, 1)) * mx.sigmoid(s) + nn.gelu_approx(x)


FUNCTIONS: dict[str, tuple[Callable, tuple]] = {
    "silu(x) * y": (lambda x, y: nn.silu(x) * y, (x, y)),
    "gelu": (lambda x: nn.gelu(x) * 2, (x,)),
    "mixed": (attention_like, (x, y, row)),
    "division": (lambda x, y: x / (y * y + 1) - 1 / (x * x + 2), (x, y)),
    "powers": (lambda x, y: x**3 + mx.abs(x) ** 1.5 + mx.power(mx.abs(x) + 0.5, y), (x, y)),
    "row": (lambda x, r: mx.tanh(x * r) + r, (x, row)),
    "column": (lambda x, c: mx.sin(x + c) * c, (x, column)),
    "row and column": (lambda r, c: mx.exp(r * 0.1) * c + r, (row, column)),
    "scalar": (lambda x, s: mx.sin(x * s) + s, (x, scalar)),
    "inner row": (lambda x, r: x * mx.exp(r * 0.2 + 0.1) + mx.sin(r), (x, row)),
    "several outputs": (lambda x, y: [x * y, mx.exp(x * 0.3), y - 1, x], (x, y)),
    "outputs of two shapes": (lambda x, r: [x * mx.sin(r), mx.sin(r) * 2], (x, row)),
    "used many times": (lambda x: ((x * x + x) * x + x) * x - x, (x,)),
    "where": (lambda x, y: mx.where(x > y, x * y, x - y) + mx.where(x > 0, 1.0, y), (x, y)),
    "clip": (lambda x: mx.clip(x * 2, -1, 1.5) * x, (x,)),
    "steps": (lambda x, y: mx.floor(x) * y + mx.sign(x) * x + mx.round(y) + (x % 0.7), (x, y)),
    "stopped": (lambda x, y: mx.stop_gradient(x * y) * x + y, (x, y)),
    "cumsum between": (lambda x: mx.tanh(mx.cumsum(mx.sin(x) * 2, 1) * 0.1) * x, (x,)),
    "softmax": (lambda x: mx.exp(x) / mx.sum(mx.exp(x), -1, keepdims=True), (x,)),
    "layer norm": (lambda x: (x - x.mean(-1, keepdims=True)) * mx.rsqrt(x.var(-1, keepdims=True)
                                                                       + 1e-3), (x,)),
    "transposed": (lambda x, y: mx.sin(x.T @ y) * 2 + mx.sin(x.T @ x), (x, y)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_equal_those_of_plain_mlx(name):
    function, arrays = FUNCTIONS[name]
    both(function, *arrays, rtol=5e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tangents_equal_those_of_plain_mlx(name):
    function, arrays = FUNCTIONS[name]
    tangents = [array(20 + i, *a.shape) for i, a in enumerate(arrays)]
    got = mx.jvp(zmlx.fuse(function), list(arrays), tangents)
    close(list(got), list(mx.jvp(function, list(arrays), tangents)), rtol=5e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_gradients_in_half_types_are_nearer_to_the_truth(dtype):
    function = lambda x, y, r: nn.gelu_approx(x * 0.5) * y + mx.sigmoid(x + r)  # noqa: E731
    arrays = [a.astype(dtype) for a in (x, y, row)]
    mine, theirs = gradient(zmlx.fuse(function), *arrays), gradient(function, *arrays)
    exact = gradient(function, *[a.astype(mx.float32) for a in arrays])
    for a, b, t in zip(mine, theirs, exact, strict=True):
        assert a.dtype == b.dtype == dtype and a.shape == b.shape
        error, rival = (np.abs(numpy(v) - numpy(t)).max() for v in (a, b))
        assert error <= 1.05 * rival + 2e-3


# -- against differences in float64 ---------------------------------------------------------------
def numpy_gelu(x, y):
    return 0.5 * x * (1 + np.tanh(0.8 * (x + 0.04 * x * x * x))) * np.exp(-y * y) + np.sin(x * y)


def mlx_gelu(x, y):
    return 0.5 * x * (1 + mx.tanh(0.8 * (x + 0.04 * x * x * x))) * mx.exp(-y * y) + mx.sin(x * y)


def test_first_and_second_order_against_central_differences():
    a, b = (np.array(v).astype(np.float64) for v in (x, y))
    fused = zmlx.fuse(mlx_gelu)
    first = lambda x, y: mx.grad(lambda x: fused(x, y).sum())(x)  # noqa: E731
    second = lambda x, y: mx.grad(lambda y: first(x, y).sum())(y)  # noqa: E731
    h = 1e-5
    slope = (numpy_gelu(a + h, b) - numpy_gelu(a - h, b)) / (2 * h)
    np.testing.assert_allclose(np.array(first(x, y)), slope, rtol=2e-5, atol=2e-6)
    h = 1e-4
    mixed = (
        numpy_gelu(a + h, b + h)
        - numpy_gelu(a + h, b - h)
        - numpy_gelu(a - h, b + h)
        + numpy_gelu(a - h, b - h)
    ) / (4 * h * h)
    np.testing.assert_allclose(np.array(second(x, y)), mixed, rtol=1e-4, atol=2e-5)


# -- MLX's conventions ----------------------------------------------------------------------------
INF, NAN = float("inf"), float("nan")
AT_POINTS: dict[str, tuple[Callable, list, list]] = {  # name: (function, where, derivative)
    "abs": (lambda x: mx.abs(x) * 2, [-1, 0, 1], [-2, 0, 2]),
    "relu": (lambda x: mx.maximum(x, 0) * 2, [-1, 0, 1], [0, 0, 2]),
    "minimum with 0": (lambda x: mx.minimum(x, 0) * 2, [-1, 0, 1], [2, 0, 0]),
    "0 first": (lambda x: mx.maximum(0, x) * 2, [-1, 0, 1], [0, 2, 2]),
    "clip": (lambda x: mx.clip(x, -1, 1) * 2, [-2, -1, 0, 1, 2], [0, 0, 2, 0, 0]),
    "sign": (lambda x: mx.sign(x) * x, [-2, 0, 2], [-1, 0, 1]),
    "floor": (lambda x: mx.floor(x) + x * 2, [-1, 0.5], [2, 2]),
    "ceil": (lambda x: mx.ceil(x) + x * 2, [-1, 0.5], [2, 2]),
    "round": (lambda x: mx.round(x) + x * 2, [-1, 0.5], [2, 2]),
    "trunc": (lambda x: mx.trunc(x) + x * 2, [-1.5, 0.5], [2, 2]),
    "floor_divide": (lambda x: x // 2 + x * 2, [-1, 0.5], [2, 2]),
    "remainder": (lambda x: x % 2 + x * 2, [-1, 0.5, 3], [3, 3, 3]),
    "divisor": (lambda x: 7 % x + x * 2, [2, 4, 10], [-1, 1, 2]),
    "comparison": (lambda x: (x > 0) * x + x, [-1, 1], [1, 2]),
    "cast to int": (lambda x: x.astype(mx.int32) * 2.0 + x, [-1.5, 1.5], [3, 3]),
    "stop_gradient": (lambda x: mx.stop_gradient(x) * x + x, [3], [4]),
    "sqrt": (lambda x: mx.sqrt(x) * 2, [0, 4], [INF, 0.5]),
    "power 0.5": (lambda x: x**0.5 * 2, [0, 4], [INF, 0.5]),
    "0 to a power": (lambda x: mx.power(mx.zeros_like(x), x) + x, [2, 3], [1, 1]),
    "square at 0": (lambda x: x**2 + x, [0, -1], [1, -1]),
    "logaddexp": (lambda x: mx.logaddexp(x, 0) * 2, [-INF, 0], [0, 1]),
    "arctan2": (lambda x: mx.arctan2(x, 0.0) * 2, [0], [NAN]),
    "nan_to_num": (lambda x: mx.nan_to_num(x) * 2, [1, NAN], [2, 0]),
    "where log": (lambda x: mx.where(x > 0, mx.log(x), 0.0) * 2, [0, 2], [NAN, 1]),
}


@pytest.mark.parametrize("name", AT_POINTS)
def test_derivatives_at_kinks_follow_mlx(name):
    function, points, wanted = AT_POINTS[name]
    at = mx.array(points, mx.float32)
    got = mx.grad(lambda a: zmlx.fuse(function)(a).sum())(at)
    np.testing.assert_allclose(np.array(got), wanted, rtol=1e-6)
    np.testing.assert_allclose(np.array(mx.grad(lambda a: function(a).sum())(at)), wanted, 1e-6)


def test_ties_go_to_the_second_operand():
    function = lambda a, b: mx.maximum(a, b) * 2 + mx.minimum(a, b)  # noqa: E731
    a, b = mx.array([1.0, 2.0, 3.0]), mx.array([2.0, 2.0, 2.0])
    got = mx.grad(lambda a, b: zmlx.fuse(function)(a, b).sum(), argnums=(0, 1))(a, b)
    close(got, [mx.array([1.0, 0.0, 2.0]), mx.array([2.0, 3.0, 1.0])])
    close(got, mx.grad(lambda a, b: function(a, b).sum(), argnums=(0, 1))(a, b))


def test_a_cast_passes_the_gradient():
    """MLX rounds the cotangent to the type that it crosses, a region once at the end."""
    function = lambda x: x.astype(mx.float16).astype(mx.float32) * x + x.astype(mx.int32)  # noqa: E731
    both(function, x, rtol=1e-3, atol=1e-3)
    half = mx.array(np.array(x).astype(np.float16).astype(np.float32))  # exact in both
    got = mx.grad(lambda a: zmlx.fuse(function)(a).sum())(half)
    close(got, half * 2 + 1)


# -- no overflow where the function has none ------------------------------------------------------
STEEP = {
    "softplus": nn.softplus, "sigmoid": nn.sigmoid, "tanh": nn.tanh, "gelu": nn.gelu,
    "gelu_approx": nn.gelu_approx, "silu": nn.silu, "mish": nn.mish, "log_sigmoid": nn.log_sigmoid,
    "logaddexp": lambda x: mx.logaddexp(x, -x),
}  # fmt: skip
FAR = [-1e4, -1e3, -100.0, -30.0, 0.0, 30.0, 100.0, 1e3, 1e4]
SLOPES = {  # in the limit: at -1e4, at 0, at +1e4
    "softplus": (0, 0.5, 1), "sigmoid": (0, 0.25, 0), "tanh": (0, 1, 0), "gelu": (0, 0.5, 1),
    "gelu_approx": (0, 0.5, 1), "silu": (0, 0.5, 1), "mish": (0, 0.6, 1),
    "log_sigmoid": (1, 0.5, 0), "logaddexp": (-1, 0, 1),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
def test_no_overflow_far_out(dtype, numerics):
    """Values, first and second derivatives stay finite at +-1e4, and first ones are right."""
    names = [n for n in STEEP if numerics == "fp32" or n not in ("gelu_approx",)]
    fused = zmlx.fuse(lambda x: [STEEP[n](x) for n in names], numerics=numerics)
    at = mx.array(FAR).astype(dtype)
    ones = mx.ones_like(at)
    values, slopes = mx.jvp(fused, [at], [ones])
    curves = mx.jvp(lambda a: mx.jvp(fused, [a], [ones])[1], [at], [ones])[1]
    for name, value, slope, curve in zip(names, values, slopes, curves, strict=True):
        for what, result in (("value", value), ("slope", slope), ("curvature", curve)):
            assert np.isfinite(numpy(result)).all(), (name, what, result)
        for place, wanted in zip((0, 4, 8), SLOPES[name], strict=True):
            assert abs(numpy(slope)[place] - wanted) < 0.01, (name, slope)
    for i, name in enumerate(names):
        pulled = mx.grad(lambda a, i=i: fused(a)[i].astype(mx.float32).sum())(at)
        assert np.isfinite(numpy(pulled)).all(), (name, pulled)


# -- orders ---------------------------------------------------------------------------------------
def nth(function: Callable, order: int) -> Callable:
    for _ in range(order):
        function = lambda x, f=function: mx.grad(lambda x: f(x).sum())(x)  # noqa: E731
    return function


@pytest.mark.parametrize("order", [2, 3, 4])
def test_higher_orders(order):
    function = lambda x: mx.sin(x) * mx.exp(x * 0.3) + x**3  # noqa: E731
    at = array(5, 30)
    close(nth(zmlx.fuse(function), order)(at), nth(function, order)(at), rtol=1e-4, atol=1e-5)


def test_mixed_orders_of_several_inputs():
    function = lambda x, y: mx.exp(x * y * 0.2) * mx.sin(x - y)  # noqa: E731

    def mixed(f: Any) -> list[mx.array]:
        first = lambda x, y: mx.grad(lambda y: f(x, y).sum())(y)  # noqa: E731
        pulled = list(mx.grad(lambda x, y: first(x, y).sum(), argnums=(0, 1))(x, y))
        pushed = mx.jvp(lambda x: first(x, y), [x], [y])[1]
        return [*pulled, *pushed]

    close(mixed(zmlx.fuse(function)), mixed(function), rtol=1e-4, atol=1e-5)


# -- how much is computed -------------------------------------------------------------------------
def test_a_gradient_is_one_kernel_with_no_other_primitive():
    fused = zmlx.fuse(lambda x, y: nn.gelu_approx(x) * y)
    pulled = mx.vjp(fused, [x, y], [x])[1]
    assert len(kernels(*pulled)) == 1
    assert set(primitives(*pulled)) - set(kernels(*pulled)) <= {"Copy"}  # MLX's, of cotangents


def test_only_the_gradients_asked_for_are_computed():
    fused = zmlx.fuse(lambda x, y: mx.sin(x) * mx.exp(y))
    fused(x, y)
    with counting() as counts:
        (only,) = mx.vjp(lambda a: fused(a, y), [x], [x])[1]
        assert len(kernels(only)) == 1
        close(only, mx.cos(x) * mx.exp(y) * x)
    assert counts.builds == 1
    text = program_of(zmlx.fuse(lambda x, y: mx.sin(x) * mx.exp(y)), x, y)
    rules = text.functions[0].specialized([(4, 6), (4, 6)]).vjp
    assert len(rules.graph.outputs) == 2  # both can be had


def test_gradients_of_broadcast_inputs_are_sums_of_one_kernel():
    fused = zmlx.fuse(lambda x, r, c: mx.tanh(x + r) * c)
    pulled = mx.vjp(fused, [x, row, column], [y])[1]
    assert len(kernels(*pulled)) == 1 and set(primitives(*pulled)) - set(kernels(*pulled)) <= {
        "Copy", "Reshape", "Sum", "Squeeze"
    }  # fmt: skip
    assert [g.shape for g in pulled] == [(4, 6), (6,), (4, 1)]


def test_long_sums_in_half_types_keep_their_digits():
    ones = mx.ones((30_000, 2), mx.float16)
    got = mx.grad(lambda r: (zmlx.fuse(lambda a, r: a * r)(ones, r) * 0.01).sum())(
        mx.ones((2,), mx.float16)
    )
    assert got.dtype == mx.float16 and np.allclose(np.array(got), 300, rtol=2e-3)


def test_unused_outputs_and_untouched_inputs():
    fused = zmlx.fuse(lambda x, y: (mx.sin(x) * 2, mx.exp(y), y * 0 + 1))
    got = mx.grad(lambda x, y: fused(x, y)[0].sum(), argnums=(0, 1))(x, y)
    close(got, [mx.cos(x) * 2, mx.zeros_like(y)])


def test_outputs_that_turn_out_equal_keep_their_own_cotangents():
    """mx.vjp drops cotangents of an array that is returned twice: so none is."""
    function = lambda x: [mx.exp(x) * 2, x * 1.0, mx.exp(x) * 2, x]  # noqa: E731
    weights = [mx.full(x.shape, 10.0**i) for i in range(4)]
    (got,) = mx.vjp(zmlx.fuse(function), [x], weights)[1]
    close(got, mx.exp(x) * 2 * 101 + 1010)
    close(got, mx.vjp(function, [x], weights)[1][0])
    close(mx.compile(zmlx.fuse(function))(x), function(x))
    close(mx.vmap(zmlx.fuse(function))(x), function(x))


def test_an_unused_output_does_not_spoil_a_gradient():
    """d log(x) at 0 is infinite, but nobody asks for it: plain MLX gives 2."""
    fused = zmlx.fuse(lambda x: (x * 2 + 1, mx.log(x) + 1))
    got = mx.grad(lambda x: fused(x)[0].sum())(mx.array([0.0, 1.0]))
    close(got, mx.array([2.0, 2.0]))


def test_an_input_without_tangent_does_not_spoil_the_others():
    fused = zmlx.fuse(lambda x, y: x * 2 + mx.log(y))
    zero = mx.array([0.0, 1.0])
    (got,) = mx.jvp(lambda x: fused(x, zero), [zero], [mx.ones(2)])[1]
    close(got, mx.array([2.0, 2.0]))


def test_a_gradient_through_two_regions_and_a_matmul():
    w1, w2 = array(6, 6, 8), array(7, 8, 3)

    def network(x, w1, w2):
        return nn.silu(mx.tanh(x * 0.5) @ w1 + 0.1) @ w2 * 2 + 1

    both(network, x, w1, w2, rtol=1e-4, atol=1e-5)
    compiled = mx.compile(lambda *a: gradient(zmlx.fuse(network), *a))
    close(compiled(x, w1, w2), gradient(network, x, w1, w2), rtol=1e-4, atol=1e-5)


def test_gradients_over_layouts_need_no_other_kernel():
    fused = zmlx.fuse(lambda a, b: mx.sin(a) * b)
    loss = lambda f: lambda a, b: (f(a.T, b[::-1]) * 2).sum()  # noqa: E731
    pull = lambda f: mx.grad(loss(f), argnums=(0, 1))  # noqa: E731
    a, b = array(8, 6, 4), y
    close(pull(fused)(a, b), pull(lambda a, b: mx.sin(a) * b)(a, b))
    with counting() as counts:
        pull(fused)(array(9, 60, 40), array(10, 40, 60))
    assert counts.taken() == (0, 0, 0)


def test_numerics_mlx_in_gradients():
    """Same rounding as the plain gradient in its last step; each op rounds."""
    half = [a.astype(mx.float16) for a in (x, y)]
    function = lambda x, y: mx.sin(x) * y + x  # noqa: E731
    got = gradient(zmlx.fuse(function, numerics="mlx"), *half)
    close(got, gradient(function, *half), rtol=2e-3, atol=2e-3)
