"""NumPy's integers as arguments: sizes, offsets and factors as Python's ints are, in one trace."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracing import same

import zmlx

X = mx.arange(24.0).reshape(4, 6)
KINDS = [np.int64, np.int32, np.int8, np.uint8, np.uint64]


def written(x, n):
    y = mx.zeros((4, 6))
    y[:n] = x[:n] * 3
    return y


ONE_TRACE = {
    "slices": lambda x, n: (x[:, :n] * 2 + 1, x[n - 1 :] * 2, x[: (n + 1) // 2], x[n % 4] * 2),
    "shapes": lambda x, n: (mx.zeros((n, 2)) + x[0, 0], (x * 2)[: x.shape[0] - n]),
    "reshape": lambda x, n: (x[:, :n] * 2).reshape((n, -1)),
    "moved": lambda x, n: (mx.repeat(x, n, 0) * 2, mx.pad(x, ((0, n), (0, 0))) * 2),
    "tiled": lambda x, n: (mx.tile(x, (n, 1)) * 2, mx.eye(n) * x[0, 1], mx.roll(x, n, 0) * 2),
    "beside": lambda x, n: (x * n + 1, mx.maximum(n, x), mx.where(x > n, x, n), x**n, x / (n / 2)),
    "types": lambda x, n: (x.astype(mx.int8) * n, x.astype(mx.float16) + n, x.astype(mx.bool_) + n),
    "numpy": lambda x, n: (x * (n + np.int64(2)), x * (np.float64(1.5) * n), x * (n * 1.5)),
    "single": lambda x, n: x.astype(mx.float16) * (n * np.float32(0.3)),
    "python": lambda x, n: (x * n.item(), x[: n.item()] * 2, x * abs(n), x * (n << 1 | 1)),
    "made": lambda x, n: (mx.array(n) * x, mx.full((2,), n), mx.full((n,), 2.0) * x[0, 1]),
    "written": written,
    "returned": lambda x, n: (x * 2, n, n + 1, n / 2, n * 2 + x.shape[0]),
    "kinds": lambda x, n: x * (isinstance(n, np.integer) + 2 * isinstance(n, int)),
}


@pytest.mark.parametrize("name", ONE_TRACE)
def test_one_trace_for_all_values(name):
    fn = ONE_TRACE[name]
    for kind in KINDS[::2] if name == "types" else KINDS:
        fused = zmlx.fuse(fn)
        for value in (2, 3, 4, 2):
            same(fused(X, kind(value)), fn(X, kind(value)))
        assert fused.cache_info().misses == 1, kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_is_two_traces(kind):
    def fn(x, n):
        return x[:n] * 2 if n > 2 and np.int64(9) > n else x + 1

    fused = zmlx.fuse(fn)
    for value in (2, 3, 4, 2, 5, 1):
        same(fused(X, kind(value)), fn(X, kind(value)))
    assert fused.cache_info().misses == 2


def test_steps_of_an_array_of_positions():
    """An offset that NumPy counts, passed and kept in an object."""

    def step(x, at, cache):
        cache.rows[at : at + 1] = x
        cache.offset = cache.offset + np.int64(1)
        return (cache.rows[: at + 1] * 2).sum(0), cache.rows[: cache.offset].sum(0) * 2

    fused = zmlx.fuse(step)
    caches = [SimpleNamespace(rows=mx.zeros((20, 3)), offset=np.int64(0)) for _ in range(2)]
    for at in np.arange(20):
        x = mx.full((1, 3), float(at))
        found, wanted = fused(x, at, caches[0]), step(x, at, caches[1])
        same(found, wanted)
        assert type(caches[0].offset) is np.int64 and caches[0].offset == caches[1].offset
    assert fused.cache_info().misses <= 3


def whole(number):
    return isinstance(number, (int, np.integer))


OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "<": lambda a, b: (a < b) * 1,
    "==": lambda a, b: (a == b) * 1,
    "|": lambda a, b: a | b if whole(a) and whole(b) else b,
    "max": max,
}
OTHERS = [2, 0.5, np.int64(3), np.int16(2), np.float32(0.25), np.float64(1.5), np.uint8(7)]


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([*KINDS, np.float32, np.float16]),
    steps=st.lists(
        st.tuples(st.sampled_from(sorted(OPERATIONS)), st.sampled_from(OTHERS), st.booleans()),
        min_size=1,
        max_size=4,
    ),
)
def test_arithmetic_is_numpy_s(kind, steps):
    """What the function computes of its number has the value and the type that NumPy gives."""

    def fn(x, n):
        for name, other, turned in steps:
            n = OPERATIONS[name](other, n) if turned else OPERATIONS[name](n, other)
        return x * n if abs(n) < 100 else x, n

    fused = zmlx.fuse(fn)
    with np.errstate(all="ignore"):
        for value in (1, 2, 3):
            found, wanted = fused(X, kind(value)), fn(X, kind(value))
            same(found[0], wanted[0])
            assert type(found[1]) is type(wanted[1])
            np.testing.assert_array_equal(found[1], wanted[1])


def test_each_class_has_a_trace_of_its_own():
    fused = zmlx.fuse(lambda x, n: x[:n] * 2 * isinstance(n, np.int64))
    for kind, value in itertools.product([int, np.int64, np.int32], (2, 3)):
        wanted = X[:value] * 2 * (kind is np.int64)
        same(fused(X, kind(value)), wanted)
    assert fused.cache_info().misses == 3
