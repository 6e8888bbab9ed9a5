"""Reports: what one region, one call, one captured value of a fused function is, as data.

Comes in: a planned graph and its regions. Goes out: RegionReport, Unfused, Captured, which
zmlx.fuse.explain puts together and the files beside it show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from zmlx.device.base import device_for_current_stream
from zmlx.device.texts import metal, metal_written
from zmlx.fuse.extract import Region
from zmlx.fuse.formulas import Formulas
from zmlx.fuse.kept import again_of, read_by, why_kept
from zmlx.fuse.plan import Plan, plan
from zmlx.fuse.region import RegionFunction
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.simplify import cost, simplify
from zmlx.fuse.walked import Made
from zmlx.fuse.walks import Walks, walks_of
from zmlx.trace.exprs import described
from zmlx.trace.graph import NUMBERS, Graph, title
from zmlx.trace.paths import Names

if TYPE_CHECKING:
    from zmlx.fuse.inside import Inside
    from zmlx.fuse.program import Program
    from zmlx.fuse.region import Specialized
    from zmlx.fuse.runtime import Runtime


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
    source: str  # what it is in the function, e.g. "params['w']", "matmul at model.py:12"
    node: int  # in the explanation's graph


@dataclass(frozen=True)
class Part:
    """A kernel that runs for a part of a region, ZMLX's or one of MLX's for a single op."""

    kernel: str  # "" where it is MLX's
    msl: str
    bytes: int


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
    kernel: str  # its name; "" where the example's shapes allow none that holds all of it
    msl: str
    vjp_kernels: tuple[str, ...]
    vjp_msl: str
    line: str = ""  # of its first op
    walks: Walks | None = None  # of a kernel that folds rows
    again: tuple[str, ...] = ()  # ops that the derivative computes once more
    shares: tuple[str, ...] = ()  # regions whose launch is this one's too
    parts: tuple[Part, ...] = ()  # where it has no kernel of its own: what runs for it
    ms: float | None = None  # where `timed` has measured it

    def __repr__(self) -> str:
        ways = f"{len(self.inputs)} read, {len(self.outputs)} written, {self.bytes} bytes"
        return f"<{self.name}: {len(self.ops)} ops ({short_ops(self.ops)}), {ways}>"

    @property
    def bytes(self) -> int:
        """Bytes that the kernel reads and writes in the example call, or its parts do."""
        if self.parts:
            return sum(part.bytes for part in self.parts)
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
    ms: float | None = None  # where `timed` has measured it
    inside: Inside | None = None  # what runs in a call that runs Python, such as a gradient

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
    name: str = ""  # by which the function reaches it; "" where that is not known


@dataclass(frozen=True)
class Saved:
    """An array of the forward pass that gradients read."""

    source: str  # what it is in the function
    value: Value
    why: str
    node: int  # in the explanation's graph
    anyway: bool  # whether it is in memory without a gradient as well


def saved_of(program: Program, called: Names) -> list[Saved]:
    """What gradients read, in the order of the graph."""
    graph, regions = program.plan.graph, program.plan.regions
    gradient = None if program.simple() or not regions else program.gradient
    whole = None if gradient is None else gradient.bill()
    read: set[int] = set()
    if whole is not None:
        read = {node for node, _ in whole.saved}
    else:
        for region, function in zip(regions, program.functions, strict=True):
            special = function.specialized(_shapes(region.graph))
            read.update(read_by(region, simplify(special.vjp.graph)))
    found = []
    for node in sorted(read):
        why, anyway = why_kept(graph, node, regions)
        where = source(graph, node, called)
        found.append(Saved(where, value_of(graph, node), why, node, anyway))
    return found


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
def region_report(
    graph: Graph, region: Region, function: RegionFunction, name: str, called: Names
) -> RegionReport:
    """What a region computes, its derivative and its kernel; `called` names the call's inputs."""
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
    pulls = _kernels(vjp, special.runtime, f"{function.name}.vjp")
    made = function.walked(_shapes(inner))
    kernel, msl = _kernel(made, special)
    parts = () if kernel else _parts(inner, function)
    return RegionReport(
        name,
        tuple(title(graph[node]) for node in region.nodes),
        _ports(graph, names, (*region.ends.inputs, *region.ends.scalars), called),
        _ports(graph, results, region.ends.outputs, called),
        dict(zip(results, values, strict=True)),
        {names[t]: g for t, g in zip(special.vjp.targets, gradients, strict=True)},
        formulas.temporaries,
        region.nodes,
        kernel,
        msl or "\n".join(part.msl for part in parts if part.msl),
        tuple(name for name, _ in pulls),
        "\n".join(msl for _, msl in pulls),
        next((graph[n]["loc"] for n in region.nodes if graph[n]["loc"]), ""),
        None if made is None else walks_of(made),
        again_of(special.graph, vjp),
        parts=parts if any(part.kernel for part in parts) else (),
    )


def _ports(
    graph: Graph, names: Sequence[str], nodes: Sequence[int], called: Names
) -> tuple[Port, ...]:
    return tuple(
        Port(name, value_of(graph, node), source(graph, node, called), node)
        for name, node in zip(names, nodes, strict=True)
    )


def _kernel(made: Made | None, special: Specialized) -> tuple[str, str]:
    """Name and text of a region's kernel; empty where it has none of its own."""
    if made is not None:
        return made.spec.unique_name, metal_written(made.spec)
    return (special.kernel.name, metal(special.kernel)) if special.kernel else ("", "")


def _parts(inner: Graph, function: RegionFunction) -> tuple[Part, ...]:
    """What runs for a region that no one kernel computes: it is planned once more, by itself."""
    runtime = function.cut(_shapes(inner))
    planned = _planned(inner, runtime)
    graph, found = planned.graph, []
    for region in planned.regions:
        ends = {*region.ends.inputs, *region.ends.outputs}
        kernel = _kernel_of(region.graph, runtime, function.name)
        found.append(Part(*kernel, sum(value_of(graph, node).bytes for node in ends)))
    for native in planned.natives:
        kind = graph.kind(native.node)
        if kind == "reduce" or (kind == "op" and cost(graph, (native.node,)) > 0):
            found.append(Part("", "", moved(graph, native.node)))
    return tuple(found)


def moved(graph: Graph, node: int) -> int:
    """The bytes that a node reads and writes as a kernel of its own."""
    arrays = [o for o in set(graph.operands(node)) if graph.kind(o) not in ("const", *NUMBERS)]
    return sum(value_of(graph, n).bytes for n in (*arrays, node))


def _kernels(graph: Graph, runtime: Runtime, name: str) -> list[tuple[str, str]]:
    """Name and text of the kernels that a derivative's graph becomes; none is compiled.

    They are those for the example's shapes.
    """
    made = [_kernel_of(r.graph, runtime, name) for r in _planned(graph, runtime).regions]
    return [kernel for kernel in made if kernel != ("", "")]


def _planned(graph: Graph, runtime: Runtime) -> Plan:
    return plan(graph, device_for_current_stream().worth_alone, **runtime.folding)


def _kernel_of(graph: Graph, runtime: Runtime, name: str) -> tuple[str, str]:
    function = RegionFunction(graph, runtime, name)
    shapes = _shapes(graph)
    return _kernel(function.walked(shapes), function.specialized(shapes))


def _shapes(region: Graph) -> list[tuple[int, ...]]:
    """The example's shapes; a Python number reaches a kernel as an array of one element."""
    return [(1,) if region.kind(n) == "scalar" else region[n]["shape"] for n in region.inputs]


def source(graph: Graph, node: int, called: Names) -> str:
    """What `node` is in the function, in words."""
    data = graph[node]
    if data["kind"] in ("input", "scalar"):
        return input_name(data, called)
    if data["kind"] == "array":
        what = "captured array"
    elif data["kind"] == "item":
        what = f"{graph[data['operands'][0]]['call'].label}[{data['index']}]"
    else:
        what = title(data)
    return f"{what} at {data['loc']}" if data["loc"] else what


def input_name(data: Mapping[str, Any], called: Names) -> str:
    """What the caller passes at an input or scalar node, by the parameter that takes it."""
    if data["kind"] == "input":
        return called.array(data["index"])
    return "number" if data["expr"] is None else described(data["expr"], called)


def alike(regions: Sequence[RegionReport]) -> list[list[RegionReport]]:
    """The regions, those together that come from one line and run one kernel."""
    found: dict[Any, list[RegionReport]] = {}
    for region in regions:
        key = (region.line, region.kernel, region.ops) if region.kernel else region.name
        found.setdefault(key, []).append(region)
    return list(found.values())


# -- ops in words ---------------------------------------------------------------------------------
MOST_OPS = 12  # kinds that a short list names


def ops_text(ops: Sequence[str]) -> str:
    """The ops in order; repeats, of one op or of a pattern, as "add x3", "(multiply tanh) x33"."""
    found, at = list[str](), 0
    while at < len(ops):
        length, count = _repeated(ops[at:])
        text = " ".join(ops[at : at + length])
        if count > 1:
            text = f"({text}) x{count}" if length > 1 else f"{text} x{count}"
        found.append(text)
        at += length * count
    return " ".join(found)


def _repeated(ops: Sequence[str]) -> tuple[int, int]:
    """The pattern that `ops` begins with: its length, and how often it follows itself."""
    best = (1, 1)
    for length in range(1, min(MOST_OPS, len(ops) // 2) + 1):
        pattern, count = ops[:length], 1
        while ops[length * count : length * (count + 1)] == pattern:
            count += 1
        if count > 1 and length * count > best[0] * best[1]:
            best = (length, count)
    return best


def short_ops(ops: Sequence[str]) -> str:
    """`ops_text` where that is short, else how often which op, the commonest first."""
    text = ops_text(ops)
    if len(text) <= 80:
        return text
    counts = Counter(ops).most_common()
    shown = ", ".join(f"{op} x{n}" if n > 1 else op for op, n in counts[:MOST_OPS])
    return shown + (f", {len(counts) - MOST_OPS} more" if len(counts) > MOST_OPS else "")
