"""What a traced function learns of types: `type(x)`, by every road, is what plain MLX gives."""

from __future__ import annotations

import functools
import numbers
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from mlx.core import array
from tracing import same

import zmlx

X = mx.arange(6.0).reshape(2, 3)
HERE = mx.array
KIND = type
TABLE = {mx.array: 2, float: 3, int: 4, list: 5}
CALLS = {"array": lambda v: 2 if type(v) is mx.array else 3}
WANTED = functools.singledispatch(lambda v: 50)
WANTED.register(mx.array)(lambda v: 1)
WANTED.register(float)(lambda v: 2)
WANTED.register(int)(lambda v: 3)


class Asks:
    kind = mx.array

    def own(self, v):
        return type(v) is self.kind

    @staticmethod
    def static(v):
        return type(v) is mx.array

    @classmethod
    def of_class(cls, v):
        return cls.kind is type(v)


def is_a(value, kind):
    return type(value) is kind


def kind_is(value, kind):
    return kind is type(value)


def by_bases(value):
    return next((TABLE[c] for c in type(value).__mro__ if c in TABLE), 100)


def matched(value):
    match value:
        case mx.array():
            return 1
        case bool():
            return 7
        case float():
            return 2
        case int():
            return 3
    return 9


def named(value):
    kind = type(value)
    return kind is mx.array and kind is array and kind in TABLE


ANSWERS = {
    "is": lambda v: type(v) is mx.array,
    "is not": lambda v: type(v) is not mx.array,
    "turned": lambda v: mx.array is type(v),
    "imported": lambda v: type(v) is array,
    "bound before": lambda v: type(v) is HERE,
    "another name": lambda v: KIND(v) is HERE and KIND(v) is mx.array,
    "equal": lambda v: [type(v) == k for k in (mx.array, array, HERE)],  # noqa: E721
    "in a tuple": lambda v: [type(v) in (k, str) for k in (mx.array, array, HERE)],
    "in a set": lambda v: [type(v) in {k, str} for k in (mx.array, array, HERE)],
    "in a table": lambda v: TABLE.get(type(v), 99),
    "in a table made here": lambda v: {mx.array: 2}.get(type(v), 3),
    "by class": lambda v: TABLE.get(v.__class__, 99),
    "by bases": by_bases,
    "kept": named,
    "dispatched": WANTED,
    "matched": matched,
    "passed on": lambda v: (is_a(v, mx.array), is_a(v, array), is_a(v, float)),
    "passed on and turned": lambda v: (kind_is(v, mx.array), kind_is(v, array), kind_is(v, int)),
    "by methods": lambda v: (Asks().own(v), Asks.static(v), Asks.of_class(v)),
    "in a table of calls": lambda v: CALLS["array"](v),
    "of many": lambda v: sum(type(one) is mx.array for one in (v, 1, v)),
    "mapped": lambda v: list(map(type, [v, v, 2.0])).count(mx.array),
    "a set of them": lambda v: len({type(v), mx.array, array, float, int}),
    "of one made here": lambda v: (type(v) is type(mx.ones(2)), type(v) is type(X)),
    "of two": lambda v: type(v) is type(v * 2),
    "hash": lambda v: hash(type(v)) == hash(HERE),
    "name": lambda v: (type(v).__name__, type(v).__module__, str(type(v)), repr(type(v))),
    "subclass": lambda v: [issubclass(type(v), k) for k in (mx.array, array, float, int)],
    "instance": lambda v: [isinstance(v, k) for k in (mx.array, array, float, int, numbers.Real)],
    "numpy": lambda v: np.isscalar(v),
}


@pytest.mark.parametrize("value", [X, 2.5, 3, np.float32(0.5), np.int64(3)], ids=repr)
def test_answers(value):
    wanted = {name: ask(value) for name, ask in ANSWERS.items()}
    found = zmlx.fuse(lambda v, x: ({name: ask(v) for name, ask in ANSWERS.items()}, x * v))
    for _ in range(2):
        assert found(value, X)[0] == wanted


def test_answers_of_sizes():
    def fn(x):
        asked = (x.shape[0], x.size, x.ndim, x.shape, x.dtype)
        return [(type(v) in (int, tuple), type(v) is int, type(v).__name__) for v in asked], x * 2

    fused = zmlx.fuse(fn)
    for x in (X, mx.ones((5, 4))):
        assert fused(x)[0] == fn(x)[0]
    assert fused.cache_info().misses == 1


def test_the_length_of_an_array_is_a_size():
    def fn(x, held):
        rows = [len(x), len(held["a"][0]), len(held), len("text")]
        return (x * len(x)).sum(0) / len(x) + x[: len(x) // 2].sum(0), rows, mx.arange(len(x)) * 2

    fused = zmlx.fuse(fn)
    for n in (4, 5, 9, 2):
        x = mx.arange(3.0 * n).reshape(n, 3)
        given = {"a": [x[1:] if n > 2 else mx.ones((5, 3))]}
        same(fused(x, given), fn(x, given))
    assert fused.cache_info().misses == 1
    with pytest.raises(TypeError, match="0-dimensional|len"):
        zmlx.fuse(lambda x: x * len(x))(mx.array(1.0))
    assert "len" not in globals()


def test_an_array_made_by_its_type():
    fused = zmlx.fuse(lambda x: (x * type(x)(2.0), type(x).sum(x, -1), type(x)([x[0, 1], 2.0])))
    for x in (X, X + 1):
        same(fused(x), (x * 2, x.sum(-1), mx.array([x[0, 1], 2.0])))


def test_type_itself():
    """In all else the name is the builtin: classes, metaclasses, enums are made with it."""

    def fn(x):
        class Meta(type):
            pass

        class Made(metaclass=Meta):
            pass

        class Plain(metaclass=type):  # noqa: UP050
            pass

        built = type("Built", (Plain,), {"factor": 2.0})
        type.__setattr__(built, "other", 5.0)
        match built:
            case type():
                answers = ["a class"]
        answers += [
            *(type(Made) is Meta, type(Plain) is type, type(built()) is built),
            *(isinstance(built, type), isinstance(3, (type, int)), isinstance(3, type)),
            *(issubclass(Meta, type), type(type) is type, type is type, type == KIND),  # noqa: E721
            *({type: 1}[type(int)], {KIND: 2}[type], type | None == KIND | None, repr(type)),
            *(type[int] == KIND[int], type(None) is type(None), type(mx.array) is type(HERE)),
        ]
        return answers, x * built.factor * built.other

    found, wanted = zmlx.fuse(fn)(X), fn(X)
    assert found[0] == wanted[0]
    same(found[1], wanted[1])
    assert "type" not in globals() and KIND is type


def facts(kind, value):
    """What a class says of itself, as any code may ask."""
    try:
        made = str(kind[int])
    except TypeError as error:
        made = str(error)
    return [
        *(isinstance(value, kind), isinstance(3, kind), issubclass(kind, kind)),
        *(issubclass(bool, kind), kind == kind, kind != int, kind.__name__, repr(kind)),  # noqa: E721
        *(hash(kind) == hash(kind), str(kind | None), str(None | kind), made),
    ]


def test_both_names_answer_as_their_classes():
    def fn(x):
        return facts(mx.array, x), facts(type, int), x * 1

    assert zmlx.fuse(fn)(X)[:2] == fn(X)[:2]


def test_an_object_passed_asks():
    class Base(SimpleNamespace):
        def factor(self, v):
            return 2 if type(v) is mx.array else 3

    fused = zmlx.fuse(lambda held, x: held.factor(x) * x)
    same(fused(Base(), X), X * 2)
