"""Iterating over traced arrays: slices of the first axis, as many as it has."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from tracing import A, V, run, same, traced


def unpack(x):
    a, b, c, d = x
    first, *rest = x
    return a + b * c - d, first, rest


def over_rows(x):
    total = 0
    for i, row in enumerate(x):
        total = total + i * row
    return total, sum(x), [v * 2 for v in x], list(x), tuple(reversed(x)), len(x)


def pairs(x):
    return [a * b for a, b in zip(x, x * 2, strict=True)], dict(enumerate(x)), next(iter(x))


def written_meanwhile(x):
    x = x * 1
    rows = []
    for i, row in enumerate(x):
        row += 1
        x[-1] = i
        rows.append(row)
    return rows, x


def of_a_captured_array(x):
    return [row * x for row in A]


def of_constants(x):
    return [x * int(i) for i in mx.arange(3)]


@pytest.mark.parametrize(
    "fn", [unpack, over_rows, pairs, written_meanwhile, of_a_captured_array, of_constants],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_iteration(fn):
    same(run(fn, A), fn(mx.array(A)))
    same(run(fn, V), fn(mx.array(V)))


def test_the_size_then_steers_python():
    assert traced(unpack, A).decisions
    with pytest.raises(ValueError, match="not enough values"):
        traced(lambda x: [a for a, b, c in x[:, :2]], A)


def test_a_number_is_nothing_to_iterate_over():
    for fn in (lambda x: list(x.sum()), lambda x: [v for v in x[0]]):
        with pytest.raises(TypeError, match="0-dimensional"):
            fn(V)
        with pytest.raises(TypeError, match="0-dimensional"):
            traced(fn, V)


def test_no_rows():
    same(run(lambda x: [list(x), x], mx.zeros((0, 2))), [[], mx.zeros((0, 2))])
    assert np.all([v.shape == (4,) for v in A])
