"""Pulled: the gradient of a kernel that reads slices, as one graph, by the arrays that were sliced.

Comes in: a Sliced step, and how the slices of each array lie beside one another. Goes out: a graph
in which every gradient is written once: where slices tile their array it is a concatenation of what
the region's derivative gives, with zeros where nothing was read and sums where slices overlap; the
planner writes it in place. zmlx.fuse.sliced plans and runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from zmlx.fuse.cuts import Cut, Piece, call_of
from zmlx.fuse.extract import Region, extract
from zmlx.fuse.joins import Join
from zmlx.fuse.simplify import copy_node
from zmlx.trace.graph import Graph, OpaqueCall, Ref

# Taken before any trace replaces names.
_TAKE, _SPLIT, _PUT, _STACK = vars(mx.array)["__getitem__"], mx.split, mx.concatenate, mx.stack
_EXPAND, _SPREAD, _ZEROS = mx.expand_dims, mx.broadcast_to, mx.zeros


@dataclass(frozen=True, eq=False)
class Sliced:
    """A step of `regions`, and `joins` of what they compute, that reads slices of some arrays."""

    graph: Graph
    regions: tuple[Region, ...]
    joins: tuple[Join, ...]
    kept: tuple[int, ...]  # results that are no join
    inputs: tuple[int, ...]  # the arrays that the step's kernel reads
    scalars: tuple[int, ...]  # and the numbers
    views: Mapping[int, int]  # inputs that are slices, and the arrays they are slices of

    @property
    def sources(self) -> tuple[int, ...]:
        """The arrays that it depends on."""
        return tuple(dict.fromkeys(self.views.get(n, n) for n in self.inputs))

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers that steer the slices."""
        calls = dict.fromkeys(call_of(self.graph, view) for view in self.views)
        return tuple(dict.fromkeys(n for c in calls for n in self.graph.operands(c)[1:]))

    @property
    def results(self) -> tuple[int, ...]:
        return (*self.kept, *[join.node for join in self.joins])


@dataclass(frozen=True)
class Layout:
    """How the slices of one array lie in it: their cuts by view, and the pieces between them."""

    views: tuple[int, ...]
    cuts: tuple[Cut, ...]
    pieces: tuple[Piece, ...]

    @property
    def stacks(self) -> bool:
        """Whether every piece is one slice that has lost the dimension."""
        return all(cut.drops for cut in self.cuts) and all(p.whole for p in self.pieces)

    @property
    def structure(self) -> Any:
        """What of it decides the graph; sizes do not."""
        return (
            self.views,
            tuple((cut.axis, cut.drops) for cut in self.cuts),
            tuple((piece.covers, piece.whole) for piece in self.pieces),
        )


# A number that the graph takes, told from the shapes of the step's inputs and the layouts.
Told = Callable[[Mapping[int, Any], Mapping[int, Layout]], int]


@dataclass(frozen=True, eq=False)
class Pulled:
    """Inputs of `graph`: the step's sources, scalars, numbers, the cotangents, then `told`.

    Outputs: the gradients of `found`, positions in the sources.
    """

    graph: Graph
    told: tuple[Told, ...]
    found: tuple[int, ...]


def pulled(
    step: Sliced, layouts: Mapping[int, Layout], wanted: Sequence[int], used: Sequence[int],
    shorten: Callable[[Any], Any],
) -> Pulled:  # fmt: skip
    """The gradient of the sources `wanted` through the results `used`, by position.

    `shorten` is given the derivative of the step's ops.
    """
    return _Writer(step, layouts).pulled(wanted, used, shorten)


class _Writer:
    def __init__(self, step: Sliced, layouts: Mapping[int, Layout]) -> None:
        self.step, self.source, self.layouts = step, step.graph, layouts
        self.graph = Graph()
        self.told: list[Told] = []
        self.joins = {join.node: join for join in step.joins}
        self._new = {node: self._input(node) for node in step.sources}
        for node in step.scalars:
            self._new[node] = self.graph.add("scalar", dtype=self.source[node]["dtype"])
        self._steers = {node: self.graph.add("scalar", dtype="int32") for node in step.numbers}

    def pulled(
        self, wanted: Sequence[int], used: Sequence[int], shorten: Callable[[Any], Any]
    ) -> Pulled:
        step = self.step
        seeds = {step.results[k]: self._input(step.results[k]) for k in used}
        for view in step.views:
            self._view(view)
        gradients = self._through(self._cotangents(seeds), shorten)
        totals = {p: self._total(step.sources[p], gradients) for p in wanted}
        found = {p: total for p, total in totals.items() if total is not None}
        self.graph.outputs = list(found.values())
        return Pulled(self.graph, tuple(self.told), tuple(found))

    def _input(self, node: int) -> int:
        data = self.source[node]
        return self.graph.add("input", shape=data["shape"], dtype=data["dtype"])

    def _number(self, told: Told) -> int:
        self.told.append(told)
        return self.graph.add("scalar", dtype="int32")

    def _view(self, view: int) -> None:
        call = call_of(self.source, view)
        if call not in self._new:
            array, *numbers = self.source.operands(call)
            operands = [self._new[array], *[self._steers[n] for n in numbers]]
            self._new[call] = copy_node(self.source, call, self.graph, operands)
        if view not in self._new:
            self._new[view] = copy_node(self.source, view, self.graph, (self._new[call],))

    # -- cotangents of the parts ------------------------------------------------------------------
    def _cotangents(self, seeds: Mapping[int, int]) -> dict[int, int]:
        """What each part or kept result receives."""
        found: dict[int, int] = {}
        for node, seed in seeds.items():
            join = self.joins.get(node)
            parts = [(node, seed)] if join is None else self._parts(join, seed)
            for part, value in parts:
                found[part] = self._added(found.get(part), value)
        return found

    def _parts(self, join: Join, seed: int) -> list[tuple[int, int]]:
        shapes = [self.source[p]["shape"] for p in join.parts]
        dtype, count = self.graph[seed]["dtype"], len(join.parts)
        if join.stacks:
            indices = [(*(slice(None),) * join.axis, k) for k in range(count)]
            return [
                (part, self._call(_TAKE, (Ref(0), index), (seed,), shape, dtype, "getitem"))
                for part, index, shape in zip(join.parts, indices, shapes, strict=True)
            ]
        if count == 1:
            return [(join.parts[0], seed)]
        ends = [self._number(_end(join, k)) for k in range(1, count)]
        args = (Ref(0), [Ref(1 + k) for k in range(count - 1)], join.axis)
        call = OpaqueCall(_SPLIT, args, {}, "split", count)
        cut = self.graph.add("opaque", (seed, *ends), call=call, pure=True)
        return [
            (part, self.graph.add("item", (cut,), shape=shape, dtype=dtype, index=k))
            for k, (part, shape) in enumerate(zip(join.parts, shapes, strict=True))
        ]

    # -- the derivative of the ops ----------------------------------------------------------------
    def _through(self, given: dict[int, int], shorten: Callable[[Any], Any]) -> dict[int, int]:
        """The gradients of the step's inputs, from what its results receive."""
        step = self.step
        nodes = sorted(n for region in step.regions for n in region.nodes)
        region = extract(self.source, nodes)
        outputs = [k for k, n in enumerate(region.ends.outputs) if n in given]
        ops = region.graph
        ops.outputs = [ops.outputs[k] for k in outputs]
        found = {n: given[n] for n in step.inputs if n in given}  # parts that are inputs as well
        if not outputs:
            return found
        from zmlx.derive.accumulate import derive_vjp  # sympy: slow to load

        derivative = shorten(derive_vjp(ops))
        inputs = (*region.ends.inputs, *region.ends.scalars)
        values = dict(zip(derivative.graph.inputs, [self._new[n] for n in inputs], strict=False))
        seeds = [given[region.ends.outputs[k]] for k in outputs]
        values |= dict(
            zip([derivative.graph.inputs[k] for k in derivative.seeds], seeds, strict=True)
        )
        for node in derivative.graph:
            if node not in values:
                operands = [values[o] for o in derivative.graph.operands(node)]
                values[node] = copy_node(derivative.graph, node, self.graph, operands)
        for target, output in zip(derivative.targets, derivative.graph.outputs, strict=True):
            node = inputs[target]
            found[node] = self._added(found.get(node), values[output])
        return found

    # -- what an array receives -------------------------------------------------------------------
    def _total(self, source: int, gradients: Mapping[int, int]) -> int | None:
        total = gradients.get(source)
        layout = self.layouts.get(source)
        if layout is None:
            return total
        parts = [gradients.get(view) for view in layout.views]
        made = [self._piece(source, layout, k, parts) for k in range(len(layout.pieces))]
        if all(part is None for part in parts):
            return total
        return self._added(total, self._put(source, layout, made))

    def _put(self, source: int, layout: Layout, made: Sequence[int]) -> int:
        data, axis = self.source[source], layout.cuts[0].axis
        if len(made) == 1:
            return made[0]
        args = ([Ref(k) for k in range(len(made))], axis)
        fn, label = (_STACK, "stack") if layout.stacks else (_PUT, "concatenate")
        return self._call(fn, args, made, data["shape"], data["dtype"], label)

    def _piece(self, source: int, layout: Layout, k: int, parts: Sequence[int | None]) -> int:
        """The gradient of one piece, at the rank that `_put` wants."""
        piece, cuts, data = layout.pieces[k], layout.cuts, self.source[source]
        axis, dtype = cuts[0].axis, data["dtype"]
        shape = (*data["shape"][:axis], piece.stop - piece.start, *data["shape"][axis + 1 :])
        total: int | None = None
        for i in piece.covers:
            value = parts[i]
            if value is None:
                continue
            if cuts[i].drops and not layout.stacks:
                value = self._call(_EXPAND, (Ref(0), axis), (value,), shape, dtype, "expand_dims")
            if i not in piece.whole:
                ends = [self._number(_inside(source, k, i, end)) for end in (False, True)]
                index = (*(slice(None),) * axis, slice(Ref(1), Ref(2)))
                operands = (value, *ends)
                value = self._call(_TAKE, (Ref(0), index), operands, shape, dtype, "getitem")
            total = self._added(total, value)
        if total is not None:
            return total
        zeros = _Zeros(axis, layout.stacks)
        operands = (self._new[source], self._number(_length(source, k)))
        shape = (*shape[:axis], *shape[axis + 1 :]) if layout.stacks else shape
        return self._call(zeros, (Ref(0), Ref(1)), operands, shape, dtype, "zeros")

    # -- nodes ------------------------------------------------------------------------------------
    def _added(self, total: int | None, value: int) -> int:
        if total is None:
            return value
        data = self.graph[value]
        kind = {"dtype": data["dtype"], "at": data["dtype"], "shape": data["shape"]}
        return self.graph.add("op", (total, value), op="add", **kind)

    def _call(
        self, fn: Any, args: tuple[Any, ...], operands: Sequence[int], shape: tuple[int, ...],
        dtype: str, label: str,
    ) -> int:  # fmt: skip
        call = OpaqueCall(fn, args, {}, label)
        return self.graph.add("opaque", operands, shape=shape, dtype=dtype, call=call, pure=True)


class _Zeros:
    """Zeros in the shape of an array, but for the length along one axis."""

    def __init__(self, axis: int, drops: bool) -> None:
        self.axis, self.drops = axis, drops

    def __call__(self, x: mx.array, length: int) -> mx.array:
        shape = list(x.shape)
        if self.drops:
            del shape[self.axis]
        else:
            shape[self.axis] = length
        return _SPREAD(_ZEROS((), x.dtype), shape)


def _end(join: Join, count: int) -> Told:
    """Where the first `count` parts of a concatenation end."""
    return lambda shapes, _: sum(shapes[p][join.axis] for p in join.parts[:count])


def _length(source: int, k: int) -> Told:
    def told(_: Any, layouts: Mapping[int, Layout]) -> int:
        piece = layouts[source].pieces[k]
        return piece.stop - piece.start

    return told


def _inside(source: int, k: int, i: int, end: bool) -> Told:
    def told(_: Any, layouts: Mapping[int, Layout]) -> int:
        layout = layouts[source]
        piece = layout.pieces[k]
        return (piece.stop if end else piece.start) - layout.cuts[i].start

    return told
