"""Random programs that make, alias and write arrays, against plain MLX: values and gradients."""

from __future__ import annotations

import copy
import operator
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracing import replay, replayed, same, traced

from zmlx.trace.recipe import Given, rebuild

NAMES = ["a", "b", "c", "d"]  # a variable, in a list, in a dict, an attribute
CAPTURED = mx.array([[0.5, -1.5, 2.0, 0.25]] * 3)
MAKERS = [
    lambda: mx.zeros((3, 4)),
    lambda: mx.ones((3, 4)),
    lambda: mx.full((3, 4), 0.5),
    lambda: mx.eye(3, 4),
    lambda: mx.arange(12.0).reshape(3, 4),
    lambda: mx.array([[1.0, 2, 3, 4]] * 3),
    lambda: mx.zeros_like(CAPTURED),
    lambda: CAPTURED * 2,
    lambda: CAPTURED[:, ::-1],
    lambda: mx.array(CAPTURED),
    lambda: mx.broadcast_to(mx.array(1.5), (3, 4)),
]
COPIES = [
    lambda x: +x,
    lambda x: mx.array(x),
    copy.copy,
    lambda x: x[...],
    lambda x: x.astype(x.dtype),
]
FLOAT = ["iadd", "isub", "imul", "itruediv"]
INTEGER = ["iadd", "isub", "imul", "iand", "ior", "ixor"]
INDICES = [
    0, -1, slice(1, 3), slice(None, None, -1), (slice(None), slice(None, None, -2)), (0, 1),
    (Ellipsis, slice(0, 2)), (slice(None, None, 2), None), [0, 2], Ellipsis,
    (slice(None), 2),
]  # fmt: skip
AT = ["add", "subtract", "multiply", "maximum", "minimum"]


class Holder:
    """Four arrays, each held in its own way."""

    def __init__(self, arrays):
        self.variable = arrays[0]
        self.list = [arrays[1]]
        self.dict = {"c": arrays[2]}
        self.object = SimpleNamespace(d=arrays[3])

    def get(self, name):
        places = {"a": self.variable, "b": self.list[0], "c": self.dict["c"], "d": self.object.d}
        return places[name]

    def put(self, name, value):
        if name == "a":
            self.variable = value
        elif name == "b":
            self.list[0] = value
        elif name == "c":
            self.dict["c"] = value
        else:
            self.object.d = value

    def update(self, name, op, value):
        """The operator on the place itself, as Python runs `place op= value`."""
        function = getattr(operator, op)
        self.put(name, function(self.get(name), value))


def index_of(index):
    return mx.array(index) if isinstance(index, list) else index


def helper(array, op, value):
    array = getattr(operator, op)(array, value)  # the caller's name sees it, and gets nothing


def step(held, kind, name, other, choice, number):
    x, y = held.get(name), held.get(other)
    if kind == "make":
        held.put(name, MAKERS[choice % len(MAKERS)]().astype(x.dtype))
    elif kind == "alias":
        held.put(name, y)
    elif kind == "copy":
        held.put(name, COPIES[choice % len(COPIES)](y))
    elif kind in ("operator", "helper", "number"):
        floats = x.dtype == mx.float32
        op = (FLOAT if floats else INTEGER)[choice % (4 if floats else 6)]
        value = y if floats else y.astype(mx.int32)
        value = (number if floats else int(number)) if kind == "number" else value
        value = 2 + mx.abs(value) if op == "itruediv" and kind != "number" else value
        helper(x, op, value) if kind == "helper" else held.update(name, op, value)
    elif kind == "item":
        index = index_of(INDICES[choice % len(INDICES)])
        x[index] = y[index] * 0.5 if choice % 2 else number
    elif kind == "item operator":
        index = index_of(INDICES[choice % len(INDICES)])
        x[index] += y[index]
    elif kind == "at":
        index = index_of(INDICES[:8][choice % 8])
        held.put(name, getattr(x.at[index], AT[choice % 5])(y[index].astype(x.dtype)))
    elif kind == "mask":
        x[mx.array([True, False, True])] = number
    elif kind == "row":
        row = x[choice % 3]
        row *= number
        x[(choice + 1) % 3] = row
    elif kind == "compute":
        held.put(name, x * 0.5 + mx.sin(y))
    elif kind == "type":
        x[...] = y.astype([mx.float32, mx.int32][choice % 2])


def program(steps):
    def fn(x, y):
        held = Holder([x, y, mx.zeros((3, 4)), x * 1])
        for one in steps:
            step(held, *one)
        return [held.get(name) for name in NAMES]

    return fn


KINDS = ["make", "alias", "copy", "operator", "helper", "number", "item", "item operator", "at",
         "mask", "row", "compute", "type"]  # fmt: skip
STEP = st.tuples(
    st.sampled_from(KINDS), st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(0, 59),
    st.sampled_from([0.5, -1.5, 2.0, 3.0]),
)  # fmt: skip
X = mx.array(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
Y = mx.array(np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32))


def weighed(results):
    return sum((r * mx.cos(mx.arange(12.0).reshape(3, 4) + i)).sum() for i, r in enumerate(results))


def check(steps):
    fn = program(steps)
    with np.errstate(all="ignore"):
        found = traced(fn, X, Y)
        same(replayed(found, [X, Y]), fn(mx.array(X), mx.array(Y)))
    graph, result = found.graph, found.result

    def loss(x, y):
        return weighed(rebuild(result, Given(replay(graph, [x, y]), ())))

    want = mx.grad(lambda x, y: weighed(fn(mx.array(x), mx.array(y))), argnums=(0, 1))(X, Y)
    got = mx.grad(loss, argnums=(0, 1))(X, Y)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=2e-5, atol=1e-5, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, min_size=2, max_size=14))
def test_random_programs(steps):
    check(steps)


@pytest.mark.exhaustive
@given(st.lists(STEP, min_size=2, max_size=30))
def test_many_random_programs(steps):
    check(steps)
