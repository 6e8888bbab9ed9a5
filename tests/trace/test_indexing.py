"""Indexing, and writes in place, of traced and of captured arrays."""

from __future__ import annotations

import mlx.core as mx
import pytest
from tracing import A, I, V, replayed, run, same, traced


def write(x, index, value):
    x = x * 1
    x[index] = value
    return x


INDICES = [0, -1, slice(1, 3), slice(None, None, 2), None, Ellipsis, (0, 1), (slice(None), 2)]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing(index):
    same(run(lambda x: x[index] * 2, A), A[index] * 2)
    same(run(lambda x: write(x, index, 2.5), A), write(A, index, 2.5))
    same(run(lambda x, v: write(x, index, v[0]), A, V), write(A, index, V[0]))
    for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum"):

        def at(x, v, name=name):
            return getattr(x.at[index], name)(v[0])

        same(run(at, A, V), at(A, V))


@pytest.mark.smoke
def test_indexing_by_arrays():
    same(run(lambda x, i: x[i], A, I), A[I])
    same(run(lambda i: A[i] + 1, I), A[I] + 1)  # an embedding table in a closure
    same(run(lambda i: A[i, 1:], I), A[I, 1:])
    same(run(lambda x, i: write(x, i, x[0]), A, I), write(A, I, A[0]))
    same(run(lambda v: A.at[I].add(v), V), A.at[I].add(V))
    same(run(lambda i: A.at[i].add(V), I), A.at[I].add(V))
    same(run(lambda x: (x * 2).at[1:].multiply(3.0), V), (V * 2).at[1:].multiply(3.0))
    same(run(lambda x: x + A.at[0].add(1.0), A), A + A.at[0].add(1.0))  # nothing traced inside
    same(run(lambda x: write(x, x > 0, 9.0), A), write(A, A > 0, 9.0))


def test_writes_reach_only_the_array_written():
    def fn(x):
        y, z, w = +x, mx.positive(x), x
        y += 1
        z *= 3
        w = w - 1
        x[0] = 7.0
        return x, y, z, w

    same(run(fn, mx.array(V)), fn(mx.array(V)))


def test_writes_in_place_keep_shape_and_type_right():
    def fn(x):
        x += mx.array([[0.5], [1.5]])
        shape, dtype = x.shape, x.dtype
        x @= mx.ones((4, 3))
        return x.reshape(shape[0], -1), x.astype(dtype)

    small = mx.array([1, 2, 3, 4])
    same(run(fn, mx.array(small)), fn(mx.array(small)))


def test_an_accumulator_of_zeros():
    def fn(x):
        total = mx.zeros((4,))
        for k in range(3):
            total += x * k
        count = mx.zeros((4,))
        count += 1
        kept = x + count
        count += 1
        return total, kept, x + count

    same(run(fn, V), fn(V))


def test_captured_arrays_are_as_they_were_when_traced():
    weights = mx.array([1.0, 2.0, 3.0, 4.0])
    found = traced(lambda x: x * weights + weights - weights, V)
    weights += 100
    same(replayed(found, [V]), V * mx.array([1.0, 2.0, 3.0, 4.0]))
    assert [c.array is weights for c in found.captures] == [True]
    assert found.captures[0].loc.startswith("test_indexing.py:")
