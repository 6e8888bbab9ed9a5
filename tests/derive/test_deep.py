"""Graphs of thousands of ops: nothing recurses along them, from a deep stack either."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import mlx.core as mx
import pytest

import zmlx
from zmlx.derive.accumulate import derive_jvp, derive_vjp
from zmlx.derive.factor import factored
from zmlx.device.base import Device
from zmlx.fuse.plan import plan
from zmlx.fuse.replay import replay
from zmlx.fuse.simplify import simplify
from zmlx.msl.emit import emit
from zmlx.trace.exprs import Numbering, evaluate, positions
from zmlx.trace.graph import Graph

T = TypeVar("T")
Step = Callable[[mx.array, mx.array], mx.array]
MANY = 5000
x = mx.array([0.5, 0.25])


def repeated(step: Step, times: int) -> Graph:
    """A region of that many steps."""

    def f(x: mx.array) -> mx.array:
        y = x
        for _ in range(times):
            y = step(y, x)
        return y

    (region,) = zmlx.fuse(f).entry(x).program.plan.regions
    return region.graph


def from_deep(run: Callable[[], T]) -> T:
    """Called with no more than 150 frames left."""
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]

    def down(left: int) -> T:
        return run() if left <= 0 else down(left - 1)

    return down(sys.getrecursionlimit() - depth - 150)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler runs: graphs are made, derived, planned and written."""
    monkeypatch.setenv("ZMLX_DEVICE", "replay")


SUMS: dict[str, tuple[Step, int, float]] = {
    "added": (lambda y, x: y + x * 1e-4, MANY, 1 + MANY * 1e-4),
    "added to": (lambda y, x: x * 1e-4 + y, 1000, 1.1),
    "subtracted": (lambda y, x: y - x * 1e-4, 1000, 0.9),
    "negated": (lambda y, x: x * 1e-4 - y, 1000, 1.0),
}


@pytest.mark.usefixtures("replayed")
@pytest.mark.parametrize("name", SUMS)
def test_sums_of_many_terms(name: str) -> None:
    step, times, slope = SUMS[name]
    graph = repeated(step, times)

    def derived() -> list[Graph]:
        found = [factored(derive_vjp(graph).graph), factored(derive_jvp(graph).graph)]
        return [simplify(g) for g in (factored(graph), *found)]

    whole, pull, push = from_deep(derived)
    for g in (whole, pull, push):
        plan(g, 10, sums=True)
    emit(graph, exact=False)
    ones = mx.ones(2)
    value = replay(graph, [x])[0]
    assert mx.allclose(value, replay(whole, [x])[0], 1e-3).item()
    for g in (pull, push):
        assert mx.allclose(replay(g, [x, ones])[0], mx.full((2,), slope), 1e-2).item()


@pytest.mark.usefixtures("replayed")
def test_long_chains_to_the_second_order() -> None:
    graph = repeated(lambda y, x: mx.sin(y) * 1.01, 400)

    def twice() -> Graph:
        once = simplify(factored(derive_vjp(graph).graph))
        return simplify(factored(derive_vjp(once).graph))

    plan(from_deep(twice), 10, sums=True)


def test_gradients_of_long_sums_by_kernels(host_device: Device) -> None:
    def f(x: mx.array) -> mx.array:
        y = x
        for _ in range(1200):
            y = y + x * 0.001
        return mx.sin(y)

    got = from_deep(lambda: mx.grad(lambda a: zmlx.fuse(f)(a).sum())(x))
    assert mx.allclose(got, 2.2 * mx.cos(2.2 * x), 1e-4, 1e-4).item()


# -- numbers --------------------------------------------------------------------------------------
def test_a_number_that_a_loop_computes(host_device: Device) -> None:
    """Each round reads the number twice: as a tree it would have 2^1000 leaves."""

    def f(x: mx.array, s: float) -> tuple[mx.array, float]:
        root = s
        for _ in range(1000):
            root = 0.5 * (root + s / root)
        for _ in range(3):
            x = x * root
        return x, root

    fused = zmlx.fuse(f)
    for s in (2.0, 9.0):
        (got, root), (wanted, plain) = fused(x, s), f(x, s)
        assert root == plain and mx.allclose(got, wanted, 1e-6).item()
    assert fused.cache_info().misses == 1


def test_expressions_of_numbers_are_told_apart() -> None:
    numbering = Numbering()
    one, alike = ("add", ("arg", 0), ("value", 1)), ("add", ("arg", 0), ("value", 1))
    assert numbering.of(one) == numbering.of(alike)
    others = [("add", ("arg", 0), ("value", v)) for v in (1.0, True, -0.0, 0.0)]
    others += [("add", ("arg", 1), ("value", 1)), ("sub", ("arg", 0), ("value", 1)), ("arg", 0)]
    assert len({numbering.of(e) for e in (one, *others)}) == 1 + len(others)
    assert positions(("mul", one, ("arg", 3))) == {0, 3}
    assert evaluate(("mul", one, ("neg", one)), [4]) == -25
