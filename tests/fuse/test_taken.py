"""Gradients that a fused function takes: their graph is spliced into its own."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from fuse_cases import array, close, kernels, natives_of

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")

x, t = array(1, 6, 65, scale=2.0), mx.array([0, 64, 3, 3, 17, 1])
weights = {"w": array(2, 65), "b": [array(3, 65)]}


def entropy(x, t):
    return nn.losses.cross_entropy(x, t, reduction="mean")


def step(x, t):
    loss, gradient = mx.value_and_grad(entropy)(x * 2, t)
    return loss, x - 0.1 * gradient


def model(p, x, scale=1.0):
    h = mx.tanh(x * p["w"] + p["b"][0]) * scale
    return mx.mean(h * h), {"h": h}


def trees(p, x):
    (loss, aux), (dp, dx) = mx.value_and_grad(model, argnums=(0, 1))(p, x, 2.0)
    return loss, aux["h"], dp["w"] + p["w"], dp["b"][0], dx


def by_name(p, x):
    found = mx.grad(lambda **given: model(given["p"], given["x"])[0], argnums=[], argnames="p")
    return found(p=p, x=x)[1]["p"]


def second(p, x):
    inner = lambda y: (mx.grad(lambda z: mx.sum(mx.sin(z) * z))(y) ** 2).sum()  # noqa: E731
    return mx.grad(inner)(x)


FORMS = {
    "step": (step, (x, t)),
    "trees": (trees, (weights, x)),
    "by_name": (by_name, (weights, x)),
    "second": (second, (weights, x)),
    "value_and_grad": (mx.value_and_grad(entropy), (x, t)),
    "grad of fused": (mx.grad(zmlx.fuse(entropy)), (x, t)),
}


@pytest.mark.parametrize("name", FORMS)
def test_values(name):
    function, arguments = FORMS[name]
    fused = zmlx.fuse(function)
    want = function(*arguments)
    for _ in range(3):
        close(fused(*arguments), want, 1e-4, 1e-5)


def test_a_loss_its_gradient_and_the_step_are_one_kernel():
    fused = zmlx.fuse(step)
    for _ in range(2):
        rows = [name for name in kernels(*fused(x, t)) if "rows" in name]
        assert len(rows) == 1
    assert "[value_and_grad]" not in natives_of(step, x, t)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves(dtype):
    half = x.astype(getattr(mx, dtype))
    loss, after = zmlx.fuse(step)(half, t)
    want = step(half.astype(mx.float32), t)
    assert loss.dtype == after.dtype == half.dtype
    close([loss.astype(mx.float32), after.astype(mx.float32)], want, 2e-2, 2e-2)


def test_other_transformations():
    fused = zmlx.fuse(step)

    def forms(f):
        yield mx.vmap(lambda x: f(x, t))(mx.stack([x, x * 0.5]))
        yield mx.grad(lambda x: (f(x, t)[1] ** 2).sum() + f(x, t)[0])(x)
        yield mx.jvp(lambda x: f(x, t)[1], [x], [x])[1]
        yield mx.compile(f)(x, t)

    for mine, theirs in zip(forms(fused), forms(step), strict=True):
        close(mine, theirs, 2e-4, 2e-5)


def test_new_sizes():
    fused = zmlx.fuse(step)
    for rows, classes in ((6, 65), (2, 40), (1, 9)):
        given = array(4, rows, classes), mx.zeros((rows,), mx.int32)
        close(fused(*given), step(*given))


def test_what_is_not_finite():
    rows = np.array(x)
    rows[1, 3], rows[2, 4], rows[3] = np.nan, np.inf, -np.inf
    close(zmlx.fuse(step)(mx.array(rows), t), step(mx.array(rows), t))


def test_exact_numerics_keep_the_call():
    fused = zmlx.fuse(step, numerics="mlx")
    got, want = fused(x, t), step(x, t)
    assert all(mx.array_equal(a, b).item() for a, b in zip(got, want, strict=True))


# -- what stays a call ----------------------------------------------------------------------------
scale = mx.array(3.0)



def closure(x, t):
    return mx.grad(lambda y: entropy(y, t))(x)


def captures(x, t):
    return mx.grad(lambda y: (y * scale).sum() ** 2)(x)


def products(x, t):
    return mx.grad(lambda y: (y @ y.T).sum())(x)



@pytest.mark.parametrize("function", [closure, captures, products])
def test_what_cannot_be_spliced_is_called(function):
    close(zmlx.fuse(function)(x, t), function(x, t), 1e-4, 1e-5)


def test_errors_are_those_of_mlx():
    for function in (
        lambda x: mx.grad(lambda y: y * 2)(x),
        lambda x: mx.grad(lambda y: "text")(x),
        lambda x: mx.grad(lambda y: y.sum(), argnums=1)(x),
        lambda x: mx.grad(lambda y, z: y.sum(), argnums=1)(x, "text"),
    ):
        with pytest.raises(ValueError) as want:
            function(x)
        with pytest.raises(ValueError) as got:
            zmlx.fuse(function)(x)
        assert str(got.value) == str(want.value)
