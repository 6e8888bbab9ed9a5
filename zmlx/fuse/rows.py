"""Rows: a region's space as dimensions of rows and one of columns.

Comes in: a region with reduce nodes, and the shapes of its inputs at a call. Goes out: a Layout,
the same region over merged dimensions and how arrays are reshaped for it; None where its folds do
not fit one choice of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import mlx.core as mx

from zmlx.fuse.shapes import Shape
from zmlx.fuse.simplify import copy_node, live_nodes
from zmlx.trace.graph import Graph, broadcast, folded_shape


@dataclass(frozen=True, eq=False)
class Layout:
    """A region over (rows…, columns)."""

    region: Graph  # sizes are those of the call
    space: Shape
    spread: tuple[Shape | None, ...]  # by input: a shape to which it is broadcast first
    given: tuple[Shape, ...]  # by input: the shape that the kernel takes it in
    results: tuple[Shape, ...]  # of the outputs, as the caller knows them

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows and columns."""
        return prod(self.space[:-1]), self.space[-1]

    def laying_out(self, shapes: Sequence[Shape]) -> Callable[[Sequence[mx.array]], list[mx.array]]:
        """What lays out arrays of `shapes`."""
        places = list(zip(range(len(shapes)), shapes, self.spread, self.given, strict=True))
        spreads = [(i, spread) for i, _, spread, _ in places if spread is not None]
        reshapes = [(i, now) for i, shape, spread, now in places if (spread or tuple(shape)) != now]

        def laid_out(arrays: Sequence[mx.array]) -> list[mx.array]:
            found = list(arrays)
            for i, spread in spreads:
                found[i] = mx.broadcast_to(found[i], spread)
            for i, shape in reshapes:
                found[i] = mx.reshape(found[i], shape)
            return found

        return laid_out


def layout(graph: Graph, shapes: Sequence[Shape]) -> Layout | None:
    """The region at these sizes; the fewest dimensions of columns that serve all folds."""
    graph = _live(graph)
    full = sized(graph, shapes)
    rank = max(map(len, full), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in full]
    space = broadcast(padded)
    if 0 in space:
        return None
    for first in _cuts(graph, padded, space):
        return _merged(graph, padded, full, space, first)
    return None


def _live(graph: Graph) -> Graph:
    """`graph` with all its inputs, and what its outputs need."""
    live = live_nodes(graph)
    if len(live) == len(graph):
        return graph
    made, new = Graph(), dict[int, int]()
    for node in sorted(live):
        new[node] = copy_node(graph, node, made, [new[o] for o in graph.operands(node)])
    made.outputs = [new[n] for n in graph.outputs]
    return made


def sized(graph: Graph, shapes: Sequence[Shape]) -> list[Shape]:
    """The shape of each node for inputs of `shapes`."""
    given = dict(zip(graph.inputs, shapes, strict=True))
    found: list[Shape] = []
    for node in graph:
        kind = graph.kind(node)
        if kind == "input":
            found.append(tuple(given[node]))
        elif kind == "op":
            found.append(broadcast([found[o] for o in graph.operands(node)]))
        elif kind == "reduce":
            found.append(folded_shape(found[graph.operands(node)[0]], graph[node]["axes"]))
        else:
            found.append(())
    return found


def _cuts(graph: Graph, padded: Sequence[Shape], space: Shape) -> Iterator[int]:
    """The first dimension of columns, for each choice that all folds agree with."""
    rank = len(space)
    folds = []
    for node in graph:
        if graph.kind(node) in ("reduce", "count"):
            shape = padded[graph.operands(node)[0]]
            lead = rank - len(graph[graph.operands(node)[0]]["shape"])
            axes = {d + lead for d in graph[node]["axes"] if space[d + lead] != 1}
            moving = {d for d in range(rank) if shape[d] != 1}
            folds.append((axes, moving))
    for first in reversed(range(rank)):
        columns = {d for d in range(first, rank) if space[d] != 1}
        rows = {d for d in range(first) if space[d] != 1}
        if columns and all(_fits(axes & moving, moving, rows, columns) for axes, moving in folds):
            yield first


def _fits(axes: set[int], moving: set[int], rows: set[int], columns: set[int]) -> bool:
    """Whether a fold covers all columns or none, and all rows or none, as far as they move."""
    rest = moving - axes
    return not (axes & rows and rest & rows) and not (axes & columns and rest & columns)


def _merged(
    graph: Graph, padded: Sequence[Shape], full: Sequence[Shape], space: Shape, first: int
) -> Layout:
    rank = len(space)
    spread: dict[int, Shape] = {}
    shapes = list(padded)
    for node in graph.inputs:
        tail = shapes[node][first:]
        if graph.kind(node) == "input" and tail != space[first:] and prod(tail) != 1:
            shapes[node] = spread[node] = (*shapes[node][:first], *space[first:])
    arrays = [n for n in graph.inputs if graph.kind(n) == "input"]
    groups = _row_groups([shapes[n] for n in arrays], space, first)
    groups.append(range(first, rank))

    def merged(shape: Shape) -> Shape:
        return tuple(prod(shape[d] for d in group) for group in groups)

    made = Graph()
    for node in graph:
        kind, data = graph.kind(node), graph.attributes(node)
        operands = graph.operands(node)
        if kind == "input":
            data["shape"] = merged(shapes[node])
        elif kind == "op":
            data["shape"] = broadcast([made[o]["shape"] for o in operands])
        elif kind in ("reduce", "count"):
            lead = rank - len(graph[operands[0]]["shape"])
            wanted = {d + lead for d in data["axes"]}
            data["axes"] = tuple(
                i for i, group in enumerate(groups)
                if any(d in wanted and space[d] != 1 for d in group)
            )  # fmt: skip
            if kind == "reduce":
                data["shape"] = folded_shape(made[operands[0]]["shape"], data["axes"])
        made.add(kind, operands, **data)
    made.outputs = list(graph.outputs)
    given = [made[n]["shape"] if graph.kind(n) == "input" else (1,) for n in graph.inputs]
    return Layout(
        made, merged(space), tuple(spread.get(n) for n in graph.inputs), tuple(given),
        tuple(full[n] for n in graph.outputs),
    )  # fmt: skip


def _row_groups(shapes: Sequence[Shape], space: Shape, first: int) -> list[range]:
    """Neighbouring dimensions in which every input moves, or stands, alike are one."""
    groups: list[range] = []
    for d in range(first):
        if groups and all(_alike(shape, space, groups[-1], d) for shape in shapes):
            groups[-1] = range(groups[-1].start, d + 1)
        else:
            groups.append(range(d, d + 1))
    return groups or [range(0)]


def _alike(shape: Shape, space: Shape, group: range, d: int) -> bool:
    moving = [e for e in group if space[e] != 1]
    if not moving or space[d] == 1:
        return True
    return (shape[d] != 1) == (shape[moving[-1]] != 1)
