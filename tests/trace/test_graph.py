"""The graph's schema: what `verify` accepts, and that it refuses every kind of damage."""

from __future__ import annotations

import mlx.core as mx
import pytest
from tracing import traced

from zmlx.errors import PlanError
from zmlx.trace.graph import COMMON, KINDS, Graph, OpaqueCall, Ref


def sample() -> Graph:
    weights = mx.ones((3,))

    def fn(x, rate):
        a, b = mx.split(x * x + rate, 2)
        return (mx.sum(a) - b) * 2 / mx.einsum("i->i", a).shape[0], weights * b[:1]

    graph = traced(fn, mx.ones((6,)), 0.5).graph
    folded = {"operands": (0,), "axes": (0,), "loc": "test_graph.py:0"}
    graph.add("reduce", shape=(1,), op="sum", **folded)
    graph.add("count", **folded)
    assert {graph.kind(n) for n in graph} == set(KINDS)
    return graph


def node_of(graph: Graph, kind: str) -> int:
    return next(n for n in graph if graph.kind(n) == kind)


def test_attributes_are_exactly_those_documented():
    graph = sample()
    for node in graph:
        assert set(graph[node]) == {*COMMON, *KINDS[graph.kind(node)]}
        assert graph[node]["loc"].startswith("test_graph.py:") or graph.kind(node) == "input"


def test_edges_carry_positions():
    graph = sample()
    square = next(n for n in graph if graph.kind(n) == "op" and graph[n]["op"] == "multiply")
    (source,) = set(graph.operands(square))
    assert graph.nx.edges[source, square] == {"positions": (0, 1)}
    assert square in graph.users(source)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_or_extra_attribute_is_refused(kind):
    for name in KINDS[kind]:
        graph = sample()
        del graph[node_of(graph, kind)][name]
        with pytest.raises(PlanError, match="attributes of a node of kind"):
            graph.verify()
    graph = sample()
    graph[node_of(graph, kind)]["colour"] = "red"
    with pytest.raises(PlanError, match="attributes of a node of kind"):
        graph.verify()


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        ("op", "kind", "magic", "unknown kind"),
        ("op", "op", "magic", "no row"),
        ("op", "at", "float31", "no row"),
        ("op", "dtype", "float31", "dtype or shape"),
        ("op", "shape", (2.0,), "dtype or shape"),
        ("op", "shape", (7, 7, 7), "broadcast"),
        ("op", "shape", (), "broadcast"),
        ("op", "operands", (0,), "against edges"),
        ("opaque", "pure", 1, "call or pure"),
        ("opaque", "call", OpaqueCall(mx.sum, (Ref(3),)), "Refs"),
        ("item", "index", 2, "no output of an opaque node"),
        ("reduce", "op", "magic", "no reduction"),
        ("reduce", "op", "all", "no reduction of that name and type"),
        ("reduce", "dtype", "int32", "no reduction of that name and type"),
        ("reduce", "shape", (), "folds to"),
        ("reduce", "axes", (), "not in order"),
        ("reduce", "axes", (-1,), "not in order"),
        ("reduce", "axes", (1,), "not in order"),
        ("reduce", "axes", (0, 0), "not in order"),
        ("reduce", "axes", [0], "not in order"),
        ("count", "axes", (2,), "not in order"),
        ("count", "dtype", "int32", "a number of float32"),
        ("const", "operands", (0,), "against edges"),
        ("scalar", "index", 5, "index beyond"),
    ],
)
def test_damage_is_refused(kind, name, value, words):
    graph = sample()
    graph[node_of(graph, kind)][name] = value
    with pytest.raises(PlanError, match=words):
        graph.verify()


def test_a_fold_takes_one_array_and_an_index_one_axis_or_all():
    graph = Graph()
    x = graph.add("input", shape=(2, 3, 4))
    number = graph.add("const", value=1.0)
    kinds = {"dtype": "uint32", "op": "argmax"}
    graph.add("reduce", (x,), shape=(2, 1, 4), axes=(1,), **kinds)
    graph.add("reduce", (x,), shape=(1, 1, 1), axes=(0, 1, 2), **kinds)
    graph.verify()
    for operands in ((number,), (), (x, x)):
        damaged = Graph()
        damaged.add("input", shape=(2, 3, 4))
        damaged.add("const", value=1.0)
        damaged.add("count", operands, axes=(0,))
        with pytest.raises(PlanError, match="takes one array"):
            damaged.verify()
    graph.add("reduce", (x,), shape=(2, 1, 1), axes=(1, 2), **kinds)
    with pytest.raises(PlanError, match="several axes"):
        graph.verify()


def test_folds_are_printed_with_their_axes():
    graph = Graph()
    x = graph.add("input", shape=(2, 3))
    graph.outputs = [graph.add("reduce", (x,), shape=(2, 1), op="max", axes=(1,))]
    graph.add("count", (x,), axes=(0, 1))
    assert str(graph).splitlines()[1:3] == [
        "%1 = max(%0, axes=(1,))  float32[2, 1]",
        "%2 = count(%0, axes=(0, 1))  float32[]",
    ]


def test_damaged_ends_are_refused():
    graph = sample()
    graph.inputs.reverse()
    with pytest.raises(PlanError, match="inputs are"):
        graph.verify()
    graph = sample()
    graph.outputs.append(10_000)
    with pytest.raises(PlanError, match="name nodes that are not there"):
        graph.verify()


@pytest.mark.smoke
def test_operands_precede_their_users():
    graph = Graph()
    with pytest.raises(PlanError, match="unknown operand"):
        graph.add("op", (0,), op="exp", at="float32")
    loop = sample()
    node = node_of(loop, "op")
    loop.nx.add_edge(node + 1, node, positions=(2,))
    with pytest.raises(PlanError, match="against edges"):
        loop.verify()
