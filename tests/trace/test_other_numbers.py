"""Numbers of other types than Python's own: of NumPy, subclasses; new values, old trace."""

from __future__ import annotations

import enum
from http import HTTPStatus
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from tracing import call_of, replayed, same

import zmlx
from zmlx.trace.run import trace

X = mx.array([0.5, -1.0, 2.0])


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 3


class Rate(float):
    pass


TYPES = [np.float64, Rate, np.float32, np.float16, np.int64, np.int32, np.uint8]


def static_in(fn, *values, x=X):
    """Which numbers are static in the trace of `fn`, whose results are right for all values."""
    found = trace(fn, call_of((x, values[0]), {}))
    found.graph.verify()
    for value in values if not found.static_numbers else values[:1]:
        same(replayed(found, [x], [value]), fn(x, value))
    return found.static_numbers


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.int32, mx.int8, mx.bool_], ids=str)
@pytest.mark.parametrize("kind", TYPES)
def test_beside_arrays(kind, dtype):
    x = X.astype(dtype)
    one, three = kind(1), kind(3)
    assert not static_in(lambda x, s: (x * s, mx.add(x, s), mx.where(x > s, s, x)), three, one, x=x)


@pytest.mark.parametrize("kind", TYPES)
def test_arithmetic_is_python_s_or_static(kind):
    static = static_in(lambda x, s: x * float(s * s + 1) if s else x, kind(3))
    assert static == {0}
    assert not static_in(lambda x, s: x * (s * 2 + 1), kind(3), kind(1))


def test_what_a_type_has_of_its_own():
    assert static_in(lambda x, s: x * s.itemsize, np.float32(2)) == {0}
    assert static_in(lambda x, s: x * float(-s), np.float32(2)) == {0}
    for value in (np.float64(2), np.float32(2), Rate(2), np.int8(2)):
        seen = []
        static_in(lambda x, s: x * (seen.append(isinstance(s, type(value))) or s), value)  # noqa: B023
        assert all(seen) and seen


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Width(float, enum.Enum):
    NARROW = 0.5
    WIDE = 2.0


MEMBERS = [*Level, Flags.A, Flags.A | Flags.B, *Width, HTTPStatus.OK]


@pytest.mark.parametrize(
    "place",
    [lambda m: m, lambda m: {"k": [m]}, SimpleNamespace],
    ids=["argument", "dict", "object"],
)
def test_members_of_enums_are_themselves(place):
    """`is`, tables and names tell them apart, as in plain Python, in whatever place they stand."""

    def fn(x, held):
        if isinstance(held, SimpleNamespace):
            member = held.__dict__["a"]
        else:
            member = held["k"][0] if isinstance(held, dict) else held
        found = [i for i, one in enumerate(MEMBERS) if member is one]
        return x * member + (found[0] + 1) + len(str(member.name)), member

    fused = zmlx.fuse(fn)
    for member in [*MEMBERS, *MEMBERS]:
        held = SimpleNamespace(a=member) if place is SimpleNamespace else place(member)
        same(fused(X, held)[0], fn(X, held)[0])
        assert fused(X, held)[1] is member
    assert fused.cache_info().misses == len(MEMBERS)


def test_alone():
    for value in (np.float64(2.5), Rate(2.5), 2.5):
        static_in(
            lambda x, s: (mx.exp(s), mx.multiply(s, 1.0), mx.add(s, s)), value, type(value)(3)
        )
    for value in (np.float32(2.5), np.int8(3)):
        assert static_in(lambda x, s: x * float(s), value) == {0}


@pytest.mark.parametrize("number", [2.5, 3, np.float64(2.5)])
def test_functions_of_a_number_give_arrays(number):
    def fn(x, s):
        return (
            mx.multiply(s, 1.0),
            mx.multiply(1.0, s),
            mx.divide(s, 1.0),
            mx.subtract(s, 0.0),
            mx.negative(mx.negative(s)),
            mx.sum(mx.multiply(s, 1.0)),
            mx.nan_to_num(s),
            mx.nan_to_num(3) * x,
            mx.exp(2.0) + x,
            mx.add(1, 2) * x,
        )

    static_in(fn, number, type(number)(4))


def test_slices_are_arguments_by_value():
    calls = [call_of((X, slice(0, 2)), {}) for _ in range(2)]
    assert calls[0].structure == calls[1].structure
    found = trace(lambda x, s: x[s] * 2, calls[0])
    assert not found.static_numbers
    for ends in ([0, 2], [1, 3], [0, -1], [2, 2]):
        same(replayed(found, [X], ends), X[slice(*ends)] * 2)
