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
from math import prod

import mlx.core as mx

from zmlx import switches
from zmlx.device import tuning
from zmlx.device.base import device_for_current_stream
from zmlx.device.rules import (
    Rules,
    any_traced,
    differentiable,
    differentiable_ops,
    native_or_none,
    repeated,
)
from zmlx.errors import EmitError
from zmlx.fuse import dumped
from zmlx.fuse.by_size import BySize, alone
from zmlx.fuse.check import checked_folds
from zmlx.fuse.parts import Join, PartRules
from zmlx.fuse.replay import replay
from zmlx.fuse.rows import Layout, layout
from zmlx.fuse.runtime import NoElements, Run, Runtime
from zmlx.fuse.shapes import Shape
from zmlx.fuse.tuned import RowTuning, tuned
from zmlx.msl import geometry
from zmlx.msl.geometry import Geometry
from zmlx.msl.schedule import KEPT_COST, Schedule, schedule
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.msl.walk import alone_kernel, walk_kernel
from zmlx.ops.reductions import REDUCTIONS
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph

Arrays = Sequence[mx.array]
# From a region and the shapes of its inputs: it as a function, and the rules of its derivatives.
Ruled = Callable[[Graph, Sequence[Shape]], tuple[Run, Rules]]
# Columns of a row that takes a CPU longer to begin than to fold; the latter where no fold is read,
# or one that looks for NaN.
NARROW, NARROW_DEAR = 4, 8
LITTLE = 1 << 12  # elements that take a CPU less than one more call of MLX does
FEW_LANES = 8  # neighbours that are too few to be read together
INT32_MAX = 2**31 - 1


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
        return [n for n in self.plan.region.outputs if n not in self.plan.partial]

    @cached_property
    def joins(self) -> list[Join]:
        """How parts become outputs; they come behind the outputs that are whole."""
        return [Join.of(self.plan, n, self.geometry) for n in self.plan.partial]

    @cached_property
    def order(self) -> list[int]:
        """For each output of the region, which of the kernel's makes it."""
        given = [*self.plain, *self.plan.partial]
        return [given.index(n) for n in self.plan.region.outputs]

    @cached_property
    def launch(self) -> Launch:
        region = self.plan.region
        shapes = [region[n]["shape"] for n in self.plain] + [j.given for j in self.joins]
        kinds = [region[n]["dtype"] for n in self.plain] + [j.kind for j in self.joins]
        return self.geometry.launch(shapes, kinds)

    @cached_property
    def whole(self) -> bool:
        """Whether what the kernel gives is what the caller knows."""
        region = self.plan.region
        shapes = tuple([region[n]["shape"] for n in region.outputs])
        return region.outputs == self.plain and shapes == self.layout.results

    def finished(self, raw: Arrays) -> list[mx.array]:
        """The region's outputs over its laid-out inputs, from what the kernel gives."""
        if not self.joins:
            return list(raw)
        count = len(self.plain)
        pairs = zip(self.joins, raw[count:], strict=True)
        found = [*raw[:count], *[join(parts) for join, parts in pairs]]
        return [found[k] for k in self.order]

    def called(self, run: Run, shapes: Sequence[Shape]) -> Run:
        """`run`, of laid-out inputs, for arrays of `shapes`; results as the caller knows them."""
        laid_out, results = self.layout.laying_out(shapes), self.layout.results
        if self.whole:
            return lambda arrays: run(laid_out(arrays))

        def call(arrays: Arrays) -> list[mx.array]:
            pairs = zip(run(laid_out(arrays)), results, strict=True)
            return [value if value.shape == s else value.reshape(s) for value, s in pairs]

        return call


class Walked(BySize):
    """A specialised region that folds, as a function."""

    def __init__(self, graph: Graph, runtime: Runtime, name: str, ruled: Ruled) -> None:
        super().__init__(runtime, name, [graph])
        self.graph, self._rules = graph, ruled
        tuning.depends(self)

    def plain(self, arrays: Arrays) -> list[mx.array]:
        """The same with the folds left to MLX."""
        return self._apart(arrays)

    @cached_property
    def _apart(self) -> Run:
        return self.cut.program(self.graph, self.name)

    @cached_property
    def cut(self) -> Runtime:
        """How it is planned once more where no one kernel computes it."""
        folds = [n for n in self.graph if self.graph.kind(n) == "reduce"]
        ends = any(self.graph.users(n) for n in folds)  # else the same would come back
        return replace(self.runtime, folds=False, ends=ends)

    def made(self, shapes: Sequence[Shape]) -> Made | None:
        """What one kernel computes it with inputs of these shapes; None where none does."""
        found = layout(self.graph, shapes)
        if found is None:
            return None
        try:
            return Made(found, *_planned(found, alone(), self.runtime.group))
        except EmitError:
            return None

    def launched(self, shapes: Sequence[Shape]) -> Made | None:
        """The same where it pays: MLX's own folds are faster over rows of three elements, say."""
        made = self.made(shapes)
        return made if made is not None and _pays(made.plan, made.layout.sizes) else None

    def _run(self, shapes: Sequence[Shape]) -> Run:
        if any(0 in shape for shape in shapes):
            return self._without_elements
        made = self.launched(shapes)
        if made is None or device_for_current_stream().unavailable() is not None:
            return self.plain
        dumped.schedule(self.name, made)
        run = self._ruled(made, shapes)
        return checked_folds(self.graph, run, self.name) if self.runtime.check else run

    def _without_elements(self, arrays: Arrays) -> list[mx.array]:
        if self.runtime.written:
            raise NoElements
        return replay(self.graph, arrays)

    def _ruled(self, made: Made, shapes: Sequence[Shape]) -> Run:
        free = not alone() and not self.runtime.group  # to be launched as a search finds best
        made = tuned(made) if free else made
        grouped = partial(_kernel_of_groups, made.layout)
        how = partial(RowTuning, made) if free else None
        launcher, launch = self._launcher(made.spec, grouped, how), made.launch
        _, whole = self._rules(made.layout.region, made.layout.given)
        joins, order = made.joins, made.order
        rules = PartRules(joins, order, whole) if joins else whole
        told = self.runtime.watched or switches.SANITIZE.on()  # of each launch
        raw = (differentiable if told else repeated)(lambda a: launcher(a, launch), rules)

        def run(arrays: Arrays) -> list[mx.array]:
            return made.finished(raw(arrays))

        if all(join.op == "sum" for join in joins):
            return made.called(run, shapes)
        # What parts of other folds receive is not alike: the rules are those of the whole. MLX asks
        # for the tangents of parts as well, but uses them for nothing.
        ruled = differentiable_ops(run, whole)
        known = native_or_none() is not None
        return made.called(lambda a: (ruled if not known or any_traced(a) else run)(a), shapes)


def _pays(plan: Schedule, sizes: geometry.Sizes) -> bool:
    """Whether a kernel over so many rows is faster than MLX's folds."""
    outer, rows, columns = sizes
    if alone() and prod(sizes) <= LITTLE:
        return True
    if plan.across:
        return _across_pays(plan, sizes)
    if not alone():
        return plan.ends_only or not geometry.starves(outer * rows, columns)
    folds = {plan.region[n]["op"] for walk in plan.walks for n in walk.folds}
    dear = plan.ends_only or not folds <= {"sum", "prod"}
    return columns >= (NARROW_DEAR if dear else NARROW)


def _across_pays(plan: Schedule, sizes: geometry.Sizes) -> bool:
    """The same where neighbours in memory are elements of different rows."""
    leads, columns, lanes = sizes
    folds = [plan.region[n]["op"] for walk in plan.walks for n in walk.folds]
    dear = any(OPS[op].cost >= KEPT_COST for walk in plan.walks for op in walk.part.ops)
    dear |= any(REDUCTIONS[op].index for op in folds)  # MLX takes them one by one
    if not alone():
        return lanes >= FEW_LANES and not geometry.starves_across(sizes)
    if lanes < (FEW_LANES // 2 if dear else FEW_LANES):
        return False
    return dear or len(plan.walks) > 2 or len(folds) > 1 or geometry.finds_again(2 * columns)


def _planned(
    found: Layout, lone: bool, group: int = 0
) -> tuple[Schedule, Geometry, MetalKernelSpec]:
    columns, outer = found.columns, found.outer
    keep = not lone or columns <= geometry.MAX_ROOM
    plan = schedule(found.region, keep and not found.across, outer)
    if plan.across:
        if columns > INT32_MAX:
            raise EmitError("[zmlx.emit] rows of so many columns are not walked over.")
        made = geometry.across(found.sizes, lone)
        return plan, made, (alone_kernel(plan) if lone else walk_kernel(plan, plan, False))
    made = (geometry.alone if lone else geometry.on_gpu)(plan, found.sizes)
    if plan.kept and not (lone or geometry.alternates(plan, made)):
        again = schedule(found.region, keep=False, outer=outer)
        other = geometry.on_gpu(again, found.sizes)
        plan, made = (again, other) if geometry.alternates(again, other) else (plan, made)
    if group and not (made.cut or made.room):
        made = geometry.capped(plan, found.sizes, made, group)
    if made.cut:
        plan = schedule(found.region, keep=False, outer=outer, cut=True)
    elif columns > INT32_MAX:
        raise EmitError("[zmlx.emit] rows of so many columns are not walked over.")
    if lone:
        return plan, made, alone_kernel(plan)
    slow = schedule(found.region, keep=False, outer=outer, cut=plan.cut)
    quick = plan if made.packs else slow
    spec = walk_kernel(quick, slow, made.packs > 0)
    half = made.threads == geometry.LARGEST // 2 and not quick.persists
    twice = half and geometry.alternates(quick, made)
    return quick, made, (replace(spec, busy=geometry.LARGEST) if twice else spec)


def _kernel_of_groups(found: Layout) -> MetalKernelSpec:
    """The kernel of a device whose groups run together."""
    return _planned(found, lone=False)[2]
