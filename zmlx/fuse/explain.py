"""Explanations: what `zmlx.fuse` made of a function, as data that shows itself.

Comes in: a trace and its program. Goes out: an Explanation, which prints as text (zmlx.fuse.text),
shows itself in a notebook and saves as a page, text, JSON or a drawing (zmlx.fuse.export).
`zmlx.explain` returns it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import networkx as nx
from rich.console import Console, ConsoleOptions, Group, RenderResult

from zmlx import switches
from zmlx.device.base import device_for_current_stream
from zmlx.fuse.export import WRITERS, PlannedGraph, written
from zmlx.fuse.extract import Region
from zmlx.fuse.frozen import Frozen, frozen, names_of_arrays
from zmlx.fuse.inside import Inside, looking, runs_python, why_whole
from zmlx.fuse.page import html
from zmlx.fuse.patterns import Fired, Nearly, nearly, standing_for
from zmlx.fuse.plan import Native
from zmlx.fuse.program import Program
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.reports import (
    Captured,
    Port,
    RegionReport,
    Saved,
    Unfused,
    Value,
    input_name,
    moved,
    region_report,
    saved_of,
    value_of,
)
from zmlx.fuse.simplify import cost
from zmlx.fuse.stepped import step_times
from zmlx.fuse.table import Table
from zmlx.fuse.text import parts, plain
from zmlx.trace.graph import Graph
from zmlx.trace.paths import Names
from zmlx.trace.run import Trace
from zmlx.trace.through import RUNS_PYTHON

__all__ = [
    "Captured", "Explanation", "Frozen", "Port", "RegionReport", "Saved", "Unfused", "Value",
]  # fmt: skip


class Explanation:
    """What a function became for one call's arguments.

    `kernels_before` and `bytes_before` are those of plain MLX: each elementwise op is one kernel
    that reads its array operands once, at their own sizes, and writes its result; so is each
    reduction or call that here is part of a region. In
    `kernels_after` and `bytes_after`, which are those of what runs here, each region is one kernel
    that reads its inputs and writes its outputs, and those that share a launch are one together;
    ops that stay with MLX count as before, as do all where no kernel can run: `no_kernels` then
    says why, else it is "". Calls that are not
    elementwise cost the same either way and are in neither, nor are ops that compute nothing
    (stop_gradient, zeros_like). Kernels inside a call that runs Python (`unfused[i].inside`, a
    gradient, say) count as kernels; their bytes stand there.

    `fired` lists the patterns that were replaced, `nearly` those that were almost there and why
    they were not (docs/patterns.md). `saved` lists what gradients read of the forward pass, and
    why it is there; what they compute again stands with each region.
    """

    def __init__(
        self,
        name: str,
        trace: Trace,
        program: Program,
        names: Names | None = None,
        fn: Callable[..., Any] | None = None,
        insides: Mapping[int, Inside] | None = None,
        measure: Callable[[int], list[float]] | None = None,
        almost: Sequence[Nearly] = (),
    ) -> None:
        planned = program.plan
        self.rounds = 0  # of `timed`
        self._measure = measure
        self._plan_steps = [s.nodes[0] if isinstance(s, Region) else s.node for s in planned.steps]
        self.name, self.no_kernels = name, no_kernels()
        self.names = names or Names()
        self._plan_graph = planned.graph
        self.regions = [
            region_report(planned.graph, region, function, f"region{i}", self.names)
            for i, (region, function) in enumerate(
                zip(planned.regions, program.functions, strict=True)
            )
        ]
        self._share(program)
        self.saved = saved_of(program, self.names)
        self._calls = set(program.written.calls)
        self.written = [f"{label} at {loc}" for label, loc in program.written.calls]
        self.fired, self.nearly = list[Fired](trace.fired), list(almost)
        notes = {id(trace.graph[node]["call"]): reason for node, reason in trace.notes}
        why = program.written.left | notes | standing_for(planned.graph)
        self.unfused = [
            _unfused(planned.graph, native, why, insides or {})
            for native in planned.natives
            if planned.graph.kind(native.node) not in ("item", "size", "count")
        ]
        called = names_of_arrays(fn, [c.array for c in trace.captures]) if fn else []
        self.captures = [
            Captured(value_of(trace.graph, capture.node), capture.loc, name)
            for capture, name in zip(
                trace.captures, called or [""] * len(trace.captures), strict=True
            )
        ]
        self.frozen = frozen(fn) if fn else []
        self.exported = trace.exported  # why and where mx.export_function took the trace, or ""
        self.shape_reads = [decision.told(self.names) for decision in trace.decisions]
        self.static_numbers = sorted(trace.static_numbers)
        self.numerics = "mlx" if any(f.runtime.exact for f in program.functions) else "fp32"
        self.inputs, self.outputs = list(planned.graph.inputs), list(planned.graph.outputs)
        self._count(trace.graph)

    def _share(self, program: Program) -> None:
        """Tell each region which others are launched with it in the example call."""
        place = {region: i for i, region in enumerate(program.plan.regions)}
        names = [r.name for r in self.regions]
        self._launches = len(self.regions)
        if self.no_kernels:
            return
        for function in program.together:
            examples = [program.plan.graph[n] for n in function.ends.inputs]
            arrays = [mx.zeros(d["shape"], dtype_of(d["dtype"])) for d in examples]
            for part in function.launches(arrays):
                own = [place[function.regions[i]] for i in part]
                self._launches -= len(own) - 1
                for i in own:
                    others = tuple(names[k] for k in own if k != i)
                    self.regions[i] = replace(self.regions[i], shares=others)

    def _count(self, traced: Graph) -> None:
        """Kernels and bytes of plain MLX, and of what runs here."""
        planned = self._plan_graph
        before = _op_costs(traced, _live(traced)) + self._joined_costs(traced)
        fused = [] if self.no_kernels else [r for r in self.regions if r.kernel or r.parts]
        left = {u.node for u in self.unfused}
        left.update(n for r in self.regions if r not in fused for n in r.nodes)
        after = before if not switches.FUSE.on() else _op_costs(planned, sorted(left))
        if switches.FUSE.on():  # reductions in regions that MLX runs
            loose = [n for r in self.regions if r not in fused for n in r.nodes]
            after += [moved(planned, n) for n in loose if planned.kind(n) == "reduce"]
        insides = [u.inside for u in self.unfused if u.inside]
        self.kernels_before, self.bytes_before = len(before), sum(before)
        self.kernels_before += sum(i.kernels if i.plain is None else i.plain for i in insides)
        shared = len(self.regions) - self._launches
        launches = sum(len(r.parts) or 1 for r in fused) - shared
        self.kernels_after = len(after) + launches + sum(i.kernels for i in insides)
        self.bytes_after = sum(after) + sum(r.bytes for r in fused)

    def _joined_costs(self, traced: Graph) -> list[int]:
        """The bytes that MLX moves for each reduction and call that here is part of a region."""
        planned = self._plan_graph
        folds = [planned[n] for r in self.regions for n in r.nodes if planned.kind(n) == "reduce"]
        joined = {(f["op"], f["loc"]) for f in folds} | self._calls
        costs = []
        for node in _live(traced):
            data = traced[node]
            name = data["call"].label if data["kind"] == "opaque" else data.get("op")
            if data["kind"] in ("opaque", "reduce") and (name, data["loc"]) in joined:
                costs.append(moved(traced, node))
        return costs

    @property
    def graph(self) -> nx.DiGraph:
        """A copy of the planned graph; its str is a line a node.

        Beside zmlx.trace.graph's attributes each node has `region`, the name of its region or "",
        and `name`, what an input, a number or a captured array is called in the function, or "".
        """
        copy = PlannedGraph(self._plan_graph.nx)
        homes = {node: region.name for region in self.regions for node in region.nodes}
        for node, data in copy.nodes(data=True):
            data["region"], data["name"] = homes.get(node, ""), ""
            if data["kind"] in ("input", "scalar"):
                data["name"] = input_name(data, self.names)
        copy.graph["outputs"] = list(self.outputs)
        return copy

    def timed(self, rounds: int = 10) -> Explanation:
        """Measure each region and each call of MLX here and now, and return this report with them.

        Each step is run and evaluated by itself, `rounds` times; `ms` is the median, in
        milliseconds, and holds for this machine, its load, and the example's sizes. Steps that a
        whole call would overlap are not overlapped.

        Raises:
            ValueError: where fusion is off, or `rounds` is below 1.
        """
        if self._measure is None or not switches.FUSE.on() or rounds < 1:
            raise ValueError(
                f"[zmlx.explain] nothing to time: rounds is {rounds!r}, wanted 1 or more; and "
                f"{switches.FUSE.name} must be on."
            )
        times = dict(zip(self._plan_steps, self._measure(rounds), strict=True))
        self.regions = [replace(r, ms=times[r.nodes[0]]) for r in self.regions]
        self.unfused = [replace(u, ms=times[u.node]) for u in self.unfused]
        self.rounds = rounds
        return self

    def text(self, full: bool = False) -> str:
        """The report without colours; a summary of a large function unless `full`."""
        return plain(self, full)

    def json(self) -> str:
        """Everything as data: numbers, texts, lists and dicts."""
        return WRITERS[".json"](self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report and return its path; the name's ending says as what.

        `.html` is one self-contained page, `.txt` the whole text, `.json` everything as data,
        `.dot` and `.svg` the graph. Raises ValueError for any other ending.
        """
        target = Path(path)
        content = written(self, target)
        draft = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            draft.write_text(content, encoding="utf-8")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        return target

    def _repr_html_(self) -> str:
        return html(self, whole=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Group(*parts(self))

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return (
            f"<zmlx.explain {self.name}: {len(self.regions)} regions, "
            f"{len(self.unfused)} run by MLX>"
        )


def explained(table: Table, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation:
    """The explanation of a call; a function that MLX calls back is traced again, and looked at."""
    entry, insides = table.entry(args, kwargs), dict[int, Inside]()
    graph = entry.trace.graph
    if any(graph.kind(n) == "opaque" and runs_python(graph[n]["call"].fn) for n in graph):
        with looking() as look:
            again = Table(table.fn, table.name, table.options, watched=True)
            entry, insides = again.entry(args, kwargs), look.found
    leaves, names = table.leaves(args, kwargs), table.names(args, kwargs)
    measure = partial(step_times, entry, leaves.arrays, leaves.numbers)
    almost = [] if table.options.exact else nearly(graph, leaves.numbers)
    return Explanation(
        table.name, entry.trace, entry.program, names, table.fn, insides, measure, almost
    )


def no_kernels() -> str:
    """Why no region runs as a kernel here and now; "" where they do."""
    if not switches.FUSE.on():
        return f"{switches.FUSE.name} is {switches.FUSE.text()!r}: functions run as plain MLX"
    problem = device_for_current_stream().unavailable()
    return f"regions run as MLX ops: {problem}" if problem else ""


# -- what is not fused, and what it all costs -----------------------------------------------------
def _unfused(
    graph: Graph, native: Native, why: dict[int, str], insides: Mapping[int, Inside]
) -> Unfused:
    node, given = native.node, native.reason
    data = graph[node]
    if data["kind"] in ("op", "reduce"):
        return Unfused(data["op"], given, data["loc"], (value_of(graph, native.result),), node)
    call = data["call"]
    inside, reason = insides.get(id(call)), why.get(id(call), given)
    if inside is not None and reason in (given, RUNS_PYTHON):
        reason = why_whole(call.fn, inside)
    if not data["pure"]:
        reason += "; runs at every call (it draws random numbers or has effects)"
    items = [user for user in graph.users(node) if graph.kind(user) == "item"]
    results = tuple(value_of(graph, n) for n in (items if call.outputs else (node,)))
    return Unfused(call.label, reason, data["loc"], results, node, inside=inside)


def _live(graph: Graph) -> set[int]:
    """What plain MLX would compute: nothing of what no output needs."""
    return set(graph.outputs).union(*[nx.ancestors(graph.nx, n) for n in graph.outputs])


def _op_costs(graph: Graph, nodes: Iterable[int]) -> list[int]:
    """The bytes that MLX moves for each op among `nodes` that computes something."""
    costs: list[int] = []
    for node in nodes:
        if graph.kind(node) == "op" and cost(graph, (node,)) > 0:
            costs.append(moved(graph, node))
    return costs
