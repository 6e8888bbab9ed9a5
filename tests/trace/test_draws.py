"""Random draws: drawn anew at each replay, never by the trace; draws with a key are pure."""

from __future__ import annotations

import random

import mlx.core as mx
import mlx.nn as nn
import pytest
from tracing import SPD, A, V, random_state, replayed, run, same, traced

DRAWS = {
    "normal": lambda: mx.random.normal((4,)),
    "uniform": lambda: mx.random.uniform(shape=(4,)),
    "bernoulli": lambda: mx.random.bernoulli(0.5, (4,)),
    "categorical": lambda: mx.random.categorical(A),
    "gumbel": lambda: mx.random.gumbel((4,)),
    "laplace": lambda: mx.random.laplace((4,)),
    "randint": lambda: mx.random.randint(0, 100, (4,)),
    "permutation": lambda: mx.random.permutation(V),
    "truncated_normal": lambda: mx.random.truncated_normal(-1, 1, (4,)),
    "multivariate_normal": lambda: mx.random.multivariate_normal(V, SPD, stream=mx.cpu),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_draw_anew_and_tracing_draws_nothing(name):
    def fn(x):
        return x + DRAWS[name]()

    mx.random.seed(3)
    before = random_state()
    found = traced(fn, V)
    assert random_state() == before
    draws = [n for n in found.graph if found.graph.kind(n) == "opaque"]
    assert [found.graph[n]["pure"] for n in draws] == [False]
    first, second = replayed(found, [V]), replayed(found, [V])
    mx.random.seed(3)
    same([first, second], [fn(V), fn(V)])


def test_every_draw_of_random_is_tried():
    draws = {n for n in dir(mx.random) if callable(getattr(mx.random, n)) and n[0] != "_"}
    assert draws - {"key", "seed", "split"} == set(DRAWS)


def test_a_draw_with_a_key_is_pure():
    def fn(x, key):
        return x * mx.random.normal((4,), key=key)

    found = traced(fn, V, mx.random.key(7))
    assert all(found.graph[n]["pure"] for n in found.graph if found.graph.kind(n) == "opaque")
    same(run(fn, V, mx.random.key(7)), fn(V, mx.random.key(7)))


def test_a_key_by_position():
    def fn(x, key):
        return x * mx.random.normal((4,), mx.float32, 0.0, 1.0, key)

    before = random_state()
    same(run(fn, V, mx.random.key(7)), fn(V, mx.random.key(7)))
    assert random_state() == before


def test_dropout():
    layer = nn.Dropout(0.5)
    found = traced(lambda x: layer(x) * 1, A)
    mx.random.seed(1)
    got = replayed(found, [A])
    mx.random.seed(1)
    same(got, layer(A) * 1)


def test_a_python_random_number_is_fixed_by_the_trace():
    random.seed(0)
    found = traced(lambda x: x * random.random(), V)
    same(replayed(found, [V]), replayed(found, [V]))
