"""Compiled and checkpointed helpers join the regions around them: values, gradients, state."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import pytest
from fuse_cases import array, close

import zmlx

pytestmark = pytest.mark.usefixtures("default_device")

x, g = array(0, 4, 6), array(1, 4, 6)


@partial(mx.compile, shapeless=True)
def swiglu(gate, x):
    return nn.silu(gate) * x


@mx.checkpoint
def squashed(x):
    return mx.tanh(x) * 0.5


def mixed(g, x):
    return squashed(swiglu(g, x) + 1) * swiglu(x, squashed(g))


def gradients(f, a, b):
    return mx.grad(lambda a, b: (f(a, b) ** 2).sum(), argnums=(0, 1))(a, b)


def test_one_region_with_its_gradients():
    fused = zmlx.fuse(mixed)
    report = zmlx.explain(mixed, g, x)
    assert len(report.regions) == 1 and not report.unfused
    for size in (4, 7):
        a, b = array(2, size, 6), array(3, size, 6)
        close(fused(a, b), mixed(a, b))
        close(gradients(fused, a, b), gradients(mixed, a, b), rtol=1e-4, atol=1e-5)
    assert fused.cache_info().misses == 1
    close(mx.vmap(fused)(x, g), mixed(x, g))


def test_a_fused_function_under_compile_under_fuse():
    inner = zmlx.fuse(lambda v: mx.sin(v) * v)
    compiled = mx.compile(lambda v: inner(v) + 1)
    fused = zmlx.fuse(lambda v: compiled(v * 2) * 3)
    close(fused(x), (mx.sin(x * 2) * (x * 2) + 1) * 3)
    assert len(zmlx.explain(fused, x).regions) == 1


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = mx.array([1.5, 0.5, 2.0])
        self.seen = mx.array(0.0)

    def __call__(self, x: mx.array) -> mx.array:
        self.seen = self.seen + 1
        return mx.tanh(x * self.weight) * self.seen


def test_a_compiled_step_with_state_inside_a_fused_one():
    """The state is named by both: three steps leave what three plain steps leave."""
    results = []
    for fuse in (lambda f, _: f, lambda f, s: zmlx.fuse(f, inputs=s, outputs=s)):
        net, rows = Counting(), array(4, 5, 3)
        state = [net.state]

        @partial(mx.compile, inputs=state, outputs=state)
        def update(x, net=net):
            y = net(x)
            net.weight = net.weight - 0.1 * y.mean(axis=0)
            return y

        step = fuse(lambda x, update=update: update(x) + 1, state)
        results.append([step(rows + i) for i in range(3)] + [net.weight, net.seen])
    close(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_a_compiled_step_whose_state_nobody_else_names():
    state = {"n": mx.array(0.0)}

    @partial(mx.compile, inputs=state, outputs=state)
    def count(x):
        state["n"] = state["n"] + 1
        return x * state["n"]

    fused = zmlx.fuse(lambda x: count(x) + 1)
    for n in (1, 2, 3):
        close(fused(x), x * n + 1)
        assert state["n"].item() == n
    report = zmlx.explain(fused, x)
    assert any("state" in item.reason for item in report.unfused)
    assert state["n"].item() == 3


def test_draws_of_a_compiled_helper_go_on():
    noisy = mx.compile(
        lambda v: v + mx.random.normal(v.shape), inputs=mx.random.state, outputs=mx.random.state
    )
    fused = zmlx.fuse(lambda v: noisy(v) * 2)
    mx.random.seed(3)
    want = [noisy(x) * 2 for _ in range(3)]
    mx.random.seed(3)
    close([fused(x) for _ in range(3)], want)


class Clipped(nn.Module):
    """Sets a weight in its call, then uses a compiled helper, as some published models do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = mx.array([1.5, -3.0, 9.0])

    def __call__(self, x: mx.array) -> mx.array:
        self.weight = mx.clip(self.weight, -1, 1)
        return swiglu(x * self.weight, x) + 1


def test_a_module_that_sets_a_weight_then_calls_a_compiled_helper():
    rows = array(6, 5, 3)
    fused, want = zmlx.fuse(Clipped()), Clipped()(rows)
    for _ in range(2):
        close(fused(rows), want)


def test_a_kernel_object_is_one_call():
    double = zmlx.metal.kernel(
        name="double", input_names=["x"], output_names=["out"],
        source="uint i = thread_position_in_grid.x; out[i] = 2 * x[i];",
    )  # fmt: skip
    fused = zmlx.fuse(lambda v: double(mx.sin(v) + 1)[0] * mx.cos(v) + 1)
    for rows in (4, 5):
        v = array(rows, rows, 6)
        close(fused(v), (mx.sin(v) + 1) * 2 * mx.cos(v) + 1)
    assert [item.label for item in zmlx.explain(fused, x).unfused] == ["double"]


def test_a_compiled_function_updates_state_that_the_fused_function_made():
    def fn(x):
        state = {"scale": x.sum() * 0 + 1, "seen": [mx.zeros(3)]}

        @partial(mx.compile, inputs=state, outputs=state)
        def step(y):
            state["scale"] = state["scale"] * 2
            state["seen"][0] = state["seen"][0] + y
            return y * state["scale"]

        return step(x) + step(x) + state["scale"], state["seen"][0]

    x = mx.array([1.0, 2.0, 3.0])
    fused = zmlx.fuse(fn)
    for given in (x, x + 1):
        for got, wanted in zip(fused(given), fn(given), strict=True):
            assert mx.allclose(got, wanted)
    slopes = [mx.grad(lambda x, f=f: f(x)[0].sum())(x) for f in (fn, fused)]
    assert mx.allclose(*slopes)


OUTER = mx.array(1.0)


def test_state_that_the_function_makes_of_what_it_captures():
    def captured(x):
        s = {"c": OUTER}

        @partial(mx.compile, inputs=s, outputs=s)
        def g(y):
            s["c"] = s["c"] * 2
            return y * s["c"]

        return g(x) + g(x) + s["c"]

    def empty(x):
        s = {}

        @partial(mx.compile, outputs=s)
        def g(y):
            s["c"] = y * 2
            return y

        return g(x) + s["c"]

    for fn in (captured, empty):
        fused = zmlx.fuse(fn)
        for at in (mx.array([1.0, 2.0]), mx.array([3.0, 4.0, 5.0])):
            assert mx.array_equal(fused(at), fn(at))
            gradients = [mx.grad(lambda x, f=f: f(x).sum())(at) for f in (fused, fn)]
            assert mx.array_equal(*gradients)


def test_compiled_functions_and_gradients_as_attributes_and_arguments():
    """They say that they are functions, and allow no weak reference."""

    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.scaled = nn.relu, mx.compile(lambda x: x * 2 + 1)
            self.table = {"l": [nn.silu, mx.grad(lambda x: (x * x).sum()), mx.vmap(mx.tanh)]}

        def __call__(self, x):
            return self.scaled(self.first(x)) + sum(f(x) for f in self.table["l"])

    held, x = Held(), mx.array([0.5, -1.0, 2.0])
    fused, given = zmlx.fuse(held), zmlx.fuse(lambda x, f: f(x) + 1)
    for replaced in (nn.relu, nn.gelu, nn.relu):
        held.first = replaced
        for _ in range(2):
            assert mx.allclose(fused(x), held(x), atol=1e-6)
            assert mx.allclose(given(x, replaced), replaced(x) + 1, atol=1e-6)
    layer = nn.TransformerEncoder(1, 8, 2, 16)
    rows = mx.random.normal((2, 5, 8))
    assert mx.allclose(zmlx.fuse(layer)(rows, None), layer(rows, None), atol=1e-5)
