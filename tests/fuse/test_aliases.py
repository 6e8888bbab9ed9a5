"""Results are new arrays: writing into one changes no argument, no other result, no later call."""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import zmlx

pytestmark = pytest.mark.usefixtures("on_cpu")

C = mx.array([5.0, 6.0])  # a closure's
SAME = {
    "times one": lambda x: x * 1,
    "times 1.0": lambda x: x * 1.0,
    "divided": lambda x: x / 1,
    "plus": lambda x: +x,
    "minus minus": lambda x: mx.negative(-x),
    "cast": lambda x: x.astype(mx.float32),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "itself": lambda x: x,
    "all of it": lambda x: x[...],
    "reshaped": lambda x: x.reshape(x.shape),
    "stopped": mx.stop_gradient,
    "contiguous": lambda x: mx.contiguous(x),
    "broadcast": lambda x: mx.broadcast_to(x, (2,)),
    "constant": lambda x: mx.zeros(2),
    "made of a constant": lambda x: mx.full((2,), 3.0) * 2,
    "an array of numbers": lambda x: mx.array([1.0, 2.0]),
    "of a closure": lambda x: C,
    "from a closure": lambda x: C * 2,
    "in a tree": lambda x: {"a": [x * 1], "b": (x.astype(mx.float32), mx.ones(2))},
    "twice": lambda x: (x * 2, copy.copy(x * 2)),
    "one value twice": lambda x: (lambda y: (y, +y, copy.copy(y)))(x * 2),
    "the argument and more": lambda x: (x, x * 1, x * 2),
}


def arrays(tree: Any) -> list[mx.array]:
    return [leaf for _, leaf in nn.utils.tree_flatten([tree])]


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
def test_writing_into_a_result_changes_nothing_else(name, numerics):
    fused = zmlx.fuse(SAME[name], numerics=numerics)
    for write in (lambda a: a.__isub__(100.0), lambda a: a.__setitem__(0, -7.0)):
        x = mx.array([1.0, 2.0])
        want = [np.array(a) for a in arrays(SAME[name](x))]
        count = len(arrays(fused(x)))
        for index in range(count):
            results = arrays(fused(x))
            write(results[index])
            assert x.tolist() == [1.0, 2.0] and C.tolist() == [5.0, 6.0]
            for other in range(count):
                if other != index:
                    assert np.array_equal(results[other], want[other]), (index, other)
            for a, b in zip(arrays(fused(x)), want, strict=True):
                assert np.array_equal(a, b)
        assert np.array_equal(mx.grad(lambda x: arrays(fused(x))[0].sum())(x),
                              mx.grad(lambda x: arrays(SAME[name](x))[0].sum())(x))  # fmt: skip


def test_a_copy_of_parameters_is_a_copy():
    average = zmlx.fuse(lambda p: {k: v * 1.0 for k, v in p.items()})
    p = {"w": mx.ones(2)}
    e = average(p)
    e["w"] *= 0.9
    assert p["w"].tolist() == [1.0, 1.0]


def test_state_that_is_reset_is_new_each_time():
    state = {"acc": mx.ones(2)}

    @zmlx.fuse(inputs=state, outputs=state)
    def reset(x):
        state["acc"] = mx.zeros(2)
        state["last"] = x * 1
        return x + 1

    x = mx.array([1.0, 2.0])
    for _ in range(3):
        reset(x)
        state["acc"] += 5
        state["last"] += 5
        assert state["acc"].tolist() == [5.0, 5.0] and x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("again", [lambda v: +v, copy.copy, lambda v: v * 1, lambda v: v])
def test_every_cotangent_counts(again):
    def fn(a, b):
        v = mx.sin(a) * b
        return v, again(v)

    x, y = mx.array(0.3), mx.array(0.7)
    seeds = [mx.array(1.0), mx.array(2.0)]
    got = mx.vjp(lambda a, b: list(zmlx.fuse(fn)(a, b)), [x, y], seeds)[1]
    want = mx.grad(lambda a, b: 3 * mx.sin(a) * b, argnums=(0, 1))(x, y)
    once = mx.vjp(lambda a, b: list(fn(a, b)), [x, y], seeds)[1]  # one array object, one cotangent
    for g, w, o in zip(got, want, once, strict=True):
        assert mx.allclose(g, w) or (again(x) is x and mx.allclose(g, o))


def test_static_results_that_can_be_written_are_copies():
    @zmlx.fuse
    def made(x):
        return x + 1, {1, 2}, bytearray(b"ab"), np.ones(2), ["a"], {"k": "v"}

    first = made(C)
    first[1].add(3), first[2].extend(b"c"), first[4].append("b"), first[5].update(k=1)
    first[3][0] = 7
    again = made(C)
    assert again[1] == {1, 2} and again[2] == b"ab" and again[3].tolist() == [1, 1]
    assert again[4] == ["a"] and again[5] == {"k": "v"}


@pytest.mark.parametrize("first", [True, False])
def test_python_may_ask_whether_two_arrays_are_one(first):
    def attend(query, key, given):
        query = query * 2 if query is key else query * 3
        return query - 1 if given["w"] is given["tied"] else query + 1

    fused, w = zmlx.fuse(attend), mx.ones(2)
    tied, loose = {"w": w, "tied": w}, {"w": w, "tied": mx.ones(2)}
    x, y = mx.array([1.0, 2.0]), mx.array([3.0, 4.0])
    calls = [(x, x, tied), (x, y, tied), (x, y, loose), (x, x, loose), (w, x, tied), (w, w, tied)]
    for args in calls if first else calls[::-1]:
        assert mx.array_equal(fused(*args), attend(*args))
    for a, b in [(x, x), (x, y)]:
        got, want = (mx.grad(lambda a, b, f=f: f(a, b, tied).sum(), argnums=(0, 1))(a, b)
                     for f in (fused, attend))  # fmt: skip
        assert all(map(mx.array_equal, got, want))
    misses = fused.cache_info().misses
    for scale in (2.0, 3.0):
        a = x * scale
        fused(a, a, tied), fused(a, y * scale, tied)
    assert fused.cache_info().misses == misses


def test_a_container_of_the_call_that_is_stored_elsewhere_stays_the_same_one() -> None:
    @zmlx.fuse
    def step(x: mx.array, state: dict[str, Any]) -> mx.array:
        state["again"] = state["inner"]
        state["all"] = [state["items"], state["items"]]
        return x + state["inner"]["k"]

    state: dict[str, Any] = {"inner": {"k": mx.array(1.0)}, "items": [mx.array(2.0)]}
    for k in (1.0, 5.0, 7.0):
        assert step(mx.array(1.0), state).item() == 1 + k
        assert state["again"] is state["inner"]
        assert state["all"][0] is state["all"][1] is state["items"]
        state["again"]["k"] = mx.array(k + (4 if k == 1 else 2))
