"""Python that MLX runs inside a fused function finds its surroundings as they were at its place.

A gradient's or mx.vmap's function runs at every call: loops, closures, lists and objects around it
must then hold what they held when the traced function called it.
"""

from __future__ import annotations

import types
from collections import OrderedDict, deque
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import zmlx


def shown(tree: Any) -> Any:
    """A tree with plain values only; those of these functions are exact."""
    if isinstance(tree, mx.array):
        return str(tree.dtype), tree.tolist()
    if isinstance(tree, dict):
        return {key: shown(value) for key, value in tree.items()}
    if isinstance(tree, types.SimpleNamespace):
        return shown(vars(tree))
    return list(map(shown, tree)) if isinstance(tree, (list, tuple, deque)) else tree


def loop(x, given):
    found = [mx.grad(lambda z: (z * z * i).sum())(x) for i in range(1, 3)]  # noqa: B023
    for i in range(3):
        found.append(mx.vmap(lambda z: z * i)(x))  # noqa: B023
    return found


def rebound(x, given):
    factor, power, t = 2, x * 1, (x, 3)
    one = mx.grad(lambda z: (z * z * factor * power * t[0] * t[1]).sum())(x)
    factor, power, t = 5, x * 7, (x * 3, 4)
    return one, mx.grad(lambda z: (z * factor).sum())(x), power, t


def deleted(x, given):
    factor = x * 2
    slope = mx.grad(lambda z: (z * z * factor).sum())(x)  # noqa: F821
    del factor
    return slope


def containers(x, given):
    d, rows, q, s = {"a": x, "n": 1}, [x, 2], deque([x * 3], maxlen=2), {1}
    loss = lambda z: (z * z * d["a"] * d["n"] * rows[-1] * q[-1] * len(s)).sum()  # noqa: E731
    slopes = [mx.grad(loss)(x)]
    d["n"], d["a"] = 2, x * 5
    rows.insert(0, x * 9)
    rows.append(7)
    slopes.append(mx.grad(loss)(x))
    q.append(x * 2)
    s.add(2)
    rows.pop(0)
    slopes.append(mx.grad(loss)(x))
    d.clear(), rows.clear(), q.clear()
    return slopes


def objects(x, given):
    class Model:
        def __init__(self) -> None:
            self.k, self.n = x, 1

        def loss(self, z):
            return (z * z * self.k * self.n).sum()

    model, settings = Model(), types.SimpleNamespace(rate=2)
    one = mx.grad(model.loss)(x) * mx.grad(lambda z: (z * settings.rate).sum())(x)
    model.n, model.k, settings.rate = 3, x * 2, 7
    layer = nn.Linear(2, 2)
    layer.weight, layer.bias = mx.ones((2, 2)) * x, x
    _, slopes = nn.value_and_grad(layer, lambda: layer(x).sum())()
    layer.update({"weight": layer.weight - slopes["weight"]})
    return one, mx.grad(model.loss)(x), nn.value_and_grad(layer, lambda: layer(x).sum())()


def passed(x, given):
    found = []
    for _ in range(2):
        loss = lambda z: (z * z * given["n"] * given["l"][-1] * len(given["l"])).sum()  # noqa: E731
        found.append(mx.grad(loss)(x))
        given["n"] += 1
        given["l"].append(x * 2)
        given["o"].n += given["n"]
        found.append(mx.grad(lambda z: (z * given["o"].n * given["o"].w).sum())(x))
    given["l"].pop(0)
    given["o"].w, given["new"] = given["o"].w + x, types.SimpleNamespace(w=x)
    return found, mx.grad(lambda z: (z * x).sum())(x)


def written_inside(x, given):
    notes: dict[str, Any] = {"n": 0, "rows": []}
    count = 0

    def loss(z):
        nonlocal count
        count += 1
        notes["n"] += 1
        notes["last"] = mx.stop_gradient(x * notes["n"])
        notes["rows"].append(mx.ones(2) * count)
        given["l"].append(mx.ones(2) * count)
        given["seen"] = mx.zeros(2)
        return (z * z * count * len(notes["rows"])).sum()

    slopes = mx.grad(loss)(x), mx.grad(loss)(x)
    return slopes, count, notes, len(given["l"]), given["l"][-1], given["seen"]


def in_place(x, given):
    before = mx.abs(given["o"].w) * 2 - 1  # a region that nothing waits for
    made = mx.abs(x) * 2

    def loss(z):
        w = given["o"].w
        w += 7
        given["l"][0][0] = 5
        made[1] = 3
        return (z * z * w * given["l"][0] * made).sum()

    slopes = mx.grad(loss)(x), mx.vmap(lambda z: loss(z) * z)(x)
    return before, slopes, mx.abs(given["o"].w) * 2 + 1, made + 1


def in_place_by_two_names(x, given):
    given["l"][0] = given["o"].w

    def loss(z):
        given["o"].w *= 2
        return (z * z * given["l"][0]).sum()

    return mx.grad(loss)(x), given["l"][0] + 1, given["o"].w - 1


@zmlx.fuse(numerics="mlx")
def rounded(given, x, y):
    given["l"].append(x * 2)
    given["o"].w = given["o"].w + x
    y += x
    return given["o"].w * 2 + given["l"][0]


def nested(x, given):
    y = mx.abs(x) * 3
    one = rounded(given, x, y)
    return one, rounded(given, one, y), y * 2 + 1, len(given["l"]), given["l"][-1]


@pytest.fixture(autouse=True)
def as_ops(on_cpu, monkeypatch) -> None:
    """Regions run as MLX ops: what is asked here is asked before any kernel."""
    monkeypatch.setenv("ZMLX_DEVICE", "replay")


pytestmark = pytest.mark.filterwarnings("ignore:.*fused regions run as MLX ops")
FUNCTIONS = [
    loop, rebound, deleted, containers, objects, passed, written_inside,
    in_place, in_place_by_two_names, nested,
]  # fmt: skip


def arguments() -> dict[str, Any]:
    thing = types.SimpleNamespace(w=mx.array([3.0, 1.0]), n=1)
    return OrderedDict(l=[mx.array([1.0, 2.0]), mx.array([2.0, 2.0])], n=1, o=thing)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("copied", [True, False], ids=["a dict", "an object"])
def test_each_call_finds_what_was_there(function, copied):
    fused = zmlx.fuse(function)
    mine, plains = arguments(), arguments()
    if copied:
        mine, plains = dict(mine), dict(plains)
    for step in range(3):
        x = mx.array([1.0 + step, 2.0])
        assert shown(fused(x, mine)) == shown(function(x, plains)), step
        assert shown(mine) == shown(plains), step


def test_what_a_gradient_counts_can_be_read():
    class Counter:
        calls, seen = 0, None

    def loss(z, counter):
        counter.calls += 1
        return (z * z * counter.calls).sum()

    def counted(x, counter):
        return mx.grad(lambda z: loss(z, counter))(x), mx.grad(lambda z: loss(z, counter))(x)

    mine, plains, fused = Counter(), Counter(), zmlx.fuse(counted)
    for _ in range(3):  # each gradient counts on, and so does the caller's counter
        assert shown(fused(mx.ones(2), mine)) == shown(counted(mx.ones(2), plains))
        assert mine.calls == plains.calls

    def read(x, counter):
        slope = mx.grad(lambda z: loss(z, counter))(x)
        return slope * counter.calls

    def returned(x, counter):
        return mx.grad(lambda z: loss(z, counter))(x), mx.array(counter.calls)

    for fn in (read, returned):  # the gradient has counted in the same trace
        mine, plains, fused = Counter(), Counter(), zmlx.fuse(fn)
        for _ in range(3):
            assert shown(fused(mx.ones(2), mine)) == shown(fn(mx.ones(2), plains))
            assert mine.calls == plains.calls


def test_what_is_older_than_the_trace_is_written_once_a_call():
    def counting(log):
        def counted(x):
            def loss(z):
                log.append(1)
                return (z * z * len(log)).sum()

            return mx.grad(loss)(x), mx.grad(loss)(x)

        return counted

    logs: tuple[list[int], list[int]] = [], []
    plain, fused = counting(logs[0]), zmlx.fuse(counting(logs[1]))
    for _ in range(3):
        assert shown(fused(mx.ones(2))) == shown(plain(mx.ones(2)))
        assert logs[0] == logs[1]


def test_a_function_that_runs_nothing():
    count = zmlx.fuse(lambda x, given: min(given["n"], 2))
    for n in (1, 5, 7):
        assert count(mx.ones(2), {"n": n}) == min(n, 2)
