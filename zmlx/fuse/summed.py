"""Running a region that adds up some of its values: a kernel where one can, else MLX's sums.

Comes in: a region with sums. Goes out: SummedFunction, a callable from arrays to the outputs that
are kept and to the sums. zmlx.fuse.program calls it; zmlx.fuse.summing launches the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from zmlx import switches
from zmlx.device import watch
from zmlx.device.base import Device, GridLauncher, current_name, device_for_current_stream
from zmlx.device.rules import traces_shapeless
from zmlx.device.warned import problem_of, run_as_ops
from zmlx.errors import DeviceError
from zmlx.fuse import dumped
from zmlx.fuse.extract import Region
from zmlx.fuse.region import RegionFunction
from zmlx.fuse.replay import replay
from zmlx.fuse.runtime import Run
from zmlx.fuse.shapes import Shape, reshaped
from zmlx.fuse.split import Split, best_split
from zmlx.fuse.summing import partials_of, summing
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.msl.sums import sums_kernel
from zmlx.trace.graph import Graph

Arrays = Sequence[mx.array]
NARROW = 8  # columns of a row that takes a CPU longer to begin than to add up
MOST = 1024  # combinations of shapes that are remembered


class SummedFunction:
    """A region with sums as a function: the outputs `kept` of the region, then its sums.

    Takes one array for each region input, numbers as arrays of shape (1,). Sums are float32.
    """

    def __init__(self, region: Region, function: RegionFunction) -> None:
        self.region, self.function = region, function
        self._runs: dict[Any, Run] = {}
        self._launchers: dict[tuple[str, MetalKernelSpec], GridLauncher] = {}

    def __call__(self, arrays: Arrays) -> list[mx.array]:
        if traces_shapeless():  # a launch has its own sizes
            return self.plain(arrays)
        key = (current_name(), switches.SANITIZE.on(), *[a.shape for a in arrays])
        run = self._runs.get(key)
        if run is None:
            if len(self._runs) >= MOST:
                self._runs.clear()
            run = self._runs[key] = self._run([a.shape for a in arrays])
        try:
            return run(arrays)
        except DeviceError as error:  # the kernel cannot be built: the first launch finds out
            run_as_ops(problem_of(error))
            self._runs[key] = self.plain
            return self.plain(arrays)

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
        if _alone() and split.sizes[2] < NARROW:
            return self.plain
        merged = self._merged(split, shapes)
        grouped = partial(self._spec, split, merged, False)
        launcher = self._launcher(device, self._spec(split, merged), grouped)
        return summing(self.region, self.function, split, merged, launcher, _alone())

    def _spec(
        self, split: Split, merged: Sequence[Shape], alone: bool | None = None
    ) -> MetalKernelSpec:
        """The kernel; for threads that are `alone`, as this device's are where that is None."""
        graph = reshaped(self.function.graph, merged)
        alone = _alone() if alone is None else alone
        return sums_kernel(graph, self.region.kept, partials_of(self.region, split), alone)

    def _launcher(
        self, device: Device, spec: MetalKernelSpec, grouped: Callable[[], MetalKernelSpec]
    ) -> GridLauncher:
        key = (device.name, spec)
        if key not in self._launchers:
            runtime, name = self.function.runtime, self.function.name
            launcher = device.grid_launcher(spec)
            launcher = dumped.launching_written(runtime, name, spec, launcher, grouped)
            if self.function.runtime.watched:
                graphs = [self.function.graph]
                launcher = told(spec, device.name, launcher, graphs, self.function.name)
            self._launchers[key] = launcher
        return self._launchers[key]

    def _split(self, shapes: Sequence[Shape]) -> Split | None:
        """One that serves all sums at these sizes, over a space that all outputs fill."""
        arrays = [tuple(s) for n, s in self._inputs(shapes) if self._is_array(n)]
        special = self.function.specialized(shapes)
        split = best_split(arrays, [s.axes for s in self.region.sums])
        if split is None or None in split.kinds or 0 in split.shape:
            return None
        full = all(special.graph[n]["shape"] == special.space for n in special.graph.outputs)
        return split if full and all(_fits(a, split.shape) for a in arrays) else None

    def _inputs(self, shapes: Sequence[Shape]) -> list[tuple[int, Shape]]:
        return list(zip(self.function.graph.inputs, shapes, strict=True))

    def _is_array(self, node: int) -> bool:
        return self.function.graph.kind(node) == "input"

    def _merged(self, split: Split, shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes that the kernel takes its inputs in."""
        pairs = self._inputs(shapes)
        return [split.merged(tuple(s)) if self._is_array(n) else (1,) for n, s in pairs]


def told(
    spec: MetalKernelSpec, device: str, launcher: GridLauncher, graphs: Sequence[Graph], name: str
) -> GridLauncher:
    """`launcher`, whose launches are told to zmlx.device.watch; it computes the ops of `graphs`."""
    stats = SimpleNamespace(run_count=0, compile_time_ms=0.0)
    ops = tuple([g[n]["op"] for g in graphs for n in g if g.kind(n) == "op"])
    watched = watch.watched_grid(spec, device, launcher, stats, name, ops)

    def run(arrays: Arrays, launch: Launch) -> list[mx.array]:
        stats.run_count += 1
        return watched(arrays, launch)

    return run


def _alone() -> bool:
    """Whether a thread has no others beside it; the sanitizer watches what a GPU does."""
    return device_for_current_stream().takes_turns and not switches.SANITIZE.on()


def _fits(shape: Shape, space: Shape) -> bool:
    tail = space[len(space) - len(shape) :]
    return all(n in (1, m) for n, m in zip(shape, tail, strict=True))
