"""Running a joined step: one kernel that writes all parts in place where one can, else MLX's calls.

Comes in: a Joined step and its regions as functions. Goes out: JoinedFunction, a callable from
arrays to the step's results, through which MLX's transformations go. zmlx.fuse.program calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from zmlx.device.base import GridLauncher, device_for_current_stream
from zmlx.device.rules import differentiable
from zmlx.fuse import dumped
from zmlx.fuse.by_size import BySize, alone, fits
from zmlx.fuse.check import same
from zmlx.fuse.extract import Region
from zmlx.fuse.function_rules import FunctionRules
from zmlx.fuse.joins import Join, Joined
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.shapes import Shape, reshaped
from zmlx.msl.joined import Body, Place, Store, joined_kernel, table
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.trace.graph import Graph, broadcast

Arrays = Sequence[mx.array]
GROUP = 256  # threads
ELEMENTS, HOST_ELEMENTS = 4, 4096  # of a thread
INT32_MAX = 2**31 - 1


@dataclass(frozen=True, eq=False)
class _Part:
    """A body of the kernel, the shape of its space, and where each of its stores lies."""

    body: Body
    shape: Shape
    places: tuple[Place, ...]


class JoinedFunction(BySize):
    """A joined step as a function of its inputs, arrays, then numbers as arrays of shape (1,)."""

    def __init__(
        self, graph: Graph, joined: Joined, functions: Mapping[Region, Run], runtime: Runtime,
        name: str,
    ) -> None:  # fmt: skip
        super().__init__(runtime, name, [region.graph for region in joined.regions])
        self.graph, self.joined = graph, joined
        self._functions = [(region, functions[region]) for region in joined.regions]
        ends = joined.ends
        self._inputs = (*ends.inputs, *ends.scalars)
        self._arrays = {n: i for i, n in enumerate(ends.inputs)}
        self._scalars = {n: i for i, n in enumerate(ends.scalars)}

    def plain(self, arrays: Arrays) -> list[mx.array]:
        """The same by the regions' own kernels and MLX's calls."""
        values = dict(zip(self._inputs, arrays, strict=True))
        for region, function in self._functions:
            given = [values[n] for n in (*region.ends.inputs, *region.ends.scalars)]
            values |= dict(zip(region.ends.outputs, function(given), strict=True))
        for join in self.joined.joins:
            put = mx.stack if join.stacks else mx.concatenate
            values[join.node] = put([values[p] for p in join.parts], join.axis)
        return [values[n] for n in self.joined.results]

    # -- the kernel -------------------------------------------------------------------------------
    def kernel(self, shapes: Sequence[Shape]) -> MetalKernelSpec | None:
        """The kernel for inputs of these shapes; None where `plain` runs."""
        parts = self._parts(dict(zip(self._inputs, map(tuple, shapes), strict=True)))
        return None if parts is None else self._spec(parts[0])

    def _run(self, shapes: Sequence[Shape]) -> Run:
        device = device_for_current_stream()
        found = self._parts(dict(zip(self._inputs, map(tuple, shapes), strict=True)))
        if found is None or device.unavailable() is not None:
            return self.plain
        parts, results = found
        dumped.shared(self.name, "one kernel writes every part in its place", _told(parts))
        spec = self._spec(parts)
        launcher = self._launcher(spec, lambda: spec)
        run: Run = partial(_launched, launcher, *self._launch(parts, results))
        if self.runtime.check:
            run = same(run, self.plain, self.runtime.exact, self.name)
        return differentiable(run, FunctionRules(self.plain))

    def _spec(self, parts: Sequence[_Part]) -> MetalKernelSpec:
        kinds = [self.graph[n]["dtype"] for n in self._arrays]
        return joined_kernel(
            [part.body for part in parts], kinds, len(self._scalars), self._kinds(),
            self.runtime.exact,
        )  # fmt: skip

    def _kinds(self) -> tuple[str, ...]:
        return tuple(self.graph[n]["dtype"] for n in self.joined.results)

    def _launch(self, parts: Sequence[_Part], results: Sequence[Shape]) -> tuple[Launch, mx.array]:
        elements = HOST_ELEMENTS if alone() else ELEMENTS
        numbers, threads = table(
            [p.body for p in parts], [p.shape for p in parts], [p.places for p in parts], elements
        )
        small = not alone() and threads * elements < INT32_MAX - GROUP * elements
        launch = Launch(
            grid=(threads, 1, 1),
            threadgroup=(1 if alone() else min(GROUP, threads), 1, 1),
            output_shapes=tuple(results),
            output_dtypes=self._kinds(),
            template=(("ELEMS", elements), ("INDEX", "int32" if small else "int64")),
        )
        return launch, mx.array(numbers, mx.int64)

    # -- parts and places -------------------------------------------------------------------------
    def _parts(self, shapes: dict[int, Shape]) -> tuple[list[_Part], list[Shape]] | None:
        """The bodies and the shapes of the results; None where no kernel can write them."""
        values: dict[int, Shape] = dict(shapes)
        graphs = {}
        for region in self.joined.regions:
            nodes = (*region.ends.inputs, *region.ends.scalars)
            graph = reshaped(region.graph, [shapes[n] for n in nodes])
            space = broadcast([graph[n]["shape"] for n in graph.inputs])
            if any(graph[n]["shape"] != space for n in graph.outputs):
                return None
            if any(not fits(graph[n]["shape"], space) for n in graph.inputs):
                return None
            values |= dict.fromkeys(region.ends.outputs, space)
            graphs[region] = graph
        places: dict[int, list[tuple[int, Place]]] = {}
        results = []
        for output, node in enumerate(self.joined.kept):
            results.append(values[node])
            places.setdefault(node, []).append((output, Place(0, _dense(values[node]))))
        for output, join in enumerate(self.joined.joins, start=len(results)):
            found = _placed(join, [values[p] for p in join.parts])
            if found is None:
                return None
            results.append(found[0])
            for part, place in zip(join.parts, found[1], strict=True):
                places.setdefault(part, []).append((output, place))
        if any(n == 0 for shape in values.values() for n in shape):
            return None
        made = [self._computed(region, graph, values, places) for region, graph in graphs.items()]
        made += [self._copied(node, values[node], places[node]) for node in self.joined.plain]
        if any(all(n == 1 for n in part.shape) for part in made):
            return None
        return made, results

    def _computed(
        self, region: Region, graph: Graph, values: Mapping[int, Shape],
        places: Mapping[int, list[tuple[int, Place]]],
    ) -> _Part:  # fmt: skip
        nodes = list(enumerate(region.ends.outputs))
        shape = values[region.ends.outputs[0]]
        pairs = [(value, *found) for value, n in nodes for found in places.get(n, ())]
        stores = tuple(_store(value, output, place, shape) for value, output, place in pairs)
        arrays = tuple(self._arrays[n] for n in region.ends.inputs)
        scalars = tuple(self._scalars[n] for n in region.ends.scalars)
        body = Body(graph, arrays, scalars, stores)
        return _Part(body, shape, tuple(place for _, _, place in pairs))

    def _copied(self, node: int, shape: Shape, places: Sequence[tuple[int, Place]]) -> _Part:
        graph = Graph()
        graph.outputs = [graph.add("input", shape=shape, dtype=self.graph[node]["dtype"])]
        stores = tuple(_store(0, output, place, shape) for output, place in places)
        body = Body(graph, (self._arrays[node],), (), stores)
        return _Part(body, shape, tuple(place for _, place in places))


def _told(parts: Sequence[_Part]) -> list[str]:
    """Each part and its places, in words."""
    return [
        f"a part of {list(part.shape)}, into out{store.output} from {place.begin} on, "
        f"steps {list(place.steps)}"
        for part in parts
        for store, place in zip(part.body.stores, part.places, strict=True)
    ]


def _launched(
    launcher: GridLauncher, launch: Launch, numbers: mx.array, arrays: Arrays
) -> list[mx.array]:
    return launcher([*arrays, numbers], launch)


def _dense(shape: Shape) -> tuple[int, ...]:
    """The steps of a row-contiguous array."""
    steps, step = [], 1
    for n in reversed(shape):
        steps.append(step)
        step *= n
    return tuple(reversed(steps))


def _placed(join: Join, shapes: Sequence[Shape]) -> tuple[Shape, list[Place]] | None:
    """The result's shape and where the parts lie in it; None where MLX must say what is wrong."""
    first, axis = shapes[0], join.axis
    if join.stacks:
        if any(shape != first for shape in shapes):
            return None
        result = (*first[:axis], len(shapes), *first[axis:])
        steps = _dense(result)
        own = (*steps[:axis], *steps[axis + 1 :])
        return result, [Place(k * steps[axis], own, True) for k in range(len(shapes))]
    around = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    if len(around) != 1 or any(len(shape) != len(first) for shape in shapes):
        return None
    sizes = [shape[axis] for shape in shapes]
    result = (*first[:axis], sum(sizes), *first[axis + 1 :])
    steps = _dense(result)
    begins = [sum(sizes[:k]) * steps[axis] for k in range(len(sizes))]
    even = set(sizes) == {1}
    return result, [Place(begin, steps, even) for begin in begins]


def _store(value: int, output: int, place: Place, shape: Shape) -> Store:
    inner = max((d for d, n in enumerate(shape) if n != 1), default=0)
    apart = place.steps[inner] if place.steps else 1
    return Store(value, output, apart if apart == 1 or place.fixed else None)
