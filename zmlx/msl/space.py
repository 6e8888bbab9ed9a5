"""Space: what a region's kernel iterates over, and how many of Metal's buffers that takes.

Comes in: a region, of which only inputs, outputs and shapes are looked at. Goes out: for each input
the dimensions in which it moves, and where the sizes are read. The emitter builds its loop from it;
the planner asks `buffer_slots`, often, and so it must stay cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zmlx.errors import EmitError
from zmlx.msl.spec import MAX_BUFFERS
from zmlx.trace.graph import Graph

__all__ = ["MAX_BUFFERS", "Space", "buffer_slots"]


@dataclass(frozen=True)
class Space:
    """The iteration space of a region; dimension numbers count from the left of `shape`."""

    shape: tuple[int, ...]  # the broadcast of all inputs; only ones and the rank are meant
    arrays: tuple[int, ...]  # "input" nodes: in0, in1, …
    scalars: tuple[int, ...]  # "scalar" nodes: s0, s1, …
    ranks: tuple[int, ...]  # of the arrays
    moves: tuple[tuple[int, ...], ...]  # per array: dimensions in which its size is not one
    read: tuple[bool, ...]  # per array: does the kernel read its elements?
    dims: tuple[int, ...]  # dimensions of which the size is not one
    sources: tuple[int, ...]  # positions of the arrays whose shapes give all sizes, fewest first
    outputs: int

    @classmethod
    def of(cls, region: Graph) -> Space:
        arrays = tuple(n for n in region.inputs if region.kind(n) == "input")
        shapes = [region[n]["shape"] for n in arrays]
        shape = _broadcast(shapes)
        moves = tuple(
            tuple(len(shape) - len(s) + own for own, n in enumerate(s) if n != 1) for s in shapes
        )
        outputs = set(region.outputs)
        return cls(
            shape=shape,
            arrays=arrays,
            scalars=tuple(n for n in region.inputs if region.kind(n) == "scalar"),
            ranks=tuple(map(len, shapes)),
            moves=moves,
            read=tuple(n in outputs or bool(region.nx.adj[n]) for n in arrays),
            dims=tuple(d for d, n in enumerate(shape) if n != 1),
            sources=_cover(moves),
            outputs=len(region.outputs),
        )

    @property
    def slots(self) -> int:
        """Buffers of the emitted kernel: arguments, shapes and strides, as MLX declares them."""
        strides = sum(bool(m) and r for m, r in zip(self.moves, self.read, strict=True))
        arguments = len(self.arrays) + len(self.scalars) + self.outputs
        return arguments + strides + len(self.sources)

    def size(self, dim: int) -> str:
        """The text that reads the size of a dimension in `dims`."""
        i = next(i for i in self.sources if dim in self.moves[i])
        return f"in{i}_shape[{self.own(i, dim)}]"

    def own(self, i: int, dim: int) -> int:
        """Which dimension of array i is dimension `dim` of the space."""
        return dim - len(self.shape) + self.ranks[i]


def buffer_slots(region: Graph) -> int:
    """How many of Metal's 31 buffers the kernel of `region` takes; emits nothing."""
    return Space.of(region).slots


def _broadcast(shapes: Iterable[Sequence[int]]) -> tuple[int, ...]:
    result: list[int] = []
    for shape in shapes:
        result = [1] * (len(shape) - len(result)) + result
        lead = len(result) - len(shape)
        for own, n in enumerate(shape):
            if n != 1 and result[lead + own] not in (1, n):
                raise EmitError(
                    f"[zmlx.emit] inputs of shapes {list(shapes)} do not broadcast. Plan them "
                    "into different regions."
                )
            result[lead + own] = result[lead + own] if n == 1 else n
    return tuple(result)


def _cover(moves: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The fewest arrays that together move in all dimensions; the first such, in order."""
    masks = [sum(1 << d for d in dims) for dims in moves]
    full = 0
    for mask in masks:
        full |= mask
    if full == 0:
        return ()
    if full in masks:
        return (masks.index(full),)
    first = {mask: i for i, mask in reversed(list(enumerate(masks))) if mask}
    reached: dict[int, tuple[int, ...]] = {0: ()}
    while full not in reached:
        for done, chosen in list(reached.items()):
            for mask, i in sorted(first.items(), key=lambda item: item[1]):
                reached.setdefault(done | mask, (*chosen, i))
    return tuple(sorted(reached[full]))
