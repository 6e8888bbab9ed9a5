"""Explanations: what `zmlx.fuse` made of a function, as data that shows itself.

Comes in: a trace and its program. Goes out: an Explanation, which prints as text (zmlx.fuse.text),
shows itself in a notebook and saves as a page (zmlx.fuse.page). `zmlx.explain` returns it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import sympy as sp
from rich.console import Console, ConsoleOptions, Group, RenderResult

from zmlx.device.base import device_for_current_stream
from zmlx.fuse.extract import Region
from zmlx.fuse.formulas import Formulas
from zmlx.fuse.page import html
from zmlx.fuse.plan import plan
from zmlx.fuse.program import Program
from zmlx.fuse.region import RegionFunction
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.simplify import cost, simplify
from zmlx.fuse.summed import SummedFunction
from zmlx.fuse.text import parts, plain
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import MetalKernelSpec
from zmlx.trace.graph import Graph
from zmlx.trace.run import Trace

if TYPE_CHECKING:
    from zmlx.fuse.region import Specialized
    from zmlx.trace.scalars import Expr


@dataclass(frozen=True)
class Value:
    """An array of the example call."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        size = dtype_of(self.dtype).size
        for length in self.shape:
            size *= length
        return size

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Port:
    """One input or output of a region: its name in the formulas and in the kernel."""

    name: str
    value: Value
    source: str  # what it is in the function, e.g. "array 0 of the call", "matmul at model.py:12"
    node: int  # in the explanation's graph


@dataclass(frozen=True, eq=False)
class RegionReport:
    """One region: what it computes, its derivative and its kernel.

    Expressions are over the names of `inputs` (in0, …, s0, … for Python numbers), over g0, … for
    the cotangents of the outputs, and over the temporaries, each of which uses only those before
    it. All symbols are real. `sum(value, axes)` sums over broadcast dimensions.
    """

    name: str
    ops: tuple[str, ...]  # in the order in which they are computed
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    formulas: dict[str, sp.Expr]  # by output
    vjp: dict[str, sp.Expr]  # by input: the gradient that flows to it
    temporaries: dict[sp.Symbol, sp.Expr]
    nodes: tuple[int, ...]  # in the explanation's graph
    kernel: str  # its name; "" where the example's shapes allow none and MLX runs the ops
    msl: str
    vjp_kernels: tuple[str, ...]
    vjp_msl: str

    @property
    def bytes(self) -> int:
        """Bytes that the kernel reads and writes in the example call."""
        return sum(port.value.bytes for port in (*self.inputs, *self.outputs))

    @property
    def formula_lines(self) -> dict[str, sp.Expr]:
        """The formulas, after the temporaries that they use."""
        return {**_behind(self.temporaries, self.formulas.values()), **self.formulas}

    @property
    def vjp_lines(self) -> dict[str, sp.Expr]:
        """The derivatives, after the temporaries that they use and `formula_lines` has not."""
        lines = {**_behind(self.temporaries, self.vjp.values()), **self.vjp}
        return {n: v for n, v in lines.items() if n in self.vjp or n not in self.formula_lines}


@dataclass(frozen=True)
class Unfused:
    """Something that MLX runs, and why."""

    label: str
    reason: str
    loc: str
    results: tuple[Value, ...]
    node: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.results[0].shape if self.results else ()

    @property
    def dtype(self) -> str:
        return self.results[0].dtype if self.results else ""


@dataclass(frozen=True)
class Captured:
    """An array that the function reached through a closure: fixed when it was traced."""

    value: Value
    loc: str


class Explanation:
    """What a function became for one call's arguments.

    `kernels_before` and `bytes_before` are those of plain MLX: each elementwise op is one kernel
    that reads its array operands once, at their own sizes, and writes its result. In
    `kernels_after` and `bytes_after` each region is one kernel that reads its inputs and writes its
    outputs; ops that stay with MLX count as before. Calls that are not elementwise cost the same
    either way and are in neither, nor are ops that compute nothing (stop_gradient, zeros_like).
    """

    def __init__(self, name: str, trace: Trace, program: Program) -> None:
        planned = program.plan
        self.name = name
        self.regions = [
            _region(planned.graph, region, function, f"region{i}")
            for i, (region, function) in enumerate(
                zip(planned.regions, program.functions, strict=True)
            )
        ]
        why = {id(trace.graph[node]["call"]): reason for node, reason in trace.notes}
        self.unfused = [
            _unfused(planned.graph, native.node, native.reason, why)
            for native in planned.natives
            if planned.graph.kind(native.node) != "item"
        ]
        self.captures = [
            Captured(value_of(trace.graph, capture.node), capture.loc) for capture in trace.captures
        ]
        self.shape_reads = list(trace.shape_reads)
        self.static_numbers = sorted(trace.static_numbers)
        self.numerics = "mlx" if any(f.runtime.exact for f in program.functions) else "fp32"
        self.inputs, self.outputs = list(planned.graph.inputs), list(planned.graph.outputs)
        self._plan_graph = planned.graph
        before = _op_costs(trace.graph, _live(trace.graph))
        left = [n for n in planned.graph if n in {u.node for u in self.unfused}]
        left += [n for r in self.regions if not r.kernel for n in r.nodes]
        after = _op_costs(planned.graph, left)
        fused = [r.bytes for r in self.regions if r.kernel]
        self.kernels_before, self.bytes_before = len(before), sum(before)
        self.kernels_after, self.bytes_after = len(after) + len(fused), sum(after) + sum(fused)

    @property
    def graph(self) -> nx.DiGraph:
        """A copy of the planned graph; beside zmlx.trace.graph's attributes each node has `region`.

        `region` is the name of the node's region, or "".
        """
        copy = self._plan_graph.nx.copy()
        homes = {node: region.name for region in self.regions for node in region.nodes}
        for node in copy:
            copy.nodes[node]["region"] = homes.get(node, "")
        return copy

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as one self-contained HTML page and return its path."""
        target = Path(path)
        draft = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            draft.write_text(html(self), encoding="utf-8")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        return target

    def _repr_html_(self) -> str:
        return html(self, whole=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Group(*parts(self))

    def __str__(self) -> str:
        return plain(self)

    def __repr__(self) -> str:
        return (
            f"<zmlx.explain {self.name}: {len(self.regions)} regions, "
            f"{len(self.unfused)} run by MLX>"
        )


def value_of(graph: Graph, node: int) -> Value:
    return Value(graph[node]["dtype"], graph[node]["shape"])


def _behind(
    temporaries: dict[sp.Symbol, sp.Expr], expressions: Iterable[sp.Expr]
) -> dict[str, sp.Expr]:
    """The `temporaries` that `expressions` are made of, by name and in order."""
    wanted = set().union(*[e.free_symbols for e in expressions])
    for symbol, value in reversed(temporaries.items()):
        if symbol in wanted:
            wanted |= value.free_symbols
    return {str(s): v for s, v in temporaries.items() if s in wanted}


# -- regions --------------------------------------------------------------------------------------
def _region(graph: Graph, region: Region, function: RegionFunction, name: str) -> RegionReport:
    inner = region.graph
    special = function.specialized(_shapes(inner))
    arrays, scalars = len(region.ends.inputs), len(region.ends.scalars)
    names = [f"in{i}" for i in range(arrays)] + [f"s{i}" for i in range(scalars)]
    results = [f"out{i}" for i in range(len(inner.outputs))]
    formulas = Formulas()
    values = formulas.of(special.graph, names)
    vjp = simplify(special.vjp.graph)
    seeds = [f"g{i}" for i in range(len(results))]
    gradients = formulas.of(vjp, names + seeds)
    pulls = _kernels(vjp, special, f"{function.name}.vjp")
    return RegionReport(
        name,
        tuple(graph[node]["op"] for node in region.nodes),
        _ports(graph, names, (*region.ends.inputs, *region.ends.scalars)),
        _ports(graph, results, region.ends.outputs),
        dict(zip(results, values, strict=True)),
        {names[t]: g for t, g in zip(special.vjp.targets, gradients, strict=True)},
        formulas.temporaries,
        region.nodes,
        special.kernel.name if special.kernel else "",
        _text_of(special.kernel) if special.kernel else "",
        tuple(name for name, _ in pulls),
        "\n".join(msl for _, msl in pulls),
    )


def _ports(graph: Graph, names: Sequence[str], nodes: Sequence[int]) -> tuple[Port, ...]:
    return tuple(
        Port(name, value_of(graph, node), _source(graph, node), node)
        for name, node in zip(names, nodes, strict=True)
    )


def _kernels(graph: Graph, special: Specialized, name: str) -> list[tuple[str, str]]:
    """Name and text of the kernels that a derivative's graph becomes; none is compiled.

    They are those for the example's shapes.
    """
    found = []
    exact = special.runtime.exact
    for region in plan(graph, device_for_current_stream().worth_alone, sums=not exact).regions:
        function = RegionFunction(region.graph, special.runtime, name)
        shapes = _shapes(region.graph)
        spec = SummedFunction(region, function).kernel(shapes) if region.sums else None
        if spec is not None:
            found.append((spec.unique_name, _text_of_sums(spec)))
        elif kernel := function.specialized(shapes).kernel:
            found.append((kernel.name, _text_of(kernel)))
    return found


def _shapes(region: Graph) -> list[tuple[int, ...]]:
    """The example's shapes; a Python number reaches a kernel as an array of one element."""
    return [(1,) if region.kind(n) == "scalar" else region[n]["shape"] for n in region.inputs]


def _text_of(kernel: KernelSource) -> str:
    arguments = ", ".join(arg.name for arg in (*kernel.inputs, *kernel.outputs))
    line = f"// Body of kernel {kernel.name}({arguments}); its signature is added on launch.\n"
    return f"{kernel.header}{line}{kernel.body}"


def _text_of_sums(spec: MetalKernelSpec) -> str:
    arguments = ", ".join((*spec.input_names, *spec.output_names))
    line = f"// Body of kernel {spec.unique_name}({arguments}); sum0, ... are partial sums.\n"
    return f"{spec.header}{line}{spec.source}"


def _source(graph: Graph, node: int) -> str:
    """What `node` is in the function, in words."""
    data = graph[node]
    if data["kind"] == "input":
        return f"array {data['index']} of the call"
    if data["kind"] == "scalar":
        return f"{_number(data['expr'])} of the call"
    if data["kind"] == "array":
        what = "captured array"
    elif data["kind"] == "item":
        what = f"{graph[data['operands'][0]]['call'].label}[{data['index']}]"
    else:
        what = data["op"] if data["kind"] == "op" else data["call"].label
    return f"{what} at {data['loc']}" if data["loc"] else what


def _number(expr: Expr | None) -> str:
    if expr is None:
        return ""
    head, *rest = expr
    if head == "arg":
        return f"number {rest[0]}"
    return repr(rest[0]) if head == "value" else f"{head}({', '.join(map(_number, rest))})"


# -- what is not fused, and what it all costs -----------------------------------------------------
def _unfused(graph: Graph, node: int, reason: str, why: dict[int, str]) -> Unfused:
    data = graph[node]
    if data["kind"] == "op":
        return Unfused(data["op"], reason, data["loc"], (value_of(graph, node),), node)
    call = data["call"]
    reason = why.get(id(call), reason)
    if not data["pure"]:
        reason += "; runs at every call (it draws random numbers or has effects)"
    items = [user for user in graph.users(node) if graph.kind(user) == "item"]
    results = tuple(value_of(graph, n) for n in (items if call.outputs else (node,)))
    return Unfused(call.label, reason, data["loc"], results, node)


def _live(graph: Graph) -> set[int]:
    """What plain MLX would compute: nothing of what no output needs."""
    return set(graph.outputs).union(*[nx.ancestors(graph.nx, n) for n in graph.outputs])


def _op_costs(graph: Graph, nodes: Iterable[int]) -> list[int]:
    """The bytes that MLX moves for each op among `nodes` that computes something."""
    costs: list[int] = []
    for node in nodes:
        if graph.kind(node) == "op" and cost(graph, (node,)) > 0:
            arrays = [o for o in set(graph.operands(node)) if not _is_number(graph[o])]
            costs.append(sum(value_of(graph, n).bytes for n in (*arrays, node)))
    return costs


def _is_number(data: dict[str, Any]) -> bool:
    return data["kind"] in ("const", "scalar")
