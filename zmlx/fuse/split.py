"""Splits: a region's space as outer dimensions, rows and columns, so that a kernel can add up.

Comes in: the shapes of a region's inputs, and the axes of sums over its space. Goes out: a Split,
which says for each sum how the kernel adds it up, if it can. zmlx.fuse.absorb asks whether there is
one, zmlx.fuse.summed launches by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]
Axes = tuple[int, ...]
# What a sum covers: all rows and no column, all columns and not all rows, or all of both.
ROWS, COLUMNS, BOTH = "rows", "columns", "both"
FEW = 32  # columns that do not fill the threads of a GPU, nor the vectors of a CPU
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Split:
    """Dimensions [0, first) of the space are outer ones, [first, second) rows, the rest columns."""

    shape: Shape
    first: int
    second: int
    kinds: tuple[str | None, ...]  # by sum; None where the kernel cannot add it up

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Outer, row and column elements."""
        s = self.shape
        return prod(s[: self.first]), prod(s[self.first : self.second]), prod(s[self.second :])

    @property
    def served(self) -> int:
        """How many sums the kernel adds up."""
        return sum(kind is not None for kind in self.kinds)

    def merged(self, shape: Shape) -> Shape:
        """The shape (outer, rows, columns) of an input of `shape`, ones where it stands still."""
        full = (1,) * (len(self.shape) - len(shape)) + shape
        return (
            prod(full[: self.first]),
            prod(full[self.first : self.second]),
            prod(full[self.second :]),
        )

    def cost(self) -> int:
        """Roughly how many elements MLX still has to read."""
        outer, rows, columns = self.sizes
        blocks, parts = -(-rows // 64), -(-columns // 128)
        each = {ROWS: blocks * columns, COLUMNS: rows * parts, BOTH: blocks * parts}
        narrow = outer * rows * columns if columns < FEW else 0
        return narrow + outer * sum(each[kind] for kind in self.kinds if kind)


def best_split(shapes: Sequence[Shape], sums: Sequence[Axes]) -> Split | None:
    """The split that serves most of `sums` and leaves least to MLX; None where none serves any.

    `shapes` are those of the inputs, which broadcast; axes count from the left of the space.
    """
    found = [split for split in _splits(shapes, sums) if split.served]
    return min(found, key=lambda split: (-split.served, split.cost()), default=None)


def _splits(shapes: Sequence[Shape], sums: Sequence[Axes]) -> Iterator[Split]:
    rank = max(map(len, shapes), default=0)
    full = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    space = tuple(max(sizes, key=lambda n: n != 1) for sizes in zip(*full, strict=True))
    moving = [d for d in range(rank) if space[d] != 1]
    cuts = [0, *moving[1:]]  # a group begins with a dimension that has a size
    for second in moving:
        for first in [c for c in cuts if c < second] + [second]:
            groups = (range(first), range(first, second), range(second, rank))
            parts = [[d for d in group if space[d] != 1] for group in groups]
            if all(_stands_or_moves(shape, part) for shape in full for part in parts):
                _, rows, columns = map(set, parts)
                kinds = tuple(_kind(set(axes), rows, columns) for axes in sums)
                split = Split(space, first, second, kinds)
                if max(split.sizes) <= INT32_MAX:
                    yield split


def _stands_or_moves(shape: Shape, dims: Sequence[int]) -> bool:
    """Whether an input has the full size in all of `dims`, or size one."""
    return len({shape[d] != 1 for d in dims}) < 2


def _kind(axes: set[int], rows: set[int], columns: set[int]) -> str | None:
    if columns <= axes:
        return BOTH if rows <= axes else COLUMNS
    return ROWS if rows and rows <= axes and not columns & axes else None
