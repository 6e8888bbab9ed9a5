"""Running a region that folds its rows: a kernel for each combination of sizes.

Comes in: a specialised region with reduce nodes. Goes out: Walked, from arrays to arrays.
zmlx.fuse.region calls it; zmlx.fuse.rows lays arrays out, zmlx.msl.walk writes the kernel.

The kernel takes arrays laid out as rows and columns. Reshaping is MLX's, so rules are needed for
the region over laid-out arrays only: that region is a RegionFunction again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import mlx.core as mx

from zmlx import switches
from zmlx.device.base import device_for_current_stream
from zmlx.device.rules import Rules, differentiable, repeated
from zmlx.errors import EmitError
from zmlx.fuse.by_size import BySize, alone
from zmlx.fuse.check import checked
from zmlx.fuse.function_rules import FunctionRules
from zmlx.fuse.replay import dtype_of, replay
from zmlx.fuse.rows import Layout, layout
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.shapes import Shape
from zmlx.msl import geometry
from zmlx.msl.geometry import Geometry
from zmlx.msl.schedule import Schedule, schedule
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.msl.walk import alone_kernel, walk_kernel
from zmlx.trace.graph import Graph

Arrays = Sequence[mx.array]
# From a region and the shapes of its inputs: it as a function, and the rules of its derivatives.
Ruled = Callable[[Graph, Sequence[Shape]], tuple[Run, Rules]]
NARROW = 4  # columns of a row that takes a CPU longer to begin than to fold


@dataclass(frozen=True, eq=False)
class Made:
    """What is launched for one combination of sizes."""

    layout: Layout
    plan: Schedule
    geometry: Geometry
    spec: MetalKernelSpec

    @cached_property
    def plain(self) -> list[int]:
        """Outputs that the kernel gives whole."""
        return [n for n in self.plan.region.outputs if n not in self.plan.sinks]

    @cached_property
    def launch(self) -> Launch:
        region, (_, columns) = self.plan.region, self.layout.sizes
        blocks = self.geometry.blocks
        shapes = [region[n]["shape"] for n in self.plain]
        shapes += [
            (blocks, columns) if self.plan.keeps_columns(n) else (blocks,) for n in self.plan.sinks
        ]
        kinds = [region[n]["dtype"] for n in self.plain] + ["float32"] * len(self.plan.sinks)
        return self.geometry.launch(shapes, kinds)

    @cached_property
    def whole(self) -> bool:
        """Whether what the kernel gives is what the caller knows."""
        region = self.plan.region
        shapes = tuple([region[n]["shape"] for n in region.outputs])
        same = region.outputs == self.plain and len({*self.plain}) == len(self.plain)
        return not self.plan.sinks and same and shapes == self.layout.results

    def finished(self, raw: Arrays) -> list[mx.array]:
        """The region's outputs, from what the kernel gives."""
        if self.whole:
            return list(raw)
        results = []
        for place, shape, kind in self._finish:
            value = raw[place]
            if kind is not None:
                value = mx.sum(value, axis=0).astype(kind)
            results.append(_shaped(value, shape))
        return results

    @cached_property
    def _finish(self) -> list[tuple[int, Shape, mx.Dtype | None]]:
        """For each output its place in what the kernel gives, its shape, and the type of a sum."""
        region, places = self.plan.region, {n: i for i, n in enumerate(self._given)}
        kinds = {n: dtype_of(region[n]["dtype"]) for n in self.plan.sinks}
        pairs = zip(region.outputs, self.layout.results, strict=True)
        return [(places[node], shape, kinds.get(node)) for node, shape in pairs]

    def given(self, values: Arrays) -> list[mx.array]:
        """What the kernel gives, from the region's outputs with operands in place of sinks: as if
        its first block had added all up."""
        region, found = self.plan.region, dict(zip(self.unsunk.outputs, values, strict=True))
        raw = [_shaped(found[n], region[n]["shape"]) for n in self.plain]
        for node in self.plan.sinks:
            axes, operand = region[node]["axes"], region.operands(node)[0]
            total = mx.sum(found[operand].astype(mx.float32), axes)
            keeps = self.plan.keeps_columns(node)
            total = total.reshape(1, self.layout.sizes[1]) if keeps else total.reshape(1)
            rest = [self.geometry.blocks - 1, *total.shape[1:]]
            raw.append(mx.concatenate([total, mx.zeros(rest, mx.float32)]) if rest[0] else total)
        return raw

    @property
    def _given(self) -> list[int]:
        return [*self.plain, *self.plan.sinks]

    @cached_property
    def unsunk(self) -> Graph:
        """The region with the operands of its sinks in place of them."""
        region, graph = self.plan.region, Graph()
        sinks = [region.operands(n)[0] for n in self.plan.sinks]
        graph.nx, graph.inputs = region.nx, region.inputs
        graph.outputs = list(dict.fromkeys([*self.plain, *sinks]))
        return graph


class Walked(BySize):
    """A specialised region that folds, as a function."""

    def __init__(self, graph: Graph, runtime: Runtime, name: str, ruled: Ruled) -> None:
        super().__init__(runtime, name, [graph])
        self.graph, self._rules = graph, ruled

    def plain(self, arrays: Arrays) -> list[mx.array]:
        """The same with the folds left to MLX."""
        return self._apart(arrays)

    @cached_property
    def _apart(self) -> Run:
        return replace(self.runtime, folds=False).program(self.graph, self.name)

    def made(self, shapes: Sequence[Shape]) -> Made | None:
        """What one kernel computes it with inputs of these shapes; None where none does."""
        found = layout(self.graph, shapes)
        if found is None:
            return None
        try:
            return Made(found, *_planned(found, alone()))
        except EmitError:
            return None

    def _run(self, shapes: Sequence[Shape]) -> Run:
        if any(0 in shape for shape in shapes):
            return self._replayed
        made = self.made(shapes)
        absent = device_for_current_stream().unavailable() is not None
        if made is None or absent or not _pays(*made.layout.sizes):
            return self.plain
        run = self._ruled(made, shapes)
        if self.runtime.check:
            return checked(self.graph, run, False, self.name)
        return run

    def _replayed(self, arrays: Arrays) -> list[mx.array]:
        return replay(self.graph, arrays)

    def _ruled(self, made: Made, shapes: Sequence[Shape]) -> Run:
        grouped = partial(_kernel_of_groups, made.layout)
        launcher, launch = self._launcher(made.spec, grouped), made.launch
        inner, rules = self._rules(made.unsunk, made.layout.given)
        if made.plan.sinks:
            rules = FunctionRules(lambda arrays: made.given(inner(arrays)))
        told = self.runtime.watched or switches.SANITIZE.on()  # of each launch
        raw = (differentiable if told else repeated)(lambda a: launcher(a, launch), rules)
        laid_out = made.layout.laying_out(shapes)
        return lambda arrays: made.finished(raw(laid_out(arrays)))


def _shaped(value: mx.array, shape: Shape) -> mx.array:
    return value if value.shape == shape else value.reshape(shape)


def _pays(rows: int, columns: int) -> bool:
    """Whether a kernel over so many rows is faster than MLX's folds."""
    return columns >= NARROW if alone() else not geometry.starves(rows, columns)


def _planned(found: Layout, lone: bool) -> tuple[Schedule, Geometry, MetalKernelSpec]:
    rows, columns = found.sizes
    if lone:
        plan = schedule(found.region, keep=columns <= geometry.MAX_ROOM)
        return plan, geometry.alone(rows, columns), alone_kernel(plan)
    plan, slow = schedule(found.region), schedule(found.region, keep=False)
    made = geometry.on_gpu(plan, rows, columns)
    quick = plan if made.packs else slow
    return quick, made, walk_kernel(quick, slow, made.packs > 0)


def _kernel_of_groups(found: Layout) -> MetalKernelSpec:
    """The kernel of a device whose groups run together."""
    return _planned(found, lone=False)[2]
