"""Programs: a planned graph as a callable.

Comes in: a graph. Goes out: Program, which runs the plan's steps over a list of values, one place
for each node. zmlx.fuse.api runs the programs of traces, zmlx.fuse.region those of derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import mlx.core as mx

from zmlx import dump
from zmlx.device.base import device_for_current_stream
from zmlx.fuse import dumped
from zmlx.fuse.extract import Region
from zmlx.fuse.joined import JoinedFunction
from zmlx.fuse.lift import lift
from zmlx.fuse.moments import centred
from zmlx.fuse.plan import Native, Plan, plan, plan_apart
from zmlx.fuse.region import Picked, RegionFunction, launchers
from zmlx.fuse.replay import constant
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.simplify import simplify
from zmlx.fuse.squeezed import Squeezed
from zmlx.fuse.statistics import returning
from zmlx.fuse.steps import Step, Values, kernel_step, native_step, together_step
from zmlx.fuse.taped import Recorded, taped
from zmlx.fuse.together import Together, fewest
from zmlx.fuse.whole import WholeGradient
from zmlx.fuse.written import Written, written_out
from zmlx.log import logger
from zmlx.trace.graph import NUMBERS, Graph
from zmlx.trace.operands import arrays_in

_log = logger("zmlx.fuse")


class Program:
    """The steps of a plan; call it with one array (or number, for a scalar) for each input.

    `sums`: it is a derivative; `is_simple`: the graph is simplified.
    """

    def __init__(
        self, graph: Graph, runtime: Runtime, name: str, sums: bool = False,
        is_simple: bool = False,
    ) -> None:  # fmt: skip
        graph = graph if is_simple or runtime.apart else simplify(graph)
        self.written = Written(graph)
        self.plan = plan_apart(graph) if runtime.apart else self._planned(graph, runtime, sums)
        self._unwritten = (graph, replace(runtime, folds=False, ends=False), name)
        written = runtime.written or bool(self.written.calls)
        runtime = replace(runtime, written=written and not sums)
        self._runtime, self._name = runtime, name
        dump.stage("plan", lambda: dumped.plan_text(self.plan, self.written.calls))
        _log.info("%s: %s", name, describe(self.plan))
        graph = self.plan.graph
        self._template = [_initial(graph[node]) for node in graph]
        self._inputs, self._outputs = tuple(graph.inputs), tuple(graph.outputs)
        captured = [node for node in graph if graph.kind(node) == "array"]
        self._read = (*self._inputs, *captured)
        arrays = [(i, n) for i, n in enumerate(self._outputs) if graph.kind(n) not in NUMBERS]
        self._repeats = [i for i, n in arrays if n in self._outputs[:i]]
        self._shared = [i for i, n in arrays if graph.kind(n) != "op"]
        self.functions = [
            RegionFunction(region.graph, runtime, f"{name}.region{i}")
            for i, region in enumerate(self.plan.regions)
        ]
        pairs = zip(self.plan.regions, self.functions, strict=True)
        self._runs: list[Run] = [Squeezed.of(region, function) for region, function in pairs]
        self._single = self._made_steps()
        self._steps = self._shared_steps(runtime, name)
        self._build_kernels()
        held = [self._template[node] for node in captured]
        own = sums or runtime.exact or runtime.apart  # the gradient of each step
        self.gradient = None if own else self._whole(runtime, name)
        traced = None if own else self._traced
        self._taped = taped(self.plan, runtime, self._results, held, traced)

    def _planned(self, simple: Graph, runtime: Runtime, sums: bool) -> Plan:
        """A simplified graph in fewer nodes, cut into kernels and calls of MLX."""
        device = device_for_current_stream()
        dump.stage("simplified", lambda: dumped.graph_text(simple))
        lifted = lift(simple)
        dump.stage("lifted", lambda: dumped.graph_text(lifted))
        self.written = Written(lifted)
        if runtime.folds and not runtime.exact and device.unavailable() is None:
            dear = 0 if device.rows_alone else device.worth_alone
            self.written = written_out(lifted, not sums, dear, () if sums else device.products)
            if not sums:
                self.written = replace(self.written, graph=centred(self.written.graph))
        return plan(self.written.graph, device.worth_alone, sums, **runtime.folding)

    def _made_steps(self) -> list[Step]:
        """A function for each step of the plan."""
        graph, runs = self.plan.graph, iter(self._runs)
        return [
            kernel_step(graph, step.ends, step.results, next(runs))
            if isinstance(step, Region)
            else native_step(graph, step)
            for step in self.plan.steps
        ]

    def _shared_steps(self, runtime: Runtime, name: str) -> list[Step]:
        """The same, but one for all steps that share a kernel or a launch."""
        graph, plan = self.plan.graph, self.plan
        runs = dict(zip(plan.regions, self._runs, strict=True))
        self.joined = [
            JoinedFunction(graph, joined, runs, runtime, f"{name}.joined{i}")
            for i, joined in enumerate(plan.joined)
        ]
        single = dict(zip([_step_key(s) for s in plan.steps], self._single, strict=True))
        shared: dict[Any, Step] = {}
        for joined, function in zip(plan.joined, self.joined, strict=True):
            run = kernel_step(graph, joined.ends, joined.results, function)
            keys = (*joined.regions, *[join.node for join in joined.joins])
            shared |= dict.fromkeys(keys, run)
        kernels = single | shared
        self.together = self._together(runtime, name)
        for alike in self.together:
            run = together_step(graph, alike, [kernels[region] for region in alike.regions])
            shared |= dict.fromkeys(alike.regions, run)
        return list(dict.fromkeys((single | shared).values()))

    def _together(self, runtime: Runtime, name: str) -> list[Together]:
        """A function for each group of regions that may be launched together."""
        own = dict(zip(self.plan.regions, self.functions, strict=True))
        groups = [group for group in self.plan.alike if len(group) >= fewest()]
        return [
            Together(regions, [own[r] for r in regions], runtime, f"{name}.alike{i}")
            for i, regions in enumerate(groups)
        ]

    def _whole(self, runtime: Runtime, name: str) -> WholeGradient:
        return WholeGradient(self.plan, runtime, name, partial(Program, sums=True))

    def _traced(self) -> Recorded:
        """What gives results, and then gradients, where MLX traces.

        Kernels then write numbers a row that the gradient would have to fold again.
        """
        assert self.gradient is not None
        plain, folds = Recorded(self._results, self.gradient), self.gradient.statistics
        if not folds:
            return plain
        with self._runtime.making():
            program = Program(returning(self.plan.graph, folds), self._runtime, self._name)
        steps, count = len(self.plan.steps), len(self._outputs)
        if program.gradient is None or len(program.plan.steps) > steps:
            return plain

        def run(inputs: Sequence[Any]) -> tuple[list[mx.array], Values]:
            results, values = program._results(inputs)
            return results[:count], values

        return Recorded(run, program.gradient)

    def __call__(self, inputs: Sequence[Any]) -> list[mx.array]:
        return self.run(inputs)

    @property
    def run(self) -> Run:
        """What gives the results: tapes, or the steps."""
        return self._taped or self.stepped

    @cached_property
    def unwritten(self) -> Program:
        """The same with each call of MLX as it is."""
        graph, runtime, name = self._unwritten
        with runtime.making():
            return Program(graph, runtime, name, is_simple=True)

    def stepped(self, inputs: Sequence[Any]) -> list[mx.array]:
        """The results, each step run by Python."""
        return self._results(inputs)[0]

    def _results(self, inputs: Sequence[Any]) -> tuple[list[mx.array], Values]:
        """The results, and the values by node that they are among."""
        values = self._template.copy()
        for node, value in zip(self._read, inputs, strict=False):  # the captured ones are there
            values[node] = value
        for step in self._steps:
            step(values)
        results = [values[node] for node in self._outputs]
        for i in self._shared:  # the caller may write into what it gets: new handles, same data
            results[i] = results[i].__copy__()
        for i in self._repeats:  # mx.vjp heeds one cotangent only for an array returned twice
            results[i] = mx.contiguous(results[i], allow_col_major=True)
        return results, values

    def stepwise(self, inputs: Sequence[Any]) -> Iterator[list[mx.array]]:
        """What each step of the plan makes, in its order; a step runs when it is asked for."""
        values = self._template.copy()
        for node, value in zip(self._inputs, inputs, strict=True):
            values[node] = value
        for step, run in zip(self.plan.steps, self._single, strict=True):
            run(values)
            nodes = step.results if isinstance(step, Region) else (step.result,)
            yield list(arrays_in([values[n] for n in nodes]))

    def simple(self) -> Run | None:
        """The program as one region's function, where it is nothing but that."""
        if len(self.plan.steps) != 1 or not self.plan.regions or self._repeats or self._taped:
            return None
        region = self.plan.regions[0]
        inputs, results = region.ends.inputs, region.results
        if region.ends.scalars or not {*inputs} <= {*self._inputs}:
            return None
        if not {*self._outputs} <= {*results}:
            return None
        if inputs == self._inputs and results == self._outputs:
            return self._runs[0]
        reads = [self._inputs.index(n) for n in inputs]
        return Picked(self._runs[0], reads, [results.index(n) for n in self._outputs])

    def _build_kernels(self) -> None:
        """Compile what the example shapes need in one run of the compiler.

        The regions hold the launchers, as a device forgets what nobody holds.
        """
        device = device_for_current_stream()
        if device.unavailable() is not None:
            return
        specials = []
        joined = {region for step in self.plan.joined for region in step.regions}
        for function, region in zip(self.functions, self.plan.regions, strict=True):
            if region.folds or region in joined:  # the launch knows its sizes
                continue
            shapes = [_example(region.graph[n]) for n in region.graph.inputs]
            special = function.specialized(shapes)
            specials += [] if special.kernel is None else [special]
        built = launchers(device, [s.kernel for s in specials if s.kernel is not None])
        for special, launcher in zip(specials, built or (), strict=False):
            special.launcher = launcher


def make_program(graph: Graph, runtime: Runtime, name: str) -> Run:
    """`graph` as a function of its inputs."""
    program = Program(graph, runtime, name, sums=not runtime.exact)
    return program.simple() or program


def describe(plan: Plan) -> str:
    """A plan in one line, for the log."""
    fused = ", ".join(f"{len(region.nodes)} ops" for region in plan.regions)
    return f"{len(plan.regions)} regions ({fused}), {len(plan.natives)} nodes run by MLX"


def _example(data: dict[str, Any]) -> tuple[int, ...]:
    return (1,) if data["kind"] == "scalar" else tuple(data["shape"])


def _initial(data: dict[str, Any]) -> Any:
    if data["kind"] == "array":
        return data["value"]
    return constant(data) if data["kind"] == "const" else None


def _step_key(step: Region | Native) -> Any:
    return step if isinstance(step, Region) else step.node
