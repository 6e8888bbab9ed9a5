"""hypothesis strategies for whole graphs: ops, numbers, calls that MLX runs, mixed shapes."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from hypothesis import strategies as st

from zmlx.trace.graph import Graph, OpaqueCall, Ref, broadcast, folded_shape

SHAPES = [(3, 4), (4,), (3, 1), (1,), ()]
UNARY = ["sin", "negative", "abs", "square", "exp", "tanh"]
BINARY = ["add", "subtract", "multiply", "maximum", "divide"]
KEPT = ("input", "op", "reduce", "item")
FOLDS = ["fold", "fold", "count"]
NUMBERS = [0, 0.0, -0.0, 1, 1.0, -1, 2.5, float("inf"), float("nan")]


@st.composite
def graphs(draw: Any, most: int = 25, calls: bool = True) -> Graph:
    """Graphs with one to four inputs, `most` nodes at most, and one to five outputs."""
    graph = Graph()
    for _ in range(draw(st.integers(1, 4))):
        graph.add("input", shape=draw(st.sampled_from(SHAPES)))
    kinds = [
        "unary",
        "binary",
        "binary",
        "number",
        *(["call", "pair", "draw", *FOLDS] if calls else []),
    ]
    for _ in range(draw(st.integers(1, most))):
        _grow(draw, graph, draw(st.sampled_from(kinds)))
    arrays = [n for n in graph if graph.kind(n) in ("op", "reduce", "item") or _single(graph, n)]
    arrays = arrays or graph.inputs
    graph.outputs = draw(st.lists(st.sampled_from(arrays), min_size=1, max_size=5, unique=True))
    return graph


def _single(graph: Graph, node: int) -> bool:
    return graph.kind(node) == "opaque" and graph[node]["call"].outputs == 0


def _grow(draw: Any, graph: Graph, kind: str) -> None:
    usable = [n for n in graph if graph.kind(n) in KEPT or _single(graph, n)]
    pick = lambda: usable[-1 - draw(st.integers(0, min(8, len(usable) - 1)))]  # noqa: E731
    if kind == "unary":
        _op(graph, draw(st.sampled_from(UNARY)), pick())
    elif kind == "binary":
        _op(graph, draw(st.sampled_from(BINARY)), pick(), pick())
    elif kind == "number":
        number = graph.add("const", dtype="float32", value=draw(st.sampled_from(NUMBERS)))
        pair = [pick(), number]
        _op(graph, draw(st.sampled_from(BINARY)), *(pair if draw(st.booleans()) else pair[::-1]))
    elif kind == "call":
        _call(graph, pick())
    elif kind in FOLDS:
        _fold(draw, graph, kind, pick())
    elif kind == "pair":
        _pair(graph, pick())
    else:
        shape = draw(st.sampled_from(SHAPES))
        call = OpaqueCall(lambda: mx.ones(shape), (), {}, "draw")
        graph.add("opaque", (), shape=shape, call=call, pure=False)


def _op(graph: Graph, op: str, *operands: int) -> None:
    shape = broadcast([graph[o]["shape"] for o in operands])
    graph.add("op", operands, shape=shape, op=op, at="float32")


def _call(graph: Graph, source: int) -> None:
    """Something like a softmax: as large as its operand, and no kernel may cross it."""
    call = OpaqueCall(lambda a: mx.cumsum(a.reshape(-1)).reshape(a.shape), (Ref(0),), {}, "scan")
    graph.add("opaque", (source,), shape=graph[source]["shape"], call=call, pure=True)


def _fold(draw: Any, graph: Graph, kind: str, source: int) -> None:
    """A fold of some axes, or their count beside what is counted; of a number nothing."""
    shape = graph[source]["shape"]
    if not shape:
        return
    places = st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True)
    axes = tuple(sorted(draw(places)))
    if kind == "fold":
        op = draw(st.sampled_from(["sum", "max", "prod"]))
        graph.add("reduce", (source,), shape=folded_shape(shape, axes), op=op, axes=axes)
    else:
        _op(graph, "divide", source, graph.add("count", (source,), axes=axes))


def _pair(graph: Graph, source: int) -> None:
    call = OpaqueCall(lambda a: [a * 1, a * 2], (Ref(0),), {}, "pair", outputs=2)
    node = graph.add("opaque", (source,), call=call, pure=True)
    for index in range(2):
        graph.add("item", (node,), shape=graph[source]["shape"], index=index)
