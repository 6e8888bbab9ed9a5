"""Accumulation: the chain rule over a region, in reverse (VJP) and forward (JVP) mode.

Comes in: a region (nodes of kind input, scalar, const, op, reduce, count). Goes out: a Derivative,
whose graph recomputes what it needs of the region and holds the same kinds, and opaque ones where a
view takes away a dimension that was broadcast, or MLX works out a reduction's derivative, so that
it is planned and differentiated like any other graph. Sizes in it are examples: it holds for all
sizes of the same ranks and the same dimensions of one.

What a fold receives goes to all elements that it folded, so a cotangent may have sizes of one where
its value has others. It is spread where something is summed over such a dimension, and at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from zmlx import dtypes
from zmlx.derive.builder import Builder
from zmlx.derive.folds import Fold, pulled, pushed
from zmlx.derive.lower import chain_rule
from zmlx.errors import DeriveError
from zmlx.ops.reductions import REDUCTIONS
from zmlx.ops.spec import OPERANDS
from zmlx.trace.graph import Graph, OpaqueCall, Ref
from zmlx.trace.intercept import original
from zmlx.trace.passes import verified

_KINDS = ("input", "scalar", "const", "op", "reduce", "count")
# A long sum in a half type would lose most of its digits; MLX's sums widen small integers.
_SUMMED_IN = {
    **dict.fromkeys(dtypes.HALVES, "float32"),
    **dict.fromkeys(("bool", "int8", "int16"), "int32"),
    **dict.fromkeys(("uint8", "uint16"), "uint32"),
}


@dataclass(frozen=True, eq=False)
class Derivative:
    """A derivative of a region as a graph.

    VJP: inputs are the region's inputs, then one cotangent per region output; outputs are the
    gradients of `targets`. JVP: inputs are the region's inputs, then one tangent per target;
    outputs are the tangents of `outputs`. All other inputs have gradient zero, all other outputs
    tangent zero. Integers and bool count as float types do: MLX passes gradients through them, in
    their types.
    """

    graph: Graph
    targets: tuple[int, ...]  # positions in region.inputs of what is differentiated
    outputs: tuple[int, ...]  # positions in region.outputs of what depends on them
    seeds: range  # positions in graph.inputs of the cotangents, or of the tangents


@verified("derive")
def derive_vjp(region: Graph) -> Derivative:
    """Reverse mode: the gradients of the region's inputs."""
    active = _active(region)
    targets, outputs = _ends(region, active)
    copy = Copy(region)
    given = [copy.input(region[node]["shape"], region[node]["dtype"]) for node in region.outputs]
    pending: dict[int, dict[tuple[int, ...], int]] = {}
    for position in outputs:
        contribute(copy, pending, region.outputs[position], given[position])
    wanted = {region.inputs[t] for t in targets}
    gradients: dict[int, int] = {}
    for node in sorted(active, reverse=True):
        buckets = pending.pop(node, None)
        if buckets is None:
            continue
        cotangent = gathered(copy, node, buckets)
        if node in wanted:
            cotangent = copy.builder.astype(cotangent, region[node]["dtype"], "")
            gradients[node] = copy.spread(cotangent, node)
        elif region.kind(node) == "op":
            pull_back(copy, pending, active, node, cotangent)
        else:
            fold = copy.fold(node)
            value = pulled(copy.builder, fold, copy.node(node), cotangent)
            contribute(copy, pending, region.operands(node)[0], value)
    copy.graph.outputs = [gradients[region.inputs[t]] for t in targets]
    seeds = range(len(region.inputs), len(copy.graph.inputs))
    return Derivative(copy.graph, targets, outputs, seeds)


@verified("derive")
def derive_jvp(
    region: Graph, moving: Collection[int] | None = None, kinds: Mapping[int, str] | None = None
) -> Derivative:
    """Forward mode: the tangents of the region's outputs.

    `moving` are the positions of the inputs that have tangents, all by default; `kinds` the types
    of those tangents that are not of their input's type (a float tangent of an integer).
    """
    active = _active(region, moving)
    targets, outputs = _ends(region, active)
    copy = Copy(region)
    tangents: dict[int, int] = {}
    for target in targets:
        node = region.inputs[target]
        dtype = (kinds or {}).get(target, region[node]["dtype"])
        tangents[node] = copy.input(region[node]["shape"], dtype)
    for node in sorted(active):
        if region.kind(node) != "input":
            tangents[node] = _push_forward(copy, tangents, node)
    copy.graph.outputs = [_spread(copy, region.outputs[p], tangents) for p in outputs]
    seeds = range(len(region.inputs), len(copy.graph.inputs))
    return Derivative(copy.graph, targets, outputs, seeds)


# -- what depends on what -------------------------------------------------------------------------
def _active(region: Graph, moving: Collection[int] | None = None) -> set[int]:
    """Nodes on a differentiable path from an input (of those `moving`) to an output."""
    reached: set[int] = set()
    edges: list[tuple[int, int]] = []
    for node in region:
        data = region[node]
        if data["kind"] not in _KINDS:
            raise DeriveError(
                f"[zmlx.derive] node {node} is {data['kind']}; a region has {_KINDS}."
            )
        if data["kind"] == "input":
            if moving is None or data["index"] in moving:
                reached.add(node)
        elif data["kind"] in ("op", "reduce"):
            sources = [o for o, _ in differentiable(region, node) if o in reached]
            edges += [(source, node) for source in sources]
            reached.update([node] if sources else [])
    useful = set(region.outputs)
    for source, node in reversed(edges):
        if node in useful:
            useful.add(source)
    return reached & useful


def differentiable(region: Graph, node: int) -> Iterable[tuple[int, int]]:
    """(operand, position) pairs for which the row has a derivative that is not zero."""
    data = region[node]
    if data["kind"] == "reduce":
        return [] if REDUCTIONS[data["op"]].pull is None else [(data["operands"][0], 0)]
    rules = chain_rule(data["op"])
    return [(o, i) for i, o in enumerate(region.operands(node)) if rules[i] is not None]


def _ends(region: Graph, active: set[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    targets = tuple(i for i, n in enumerate(region.inputs) if n in active)
    return targets, tuple(i for i, n in enumerate(region.outputs) if n in active)


# -- the region's own values inside the derivative ------------------------------------------------
class Copy:
    """Recomputes the region's nodes in the derivative's graph, each when it is first needed."""

    def __init__(self, region: Graph) -> None:
        self.region, self.builder = region, Builder()
        self.graph = self.builder.graph
        self._nodes: dict[int, int] = {}
        for node in self._first():
            self._nodes[node] = self.graph.add(region.kind(node), **region.attributes(node))

    def _first(self) -> Sequence[int]:
        """The inputs that stand before all else."""
        return self.region.inputs

    def input(self, shape: tuple[int, ...], dtype: str) -> int:
        return self.graph.add("input", shape=shape, dtype=dtype)

    @property
    def copies(self) -> Mapping[int, int]:
        """The copies made by now, by the region's nodes."""
        return self._nodes

    def node(self, node: int) -> int:
        """The copy of the region's `node`."""
        stack = [node]
        while stack:
            top = stack[-1]
            missing = [o for o in self._needs(top) if o not in self._nodes]
            if top in self._nodes or not missing:
                stack.pop()
                if top not in self._nodes:
                    self._nodes[top] = self._made(top)
            else:
                stack += missing
        return self._nodes[node]

    def _needs(self, node: int) -> tuple[int, ...]:
        """What a copy of `node` is made of."""
        return self.region.operands(node)

    def _made(self, node: int) -> int:
        data = self.region[node]
        if data["kind"] == "const":
            return self.builder.const(data["value"], data["dtype"])
        operands = [self._nodes[o] for o in data["operands"]]
        if data["kind"] == "reduce":
            return self.builder.reduce(data["op"], operands[0], data["axes"], data["loc"])
        if data["kind"] == "count":
            return self.builder.count(operands[0], data["axes"], data["loc"])
        return self.builder.raw(data["op"], operands, data["at"], data["dtype"], data["loc"])

    def fold(self, node: int) -> Fold:
        """The region's reduce node `node`, with the copy of its operand."""
        data = self.region[node]
        return Fold(data["op"], data["axes"], self.node(data["operands"][0]), data["loc"])

    def spread(self, value: int, node: int) -> int:
        """`value` in the shape of `node`, told by the first of its operands that has it."""
        shape = self.region[node]["shape"]
        if self.graph[value]["shape"] == shape:
            return value
        alike = node
        while self.region.kind(alike) == "op":
            same = [o for o in self.region.operands(alike) if self.region[o]["shape"] == shape]
            if not same:
                break
            alike = same[0]
        return self.builder.spread(value, self.node(alike))


class _Values(Mapping[str, int]):
    """x, y, z and out of one region node, copied on demand, in the type that it computes in."""

    def __init__(self, copy: Copy, node: int, factor: int) -> None:
        self.copy, self.node, self.factor = copy, node, factor

    def __getitem__(self, name: str) -> int:
        if name == "g":
            return self.factor
        if name == "out":
            return self.copy.node(self.node)
        data = self.copy.region[self.node]
        operand = self.copy.node(data["operands"][OPERANDS.index(name)])
        if data["op"] == "where":  # the condition has a type of its own
            return operand
        return self.copy.builder.astype(operand, data["at"], data["loc"])

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter((*OPERANDS, "out", "g"))

    def __len__(self) -> int:
        return len(OPERANDS) + 2


def _chained(copy: Copy, node: int, position: int, factor: int) -> int:
    """factor times the derivative of `node` by its operand at `position`."""
    data = copy.region[node]
    rule = chain_rule(data["op"])[position]
    assert rule is not None  # callers go by differentiable
    return copy.builder.plant(rule, _Values(copy, node, factor), data["at"], data["loc"])


# -- reverse mode ---------------------------------------------------------------------------------
def pull_back(
    copy: Copy,
    pending: dict[int, dict[tuple[int, ...], int]],
    active: set[int],
    node: int,
    cotangent: int,
) -> None:
    for operand, position in differentiable(copy.region, node):
        if operand in active:
            value = _chained(copy, node, position, cotangent)
            data = copy.region[operand]
            if _spans(copy, value, node, operand):
                value = copy.spread(value, node)
            if not dtypes.is_float(data["dtype"]):  # MLX casts what flows to it, sums first
                value = _summed(copy, value, data["shape"])
                value = copy.builder.astype(value, data["dtype"], "")
            contribute(copy, pending, operand, value)


def contribute(
    copy: Copy, pending: dict[int, dict[tuple[int, ...], int]], node: int, value: int
) -> None:
    """Add `value` to what `node` receives, at the shape `value` has."""
    buckets = pending.setdefault(node, {})
    shape = copy.graph[value]["shape"]
    buckets[shape] = (
        copy.builder.op("add", (buckets[shape], value), "") if shape in buckets else value
    )


def gathered(copy: Copy, node: int, buckets: Mapping[tuple[int, ...], int]) -> int:
    """All that `node` receives, summed over the dimensions along which it was broadcast."""
    shape = copy.region[node]["shape"]
    parts = [_summed(copy, value, shape) for value in buckets.values()]
    total = parts[0]
    for part in parts[1:]:
        total = copy.builder.op("add", (total, part), "")
    return total


def _spans(copy: Copy, value: int, node: int, operand: int) -> bool:
    """Whether `value` stands for a dimension of `node` along which `operand` was broadcast."""
    full, have = copy.region[node]["shape"], copy.graph[value]["shape"]
    own = copy.region[operand]["shape"]
    sizes = zip(full, _padded(have, len(full)), _padded(own, len(full)), strict=True)
    return any(a != 1 and b == 1 and c == 1 for a, b, c in sizes)


def _padded(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + shape


def _summed(copy: Copy, value: int, shape: tuple[int, ...]) -> int:
    """`value` summed over the dimensions that `shape` lacks, or has with size one."""
    have = copy.graph[value]["shape"]
    lead = max(0, len(have) - len(shape))
    pairs = enumerate(zip(have[lead:], shape[len(shape) - len(have) + lead :], strict=True), lead)
    axes = (*range(lead), *[d for d, (size, own) in pairs if own == 1 and size != 1])
    if not axes:
        return value
    dtype = copy.graph[value]["dtype"]
    if dtype in _SUMMED_IN:
        value = copy.builder.astype(value, _SUMMED_IN[dtype], "")
    value = copy.builder.reduce("sum", value, axes, "")
    if not lead:
        return value
    data = copy.graph[value]
    call = OpaqueCall(original("squeeze"), (Ref(0),), {"axis": tuple(range(lead))}, "squeeze")
    kinds = {"dtype": data["dtype"], "call": call, "pure": True}
    return copy.graph.add("opaque", (value,), shape=data["shape"][lead:], **kinds)


# -- forward mode ---------------------------------------------------------------------------------
def _push_forward(copy: Copy, tangents: Mapping[int, int], node: int) -> int:
    """The tangent of a node on a differentiable path."""
    data = copy.region[node]
    if data["kind"] == "reduce":
        source = data["operands"][0]
        tangent = copy.spread(tangents[source], source)
        return pushed(copy.builder, copy.fold(node), copy.node(node), tangent)
    parts = [
        _chained(copy, node, position, _converted(copy, node, position, tangents))
        for operand, position in differentiable(copy.region, node)
        if operand in tangents
    ]
    total = parts[0]
    for part in parts[1:]:
        total = copy.builder.op("add", (total, part), "")
    if data["op"] == "astype":
        total = copy.builder.astype(total, data["dtype"], "")
    return total


def _converted(copy: Copy, node: int, position: int, tangents: Mapping[int, int]) -> int:
    """The tangent of an operand that is cast before `node` computes is cast as well."""
    data = copy.region[node]
    operand = data["operands"][position]
    if copy.region[operand]["dtype"] == data["at"]:
        return tangents[operand]
    return copy.builder.astype(tangents[operand], data["at"], data["loc"])


def _spread(copy: Copy, node: int, tangents: Mapping[int, int]) -> int:
    """The tangent of output `node` in its type and at its full shape.

    That of an integer may be of a float type: MLX leaves it so.
    """
    data, tangent = copy.region[node], copy.spread(tangents[node], node)
    if not dtypes.is_float(data["dtype"]):
        return tangent
    return copy.builder.astype(tangent, data["dtype"], "")
