"""What calls are told apart by: keys of dicts, members of sets, functions, views, odd classes."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
from types import MappingProxyType, SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from zmlx.errors import TraceError

X = mx.array([1.0, 2.0, 3.0])


class Key:
    def __init__(self, value):
        self.value = value


class ByContent(Key):
    def __init__(self, name, value):
        super().__init__(value)
        self.name = name

    def __eq__(self, other):
        return self.name == other.name

    def __hash__(self):
        return hash(self.name)


def _set(owner, **values):
    for name, value in values.items():
        setattr(owner, name, value)


def _keyed(key, value):
    """A function of a dict, its argument, and a change of the key that it reads."""
    held = {key: X, (key, 1): X}
    return (
        lambda d, x: sum([k.value for k in d if isinstance(k, Key)]) * x,
        held,
        lambda: _set(key, value=value),
    )


def _in_set():
    key = Key(2.0)
    return lambda s, x: sum([k.value for k in s]) * x, {key}, lambda: _set(key, value=3.0)


def _attribute():
    def act(x):
        return x * act.scale  # its closure holds itself

    act.scale = 2.0
    return lambda fn, x: fn(x), act, lambda: _set(act, scale=3.0)


def _attribute_array():
    def act(x):
        return x

    act.weight = X
    return lambda fn, x: fn(x) * fn.weight, act, lambda: _set(act, weight=X * 2)


def _default():
    def act(x, scale=[2.0], *, more={"k": 1.0}):  # noqa: B006
        return x * scale[0] * more["k"]

    def change():
        act.__defaults__[0][0] = 3.0
        act.__kwdefaults__["more"]["k"] = 5.0

    return lambda fn, x: fn(x), act, change


def _wrapped():
    settings = SimpleNamespace(k=2.0)

    def inner(x):
        return x * settings.k

    @functools.wraps(inner)
    def outer(x):
        return inner(x)

    return lambda fn, x: fn(x), outer, lambda: _set(settings, k=3.0)


def _mapping():
    held = {"a": X}
    view = MappingProxyType(held)
    return lambda m, x: sum(m.values()) * x, view, lambda: held.update(a=X * 2, b=X)


def _view(which):
    held = {"a": X}

    def change():
        held.update(a=X * 2, b=X)

    def fn(view, x):
        return sum([v[1] if type(v) is tuple else 1 if type(v) is str else v for v in view]) * x

    return fn, getattr(held, which)(), change


def _made_dataclass():
    data = dataclasses.make_dataclass("Data", ["a"])(X)
    return lambda d, x: d.a * x, data, lambda: _set(data, a=X * 2)


def _class_that_names_another_module():
    made = type("Made", (), {"__module__": "types"})()
    made.a = 2.0
    return lambda d, x: d.a * x, made, lambda: _set(made, a=3.0)


CHANGES = {
    "key": lambda: _keyed(Key(2.0), 3.0),
    "key with an array": lambda: _keyed(Key(X), X * 2),
    "key by content": lambda: _keyed(ByContent("a", 2.0), 3.0),
    "key by content with an array": lambda: _keyed(ByContent("a", X), X * 2),
    "member of a set": _in_set,
    "attribute of a function": _attribute,
    "array as attribute of a function": _attribute_array,
    "default": _default,
    "wrapped function": _wrapped,
    "mapping proxy": _mapping,
    "values": lambda: _view("values"),
    "items": lambda: _view("items"),
    "keys": lambda: _view("keys"),
    "make_dataclass": _made_dataclass,
    "another module's name": _class_that_names_another_module,
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("inside", [False, True])
def test_changes_are_seen(name, inside):
    fn, argument, change = CHANGES[name]()
    holder = SimpleNamespace(argument=argument)
    fused = zmlx.fuse((lambda h, x: fn(h.argument, x)) if inside else fn)
    passed = holder if inside else argument
    assert mx.array_equal(fused(passed, X), fn(argument, X))
    change()
    assert mx.array_equal(fused(passed, X), fn(argument, X))
    assert holder.argument is argument


ITERATORS = {
    "generator": lambda: (v for v in [X, X * 2]),
    "list": lambda: iter([X, X * 2]),
    "map": lambda: map(lambda v: v * 2, [X, X * 2]),
    "count": lambda: itertools.count(1),
    "enumerate": lambda: enumerate([X, X * 2]),
}
READS = {
    "next": lambda it: next(it),
    "loop": lambda it: [v for v in it],
    "zip": lambda it: list(zip(it, [1, 2], strict=False)),
}


@pytest.mark.parametrize("name", ITERATORS)
@pytest.mark.parametrize("how", READS)
def test_reading_an_iterator_is_refused(name, how):
    words = r"test_told.py:[0-9]+: .* is read, which would happen at the first call only"
    iterator = ITERATORS[name]()
    with pytest.raises(TraceError, match=words):
        zmlx.fuse(lambda it, x: (READS[how](it), x)[1])(iterator, X)
    owner = SimpleNamespace(it=iterator)
    with pytest.raises(TraceError, match=words):
        zmlx.fuse(lambda o, x: (READS[how](o.it), x)[1])(owner, X)
    assert owner.it is iterator
    next(iterator), next(iterator)  # nothing was read


def test_an_iterator_that_is_not_read_may_be_there():
    owner = SimpleNamespace(it=iter([1, 2]), w=X)

    def fn(owner, x):
        owner.w = owner.w + x
        return owner.w * 2

    fused = zmlx.fuse(fn)
    for count in (2, 3):
        assert mx.array_equal(fused(owner, X), X * 2 * count)
    assert list(owner.it) == [1, 2]


def test_a_tuple_with_attributes_is_refused():
    class Row(tuple):
        pass

    row = Row((X,))
    row.weight = X

    def made(x):
        row = Row((x,))
        row.weight = x
        return row

    with pytest.raises(TypeError, match="a Row is passed, a tuple with the attribute 'weight'"):
        zmlx.fuse(lambda r, x: r.weight * x)(row, X)
    with pytest.raises(TraceError, match="a Row with the attribute 'weight' is returned"):
        zmlx.fuse(made)(X)


def test_numpy_arrays_of_sizes_and_numbers():
    def fn(x, s):
        return np.array([x.shape[0], 2]), np.asarray(s), np.array([s, 1.0]), x * 2

    fused = zmlx.fuse(fn)
    for length, number in ((3, 1.5), (5, 2.5), (5, 3)):
        for got, want in zip(
            fused(mx.ones(length), number), fn(mx.ones(length), number), strict=True
        ):
            assert np.array(got).dtype == np.array(want).dtype and np.array_equal(got, want)


def test_traces_of_functions_that_have_gone_are_not_kept():
    fused = zmlx.fuse(lambda fn, x: fn(x))
    for _ in range(20):
        weight = mx.ones((100_000,))
        mx.eval(fused(lambda x, weight=weight: (x * weight).sum(), mx.array(2.0)))
        del weight
        gc.collect()
    assert fused.cache_info().currsize <= 2


def test_many_values_of_a_number_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Cache:
        def __init__(self) -> None:
            self.keys, self.offset = mx.zeros((16, 2)), 0

    @zmlx.fuse
    def step(key: mx.array, cache: Cache) -> mx.array:
        cache.keys = sum([cache.keys * 0 + i for i in range(cache.offset)], key)
        cache.offset += 1
        return cache.keys

    cache = Cache()
    with caplog.at_level("WARNING", logger="zmlx.fuse"):
        for _ in range(12):
            step(mx.ones((1, 2)), cache)
    (record,) = caplog.records
    assert "for each value of cache.offset, 8 times by now" in record.message
    assert "test_told.py:" in record.message and "mx.array" in record.message
    assert cache.keys.sum().item() == 2 * (1 + 55)
