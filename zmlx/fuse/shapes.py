"""Symbolic shapes: which sizes of a graph are equal for every call, not just in the example.

A dimension is 1, or a symbol. Elementwise ops make the symbols of their operands equal; the
planner puts two outputs into one kernel only where their symbolic shapes are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.trace.graph import Graph, broadcast, folded_shape
from zmlx.trace.passes import verified

Shape = tuple[int, ...]


class Symbols:
    """Union-find over dimensions: symbol 1 is the size one, others are unknown sizes."""

    def __init__(self) -> None:
        self.parent: list[int] = [0, 1]

    def new(self) -> int:
        self.parent.append(len(self.parent))
        return len(self.parent) - 1

    def find(self, symbol: int) -> int:
        while self.parent[symbol] != symbol:
            self.parent[symbol] = self.parent[self.parent[symbol]]
            symbol = self.parent[symbol]
        return symbol

    def join(self, a: int, b: int) -> int:
        a, b = self.find(a), self.find(b)
        self.parent[max(a, b)] = min(a, b)
        return min(a, b)


def symbolic_shapes(graph: Graph) -> dict[int, Shape]:
    """For each node, its shape in symbols (1 for a size of one)."""
    symbols = Symbols()
    shapes: dict[int, Shape] = {}
    for node in graph:
        data = graph[node]
        if data["kind"] == "op":
            shapes[node] = _broadcast(symbols, [shapes[o] for o in graph.operands(node)])
        elif data["kind"] == "reduce":
            shapes[node] = folded_shape(shapes[data["operands"][0]], data["axes"])
        else:
            shapes[node] = tuple(1 if size == 1 else symbols.new() for size in data["shape"])
    return {n: tuple(symbols.find(s) for s in shape) for n, shape in shapes.items()}


def _broadcast(symbols: Symbols, shapes: Sequence[Shape]) -> Shape:
    rank = max(map(len, shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for i, symbol in enumerate(shape, start=rank - len(shape)):
            if symbol != 1:
                result[i] = symbol if result[i] == 1 else symbols.join(result[i], symbol)
    return tuple(result)


@verified("specialize")
def reshaped(region: Graph, shapes: Sequence[Shape]) -> Graph:
    """A copy of `region` (input, scalar, const, op, reduce and count nodes) for inputs of new
    shapes; where ranks differ, axes keep their distance from the last one.
    """
    made = Graph()
    given = iter(shapes)
    for node in region:
        data = region.attributes(node)
        kind, operands = region.kind(node), region.operands(node)
        if node in region.inputs:
            shape = tuple(next(given))
            data["shape"] = shape if kind == "input" else ()
        elif kind == "op":
            data["shape"] = broadcast([made[o]["shape"] for o in operands])
        elif kind in ("reduce", "count"):
            shape, old = made[operands[0]]["shape"], region[operands[0]]["shape"]
            data["axes"] = tuple([axis + len(shape) - len(old) for axis in data["axes"]])
            data["shape"] = folded_shape(shape, data["axes"]) if kind == "reduce" else ()
        made.add(kind, operands, **data)
    made.outputs = list(region.outputs)
    return made
