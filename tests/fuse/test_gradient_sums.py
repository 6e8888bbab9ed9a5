"""What several readers of a value send back: the kernel of its gradient adds it up, not MLX."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from fuse_cases import array, close, equal, kernels, numpy, primitives

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")

x = array(0, 4, 6)
weights = [array(1 + i, 6, 6, scale=0.4) for i in range(5)]
gain = array(9, 6)


def read_by(count):
    """A value that `count` matrix products read."""

    def function(x, *weights):
        h = mx.sin(x) * x
        products = [h @ w for w in weights[:count]]
        return sum(products[1:], products[0])

    return function


def normed(x, *weights):
    h = x * mx.rsqrt(mx.sum(x * x, -1, keepdims=True) / x.shape[-1] + 1e-5)
    return (h @ weights[0]) * (h @ weights[1])


def residual(x, *weights):
    h = mx.tanh(x) * 2
    y = h @ weights[0]
    return mx.sin(h + y) * 2 @ weights[1] + h


def two_results(x, *weights):
    a, b = mx.sin(x) * x, mx.cos(x) * x
    return (a @ weights[0]) * (a @ weights[1]) + b @ weights[2] + b @ weights[3]


def reshaped(x, *weights):
    h = (mx.sin(x) * x).reshape(2, 2, 6)
    return (h @ weights[0] + h @ weights[1]) * (h.reshape(4, 6).T @ h.reshape(4, 6)).sum(0)


CASES = {
    "two readers": read_by(2),
    "four readers": read_by(4),
    "five readers": read_by(5),
    "a norm": normed,
    "a residual": residual,
    "two results": two_results,
    "another shape": reshaped,
}


def loss(function):
    return lambda *arrays: (function(*arrays).astype(mx.float32) ** 2).sum() * 0.1


def gradient(function):
    return mx.grad(loss(function), argnums=tuple(range(6)))


def pulled(function, x=x):
    """The gradient of `x` for a cotangent that is there."""
    seed = array(30, *function(x, *weights).shape).astype(x.dtype)
    return mx.vjp(lambda a: function(a, *weights), [x], [seed])[1]


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    function = CASES[name]
    close(gradient(zmlx.fuse(function))(x, *weights), gradient(function)(x, *weights), 1e-4, 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_mlx_adds_up_less(name):
    """One addition for each further reader is gone, where one kernel can read what it adds."""
    function = CASES[name]
    mine, theirs = pulled(zmlx.fuse(function)), pulled(function)
    gone = {"four readers": 3, "two results": 2, "a residual": 2}.get(name, 1)
    assert primitives(*theirs).count("Add") - primitives(*mine).count("Add") >= gone
    close(mine, theirs, 1e-4, 1e-5)


def test_the_kernel_of_a_gradient_reads_what_is_added():
    for count in (2, 3, 4):
        got = pulled(zmlx.fuse(read_by(count)))
        assert len(kernels(*got)) == 1 and "Add" not in primitives(*got)


@pytest.mark.parametrize("name", ["two readers", "a norm", "another shape"])
def test_other_transformations(name):
    function = CASES[name]
    fused = zmlx.fuse(function)

    def second(f):
        return mx.grad(lambda x, w: (gradient(f)(x, w, *weights[1:])[0] ** 2).sum(), (0, 1))

    close(second(fused)(x, weights[0]), second(function)(x, weights[0]), 1e-3, 1e-4)
    tangent = lambda f: mx.jvp(lambda a: gradient(f)(a, *weights)[0], [x], [x + 1])[1]  # noqa: E731
    close(tangent(fused), tangent(function), 1e-3, 1e-4)
    batch = mx.stack([x, x * 0.5 + 1])
    mapped = lambda f: mx.vmap(lambda a: gradient(f)(a, *weights)[0])(batch)  # noqa: E731
    close(mapped(fused), mapped(function), 1e-4, 1e-5)
    checked = lambda f: gradient(mx.checkpoint(f))(x, *weights)  # noqa: E731
    close(checked(fused), checked(function), 1e-4, 1e-5)
    want = gradient(function)(x, *weights)
    close(mx.compile(gradient(fused))(x, *weights), want, 1e-4, 1e-5)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", ["two readers", "a norm", "another shape"])
def test_shapeless_compile(name, monkeypatch):
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)  # a watched launch keeps its shapes
    fused, want = zmlx.fuse(CASES[name]), gradient(CASES[name])(x, *weights)
    close(mx.compile(gradient(fused), shapeless=True)(x, *weights), want, 1e-4, 1e-5)


def test_what_is_added_may_have_been_computed_already():
    """The cotangents' sum is looked at while MLX differentiates: what is there has no summands."""
    fused = zmlx.fuse(lambda x: mx.sin(x) * x)
    seed = array(40, 4, 6) + array(41, 4, 6)
    mx.eval(seed)
    (got,) = mx.vjp(fused, [x], [seed])[1]
    close(got, (mx.cos(x) * x + mx.sin(x)) * seed)


def test_exact_numerics_add_in_the_order_of_mlx():
    half = x.astype(mx.bfloat16)
    given = [w.astype(mx.bfloat16) for w in weights]
    for function in (read_by(3), read_by(4)):
        fused = zmlx.fuse(function, numerics="mlx")
        equal(gradient(fused)(half, *given), gradient(function)(half, *given))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_sums_in_half_types_are_as_near_to_the_truth(dtype):
    given = [a.astype(dtype) for a in (x, *weights)]
    exact = gradient(read_by(4))(*[a.astype(mx.float32) for a in given])[0]
    errors = []
    for function in (zmlx.fuse(read_by(4)), read_by(4)):
        got = gradient(function)(*given)[0]
        assert got.dtype == dtype
        errors.append(np.abs(numpy(got) - numpy(exact)).max())
    assert errors[0] <= 1.05 * errors[1] + 1e-3
