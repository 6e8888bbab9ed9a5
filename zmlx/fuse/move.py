"""Moving: the rewrite view(f(a, b)) -> f(view(a), view(b)), for views that were chosen.

Comes in: a graph and Lifts. Goes out: the graph in which each lift's views are taken of its leaves.
zmlx.fuse.lift chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from zmlx.fuse.simplify import copy_node
from zmlx.fuse.views import (
    BROADCAST,
    CUTS,
    RESHAPE,
    Lifted,
    Shape,
    content_of,
    example_shapes,
    has_numbers,
    narrow_shape,
)
from zmlx.trace.graph import Graph, OpaqueCall, Ref, broadcast
from zmlx.trace.passes import verified

# How a leaf takes part in a view: not at all, by the view's own call, by one that looks at sizes.
STILL, SAME, LIFTED = "still", "same", "lifted"
Part = tuple[str, Shape]  # how, and the example shape after it


@dataclass(frozen=True)
class Chain:
    """Views of one result, one after the other; of a split the node, then the item."""

    nodes: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.nodes[-1]


@dataclass(frozen=True)
class Lift:
    """What is moved: all views of `root`, which `cone` computes from `leaves` and numbers."""

    root: int
    cone: tuple[int, ...]  # in topological order
    leaves: tuple[int, ...]  # arrays, of which the views are taken instead
    chains: tuple[Chain, ...]


@dataclass(frozen=True)
class Step:
    """One view of a chain: its node, the item of a split, and how each leaf takes part.

    `sizes`: the leaves that tell the shape of what is viewed.
    """

    node: int
    item: int | None
    parts: dict[int, Part]
    sizes: tuple[int, ...]


def steps_of(graph: Graph, kinds: Mapping[int, str], lift: Lift, chain: Chain) -> list[Step] | None:
    """How the leaves become what the chain makes of the root; None where that cannot be told."""
    full = graph[lift.root]["shape"]
    shapes = {n: graph[n]["shape"] for n in lift.leaves}
    whole = {n for n in lift.leaves if len(lift.leaves) == 1 or _is_whole(graph, n, full)}
    checked = len(lift.leaves) == 1
    found: list[Step] = []
    for position, node in enumerate(chain.nodes):
        if node not in kinds:
            continue
        item = chain.nodes[position + 1] if graph[node]["call"].outputs else None
        target = graph[node if item is None else item]["shape"]
        if kinds[node] == BROADCAST and not whole:
            whole = {max(shapes, key=lambda n: prod(shapes[n]))}
        sizes = tuple(sorted(whole)[:1] or shapes)
        parts: dict[int, Part] = {}
        for leaf, shape in shapes.items():
            if leaf in whole and (checked or leaf in sizes or kinds[node] not in CUTS):
                parts[leaf] = (SAME, target)
            elif kinds[node] == BROADCAST:
                parts[leaf] = (STILL, shape)
            else:
                others = [shapes[n] for n in sizes if n != leaf]
                after = _shape_after(graph, node, kinds[node], shape, others, item)
                if after is None:
                    return None
                parts[leaf] = (LIFTED, after)
        checked = checked or kinds[node] in CUTS
        shapes = {leaf: after for leaf, (_, after) in parts.items()}
        if broadcast(list(shapes.values())) != target:
            return None
        found.append(Step(node, item, parts, sizes))
    return found


def _is_whole(graph: Graph, leaf: int, full: Shape) -> bool:
    """Whether `leaf` has the shape of the result at every call: no size of one could be spread."""
    shape = graph[leaf]["shape"]
    return graph.kind(leaf) in ("input", "array") and len(shape) == len(full) and 1 not in shape


def _shape_after(
    graph: Graph, node: int, kind: str, shape: Shape, others: Sequence[Shape], item: int | None
) -> Shape | None:
    if not has_numbers(graph, node):
        found = example_shapes(graph[node]["call"], kind, shape, others)
        return found[0 if item is None else graph[item]["index"]]
    target = graph[node if item is None else item]["shape"]
    full = broadcast([shape, *others])
    if shape == full:
        return target
    if kind == RESHAPE and shape:
        return narrow_shape(shape, full, target) or target
    return None if shape else shape


# -- writing --------------------------------------------------------------------------------------
@verified("lift")
def rewritten(graph: Graph, kinds: Mapping[int, str], lifts: Sequence[Lift]) -> Graph:
    """`graph` with the views of `lifts` moved; what nobody reads any more is still there."""
    return _Writer(graph, kinds, lifts).graph


class _Writer:
    def __init__(self, source: Graph, kinds: Mapping[int, str], lifts: Sequence[Lift]) -> None:
        self.source, self.kinds, self.graph = source, kinds, Graph()
        self._new: dict[int, int] = {}
        self._calls: dict[Any, int] = {}
        ends = {chain.end: (lift, chain) for lift in lifts for chain in lift.chains}
        for node in source:
            if node in ends:
                self._new[node] = self._moved(*ends[node])
            else:
                operands = [self._new[o] for o in source.operands(node)]
                self._new[node] = copy_node(source, node, self.graph, operands)
        self.graph.outputs = [self._new[n] for n in source.outputs]

    def _moved(self, lift: Lift, chain: Chain) -> int:
        values = {n: self._new[n] for n in lift.leaves}
        for step in steps_of(self.source, self.kinds, lift, chain) or ():
            values = {leaf: self._viewed(step, leaf, values) for leaf in values}
        for node in lift.cone:
            data = self.source.attributes(node)
            operands = [values.get(o, self._new[o]) for o in self.source.operands(node)]
            data["shape"] = broadcast([self.graph[o]["shape"] for o in operands])
            values[node] = self.graph.add("op", operands, **data)
        return values[lift.root]

    def _viewed(self, step: Step, leaf: int, values: Mapping[int, int]) -> int:
        how, shape = step.parts[leaf]
        if how == STILL:
            return values[leaf]
        numbers = [self._new[o] for o in self.source.operands(step.node)[1:]]
        operands = [values[leaf], *numbers]
        if how == LIFTED:
            operands += [values[n] for n in step.sizes if n != leaf]
        content = content_of(self.source[step.node]["call"])
        key = (*content, how, *operands)
        if key not in self._calls:
            self._calls[key] = self._call(step, operands, len(numbers), how, shape)
        if step.item is None:
            return self._calls[key]
        source = self._calls[key]
        key = (source, self.source[step.item]["index"])
        if key not in self._calls:
            data = self.source.attributes(step.item)
            data |= {"shape": shape, "dtype": self.graph[operands[0]]["dtype"]}
            self._calls[key] = self.graph.add("item", (source,), **data)
        return self._calls[key]

    def _call(
        self, step: Step, operands: Sequence[int], numbers: int, how: str, shape: Shape
    ) -> int:
        data = self.source.attributes(step.node)
        if step.item is None:
            data["shape"] = shape
        data["dtype"] = self.graph[operands[0]]["dtype"] if step.item is None else data["dtype"]
        call: OpaqueCall = data["call"]
        if how == LIFTED:
            others = [Ref(i) for i in range(1 + numbers, len(operands))]
            given = {"given": (call.args[1:], call.kwargs)} if numbers else {}
            made = Lifted(self.kinds[step.node], call)
            data["call"] = OpaqueCall(made, (Ref(0), *others), given, call.label, call.outputs)
        return self.graph.add("opaque", operands, **data)
