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
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from zmlx import switches
from zmlx.device import watch
from zmlx.device.base import GridLauncher, current_name, device_for_current_stream
from zmlx.device.rules import Rules, differentiable, traces_shapeless
from zmlx.device.warned import problem_of, run_as_ops
from zmlx.errors import DeviceError, EmitError
from zmlx.fuse import dumped
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
MOST = 1024  # combinations of shapes that are remembered
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

    def finished(self, raw: Arrays) -> list[mx.array]:
        """The region's outputs, from what the kernel gives."""
        region, places = self.plan.region, {n: i for i, n in enumerate(self._given)}
        results = []
        for node, shape in zip(region.outputs, self.layout.results, strict=True):
            value = raw[places[node]]
            if node in self.plan.sinks:
                value = mx.sum(value, axis=0).astype(dtype_of(region[node]["dtype"]))
            results.append(value if value.shape == shape else value.reshape(shape))
        return results

    def given(self, values: Arrays) -> list[mx.array]:
        """What the kernel gives, from the region's outputs with operands in place of sinks: as if
        its first block had added all up."""
        region, found = self.plan.region, dict(zip(self.unsunk.outputs, values, strict=True))
        raw = [found[n].reshape(region[n]["shape"]) for n in self.plain]
        for node in self.plan.sinks:
            axes, operand = region[node]["axes"], region.operands(node)[0]
            total = mx.sum(found[operand].astype(mx.float32), axes)
            keeps = self.plan.keeps_columns(node)
            total = total.reshape(1, -1) if keeps else total.reshape(1)
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


class Walked:
    """A specialised region that folds, as a function."""

    def __init__(self, graph: Graph, runtime: Runtime, name: str, ruled: Ruled) -> None:
        self.graph, self.runtime, self.name, self._rules = graph, runtime, name, ruled
        self._runs: dict[Any, Run] = {}
        self._launchers: dict[tuple[str, MetalKernelSpec], GridLauncher] = {}

    def __call__(self, arrays: Arrays) -> list[mx.array]:
        if traces_shapeless():  # a launch has its own sizes
            return self.apart(arrays)
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
            self._runs[key] = self.apart
            return self.apart(arrays)

    @cached_property
    def apart(self) -> Run:
        """The same with the folds left to MLX."""
        runtime = replace(self.runtime, folds=False)
        return runtime.program(self.graph, self.name)

    def made(self, shapes: Sequence[Shape]) -> Made | None:
        """What one kernel computes it with inputs of these shapes; None where none does."""
        found = layout(self.graph, shapes)
        if found is None:
            return None
        try:
            return Made(found, *_planned(found, _alone()))
        except EmitError:
            return None

    def _run(self, shapes: Sequence[Shape]) -> Run:
        if any(0 in shape for shape in shapes):
            return self._replayed
        made = self.made(shapes)
        absent = device_for_current_stream().unavailable() is not None
        if made is None or absent or not _pays(*made.layout.sizes):
            return self.apart
        run = self._ruled(made)
        if self.runtime.check:
            return checked(self.graph, run, False, self.name)
        return run

    def _replayed(self, arrays: Arrays) -> list[mx.array]:
        return replay(self.graph, arrays)

    def _ruled(self, made: Made) -> Run:
        launcher, launch = self._launcher(made), made.launch
        inner, rules = self._rules(made.unsunk, made.layout.given)
        if made.plan.sinks:
            rules = FunctionRules(lambda arrays: made.given(inner(arrays)))
        raw = differentiable(lambda arrays: launcher(arrays, launch), rules)

        def run(arrays: Arrays) -> list[mx.array]:
            return made.finished(raw(made.layout.laid_out(arrays)))

        return run

    def _grouped(self, found: Layout) -> MetalKernelSpec:
        """The kernel of a device whose groups run together."""
        return _planned(found, alone=False)[2]

    def _launcher(self, made: Made) -> GridLauncher:
        device, spec = device_for_current_stream(), made.spec
        key = (device.name, spec)
        if key not in self._launchers:
            grouped = partial(self._grouped, made.layout)
            launcher = device.grid_launcher(spec)
            launcher = dumped.launching_written(self.runtime, self.name, spec, launcher, grouped)
            if self.runtime.watched:
                launcher = _told(spec, device.name, launcher, self.graph, self.name)
            self._launchers[key] = launcher
        return self._launchers[key]


def _pays(rows: int, columns: int) -> bool:
    """Whether a kernel over so many rows is faster than MLX's folds."""
    return columns >= NARROW if _alone() else not geometry.starves(rows, columns)


def _planned(found: Layout, alone: bool) -> tuple[Schedule, Geometry, MetalKernelSpec]:
    rows, columns = found.sizes
    if alone:
        plan = schedule(found.region, keep=columns <= geometry.MAX_ROOM)
        return plan, geometry.alone(rows, columns), alone_kernel(plan)
    plan, slow = schedule(found.region), schedule(found.region, keep=False)
    made = geometry.on_gpu(plan, rows, columns)
    quick = plan if made.packs else slow
    return quick, made, walk_kernel(quick, slow, made.packs > 0)


def _told(
    spec: MetalKernelSpec, device: str, launcher: GridLauncher, graph: Graph, name: str
) -> GridLauncher:
    """`launcher`, whose launches are told to zmlx.device.watch."""
    stats = SimpleNamespace(run_count=0, compile_time_ms=0.0)
    ops = tuple([graph[n]["op"] for n in graph if graph.kind(n) in ("op", "reduce")])
    told: Callable[..., list[mx.array]] = watch.watched_grid(
        spec, device, launcher, stats, name, ops
    )

    def run(arrays: Arrays, launch: Launch) -> list[mx.array]:
        stats.run_count += 1
        return told(arrays, launch)

    return run


def _alone() -> bool:
    """Whether a thread has no others beside it; the sanitizer watches what a GPU does."""
    return device_for_current_stream().takes_turns and not switches.SANITIZE.on()
