"""Whole: the gradient of a whole program, planned as one graph.

Comes in: a program's plan, and the values of one forward pass. Goes out: gradients, by a program of
their own that is made once for each set of them. zmlx.fuse.program gives it to the native module,
which asks for what it has no tape of (zmlx.fuse.taped) and ties nothing together itself.

What a gradient reads is in memory between the forward pass's kernels anyway, or is computed again
(zmlx.fuse.saved). All that a forward pass writes for one are numbers a row (zmlx.fuse.statistics).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import mlx.core as mx

from zmlx import dtypes
from zmlx.device.rules import native_or_none
from zmlx.errors import DeriveError
from zmlx.fuse import dumped
from zmlx.fuse.cuts import Cut, Layout, array_of, call_of, cutter, pieces
from zmlx.fuse.extract import Region
from zmlx.fuse.joint import joint, may_join, reads_once
from zmlx.fuse.plan import Plan
from zmlx.fuse.reads import Backward, Links, Read
from zmlx.fuse.runtime import Runtime
from zmlx.fuse.saved import Bill, chosen
from zmlx.fuse.shortened import shortened
from zmlx.fuse.statistics import offered
from zmlx.log import logger
from zmlx.trace.graph import NUMBERS, Graph
from zmlx.trace.operands import arrays_in

if TYPE_CHECKING:
    from zmlx.fuse.program import Program

Values = Sequence[Any]  # by node of the forward graph
Gradients = list[mx.array | None]
T = TypeVar("T")
MakeProgram = Callable[[Graph, Runtime, str], "Program"]
FEWEST = 2  # slices of one array of which the gradient is put together
_log = logger("zmlx.fuse")


class WholeGradient:
    """The gradients of one plan; `make` makes a program of a graph."""

    def __init__(self, plan: Plan, runtime: Runtime, name: str, make: MakeProgram) -> None:
        self.plan, self.runtime, self.name, self._make = plan, runtime, name, make
        self._at_hand = at_hand(plan)
        self._sliced = _slices(plan.graph)
        self._programs: dict[Any, tuple[Program, Backward]] = {}
        self._joints: dict[Any, tuple[Program, tuple[int, ...]] | None] = {}

    def of(self, values: Values) -> Writer:
        """What gives gradients of the forward pass with these values."""
        return Writer(self, values)

    @cached_property
    def statistics(self) -> tuple[int, ...]:
        """The folds that kernels would write for gradients, by node of the plan's graph."""
        found = offered(self.plan, self._at_hand)
        bill = self._bill({**self._at_hand, **{n: n for n in found}}) if found else None
        return () if bill is None else tuple([n for n, _ in bill.saved if n in found])

    def bill(self) -> Bill | None:
        """What the gradients of all float arrays read, where all results receive; None where there
        is no graph for them.
        """
        return self._bill({**self._at_hand, **{n: n for n in self.statistics}})

    def _bill(self, hand: Mapping[int, int]) -> Bill | None:
        graph = self.plan.graph
        kinds = [(graph.kind(n), graph[n]["dtype"]) for n in graph.inputs]
        wanted = [i for i, (k, t) in enumerate(kinds) if k == "input" and dtypes.is_float(t)]
        layouts = self._layouts([_example(graph[node]) for node in graph])
        used = tuple(range(len(graph.outputs)))
        try:
            return self._derived(tuple(wanted), used, self._any_link, layouts, hand)[1]
        except DeriveError:
            return None

    def pulled(
        self, values: Values, wanted: tuple[int, ...], used: tuple[int, ...],
        seeds: Sequence[mx.array],
    ) -> Gradients:  # fmt: skip
        if not self._spread_alike(values):
            raise DeriveError("calls return other sizes of one than they did in the trace.")
        layouts = self._layouts(values)
        structure = tuple((array, layout.structure) for array, layout in layouts.items())
        key = (wanted, used, structure)
        if key not in self._programs:
            self._programs[key] = self._made(values, wanted, used, layouts)
        program, back = self._programs[key]
        given = [_given(values, read, layouts) for read in back.reads]
        results = program.stepped([*seeds, *given])
        found = dict(zip(back.found, results, strict=True))
        return [found.get(i) for i in wanted]

    def joined(
        self, values: Values, wanted: tuple[int, ...], used: tuple[int, ...],
        seeds: Sequence[mx.array],
    ) -> tuple[list[mx.array], Gradients] | None:  # fmt: skip
        """Results and gradients by one program that reads its inputs as often as the forward pass;
        None where there is none.
        """
        graph, key = self.plan.graph, (wanted, used)
        if not self._spread_alike(values):
            return None
        if key not in self._joints:
            self._joints[key] = self._both(wanted, used) if may_join(self.plan) else None
        made = self._joints[key]
        if made is None:
            return None
        program, which = made
        found = program.stepped([*[values[n] for n in graph.inputs], *seeds])
        count = len(graph.outputs)
        gradients = dict(zip(which, found[count:], strict=True))
        return found[:count], [gradients.get(i) for i in wanted]

    def _both(
        self, wanted: tuple[int, ...], used: tuple[int, ...]
    ) -> tuple[Program, tuple[int, ...]] | None:
        graph, which = joint(self.plan.graph, wanted, used, self._any_link)
        name = f"{self.name}.joint"
        runtime = dumped.inner(self.runtime, name, graph)
        with runtime.making():
            program = self._make(graph, runtime, name)
        return (program, which) if reads_once(self.plan, program.plan) else None

    def _spread_alike(self, values: Values) -> bool:
        """Whether what calls return broadcasts as the graph has it: where its sizes are one."""
        graph = self.plan.graph
        return all(
            [n == 1 for n in value.shape] == [n == 1 for n in graph[node]["shape"]]
            for node, value in zip(graph, values, strict=True)
            if isinstance(value, mx.array)
        )

    def _made(
        self, values: Values, wanted: tuple[int, ...], used: tuple[int, ...],
        layouts: Mapping[int, Layout],
    ) -> tuple[Program, Backward]:  # fmt: skip
        graph = self.plan.graph
        back, bill = self._derived(wanted, used, self._links(values), layouts, self._at_hand)
        name = f"{self.name}.vjp"
        made = shortened(back.graph, back.seeds, back.moved)
        dumped.derivative(name, graph, back.graph, made, bill)
        runtime = dumped.inner(self.runtime, name, made)
        with runtime.making():
            return self._make(made, runtime, name), back

    def _derived(
        self, wanted: tuple[int, ...], used: tuple[int, ...], links: Links,
        layouts: Mapping[int, Layout], hand: Mapping[int, int],
    ) -> tuple[Backward, Bill]:  # fmt: skip
        from zmlx.fuse.backward import backward  # sympy, which it needs, is slow to load

        graph = self.plan.graph
        derived = backward(graph, wanted, used, hand, links, layouts)
        return chosen(derived, graph, hand)

    def _any_link(self, node: int) -> Mapping[int, Sequence[int]]:
        """All results of a call as depending on all arrays that it is given."""
        graph = self.plan.graph
        results = range(max(1, graph[node]["call"].outputs))
        operands = enumerate(graph.operands(node))
        return {p: results for p, o in operands if graph.kind(o) not in ("const", *NUMBERS)}

    def _links(self, values: Values) -> Links:
        graph, native = self.plan.graph, native_or_none()

        def links(node: int) -> Mapping[int, Sequence[int]]:
            operands = [(p, values[o]) for p, o in enumerate(graph.operands(node))]
            arrays = [(p, v) for p, v in operands if isinstance(v, mx.array)]
            given = [v for _, v in arrays]
            results = list(arrays_in(values[node]))
            found = native.reached(given, given, results)
            return {p: r for (p, _), r in zip(arrays, found, strict=True)}

        return links

    def _layouts(self, values: Values) -> dict[int, Layout]:
        """How slices lie in the arrays that have several."""
        found = {}
        for array, slices in self._sliced.items():
            if not isinstance(values[array], mx.array):
                continue
            shape = values[array].shape
            cuts = [cut(shape, [values[n] for n in numbers]) for _, cut, numbers in slices]
            known: list[Cut] = [cut for cut in cuts if cut is not None]
            if len(known) < len(cuts):
                continue
            parts = pieces(known, shape[known[0].axis])
            if parts is not None:
                found[array] = Layout(tuple(view for view, _, _ in slices), tuple(known), parts)
        return found


class Writer:
    """Gives gradients of one forward pass: those `wanted` (positions of inputs) of what the results
    `used` receive. The native module calls it.
    """

    def __init__(self, gradient: WholeGradient, values: Values) -> None:
        self._gradient, self._values = gradient, values

    def __call__(
        self, wanted: Sequence[int], used: Sequence[int], seeds: Sequence[mx.array]
    ) -> Gradients | None:
        """The gradients, None for those that receive nothing; None in place of all where there is
        no graph for them.
        """
        return self._made(self._gradient.pulled, wanted, used, seeds)

    def joint(
        self, wanted: Sequence[int], used: Sequence[int], seeds: Sequence[mx.array]
    ) -> tuple[list[mx.array], Gradients] | None:
        """The results as well, computed by the same kernels; None where that saves nothing."""
        return self._made(self._gradient.joined, wanted, used, seeds)

    def _made(
        self, make: Callable[..., T], wanted: Sequence[int], used: Sequence[int],
        seeds: Sequence[mx.array],
    ) -> T | None:  # fmt: skip
        gradient = self._gradient
        try:
            with gradient.runtime.making():
                return make(self._values, tuple(wanted), tuple(used), seeds)
        except DeriveError as error:
            _log.info("%s: its gradient is made step by step: %s", gradient.name, error)
            return None


def _example(data: Mapping[str, Any]) -> Any:
    """An array in the example's shape, for a number 0."""
    number = data["kind"] in ("const", *NUMBERS)
    return 0 if number else mx.broadcast_to(mx.zeros(()), data["shape"])


def at_hand(plan: Plan) -> dict[int, int]:
    """For each node whose value a forward pass has, the node that holds it: itself, or the one that
    has lost the axes that it folds.
    """
    graph = plan.graph
    found = {n: n for n in graph if graph.kind(n) in ("input", "scalar", "array")}
    in_place = {r for joined in plan.joined for r in joined.regions}
    for step in plan.steps:
        if not isinstance(step, Region):
            found[step.result] = step.result
            if step.squeeze is not None:
                found[step.node] = step.squeeze
        elif step not in in_place:
            pairs = zip(step.ends.outputs, step.results, strict=True)
            found |= {node: result for node, result in pairs}
            found |= {result: result for result in step.results}
    for joined in plan.joined:
        found |= {node: node for node in joined.results}
    return found


def _slices(graph: Graph) -> dict[int, list[tuple[int, Any, tuple[int, ...]]]]:
    """The slices of each array that has several: node, what cuts it, the numbers that steer it."""
    found: dict[int, list[tuple[int, Any, tuple[int, ...]]]] = {}
    for node in graph:
        array = array_of(graph, node)
        if array is not None:
            numbers = graph.operands(call_of(graph, node))[1:]
            found.setdefault(array, []).append((node, cutter(graph, node), numbers))
    return {array: slices for array, slices in found.items() if len(slices) >= FEWEST}


def _given(values: Values, read: Read, layouts: Mapping[int, Layout]) -> Any:
    if read.told is not None:
        return read.told(layouts)
    value = values[read.node]
    return value if read.size is None else value.shape[read.size]
