"""Plans: a graph cut into steps, each a fused region or a call that MLX runs.

Comes in: a graph. Goes out: a Plan, in an order in which the steps can run; every step knows why it
is what it is. zmlx.fuse.program turns a plan into a callable, zmlx.fuse.explain shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from zmlx.errors import PlanError
from zmlx.fuse.alike import alike
from zmlx.fuse.ends import with_ends
from zmlx.fuse.extract import Region, extract
from zmlx.fuse.folded import with_folds
from zmlx.fuse.joins import Joined, joined
from zmlx.fuse.ones import squeezed, taken
from zmlx.fuse.regions import STEPS, regions, unfusable
from zmlx.fuse.simplify import cost
from zmlx.trace.graph import NUMBERS, Graph

if TYPE_CHECKING:
    import networkx as nx

_NUMBERS = frozenset({"const", *NUMBERS})
_SLOWLY = 10  # times the price of an op that MLX computes slower on a CPU than a kernel of ours
_STREAMED = frozenset({"add", "subtract", "multiply", "maximum", "minimum"})
_WORDS = frozenset({"float32", "int32", "uint32"})


@dataclass(frozen=True)
class Native:
    """One node that MLX runs, and why; a reduction together with what takes its axes away."""

    node: int
    reason: str
    squeeze: int | None = None

    @property
    def result(self) -> int:
        """The node whose value it makes."""
        return self.node if self.squeeze is None else self.squeeze


Step = Region | Native
IN_PLACE = "written in place by the kernel that computes its parts"


@dataclass(frozen=True, eq=False)
class Plan:
    """`graph` and the steps that compute its outputs, in order."""

    graph: Graph
    steps: tuple[Step, ...]
    joined: tuple[Joined, ...] = ()  # each of steps that stand beside one another
    alike: tuple[tuple[Region, ...], ...] = ()  # of one body, beside one another

    @property
    def regions(self) -> list[Region]:
        return [step for step in self.steps if isinstance(step, Region)]

    @property
    def natives(self) -> list[Native]:
        return [step for step in self.steps if isinstance(step, Native)]


def plan(
    graph: Graph, worth_alone: int, sums: bool = True, folds: bool = True, ends: bool = True
) -> Plan:
    """Cut `graph`; a lone op cheaper than `worth_alone` stays with MLX.

    With `folds` a region folds rows, where it reads what it has folded; with `ends` it folds what
    it computes, and a lone op is worth that too. `sums`: in a derivative, as with_folds says.
    """
    groups = regions(graph)
    groups = with_folds(graph, groups, ends and not sums) if folds else groups
    groups = with_ends(graph, groups) if ends else groups
    found = [_region(graph, nodes) for nodes in groups]
    together = joined(graph, [region for region in found if not region.folds])
    needed = {region for step in together for region in step.regions}
    steps: list[Step] = []
    fused: set[int] = set()
    for region in found:
        wanted = region.folds or region in needed
        if wanted or _deserves_a_kernel(graph, region.nodes, worth_alone):
            steps.append(region)
            fused.update(nodes_of(region))
    in_place = {join.node for step in together for join in step.joins}
    for node in graph:
        if graph.kind(node) in STEPS and node not in fused:
            reason = IN_PLACE if node in in_place else _reason(graph, node)
            step = Native(node, reason, squeezed(graph, node))
            steps.append(step)
            fused.update(nodes_of(step))
    units = _units(steps, together)
    kinds = alike(_waits(graph, units), units)
    for number, group in enumerate(kinds):
        units["alike", number] = [step for unit in group for step in units.pop(unit)]
    same = [tuple(cast("list[Region]", units["alike", k])) for k in range(len(kinds))]
    return Plan(graph, _ordered(graph, units), tuple(together), tuple(same))


def plan_apart(graph: Graph) -> Plan:
    """Each node of `graph` by MLX: nothing is made for sizes, which are examples."""
    reason = "sizes are still to come (mx.compile, shapeless=True)"
    nodes = [node for node in graph if graph.kind(node) in STEPS]
    return Plan(graph, tuple([Native(node, reason) for node in nodes]))


def _region(graph: Graph, nodes: Sequence[int]) -> Region:
    region = extract(graph, nodes)
    squeezes = tuple([squeezed(graph, n) for n in region.ends.outputs])
    return replace(region, squeezes=squeezes) if any(squeezes) else region


def _deserves_a_kernel(graph: Graph, nodes: Sequence[int], worth_alone: int) -> bool:
    working = [n for n in nodes if cost(graph, (n,)) > 0]
    if len(working) != 1:
        return len(working) > 1
    few = _is_few(graph, working[0])
    dear = 1 if few or _streams(graph, working[0]) else _SLOWLY
    return dear * cost(graph, working) >= worth_alone


def _is_few(graph: Graph, node: int) -> bool:
    """Whether an op computes one element, or as few as a reduction has left."""
    one = all(size == 1 for size in graph[node]["shape"])
    return one or any(_is_folded(graph, operand) for operand in graph.operands(node))


def _is_folded(graph: Graph, node: int) -> bool:
    if taken(graph, node) is not None:  # its axes
        return _is_folded(graph, graph.operands(node)[0])
    return graph.kind(node) == "reduce"


def _streams(graph: Graph, node: int) -> bool:
    """Whether MLX's own loop on a CPU waits for nothing but memory: sums, products and extremes of
    arrays of 32 bits, of float32 with a number too, and casts within 32 bits.

    Its loops for other ops and types have no vectors or short ones, convert arrays first, or make
    an array of a number.
    """
    op, operands = graph[node]["op"], graph.operands(node)
    types = {graph[node]["dtype"], *[graph[o]["dtype"] for o in operands]}
    if op == "astype":
        return types <= _WORDS
    numbers = [graph.kind(o) in _NUMBERS for o in operands]
    if any(numbers):
        return op in ("add", "multiply") and not numbers[0] and types == {"float32"}
    return op in _STREAMED and len(types) == 1 and types <= _WORDS


def _reason(graph: Graph, node: int) -> str:
    kind = graph.kind(node)
    if kind in ("size", "count"):
        return "a size, read when its array is there"
    if kind != "op":
        return "not elementwise"
    return unfusable(graph, node) or "a single op: MLX's own kernel is as good"


def _units(steps: list[Step], together: Sequence[Joined]) -> dict[Any, list[Step]]:
    """`steps`, by a key; those that share a kernel in one list."""
    home = {n: k for k, t in enumerate(together) for r in t.regions for n in r.nodes}
    home |= {join.node: k for k, t in enumerate(together) for join in t.joins}
    units: dict[Any, list[Step]] = {}
    for i, step in enumerate(steps):
        first = nodes_of(step)[0]
        units.setdefault(("joined", home[first]) if first in home else i, []).append(step)
    return units


def _waits(graph: Graph, units: Mapping[Any, Sequence[Step]]) -> nx.DiGraph:
    """An edge from each unit to those that read what it makes, or have effects after its own."""
    import networkx as nx

    owner = {n: unit for unit, inside in units.items() for step in inside for n in nodes_of(step)}
    order = nx.DiGraph()
    order.add_nodes_from(units)
    for node, index in owner.items():
        for operand in graph.operands(node):
            if owner.get(operand, index) != index:
                order.add_edge(owner[operand], index)
    effects = [owner[n] for n in sorted(owner) if not graph[n].get("pure", True)]
    order.add_edges_from(zip(effects, effects[1:], strict=False))
    if not nx.is_directed_acyclic_graph(order):
        raise PlanError("[zmlx.plan] two regions wait for each other.")
    return order


def _ordered(graph: Graph, units: Mapping[Any, Sequence[Step]]) -> tuple[Step, ...]:
    """All steps so that each comes after what it reads; earlier nodes first, units together."""
    import networkx as nx

    pairs = [(unit, n) for unit, inside in units.items() for step in inside for n in nodes_of(step)]
    last = dict(sorted(pairs, key=lambda pair: pair[1]))  # of each unit, its last node
    sequence = nx.lexicographical_topological_sort(_waits(graph, units), key=last.__getitem__)
    return tuple(step for unit in sequence for step in units[unit])


def nodes_of(step: Step) -> tuple[int, ...]:
    """The nodes of which it makes the values."""
    if isinstance(step, Native):
        return (step.node,) if step.squeeze is None else (step.node, step.squeeze)
    return (*step.nodes, *[short for short in step.squeezes if short is not None])
