"""Launching the kernel of a region with sums: its threads, its arrays, what MLX adds up.

Comes in: a region with sums, its Split at the sizes of a call, the device's launcher. Goes out: a
function from the call's arrays to the outputs kept and the sums, through which MLX's
transformations go. zmlx.fuse.summed makes one for each combination of shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from zmlx.device.base import GridLauncher
from zmlx.device.rules import differentiable
from zmlx.fuse.check import checked_sums
from zmlx.fuse.extract import Region
from zmlx.fuse.function_rules import FunctionRules
from zmlx.fuse.region import RegionFunction
from zmlx.fuse.runtime import Run
from zmlx.fuse.shapes import Shape
from zmlx.fuse.split import BOTH, COLUMNS, ROWS, Split
from zmlx.msl.spec import Launch
from zmlx.msl.sums import Partial

Arrays = Sequence[mx.array]
GROUP, SIMDGROUP = 128, 32  # threads
LANES = 8  # columns of a thread of a GPU: 16 or 32 bytes in flight
HOST_COLUMNS = 1024  # of a thread of the CPU: its sums stay in the first cache
# Rows that one thread adds up, at most and at least, and groups that are worth fewer rows each.
BLOCKS, HOST_BLOCKS = (64, 16, 2048), (128, 4, 64)
MAX_GROUPS = 32768  # along y and z; CUDA has at most 65535, more outer indices share a thread


@dataclass(frozen=True)
class Geometry:
    """The template and the groups of one launch; zmlx.msl.sums says what they mean."""

    lanes: int
    threads: tuple[int, int]  # of a group, along x and y
    groups: tuple[int, int, int]

    @property
    def near(self) -> int:
        return min(SIMDGROUP, self.threads[0])

    @property
    def width(self) -> int:
        """Columns of one partial sum over columns."""
        return self.near * self.lanes

    @property
    def parts(self) -> int:
        return self.groups[0] * self.threads[0] // self.near

    @property
    def blocks(self) -> int:
        return self.groups[1] * self.threads[1]

    def launch(self, shapes: Sequence[Shape], kinds: Sequence[str]) -> Launch:
        """With outputs of these shapes and types."""
        (x, y), (gx, gy, gz) = self.threads, self.groups
        return Launch(
            grid=(gx * x, gy * y, gz),
            threadgroup=(x, y, 1),
            output_shapes=tuple(shapes),
            output_dtypes=tuple(kinds),
            template=(
                ("LANES", self.lanes), ("NEAR", self.near), ("TX", x), ("TY", y),
            ),
        )  # fmt: skip


def geometry(sizes: tuple[int, int, int], alone: bool) -> Geometry:
    """How to cut (outer, rows, columns) elements.

    `alone`: for a device on which the threads of a group take turns.
    """
    outer, rows, columns = sizes
    lanes = HOST_COLUMNS if alone else LANES
    across = -(-columns // lanes)
    x = 1 if alone else _threads_across(across)
    y = 1 if alone or rows == 1 else GROUP // x
    wide, deep = -(-across // x), min(outer, MAX_GROUPS)
    length, shortest, wanted = HOST_BLOCKS if alone else BLOCKS
    while length > shortest and wide * deep * -(-rows // (length * y)) < wanted:
        length //= 2
    return Geometry(lanes, (x, y), (wide, min(-(-rows // (length * y)), MAX_GROUPS), deep))


def _threads_across(wanted: int) -> int:
    """Threads of a group along the columns, a power of two: all, or such that few idle."""
    if wanted <= SIMDGROUP:
        return 1 << (wanted - 1).bit_length()
    idle = {x: -(-wanted // x) * x - wanted for x in (128, 64, 32)}
    return next((x for x, n in idle.items() if 8 * n <= wanted), SIMDGROUP)


def partials_of(region: Region, split: Split) -> list[Partial]:
    """What the kernel adds up; sums of one value over like axes share it."""
    found = [
        Partial(s.output, rows=kind != COLUMNS, columns=kind != ROWS)
        for s, kind in zip(region.sums, split.kinds, strict=True)
    ]
    return list(dict.fromkeys(found))


def summing(
    region: Region,
    function: RegionFunction,
    split: Split,
    merged: Sequence[Shape],
    launcher: GridLauncher,
    alone: bool,
) -> Run:
    """The region's outputs kept and its sums, for arrays that are reshaped to `merged`."""
    graph = function.graph
    made = geometry(split.sizes, alone)
    partials = partials_of(region, split)
    shapes = [split.shape] * len(region.kept) + [_shape(p, split, made) for p in partials]
    kinds = [graph[graph.outputs[k]]["dtype"] for k in region.kept] + ["float32"] * len(partials)
    launch = made.launch(shapes, kinds)
    added = partial(_added, region, split, made, partials)
    run: Run = partial(_launched, launcher, launch)
    if function.runtime.check:
        run = checked_sums(graph, run, added, function.name)
    run = differentiable(run, FunctionRules(lambda arrays: added(function(arrays))))
    rests = [_Rest.of(region, split, partials, shapes, k) for k in range(len(region.sums))]

    def call(arrays: Arrays) -> list[mx.array]:
        pairs = zip(arrays, merged, strict=True)
        outputs = run([a if a.shape == s else a.reshape(s) for a, s in pairs])
        return [*outputs[: len(region.kept)], *[rest(outputs) for rest in rests]]

    return call


def _shape(what: Partial, split: Split, made: Geometry) -> Shape:
    """The shape of partial sums, outer dimensions, rows and columns as in the space."""
    s, first, second = split.shape, split.first, split.second
    if not what.columns:
        return (*s[:first], made.blocks, *s[second:])
    return (*s[:first], made.blocks, made.parts) if what.rows else (*s[:second], made.parts)


@dataclass(frozen=True)
class _Rest:
    """What MLX does to partial sums: adds up the rest, gives the result its shape."""

    output: int  # of the kernel
    axes: tuple[int, ...]
    shape: Shape

    @classmethod
    def of(
        cls,
        region: Region,
        split: Split,
        partials: Sequence[Partial],
        shapes: Sequence[Shape],
        position: int,
    ) -> _Rest:
        s, kind = region.sums[position], split.kinds[position]
        first, second = split.first, split.second
        which = partials.index(Partial(s.output, rows=kind != COLUMNS, columns=kind != ROWS))
        output = len(region.kept) + which
        axes = {d for d in s.axes if d < (second if kind == COLUMNS else first)}
        axes |= {ROWS: {first}, COLUMNS: {second}, BOTH: {first, first + 1}}[str(kind)]
        left = tuple(sorted(d for d in axes if shapes[output][d] != 1))
        shape = tuple(
            1 if d in s.axes else n
            for d, n in enumerate(split.shape)
            if s.keepdims or d not in s.axes
        )
        return cls(output, left, shape)

    def __call__(self, outputs: Arrays) -> mx.array:
        part = outputs[self.output]
        total = mx.sum(part, self.axes) if self.axes else part
        return total if total.shape == self.shape else total.reshape(self.shape)


def _launched(launcher: GridLauncher, launch: Launch, arrays: Arrays) -> list[mx.array]:
    return launcher(arrays, launch)


def _added(
    region: Region, split: Split, made: Geometry, partials: Sequence[Partial], outputs: Arrays
) -> list[mx.array]:
    """What the kernel writes, from the region's outputs of shape (outer, rows, columns)."""
    found = [outputs[k].reshape(split.shape) for k in region.kept]
    outer, rows, columns = split.sizes
    for what in partials:
        value = outputs[what.value]
        cut = [outer, rows, columns]
        axes: tuple[int, ...] = ()
        if what.columns:
            value = _padded(value, 2, made.parts * made.width)
            cut[2:] = [made.parts, made.width]
            axes = (3,)
        if what.rows:
            span = -(-rows // made.blocks)
            value = _padded(value, 1, made.blocks * span)
            cut[1:2] = [made.blocks, span]
            axes = (2, *[a + 1 for a in axes])
        found.append(value.reshape(cut).sum(axes).reshape(_shape(what, split, made)))
    return found


def _padded(value: mx.array, axis: int, size: int) -> mx.array:
    """`value` with zeros behind it along `axis`, up to `size`."""
    missing = size - value.shape[axis]
    if missing == 0:
        return value
    shape = [missing if d == axis else n for d, n in enumerate(value.shape)]
    return mx.concatenate([value, mx.zeros(shape, value.dtype)], axis)
