"""Composition: MLX's transformations around fused functions, nesting, closures, trees."""

from __future__ import annotations

from collections import namedtuple
from functools import partial
from typing import Any

import mlx.core as mx
import pytest
from fuse_cases import array, close, equal, kernels, numpy, primitives, regions_of

import zmlx

pytestmark = pytest.mark.usefixtures("default_device")

x, y = array(0, 4, 6), array(1, 4, 6)
row = array(2, 6)


def f(x, r):
    return mx.exp(x * 0.3) * mx.sin(r) + x * r


FUSED = zmlx.fuse(f)


def loss(g):
    return lambda x, r: (g(x, r) ** 2).mean()


TRANSFORMS: dict[str, Any] = {
    "grad": lambda g: mx.grad(loss(g))(x, row),
    "grads": lambda g: mx.grad(loss(g), argnums=(0, 1))(x, row),
    "value_and_grad": lambda g: mx.value_and_grad(loss(g))(x, row),
    "vjp": lambda g: mx.vjp(g, [x, row], [y]),
    "jvp": lambda g: mx.jvp(g, [x, row], [y, row]),
    "vmap": lambda g: mx.vmap(g, in_axes=(0, None))(x, row),
    "vmap of both": lambda g: mx.vmap(g)(x, y),
    "vmap of the last axis": lambda g: mx.vmap(g, in_axes=(1, 0), out_axes=1)(x, row),
    "vmap twice": lambda g: mx.vmap(mx.vmap(g, in_axes=(0, None)), in_axes=(None, 0))(x, row),
    "checkpoint": lambda g: mx.checkpoint(g)(x, row),
    "grad of checkpoint": lambda g: mx.grad(loss(mx.checkpoint(g)), argnums=(0, 1))(x, row),
    "compile": lambda g: mx.compile(g)(x, row),
    "compile of grad": lambda g: mx.compile(mx.grad(loss(g), argnums=(0, 1)))(x, row),
    "grad of compile": lambda g: mx.grad(loss(mx.compile(g)), argnums=(0, 1))(x, row),
    "compile of vmap of grad": lambda g: mx.compile(
        mx.vmap(mx.grad(lambda a, r: g(a, r).sum()), in_axes=(0, None)))(x, row),
    "vmap of grad": lambda g: mx.vmap(mx.grad(lambda a, r: g(a, r).sum()), (0, None))(x, row),
    "grad of vmap": lambda g: mx.grad(loss(mx.vmap(g, in_axes=(0, None))), (0, 1))(x, row),
    "vmap of jvp": lambda g: mx.vmap(lambda a: mx.jvp(lambda b: g(b, row), [a], [a])[1][0])(x),
    "jvp of grad": lambda g: mx.jvp(mx.grad(loss(g)), [x, row], [y, row])[1],
    "grad of jvp": lambda g: mx.grad(
        lambda a: (mx.jvp(lambda b: g(b, row), [a], [y])[1][0] ** 2).sum())(x),
    "jvp of jvp": lambda g: mx.jvp(
        lambda a: mx.jvp(lambda b: g(b, row), [a], [y])[1][0], [x], [y])[1],
    "grad of grad": lambda g: mx.grad(lambda a: (mx.grad(loss(g))(a, row) ** 2).sum())(x),
    "compile of grad of grad": lambda g: mx.compile(
        mx.grad(lambda a: (mx.grad(loss(g))(a, row) ** 2).sum()))(x),
    "custom_function": lambda g: mx.grad(loss(mx.custom_function(g)))(x, row),
    "partial": lambda g: partial(g, r=row)(x),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transformations(name):
    close(TRANSFORMS[name](FUSED), TRANSFORMS[name](f), rtol=1e-4, atol=1e-5)


def test_compile_keeps_the_kernel():
    """mx.compile sees our primitive and leaves it alone."""
    assert len(kernels(mx.compile(FUSED)(x, row))) == 1
    gradients = mx.compile(mx.grad(lambda a: FUSED(a, row).sum()))(x)
    assert len(kernels(gradients)) == 1


@pytest.mark.usefixtures("on_cpu")  # MLX's own custom kernels on GPUs have their shapes built in
def test_compile_shapeless():
    compiled, plain = mx.compile(FUSED, shapeless=True), f
    for rows in (4, 9, 1, 0, 1000):
        a = array(3, rows, 6)
        close(compiled(a, row), plain(a, row))
    compiled = mx.compile(lambda a: FUSED(a, a), shapeless=True)
    for shape in ((3, 3), (1, 7), (5, 1), (3, 3)):
        close(compiled(array(4, *shape)), f(array(4, *shape), array(4, *shape)))


def test_compile_with_state():
    state = {"scale": mx.array(2.0)}

    @partial(mx.compile, inputs=state, outputs=state)
    def step(a):
        state["scale"] = state["scale"] * 1.5
        return FUSED(a, row) * state["scale"]

    for power in (1, 2, 3):
        close(step(x), f(x, row) * 2 * 1.5**power, rtol=1e-4)


# -- inside itself --------------------------------------------------------------------------------
def test_a_fused_function_inside_another_joins_its_region():
    inner = zmlx.fuse(lambda a: mx.exp(a * 0.5) + 1)
    outer = lambda a: inner(a) * 2 + inner(a * 2)  # noqa: E731
    assert len(regions_of(outer, x)) == 1
    plain = lambda a: (mx.exp(a * 0.5) + 1) * 2 + (mx.exp(a) + 1)  # noqa: E731
    fused = zmlx.fuse(outer)
    close(fused(x), plain(x))
    close(mx.grad(lambda a: fused(a).sum())(x), mx.grad(lambda a: plain(a).sum())(x))


def test_other_numerics_inside_stay_as_they_were_asked_for():
    half = x.astype(mx.bfloat16)
    body = lambda a: mx.exp(a * 0.5) * a + a  # noqa: E731
    exact = zmlx.fuse(body, numerics="mlx")
    outer = zmlx.fuse(lambda a: exact(a).astype(mx.float32) * 1)
    equal(outer(half), body(half).astype(mx.float32))
    got = mx.grad(lambda a: (outer(a) * 2).sum())(half)
    close(got, mx.grad(lambda a: (body(a).astype(mx.float32) * 2).sum())(half), 2e-2, 2e-2)


def test_a_fused_gradient_inside_a_fused_function():
    inner = zmlx.fuse(lambda a: mx.sin(a) * a)
    step = zmlx.fuse(lambda a: a - 0.1 * mx.grad(lambda b: inner(b).sum())(a))
    close(step(x), x - 0.1 * (mx.cos(x) * x + mx.sin(x)))


# -- closures -------------------------------------------------------------------------------------
def test_a_captured_array_that_is_replaced_is_seen():
    w = mx.array([1.0, 2.0, 3.0])
    box = {"w": w}
    fused = zmlx.fuse(lambda v: box["w"] * v + 1)  # the array on the left
    v = mx.array([1.0, 1.0, 1.0])
    close(fused(v), w + 1)
    box["w"] = w * 10
    close(fused(v), w * 10 + 1)


def test_a_captured_array_that_is_differentiated_gets_its_gradient():
    """Never silently zero, neither when traced inside the transformation nor when cached before."""
    w = array(5, 6)

    def through(make):
        return mx.grad(lambda w: (make(lambda a: mx.sin(a * w) * 2)(x)).sum())(w)

    close(through(zmlx.fuse), through(lambda g: g))
    box: dict[str, Any] = {"w": w}
    fused = zmlx.fuse(lambda a: mx.sin(a * box["w"]) * 2)

    def outer(w):
        box["w"] = w
        return fused(x).sum()

    want = mx.grad(lambda w: (mx.sin(x * w) * 2).sum())(w)
    close(mx.grad(outer)(w), want)
    close(mx.grad(outer)(w), want)
    assert fused.cache_info().currsize == 0, "a trace with a tracer inside must not be kept"
    close(mx.vmap(lambda w: fused_over(w))(array(6, 3, 6)), mx.vmap(over)(array(6, 3, 6)))


def fused_over(w):
    return zmlx.fuse(lambda a: mx.sin(a * w) * 2)(x)


def over(w):
    return mx.sin(x * w) * 2


# -- trees ----------------------------------------------------------------------------------------
Pair = namedtuple("Pair", "a b")


@pytest.mark.smoke
def test_trees_of_arguments_and_results():
    def plain(tree, *rest, scale, flag=None, **more):
        first, (second, number) = tree["list"]
        total = first * scale + second * number + rest[0].a - rest[0].b
        if flag == "twice":
            total = total * 2
        named = Pair(total, number * 2)
        return {"sum": total, "named": named, "more": sorted(more), "n": scale + 1, "none": None}

    fused = zmlx.fuse(plain)
    for flag, scale in (("twice", 2.0), (None, 3.0), ("twice", 4)):
        args = ({"list": [x, (y, 3)]}, Pair(row, x))
        keywords = {"scale": scale, "flag": flag, "extra": y}
        got, want = fused(*args, **keywords), plain(*args, **keywords)
        close([got["sum"], got["named"].a], [want["sum"], want["named"].a])
        assert type(got["named"]) is Pair and got["named"].b == want["named"].b == 6
        assert (got["more"], got["n"], got["none"]) == (want["more"], want["n"], None)
        assert type(got["n"]) is type(want["n"])


def test_what_comes_back_unchanged():
    fused = zmlx.fuse(lambda x, y: (x, y, x, 3, "text", None, [x * 2 + 1]))
    got = fused(x, y)
    assert got[3:6] == (3, "text", None)
    equal(list(got[:3]), [x, y, x])
    assert zmlx.fuse(lambda x: None)(x) is None
    assert zmlx.fuse(lambda x: 5)(x) == 5 and zmlx.fuse(lambda: [])() == []
    close(zmlx.fuse(lambda: mx.ones((2,)) * 3 + 1)(), mx.full((2,), 4.0))


def test_gradients_through_trees():
    params = {"w": [array(7, 6), array(8, 6)], "b": Pair(row, mx.array(2.0))}

    def plain(p, x):
        return (mx.tanh(x * p["w"][0] + p["b"].a) * p["w"][1] * p["b"].b).sum()

    got, want = mx.grad(zmlx.fuse(plain))(params, x), mx.grad(plain)(params, x)
    assert type(got["b"]) is type(want["b"])
    close([*got["w"], *got["b"]], [*want["w"], *want["b"]], rtol=1e-4, atol=1e-5)


def test_a_result_is_lazy():
    """Nothing is computed before it is asked for."""
    result = FUSED(x, row)
    assert primitives(result) == kernels(result)
    assert numpy(result).shape == (4, 6)
