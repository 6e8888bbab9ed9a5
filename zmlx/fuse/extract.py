"""Extraction: some op nodes of a graph as a region, a graph of its own.

Comes in: a graph and the nodes that share a kernel. Goes out: a Region, with what it reads and
writes. zmlx.fuse.regions asks whether a kernel could hold it, zmlx.fuse.plan makes it a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zmlx.fuse.places import are_places
from zmlx.fuse.simplify import copy_node
from zmlx.trace.graph import NUMBERS, Graph
from zmlx.trace.passes import verified


@dataclass(frozen=True)
class Ends:
    """What a kernel over some nodes reads and writes, as node ids of the whole graph."""

    inputs: tuple[int, ...]  # arrays
    scalars: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Region:
    """One kernel: `graph` holds kinds input, scalar, const and op, arrays before scalars; where it
    `folds`, reduce and count as well.

    Running it also takes away folded axes of an output, by the node in `squeezes`, if any.
    """

    graph: Graph
    ends: Ends  # node ids of the whole graph; graph.inputs are ends.inputs + ends.scalars
    nodes: tuple[int, ...]
    squeezes: tuple[int | None, ...] = ()  # by output

    @property
    def folds(self) -> bool:
        """Whether its kernel folds rows or columns."""
        return any(self.graph.kind(n) == "reduce" for n in self.graph)

    @property
    def results(self) -> tuple[int, ...]:
        """What running it gives, as node ids of the whole graph."""
        if not self.squeezes:
            return self.ends.outputs
        pairs = zip(self.ends.outputs, self.squeezes, strict=True)
        return tuple(n if short is None else short for n, short in pairs)


@verified("extract")
def extract(graph: Graph, nodes: Sequence[int]) -> Region:
    """The subgraph over `nodes` (in topological order) as a graph of its own."""
    found = ends(graph, nodes, graph.outputs)
    region = Graph()
    new: dict[int, int] = {}
    for kind, sources in (("input", found.inputs), ("scalar", found.scalars)):
        for source in sources:
            data = graph[source]
            given = {"expr": data["expr"]} if data["kind"] == "scalar" else {}
            given |= {"places": True} if are_places(graph, source) else {}
            new[source] = region.add(
                kind, shape=data["shape"], dtype=data["dtype"], loc=data["loc"], **given
            )
    for node in nodes:
        for operand in graph.operands(node):
            if operand not in new:  # a constant
                new[operand] = copy_node(graph, operand, region, ())
        new[node] = copy_node(graph, node, region, [new[o] for o in graph.operands(node)])
    region.outputs = [new[n] for n in found.outputs]
    return Region(region, found, tuple(nodes))


def ends(graph: Graph, nodes: Sequence[int], outputs: Iterable[int]) -> Ends:
    """Inputs, scalars and outputs of a kernel over `nodes`; `outputs` are those of the graph."""
    inside, returned = set(nodes), set(outputs)
    arrays: dict[int, None] = {}
    scalars: dict[int, None] = {}
    for node in nodes:
        for operand in graph.operands(node):
            kind = graph.kind(operand)
            if operand not in inside and kind != "const":
                (scalars if kind in NUMBERS else arrays)[operand] = None
    results = [
        n for n in nodes if n in returned or any(u not in inside for u in graph.nx.successors(n))
    ]
    return Ends(tuple(arrays), tuple(scalars), tuple(results))
