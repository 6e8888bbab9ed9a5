"""Running a kernel that reads slices, so that the gradient of what is sliced is written once.

Comes in: a Sliced step and the function that runs its kernel. Goes out: SlicedFunction, a callable
from arrays to the step's results. Where MLX differentiates, what it sees is one op of the arrays
that are sliced: their gradients come from one graph (zmlx.fuse.pulled), which is planned like any
other. Everything else is the kernel's own function, of slices that MLX made. zmlx.fuse.program
calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from zmlx.device.rules import (
    any_traced,
    differentiable_ops,
    native_or_none,
    traces_shapeless,
)
from zmlx.fuse import dumped
from zmlx.fuse.cuts import Cut, array_of, call_of, cutter, pieces
from zmlx.fuse.extract import Region
from zmlx.fuse.function_rules import FunctionRules
from zmlx.fuse.joins import Join
from zmlx.fuse.pulled import Layout, Pulled, Sliced, pulled
from zmlx.fuse.region import like, shortened
from zmlx.fuse.rows import sized
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.shapes import Shape
from zmlx.fuse.slicing import smallest
from zmlx.trace.graph import Graph

Arrays = Sequence[mx.array]
MOST = 1024  # combinations of shapes that are remembered
FEWEST = 2  # slices of one array that make a step a Sliced one


def sliced(
    graph: Graph, regions: Sequence[Region], joins: Sequence[Join], kept: Sequence[int],
    inputs: Sequence[int], scalars: Sequence[int],
) -> Sliced | None:  # fmt: skip
    """The step that reads `inputs`, where it joins parts or several are slices of one array."""
    arrays = {n: source for n in inputs if (source := array_of(graph, n)) is not None}
    several = {s for s in arrays.values() if list(arrays.values()).count(s) >= FEWEST}
    views = {n: source for n, source in arrays.items() if source in several}
    if not (views or joins):
        return None
    return Sliced(graph, tuple(regions), tuple(joins), tuple(kept), tuple(inputs), tuple(scalars),
                  views)  # fmt: skip


class SlicedFunction:
    """A step as a function of what its kernel reads, the arrays behind that, and numbers.

    `function` runs the kernel, `small` the same for small arrays where MLX differentiates.
    """

    def __init__(
        self, step: Sliced, function: Run, small: Run, runtime: Runtime, name: str
    ) -> None:
        self.step, self.function, self.small = step, function, small
        self.runtime, self.name = runtime, name
        self._cutters = {view: cutter(step.graph, view) for view in step.views}
        self._steering = {v: step.graph.operands(call_of(step.graph, v))[1:] for v in step.views}
        self._rules: dict[Any, _Rules | None] = {}
        self.programs: dict[Any, tuple[Pulled, Run]] = {}

    def __call__(self, given: Arrays, sources: Arrays, numbers: Sequence[Any]) -> list[mx.array]:
        """`given`: what the kernel reads; `sources`: the arrays behind it."""
        if not any_traced(sources) or traces_shapeless():
            return self.function(given)
        if max([a.size for a in sources]) < smallest():
            return self.small(given)
        results = self.function(given)
        key = (tuple(numbers), *[a.shape for a in given], *[a.shape for a in sources])
        if key not in self._rules:
            if len(self._rules) >= MOST:
                self._rules.clear()
            self._rules[key] = self._made(given, sources, numbers)
        rules = self._rules[key]
        return results if rules is None else rules.attached(results, given, sources)

    def _made(self, given: Arrays, sources: Arrays, numbers: Sequence[Any]) -> _Rules | None:
        """The rules for these sizes; None where slices are of another kind."""
        step = self.step
        values = dict(zip(step.numbers, numbers, strict=True))
        shapes = dict(zip(step.sources, [a.shape for a in sources], strict=True))
        shapes |= dict(zip(step.inputs, [a.shape for a in given], strict=False))
        for region in step.regions:
            read = [shapes.get(n, ()) for n in (*region.ends.inputs, *region.ends.scalars)]
            inside = sized(region.graph, read)
            pairs = zip(region.ends.outputs, region.graph.outputs, strict=True)
            shapes |= {n: inside[own] for n, own in pairs}
        if not all(_like(shape, step.graph[n]["shape"]) for n, shape in shapes.items()):
            return None
        cuts: dict[int, Cut] = {}
        for view, source in step.views.items():
            steering = [values[n] for n in self._steering[view]]
            cut = self._cutters[view](shapes[source], steering)
            if cut is None:
                return None
            cuts[view] = cut
        layouts = {}
        for source in dict.fromkeys(step.views.values()):
            views = tuple(v for v, s in step.views.items() if s == source)
            own = tuple(cuts[v] for v in views)
            found = pieces(own, shapes[source][own[0].axis])
            if found is None:
                return None
            layouts[source] = Layout(views, own, found)
        return _Rules(self, layouts, cuts, shapes, tuple(numbers))


class _Rules(FunctionRules):
    """The transformations of a Sliced step for one combination of sizes, by its sources."""

    def __init__(
        self, owner: SlicedFunction, layouts: Mapping[int, Layout], cuts: Mapping[int, Cut],
        shapes: Mapping[int, Shape], numbers: tuple[Any, ...],
    ) -> None:  # fmt: skip
        super().__init__(self._plain)
        self._owner, self._step, self._layouts = owner, owner.step, layouts
        self._shapes, self._numbers = shapes, numbers
        step = owner.step
        positions = {n: i for i, n in enumerate(step.sources)}
        self._from = [
            (positions[step.views.get(n, n)], cuts.get(n)) for n in step.inputs
        ]  # each input: which source, and what of it
        self._count = len(step.sources) + len(step.scalars)
        self._views = [i for i, n in enumerate(step.inputs) if n in step.views]
        places = [(p, cut) for p, cut in self._from if cut is not None]
        self._places = [(p, cut.axis, cut.start) for p, cut in places]

    def attached(self, results: Arrays, given: Arrays, sources: Arrays) -> list[mx.array]:
        """`results` as a function of `sources`."""
        scalars = given[len(self._step.inputs) :]
        graphs = [region.graph for region in self._step.regions]
        if any(graph.kind(n) == "reduce" for graph in graphs for n in graph.outputs):
            # What is joined from parts is no op of one kernel.
            return differentiable_ops(self._plain, self)([*sources, *scalars])
        views = [given[i] for i in self._views]
        native = native_or_none()
        made = native.over(list(results), [*sources, *scalars], views, self._places, self)
        return list(results) if made is None else made

    def _plain(self, arrays: Arrays) -> list[mx.array]:
        """The step of its sources and scalars, slices made by MLX."""
        scalars = arrays[len(self._step.sources) : self._count]
        given = [_cut(arrays[p], cut) for p, cut in self._from]
        return self._owner.function([*given, *scalars])

    def vjp(
        self, primals: Arrays, cotangents: Sequence[mx.array | None], argnums: Sequence[int],
        outputs: Arrays,
    ) -> list[mx.array]:  # fmt: skip
        count = len(self._step.sources)
        wanted = tuple(i for i in argnums if i < count)
        used = tuple(k for k, c in enumerate(cotangents) if c is not None)
        found: dict[int, mx.array] = {}
        if wanted and used:
            graph, run = self._program(wanted, used)
            pairs = zip(cotangents, outputs, strict=True)
            seeds = [like(c, o) for c, o in pairs if c is not None]
            told = [t(self._shapes, self._layouts) for t in graph.told]
            values = run([*primals[: self._count], *self._numbers, *seeds, *told])
            found = dict(zip(graph.found, values, strict=True))
        return [found[i] if i in found else mx.zeros_like(primals[i]) for i in argnums]

    def _program(self, wanted: tuple[int, ...], used: tuple[int, ...]) -> tuple[Pulled, Run]:
        owner = self._owner
        runtime = owner.runtime
        key = (wanted, used, tuple(layout.structure for layout in self._layouts.values()))
        if key not in owner.programs:
            with runtime.making():
                graph = pulled(
                    self._step, self._layouts, wanted, used, lambda d: shortened(d, runtime.exact)
                )
                name = f"{owner.name}.vjp"
                inner = dumped.inner(runtime, name, graph.graph)
                owner.programs[key] = graph, inner.program(graph.graph, name)
        return owner.programs[key]

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> list[mx.array]:
        pairs = [(i, t) for i, t in zip(argnums, tangents, strict=True) if i < self._count]
        return super().jvp(primals[: self._count], [t for _, t in pairs], [i for i, _ in pairs])

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> list[mx.array]:
        return super().vmap(inputs[: self._count], axes[: self._count])


def _cut(x: mx.array, cut: Cut | None) -> mx.array:
    if cut is None:
        return x
    item = cut.start if cut.drops else slice(cut.start, cut.stop)
    index = (*(slice(None),) * cut.axis, item)
    return x[index]


def _like(shape: Shape, example: Shape) -> bool:
    """Whether a graph made for `example` holds for `shape`."""
    return len(shape) == len(example) and all(
        0 not in pair and (pair[0] == 1) == (pair[1] == 1)
        for pair in zip(shape, example, strict=True)
    )
