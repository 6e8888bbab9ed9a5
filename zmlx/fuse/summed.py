"""Running a region that adds up some of its values: a kernel where one can, else MLX's sums.

Comes in: a region with sums. Goes out: SummedFunction, a callable from arrays to the outputs that
are kept and to the sums. zmlx.fuse.program calls it; zmlx.fuse.summing launches the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import mlx.core as mx

from zmlx.device.base import device_for_current_stream
from zmlx.fuse.by_size import BySize, alone, fits
from zmlx.fuse.extract import Region
from zmlx.fuse.region import RegionFunction
from zmlx.fuse.replay import replay
from zmlx.fuse.runtime import Run
from zmlx.fuse.shapes import Shape, reshaped
from zmlx.fuse.split import Split, best_split
from zmlx.fuse.summing import partials_of, summing
from zmlx.msl.spec import MetalKernelSpec
from zmlx.msl.sums import sums_kernel

Arrays = Sequence[mx.array]
NARROW = 8  # columns of a row that takes a CPU longer to begin than to add up


class SummedFunction(BySize):
    """A region with sums as a function: the outputs `kept` of the region, then its sums.

    Takes one array for each region input, numbers as arrays of shape (1,). Sums are float32.
    """

    def __init__(self, region: Region, function: RegionFunction) -> None:
        super().__init__(function.runtime, function.name, [function.graph])
        self.region, self.function = region, function

    def plain(self, arrays: Arrays) -> list[mx.array]:
        """The same by the region's own kernel and MLX's sums."""
        return self._added(self.function(arrays))

    def _empty(self, arrays: Arrays) -> list[mx.array]:
        """The same where no element is computed: no kernel need be made for that."""
        return self._added(replay(self.function.graph, arrays))

    def _added(self, outputs: Arrays) -> list[mx.array]:
        kept = [outputs[k] for k in self.region.kept]
        return [*kept, *[mx.sum(outputs[s.output], s.axes, s.keepdims) for s in self.region.sums]]

    def kernel(self, shapes: Sequence[Shape]) -> MetalKernelSpec | None:
        """The kernel for inputs of these shapes; None where `plain` runs."""
        split = self._split(shapes)
        return None if split is None else self._spec(split, self._merged(split, shapes))

    def _run(self, shapes: Sequence[Shape]) -> Run:
        if any(0 in shape for shape in shapes):
            return self._empty
        device, split = device_for_current_stream(), self._split(shapes)
        if split is None or device.unavailable() is not None:
            return self.plain
        if alone() and split.sizes[2] < NARROW:
            return self.plain
        merged = self._merged(split, shapes)
        grouped = partial(self._spec, split, merged, False)
        launcher = self._launcher(self._spec(split, merged), grouped)
        return summing(self.region, self.function, split, merged, launcher, alone())

    def _spec(
        self, split: Split, merged: Sequence[Shape], lone: bool | None = None
    ) -> MetalKernelSpec:
        """The kernel, for `lone` threads or not; as this device has them where that is None."""
        graph = reshaped(self.function.graph, merged)
        lone = alone() if lone is None else lone
        return sums_kernel(graph, self.region.kept, partials_of(self.region, split), lone)

    def _split(self, shapes: Sequence[Shape]) -> Split | None:
        """One that serves all sums at these sizes, over a space that all outputs fill."""
        arrays = [tuple(s) for n, s in self._inputs(shapes) if self._is_array(n)]
        special = self.function.specialized(shapes)
        split = best_split(arrays, [s.axes for s in self.region.sums])
        if split is None or None in split.kinds or 0 in split.shape:
            return None
        full = all(special.graph[n]["shape"] == special.space for n in special.graph.outputs)
        return split if full and all(fits(a, split.shape) for a in arrays) else None

    def _inputs(self, shapes: Sequence[Shape]) -> list[tuple[int, Shape]]:
        return list(zip(self.function.graph.inputs, shapes, strict=True))

    def _is_array(self, node: int) -> bool:
        return self.function.graph.kind(node) == "input"

    def _merged(self, split: Split, shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes that the kernel takes its inputs in."""
        pairs = self._inputs(shapes)
        return [split.merged(tuple(s)) if self._is_array(n) else (1,) for n, s in pairs]
