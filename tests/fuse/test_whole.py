"""What a region and later readers read: the region's gradient adds up what comes back from both."""

from __future__ import annotations

import mlx.core as mx
import pytest
from fuse_cases import array, close, equal, kernels, primitives

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")

x, w, a, b = array(0, 2, 4, 8), array(1, 8), array(2, 8, 16, scale=0.3), array(3, 16, 8, scale=0.3)



def norm(x, w):
    return x * mx.rsqrt(mx.sum(x * x, -1, keepdims=True) / x.shape[-1] + 1e-5) * w


def residual(x, w, a, b):
    return x + mx.tanh(norm(x, w) @ a) @ b


def elementwise(x, w, a, b):
    return mx.sin(mx.sin(x) * w @ a) @ b * x


def twice(x, w, a, b):
    h = residual(x, w, a, b)
    return residual(h, w, a, b) - h @ a @ b


def squares(x, w, a, b):
    return mx.exp(-mx.abs(x) * 2) @ a @ b - x * x


CASES = {
    "residual": residual, "elementwise": elementwise, "twice": twice, "squares": squares,
}  # fmt: skip


def gradient(function):
    loss = lambda *arrays: (function(*arrays) ** 2).sum()  # noqa: E731
    return mx.grad(loss, argnums=(0, 1, 2, 3))


def pulled(function):
    return mx.vjp(function, [x, w, a, b], [array(9, 2, 4, 8)])[1]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    function, fused = CASES[name], zmlx.fuse(CASES[name])
    close(fused(x, w, a, b), function(x, w, a, b))
    mine, theirs = pulled(fused), pulled(function)
    assert "Whole" not in [*primitives(*mine), *primitives(fused(x, w, a, b))]
    assert primitives(*theirs).count("Add") > primitives(*mine).count("Add") == 0
    close(mine, theirs, 1e-4, 1e-5)
    close(gradient(fused)(x, w, a, b), gradient(function)(x, w, a, b), 1e-4, 1e-5)


def test_between_two_calls_of_a_gradient_at_most_one_kernel_runs():
    """Forward a norm and a tanh, backward both; the residuals are added in them."""
    got = pulled(zmlx.fuse(residual))
    assert len(kernels(*got)) == 4


@pytest.mark.parametrize("name", ["residual", "twice"])
def test_other_transformations(name):
    function, fused = CASES[name], zmlx.fuse(CASES[name])

    def second(f):
        inner = lambda x, a: [g for g in gradient(f)(x, w, a, b)][0]  # noqa: E731
        return mx.grad(lambda x, a: (inner(x, a) ** 2).sum(), argnums=(0, 1))(x, a)

    close(second(fused), second(function), 1e-3, 1e-4)
    at = lambda f: lambda x: gradient(f)(x, w, a, b)[0]  # noqa: E731
    for form in (at, lambda f: lambda x: f(x, w, a, b)):
        mine, theirs = form(fused), form(function)
        close(mx.jvp(mine, [x], [x + 1])[1], mx.jvp(theirs, [x], [x + 1])[1], 1e-3, 1e-4)
        batch = mx.stack([x, x * 0.5])
        close(mx.vmap(mine)(batch), mx.vmap(theirs)(batch), 1e-4, 1e-4)
        close(mx.compile(mine)(x), theirs(x), 1e-4, 1e-4)
    checked = lambda f: gradient(mx.checkpoint(f))(x, w, a, b)  # noqa: E731
    close(checked(fused), checked(function), 1e-4, 1e-5)
    mapped = lambda f: mx.vmap(f, in_axes=(None, 0, None, None))(x, mx.stack([w, w + 1]), a, b)  # noqa: E731
    close(mapped(fused), mapped(function), 1e-4, 1e-5)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", ["residual", "twice"])
def test_shapeless_compile(name, monkeypatch):
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)  # a watched launch keeps its shapes
    function, fused = CASES[name], zmlx.fuse(CASES[name])
    at = lambda f: lambda x: gradient(f)(x, w, a, b)[0]  # noqa: E731
    for form in (at, lambda f: lambda x: f(x, w, a, b)):
        mine, theirs = form(fused), form(function)
        close(mx.compile(mine, shapeless=True)(x), theirs(x), 1e-4, 1e-4)


def test_exact_numerics_keep_every_bit():
    half = [v.astype(mx.bfloat16) for v in (x, w, a, b)]
    for function in (elementwise, squares):
        fused = zmlx.fuse(function, numerics="mlx")
        equal(fused(*half), function(*half))
        equal(gradient(fused)(*half), gradient(function)(*half))


def test_new_sizes_and_types_after_the_first_gradient():
    fused = zmlx.fuse(residual)
    loss = lambda f: mx.grad(lambda *given: f(*given).sum(), argnums=(0, 1, 2, 3))  # noqa: E731
    for rows, dtype in ((3, mx.float32), (1, mx.float32), (5, mx.float16)):
        given = [v.astype(dtype) for v in (array(rows, 2, rows, 8), w, a, b)]
        limit = 2e-2 if dtype == mx.float16 else 1e-4
        close(loss(fused)(*given), loss(residual)(*given), limit, limit)
