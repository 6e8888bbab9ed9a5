"""What a function finds by itself (closures, globals, objects) and is something else later."""

from __future__ import annotations

import functools
import logging
import types
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zmlx

X = mx.array([1.0, 2.0, 3.0])
ARRAY, NUMBER = mx.array(1.0), 1.0


def double(x):
    return x * 2


class Held:
    scale, factor = mx.array(2.0), 2.0

    def __init__(self, **given):
        vars(self).update(given)

    def by_array(self, x):
        return x * self.w

    def by_number(self, x):
        return x * self.n

    @property
    def product(self):
        return self.w * self.n


class Inherits(Held):
    pass


@dataclass
class Config:
    k: float = 1.0
    w: Any = None


Case = tuple[Callable[[mx.array], mx.array], Callable[[float], Any]]


def set_global(name: str, value: Any) -> None:
    globals()[name] = value


def variables() -> dict[str, Case]:
    array, number, flag, whole = mx.array(1.0), 1.0, True, (mx.array(1.0), 2.0)

    def to_array(v):
        nonlocal array
        array = mx.array(v)

    def to_number(v):
        nonlocal number
        number = v

    def to_flag(v):
        nonlocal flag
        flag = not flag

    def to_tuple(v):
        nonlocal whole
        whole = (mx.array(v), v + 1)

    def inner(x):
        return (lambda z: z * array)(x) + 1

    return {
        "array": (lambda x: x * array + 1, to_array),
        "array of an inner function": (inner, to_array),
        "number": (lambda x: x * number + 1, to_number),
        "flag": (lambda x: x * 2 if flag else x * 3, to_flag),
        "tuple": (lambda x: x * whole[0] + whole[1], to_tuple),
    }


def module_names() -> dict[str, Case]:
    set_global("ARRAY", mx.array(1.0))
    set_global("NUMBER", 1.0)
    set_global("double", lambda x: x * 2)
    return {
        "global array": (lambda x: x * ARRAY, lambda v: set_global("ARRAY", mx.array(v))),
        "global number": (lambda x: x * NUMBER, lambda v: set_global("NUMBER", v)),
        "global function": (
            lambda x: double(x) + 1,
            lambda v: set_global("double", lambda x: x * v),
        ),
    }


def containers() -> dict[str, Case]:
    table, numbers = {"w": mx.array(1.0), "n": 1.0}, [1.0, 2.0]
    arrays, two = [mx.array(1.0)], [mx.array(1.0), mx.array(2.0)]
    grows, last = {"a": mx.array(1.0)}, deque([mx.array(1.0)])
    return {
        "dict": (lambda x: x * table["w"], lambda v: table.update(w=mx.array(v))),
        "number of a dict": (lambda x: x * table["n"], lambda v: table.update(n=v)),
        "values": (
            lambda x: functools.reduce(mx.multiply, table.values(), x),
            lambda v: table.update(n=v),
        ),
        "a list that grows": (
            lambda x: sum((x * w for w in arrays), x),
            lambda v: arrays.append(mx.array(v)),
        ),
        "an item": (
            lambda x: sum((x * w for w in two), x),
            lambda v: two.__setitem__(0, mx.array(v)),
        ),
        "a list of numbers": (lambda x: x * sum(numbers), lambda v: numbers.append(v)),
        "a number of a list": (lambda x: x * sum(numbers), lambda v: numbers.__setitem__(0, v)),
        "a dict that grows": (
            lambda x: sum((x * w for w in grows.values()), x),
            lambda v: grows.update({str(v): mx.array(v)}),
        ),
        "deque": (lambda x: x * last[-1], lambda v: last.append(mx.array(v))),
    }


def objects() -> dict[str, Case]:
    held, config = Held(w=mx.array(1.0), n=1.0), Config(1.0, mx.array(2.0))
    space = types.SimpleNamespace(inner=Held(n=1.0))
    Held.scale, Held.factor = mx.array(2.0), 2.0
    return {
        "attribute": (lambda x: x * held.w, lambda v: setattr(held, "w", mx.array(v))),
        "number": (lambda x: x * held.n, lambda v: setattr(held, "n", v)),
        "method": (lambda x: held.by_array(x), lambda v: setattr(held, "w", mx.array(v))),
        "number of a method": (lambda x: held.by_number(x), lambda v: setattr(held, "n", v)),
        "property": (lambda x: x * held.product, lambda v: setattr(held, "n", v)),
        "dataclass": (lambda x: x * config.k + config.w, lambda v: setattr(config, "k", v)),
        "object in an object": (
            lambda x: x * space.inner.n,
            lambda v: setattr(space.inner, "n", v),
        ),
        "another object": (
            lambda x: x * space.inner.n,
            lambda v: setattr(space, "inner", Held(n=v)),
        ),
        "class": (lambda x: x * Held.scale, lambda v: setattr(Held, "scale", mx.array(v))),
        "number of a base": (lambda x: x * Inherits.factor, lambda v: setattr(Held, "factor", v)),
        "own for the class's": (lambda x: x * held.factor, lambda v: setattr(held, "factor", v)),
    }


class Doubles:
    def __call__(self, x):
        return x * 2


class Scaled:
    rate = 1.0

    @classmethod
    def of(cls, x):
        return x * cls.rate


def exchanged() -> dict[str, Case]:
    """Functions, MLX's own and a class's, and classes, by others."""
    table, acts, held = {"act": mx.tanh, "kind": Doubles}, [mx.exp, mx.sin], Held(act=mx.exp)
    net, own = nn.Sequential(nn.Linear(3, 3)), mx.tanh
    net.act = mx.tanh

    def other(v):
        return (mx.sin, nn.softplus)[int(v) - 3]

    def to_other(v):
        nonlocal own
        own = other(v)

    return {
        "in a table": (lambda x: table["act"](x) * 2, lambda v: table.update(act=other(v))),
        "an attribute": (lambda x: held.act(x) * 2, lambda v: setattr(held, "act", other(v))),
        "a module's": (lambda x: net.act(net(x)), lambda v: setattr(net, "act", other(v))),
        "a variable": (lambda x: own(x) * 2, to_other),
        "in a list": (
            lambda x: sum((act(x) for act in acts), x),
            lambda v: acts.__setitem__(0, other(v)),
        ),
        "a class": (
            lambda x: table["kind"]()(x),
            lambda v: table.update(kind=type("Other", (), {"__call__": lambda self, x: x * v})),
        ),
        "what a class method reads": (
            lambda x: Scaled.of(x) + 1,
            lambda v: setattr(Scaled, "rate", v),
        ),
    }


def ways_to_reach() -> dict[str, Case]:
    table, chain = {"a": 1.0, "b": 2.0}, ChainMap({"a": 1.0}, {"b": 2.0})
    user, listed, held = UserDict(a=1.0), UserList([1.0]), Held(n=1.0)
    behind = {"a": 1.0}
    view, scale = types.MappingProxyType(behind), functools.partial(mx.multiply, mx.array(1.0))
    kept = functools.partial(lambda x, by: x * by["n"], by={"n": 1.0})
    return {
        "the order of a dict": (
            lambda x: functools.reduce(lambda s, v: s * x + v, table.values(), x),
            lambda v: table.update({next(iter(table)): table.pop(next(iter(table)))}),
        ),
        "ChainMap": (lambda x: x * chain["a"] + chain["b"], lambda v: chain.maps[1].update(b=v)),
        "UserDict": (lambda x: x * user["a"], lambda v: user.update(a=v)),
        "UserList": (lambda x: x * sum(listed), lambda v: listed.append(v)),
        "a view": (lambda x: x * view["a"], lambda v: behind.update(a=v)),
        "values of a view": (lambda x: x * sum(view.values()), lambda v: behind.update(a=v)),
        "a partial's": (lambda x: kept(x) + 1, lambda v: kept.keywords["by"].update(n=v)),
        "an array of a partial": (
            lambda x: scale(x) + 1,
            lambda v: scale.args[0].__iadd__(v),
        ),
        "getattr": (lambda x: x * getattr(held, "n"), lambda v: setattr(held, "n", v)),  # noqa: B009
        "vars": (lambda x: x * vars(held)["n"], lambda v: setattr(held, "n", v)),
    }


def written() -> dict[str, Case]:
    whole, table = mx.array([1.0, 2.0, 3.0]), {"w": mx.array([1.0, 2.0, 3.0])}

    def add(v):
        nonlocal whole
        whole += v

    def times(v):
        table["w"] *= v

    return {
        "in place": (lambda x: x * whole, add),
        "an item in place": (lambda x: x * whole, lambda v: whole.__setitem__(1, v)),
        "a default in place": (lambda x, w=whole: x * w, add),
        "in a dict, in place": (lambda x: x * table["w"], times),
    }


def modules() -> dict[str, Case]:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    other = {"net": nn.Linear(3, 3)}

    def weights(v):
        net.update({"layers": [{"weight": mx.full((3, 3), v)}]})

    return {
        "weights": (lambda x: net(x), weights),
        "one weight": (lambda x: net(x), lambda v: setattr(net.layers[0], "bias", X * v)),
        "another module": (lambda x: other["net"](x), lambda v: other.update(net=nn.Linear(3, 3))),
        "a layer": (lambda x: net(x), lambda v: net.layers.append(nn.Sigmoid())),
    }


@pytest.mark.parametrize(
    "cases",
    [variables, module_names, containers, objects, exchanged, ways_to_reach, written, modules],
    ids=lambda c: c.__name__,
)
def test_a_change_is_seen(cases):
    for name in cases():
        fn, change = cases()[name]
        fused = zmlx.fuse(fn)
        for value in (3.0, 4.0):
            np.testing.assert_allclose(fused(X), fn(X), rtol=1e-5, err_msg=name)
            change(value)
        np.testing.assert_allclose(fused(X), fn(X), rtol=1e-5, err_msg=name)
        traced = fused.cache_info().misses
        np.testing.assert_allclose(fused(X), fn(X), rtol=1e-5, err_msg=name)
        assert fused.cache_info().misses == traced == 3, name  # and no more traces than changes


def test_training_and_evaluation_of_a_module_in_a_closure():
    net = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5))
    fused = zmlx.fuse(lambda x: net(x))
    assert (fused(X) == 0).sum().item() > 5
    net.eval()
    np.testing.assert_allclose(fused(X), net(X), rtol=1e-5)
    net.train()
    assert (fused(X) == 0).sum().item() > 5


def test_equal_numbers_are_no_change():
    table = {"rate": 1000.5, "name": "a" * 20, "point": (1.5, 2.5)}
    fused = zmlx.fuse(lambda x: x * table["rate"] + len(table["name"]) + table["point"][0])
    for _ in range(4):
        fused(X)
        table.update(rate=float("1000.5"), name="".join(["a"] * 20), point=tuple([1.5, 2.5]))
    assert fused.cache_info().misses == 1


def test_parts_of_what_is_captured_are_no_change():
    """An index makes a new array at every look; an equal tuple holds the very arrays."""
    table, pair = mx.array([2.0, 3.0]), (mx.array(1.0), 2.0)
    known = np.array([4.0, 5.0])
    fused = zmlx.fuse(lambda x: x * table[0] + table[1] + pair[0] * pair[1] + float(known[1]))
    for _ in range(3):
        assert fused(X)[0].item() == 12
        pair = tuple(list(pair))
    assert fused.cache_info().misses == 1


def test_what_says_to_be_of_another_class():
    compiled, table = mx.compile(tuple), {"f": mx.compile(list), "g": mx.grad(dict)}
    fused = zmlx.fuse(lambda x: x * (2 if compiled and table else 3))
    for _ in range(2):
        assert fused(X)[0].item() == 2
    assert fused.cache_info().misses == 1


def test_what_the_function_does_not_read_is_no_change():
    trainer = Held(w=mx.array(2.0), n=1.0, steps=0, log=[])
    named = {"count": mx.array(0.0)}

    @functools.partial(zmlx.fuse, inputs=named, outputs=named)
    def step(x):
        named["count"] = named["count"] + 1
        return x * trainer.w * named["count"]

    for _ in range(4):
        step(X)
        trainer.steps += 1
        trainer.log.append(trainer.steps)
    assert step.cache_info().misses == 1 and named["count"].item() == 4


def test_one_warning_says_what_changes(caplog):
    table = {"rate": mx.array(1.0)}
    fused = zmlx.fuse(lambda x: x * table["rate"])
    with caplog.at_level(logging.WARNING, logger="zmlx.fuse"):
        for i in range(12):
            assert fused(X)[0].item() == table["rate"].item()
            table["rate"] = mx.array(float(i))
    (record,) = caplog.records
    assert "table['rate']" in record.message and "inputs=" in record.message


def test_a_deleted_name_is_an_error_as_in_python():
    held = Held(n=2.0)
    fused = zmlx.fuse(lambda x: x * held.n)
    assert fused(X)[0].item() == 2
    del held.n
    with pytest.raises(AttributeError, match="'n'"):
        fused(X)
    held.n = 3.0
    assert fused(X)[0].item() == 3


STEPS = st.lists(
    st.tuples(st.sampled_from(["call", "cell", "dict", "object", "list", "in place"]),
              st.integers(1, 3)),
    max_size=14,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_calls_and_changes_in_any_order(steps):
    cell, table, held = mx.array(1.0), {"a": mx.array(1.0)}, Held(w=mx.array(1.0))
    listed, whole = [mx.array(1.0)], mx.ones((3,))

    def fn(x):
        return (x * cell + table["a"]) * held.by_array(x) + sum(listed, whole)

    fused = zmlx.fuse(fn)
    for step, value in [*steps, ("call", 0)]:
        if step == "cell":
            cell = mx.array(float(value))
        elif step == "dict":
            table["a"] = mx.array(float(value))
        elif step == "object":
            held.w = held.w * value
        elif step == "list":
            listed[-1:] = [mx.array(float(value))] * (1 + value % 2)
        elif step == "in place":
            whole[value - 1] = 7.0
        else:
            np.testing.assert_allclose(fused(X), fn(X), rtol=1e-5)


def test_arrays_of_numpy_beside_captured_ones() -> None:
    """They are compared with nothing: what equals them elementwise is no answer."""
    tables = [np.ones(3, np.float32), mx.array([1.0, 2.0, 3.0])]
    fused = zmlx.fuse(lambda x: x * tables[1] + mx.array(tables[0]))
    assert fused(mx.ones(3)).tolist() == [2, 3, 4]
    tables[1] = mx.zeros(3)
    assert fused(mx.ones(3)).tolist() == [1, 1, 1]
