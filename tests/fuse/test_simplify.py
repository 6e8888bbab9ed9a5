"""Simplification: what merges, what vanishes, what must stay because IEEE arithmetic says so."""

from __future__ import annotations

import hypothesis
import mlx.core as mx
import pytest
from derive_cases import record
from fuse_cases import equal, regions_of
from graph_strategy import graphs
from hypothesis import strategies as st

import zmlx
from zmlx.fuse.replay import replay
from zmlx.fuse.simplify import cost, simplify
from zmlx.trace.graph import Graph, OpaqueCall, Ref

FLOAT = ((4,), "float32")


def ops(graph: Graph) -> list[str]:
    return [graph[n]["op"] for n in graph if graph.kind(n) == "op"]


def simplified(function, *specs) -> Graph:
    graph = simplify(record(function, *(specs or (FLOAT,))))
    graph.verify()
    return graph


def test_common_subexpressions_merge():
    graph = simplified(lambda F, x: F.multiply(F.exp(F.sin(x)), F.exp(F.sin(x))))
    assert ops(graph) == ["sin", "exp", "multiply"]
    multiply = graph.outputs[0]
    assert graph.operands(multiply) == (multiply - 1, multiply - 1)


def test_chains_of_duplicates_merge_all_the_way_up():
    def tower(F, x):
        a, b = x, x
        for _ in range(20):
            a, b = F.add(F.sin(a), a), F.add(F.sin(b), b)
        return F.subtract(a, b)

    assert len(ops(simplified(tower))) == 41


def test_operand_order_keeps_nodes_apart():
    graph = simplified(lambda F, x, y: (F.subtract(x, y), F.subtract(y, x)), FLOAT, FLOAT)
    assert ops(graph) == ["subtract", "subtract"]


def test_casts_to_different_types_stay_apart():
    graph = simplified(lambda F, x: (F.astype(x, "int32"), F.astype(x, "int64")))
    assert ops(graph) == ["astype", "astype"]


@pytest.mark.parametrize(
    ("a", "b", "merged"),
    [(1.0, 1.0, True), (0.0, -0.0, False), (1, 1.0, False), (True, 1, False), (2.0, 3.0, False)],
)
def test_constants_merge_by_type_and_bits(a, b, merged):
    graph = Graph()
    x = graph.add("input", shape=(4,))
    ones = [graph.add("const", dtype="float32", value=v) for v in (a, b)]
    graph.outputs = [graph.add("op", (x, c), shape=(4,), op="maximum", at="float32") for c in ones]
    graph.outputs = [graph.add("op", graph.outputs, shape=(4,), op="add", at="float32")]
    constants = [n for n in simplify(graph) if simplify(graph).kind(n) == "const"]
    assert len(constants) == (1 if merged else 2)


def test_nan_constants_merge():
    nan = float("nan")
    graph = simplified(lambda F, x: F.add(F.maximum(x, nan), F.maximum(x, nan)))
    assert ops(graph) == ["maximum", "add"]


def test_dead_nodes_vanish_and_inputs_stay():
    graph = simplified(lambda F, x, y: (F.exp(F.sin(y)), F.cos(x))[1], FLOAT, FLOAT)
    assert ops(graph) == ["cos"] and len(graph.inputs) == 2


def opaque(graph: Graph, source: int, pure: bool) -> int:
    call = OpaqueCall(mx.abs, (Ref(0),), {}, "abs")
    return graph.add("opaque", (source,), shape=(4,), call=call, pure=pure)


def test_effects_stay_and_are_not_merged():
    graph = Graph()
    x = graph.add("input", shape=(4,))
    dead = [opaque(graph, x, pure) for pure in (True, False, False)]
    graph.outputs = [graph.add("op", (x,), shape=(4,), op="exp", at="float32")]
    kept = simplify(graph)
    assert len(dead) == 3 and [kept.kind(n) for n in kept] == ["input", "opaque", "opaque", "op"]


def test_what_a_rewrite_leaves_without_use_vanishes_too():
    graph = simplified(lambda F, x: F.negative(F.negative(F.sin(x))))
    assert ops(graph) == ["sin"]


IDLE = {
    "x * 1": lambda F, x: F.multiply(x, 1),
    "1.0 * x": lambda F, x: F.multiply(1.0, x),
    "x / 1": lambda F, x: F.divide(x, 1.0),
    "x - 0": lambda F, x: F.subtract(x, 0),
    "--x": lambda F, x: F.negative(F.negative(x)),
    "astype": lambda F, x: F.astype(x, "float32"),
}
BUSY = {
    "x + 0": lambda F, x: F.add(x, 0.0),
    "0 + x": lambda F, x: F.add(0, x),
    "x - -0": lambda F, x: F.subtract(x, -0.0),
    "0 - x": lambda F, x: F.subtract(0.0, x),
    "x * 0": lambda F, x: F.multiply(x, 0),
    "x * -1": lambda F, x: F.multiply(x, -1),
    "1 / x": lambda F, x: F.divide(1, x),
    "x / x": lambda F, x: F.divide(x, x),
    "x - x": lambda F, x: F.subtract(x, x),
    "x ** 1": lambda F, x: F.power(x, 1),
    "x + y - y": lambda F, x: F.subtract(F.add(x, 3), 3),
}


@pytest.mark.parametrize("name", IDLE)
def test_idle_ops_vanish(name):
    graph = simplified(lambda F, x: F.exp(IDLE[name](F, F.sin(x))))
    assert ops(graph) == ["sin", "exp"]


@pytest.mark.parametrize("name", BUSY)
def test_ops_that_change_a_special_value_stay(name):
    assert len(ops(simplified(lambda F, x: BUSY[name](F, x)))) >= 1


def test_an_op_that_converts_or_broadcasts_stays():
    half = ((4,), "float16")
    assert ops(simplified(lambda F, x: F.astype(x, "float32"), half)) == ["astype"]
    rounds = lambda F, x: F.astype(F.astype(x, "float16"), "float32")  # noqa: E731
    assert ops(simplified(rounds)) == ["astype", "astype"]
    assert ops(simplified(lambda F, x: F.divide(x, 1), ((4,), "int32"))) == ["divide"]
    graph = Graph()
    x = graph.add("input", shape=(1,))
    one = graph.add("const", shape=(4,), dtype="float32", value=1.0)
    graph.outputs = [graph.add("op", (x, one), shape=(4,), op="multiply", at="float32")]
    assert ops(simplify(graph)) == ["multiply"]


def test_inverting_bits_twice_is_nothing_for_integers():
    twice = lambda F, x: F.bitwise_invert(F.bitwise_invert(x))  # noqa: E731
    assert ops(simplified(twice, ((4,), "int32"))) == []


def test_special_values_survive_fusion(host_device):
    """Every rewrite above, in one kernel, on the values it might damage, bit by bit."""
    x = mx.array([0.0, -0.0, 1.0, -1.5, float("inf"), -float("inf"), float("nan"), 1e-45])
    functions = [
        lambda x: x * 1, lambda x: x - 0, lambda x: x / 1, lambda x: mx.negative(-x),
        lambda x: x + 0,
        lambda x: 0.0 - x, lambda x: x * 0, lambda x: x - x, lambda x: x / x, lambda x: x - -0.0,
        lambda x: (x + 3) - 3, lambda x: x * -1, lambda x: x.astype(mx.float32),
    ]  # fmt: skip
    plain = lambda x: [f(x) for f in functions]  # noqa: E731
    equal(zmlx.fuse(plain)(x), plain(x))


def test_cost_adds_up_the_rows():
    graph = record(lambda F, x: F.add(F.exp(x), F.stop_gradient(x)), FLOAT)
    nodes = [n for n in graph if graph.kind(n) == "op"]
    assert cost(graph, nodes) == 11


def test_common_subexpressions_in_a_real_function():
    ops_found = regions_of(lambda x: mx.exp(x * 2) + mx.exp(x * 2) * x, mx.ones((4, 4)))
    assert sorted(ops_found[0]) == ["add", "exp", "multiply", "multiply"]


@hypothesis.given(graphs(), st.integers(0, 99))
def test_simplified_graphs_keep_every_bit(graph, seed):
    graph.verify()
    small = simplify(graph)
    small.verify()
    assert len(small) <= len(graph)
    assert [small[n]["shape"] for n in small.inputs] == [graph[n]["shape"] for n in graph.inputs]
    again = simplify(small)
    assert len(again) == len(small)
    if all(graph.kind(n) != "opaque" for n in graph):
        arrays = [
            mx.random.normal(graph[n]["shape"], key=mx.random.key(seed)) for n in graph.inputs
        ]
        equal(replay(small, arrays), replay(graph, arrays))
