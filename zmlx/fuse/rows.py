"""Rows: a region's space as dimensions of rows and one of columns.

Comes in: a region with reduce nodes, and the shapes of its inputs at a call. Goes out: a Layout,
the same region over merged dimensions and how arrays are reshaped for it; None where its folds do
not fit one choice of columns. No array is copied for columns that are not its last dimensions: the
dimensions keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import mlx.core as mx

from zmlx.fuse.shapes import Shape
from zmlx.fuse.simplify import copy_node, live_nodes
from zmlx.msl.schedule import columns_of, ends_only, rules
from zmlx.trace.graph import Graph, broadcast, folded_shape

FEW = 32  # columns that do not fill the threads of a GPU, nor the vectors of a CPU
Cut = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Layout:
    """A region over (rows…, columns), or (rows…, columns, rows…) where folds that are read need it;
    the first `outer` dimensions of rows are outer ones."""

    region: Graph  # sizes are those of the call
    space: Shape
    outer: int
    spread: tuple[Shape | None, ...]  # by input: a shape to which it is broadcast first
    given: tuple[Shape, ...]  # by input: the shape that the kernel takes it in
    results: tuple[Shape, ...]  # of the outputs, as the caller knows them

    @property
    def column(self) -> int:
        return columns_of(self.region)

    @property
    def columns(self) -> int:
        return self.space[self.column]

    @property
    def across(self) -> bool:
        """Whether neighbours in memory are elements of different rows."""
        return self.column < len(self.space) - 1

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Outer indices, rows of each and columns; before rows that are neighbours in memory: rows
        of these, columns, neighbours."""
        space = self.space
        if self.across:
            return prod(space[:-1]) // self.columns, self.columns, space[-1]
        return prod(space[: self.outer]), prod(space[self.outer : -1]), space[-1]

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
    """The region at these sizes.

    Where folds are read, by the fewest dimensions of columns that serve all; else by those which
    leave least to whoever joins the parts.
    """
    graph = _live(graph)
    full = sized(graph, shapes)
    rank = max(map(len, full), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in full]
    space = broadcast(padded)
    if 0 in space:
        return None
    folds = list(_folds(graph, padded, space))
    cuts = list(_cuts(folds, space))
    if ends_only(graph):
        arrays = [padded[n] for n in graph.inputs if graph.kind(n) == "input"]
        whole = [cut for cut in cuts if all(_lies_in(shape, space, cut[1]) for shape in arrays)]
        cuts = sorted(whole, key=lambda cut: _cost(folds, space, cut))
    return _merged(graph, padded, full, space, cuts[0], folds) if cuts else None


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


@dataclass(frozen=True)
class _Fold:
    """A reduce or count node, by dimensions of the space that are not of size one."""

    kind: str
    end: bool  # it may fold rows, and be joined of parts
    axes: frozenset[int]
    moving: frozenset[int]  # in which its operand moves


def _folds(graph: Graph, padded: Sequence[Shape], space: Shape) -> Iterator[_Fold]:
    rank = len(space)
    for node in graph:
        if graph.kind(node) in ("reduce", "count"):
            operand = graph.operands(node)[0]
            lead = rank - len(graph[operand]["shape"])
            axes = {d + lead for d in graph[node]["axes"] if space[d + lead] != 1}
            moving = {d for d in range(rank) if padded[operand][d] != 1}
            end = not rules(graph, node)
            yield _Fold(graph.kind(node), end, frozenset(axes), frozenset(moving))


def _cuts(folds: Sequence[_Fold], space: Shape) -> Iterator[Cut]:
    """(where rows begin that are no outer dimensions, where columns begin and end), each choice
    that all folds agree with; columns at the end with fewest dimensions first, then fewest outer.
    """
    rank = len(space)
    for first in reversed(range(rank)):
        columns = {d for d in range(first, rank) if space[d] != 1}
        for outer in range(first + 1) if columns else ():
            above = {d for d in range(outer) if space[d] != 1}
            rows = {d for d in range(outer, first) if space[d] != 1}
            if all(_fits(fold, above, rows, columns) for fold in folds):
                yield outer, first, rank
    columns = next((set(f.axes) for f in folds if f.kind == "reduce" and not f.end), set())
    between = range(min(columns), max(columns) + 1) if columns else range(0)
    rows = {d for d in range(rank) if space[d] != 1} - columns
    before = rows.isdisjoint(between) and max(rows, default=-1) >= between.stop
    if before and all(_fits(f, set(), rows, columns) and not f.axes & rows for f in folds):
        yield 0, between.start, between.stop


def _fits(fold: _Fold, outer: set[int], rows: set[int], columns: set[int]) -> bool:
    """Whether a fold covers all columns or none, and if it is an end all rows or none."""
    axes, moving = fold.axes, fold.moving
    if axes & columns and not columns <= axes:
        return False
    if fold.kind == "count":
        return True
    if not fold.end:
        return bool(axes) and not axes & (outer | rows) and columns <= moving
    whole = outer | rows <= moving and (columns <= moving or not (axes | moving) & columns)
    return whole and bool(axes & (rows | columns)) and (not axes & rows or rows <= axes)


def _lies_in(shape: Shape, space: Shape, first: int) -> bool:
    """Whether an input has all columns, or one."""
    return shape[first:] == space[first:] or prod(shape[first:]) == 1


def _cost(folds: Sequence[_Fold], space: Shape, cut: Cut) -> tuple[int, Cut]:
    """Roughly how many elements are left after the kernel, and what narrow rows cost."""
    first, second, _ = cut
    outer, rows, columns = prod(space[:first]), prod(space[first:second]), prod(space[second:])
    cost = outer * rows * columns if columns < FEW else 0
    for fold in folds:
        over_rows = any(first <= d < second for d in fold.axes)
        over_columns = any(second <= d for d in fold.axes)
        left = -(-rows // 64) if over_rows else rows
        cost += outer * left * (-(-columns // 4096) if over_columns else columns)
    return cost, cut


def _merged(
    graph: Graph, padded: Sequence[Shape], full: Sequence[Shape], space: Shape, cut: Cut,
    folds: Sequence[_Fold],
) -> Layout:  # fmt: skip
    rank, (outer, first, last) = len(space), cut
    spread: dict[int, Shape] = {}
    shapes = list(padded)
    for node in graph.inputs:
        inner = shapes[node][first:last]
        if graph.kind(node) == "input" and inner != space[first:last] and prod(inner) != 1:
            whole = (*shapes[node][:first], *space[first:last], *shapes[node][last:])
            shapes[node] = spread[node] = whole
    arrays = [shapes[n] for n in graph.inputs if graph.kind(n) == "input"]
    marks = [tuple(d in fold.axes for fold in folds) + (d < outer,) for d in range(rank)]
    groups = _row_groups(arrays, space, marks, range(first)) or [range(0)]
    groups += [range(first, last), *_row_groups(arrays, space, marks, range(last, rank))]

    def merged(shape: Shape) -> Shape:
        return tuple(prod(shape[d] for d in group) for group in groups)

    made = Graph()
    for node in graph:
        kind, data = graph.kind(node), graph.attributes(node)
        operands = graph.operands(node)
        if kind == "input":
            data["shape"] = merged(shapes[node])
            inner, around = padded[node][first:last], padded[node][:first] + padded[node][last:]
            if node in spread or prod(inner) == 1 or prod(around) != 1:
                data.pop("places", None)  # along no columns
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
        made, merged(space), sum(group.start < outer for group in groups),
        tuple(spread.get(n) for n in graph.inputs), tuple(given),
        tuple(full[n] for n in graph.outputs),
    )  # fmt: skip


def _row_groups(
    shapes: Sequence[Shape], space: Shape, marks: Sequence[tuple[bool, ...]], dims: range
) -> list[range]:
    """Neighbouring ones of `dims`, of one mark, in which every input moves, or stands, alike are
    one."""
    groups: list[range] = []
    for d in dims:
        last = groups[-1] if groups else range(0)
        moving = [e for e in last if space[e] != 1 and space[d] != 1][-1:]
        alike = all(
            marks[d] == marks[e] and all((s[d] != 1) == (s[e] != 1) for s in shapes) for e in moving
        )
        if last and alike and marks[d][-1] == marks[last.start][-1]:
            groups[-1] = range(last.start, d + 1)
        else:
            groups.append(range(d, d + 1))
    return groups
