"""Cuts: which part of an array a slice takes along one axis, and how several of them lie in it.

Comes in: views of one array, with the numbers and sizes of a call. Goes out: Cuts, and the pieces
between all their ends, in order. zmlx.fuse.adjoints puts the gradient of the array together so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zmlx.fuse.filled import filler
from zmlx.fuse.views import INDEX, SPLIT, Shape, expanded, kind_of
from zmlx.trace.graph import Graph, OpaqueCall


@dataclass(frozen=True)
class Cut:
    """The elements [start, stop) along `axis`, all of them along the others."""

    axis: int
    start: int
    stop: int
    drops: bool  # the result has no such dimension


@dataclass(frozen=True)
class Piece:
    """A part [start, stop) of an array in which no cut begins or ends, and which cuts cover it.

    `whole`: those that are this piece and nothing else.
    """

    start: int
    stop: int
    covers: tuple[int, ...]
    whole: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How the slices of one array lie in it: their cuts by view, and the pieces between them."""

    views: tuple[int, ...]
    cuts: tuple[Cut, ...]
    pieces: tuple[Piece, ...]

    @property
    def stacks(self) -> bool:
        """Whether every piece is one slice that has lost the dimension."""
        return all(cut.drops for cut in self.cuts) and all(p.whole for p in self.pieces)

    @property
    def structure(self) -> Any:
        """What of it decides the graph; sizes do not."""
        return (
            self.views,
            tuple((cut.axis, cut.drops) for cut in self.cuts),
            tuple((piece.covers, piece.whole) for piece in self.pieces),
        )


def array_of(graph: Graph, node: int) -> int | None:
    """The array of which `node` is a slice or an item of a split; None where it is neither."""
    if graph.kind(node) == "item":
        (source,) = graph.operands(node)
        return graph.operands(source)[0] if kind_of(graph, source) == SPLIT else None
    return graph.operands(node)[0] if kind_of(graph, node) == INDEX else None


def call_of(graph: Graph, node: int) -> int:
    """The node of the call that makes the slice or item `node`."""
    return graph.operands(node)[0] if graph.kind(node) == "item" else node


def cutter(graph: Graph, node: int) -> Callable[[Shape, Sequence[int]], Cut | None]:
    """From the array's shape and the numbers of the slice `node` to its Cut, if it is one."""
    call: OpaqueCall = graph[call_of(graph, node)]["call"]
    if graph.kind(node) == "item":
        position, fill = graph[node]["index"], filler((call.args[1:], call.kwargs))
        return lambda shape, numbers: _of_split(fill([None, *numbers]), position, shape)
    index, given = call.args[1], filler(call.args[1])
    if None in (index if type(index) is tuple else (index,)):
        return lambda shape, numbers: None
    return lambda shape, numbers: _of_index(given([None, *numbers]), shape)


def _of_index(index: Any, shape: Shape) -> Cut | None:
    found = None
    for axis, (item, size) in enumerate(zip(expanded(index, len(shape)), shape, strict=True)):
        if type(item) is slice:
            start, stop, step = item.indices(size)
            if step != 1 or start >= stop:
                return None
            if (start, stop) == (0, size):
                continue
            cut = Cut(axis, start, stop, drops=False)
        else:
            cut = Cut(axis, item % size, item % size + 1, drops=True)
        if found is not None:
            return None
        found = cut
    return found


def _of_split(given: Any, position: int, shape: Shape) -> Cut | None:
    args, kwargs = given
    ends, *rest = args or [kwargs["indices_or_sections"]]
    axis = (rest[0] if rest else kwargs.get("axis", 0)) % len(shape)
    size = shape[axis]
    if isinstance(ends, int):
        width = size // ends
        start, stop = position * width, (position + 1) * width
    else:
        bounds = [0, *ends, size]
        start, stop = bounds[position], bounds[position + 1]
    return Cut(axis, start, stop, drops=False) if 0 <= start < stop <= size else None


def pieces(cuts: Sequence[Cut], size: int) -> tuple[Piece, ...] | None:
    """All of an array of that size, from one end of a cut to the next; None for several axes."""
    if len({cut.axis for cut in cuts}) != 1:
        return None
    ends = sorted({0, size, *[c.start for c in cuts], *[c.stop for c in cuts]})
    found = []
    for start, stop in zip(ends, ends[1:], strict=False):
        covers = tuple(i for i, c in enumerate(cuts) if c.start <= start and stop <= c.stop)
        whole = tuple(i for i in covers if (cuts[i].start, cuts[i].stop) == (start, stop))
        found.append(Piece(start, stop, covers, whole))
    return tuple(found)
