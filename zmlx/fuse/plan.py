"""Plans: a graph cut into steps, each a fused region or a call that MLX runs.

Comes in: a graph. Goes out: a Plan, in an order in which the steps can run; every step knows why it
is what it is. zmlx.fuse.program turns a plan into a callable, zmlx.fuse.explain shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zmlx.errors import PlanError
from zmlx.fuse.absorb import with_sums
from zmlx.fuse.extract import Region, extract
from zmlx.fuse.ones import squeezed
from zmlx.fuse.regions import STEPS, regions, unfusable
from zmlx.fuse.simplify import cost
from zmlx.trace.graph import Graph


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


@dataclass(frozen=True, eq=False)
class Plan:
    """`graph` and the steps that compute its outputs, in order."""

    graph: Graph
    steps: tuple[Step, ...]

    @property
    def regions(self) -> list[Region]:
        return [step for step in self.steps if isinstance(step, Region)]

    @property
    def natives(self) -> list[Native]:
        return [step for step in self.steps if isinstance(step, Native)]


def plan(graph: Graph, worth_alone: int, sums: bool = True) -> Plan:
    """Cut `graph`; a lone op cheaper than `worth_alone` stays with MLX.

    With `sums` a region adds up what a derivative sums of it, and a lone op is worth that too.
    """
    steps: list[Step] = []
    fused: set[int] = set()
    for nodes in regions(graph):
        region = extract(graph, nodes)
        if sums:
            region = with_sums(graph, region)
        if region.sums or _deserves_a_kernel(graph, nodes, worth_alone):
            steps.append(region)
            fused.update(_nodes(region))
    for node in graph:
        if graph.kind(node) in STEPS and node not in fused:
            step = Native(node, _reason(graph, node), squeezed(graph, node))
            steps.append(step)
            fused.update(_nodes(step))
    return Plan(graph, _ordered(graph, steps))


def _deserves_a_kernel(graph: Graph, nodes: Sequence[int], worth_alone: int) -> bool:
    working = [n for n in nodes if cost(graph, (n,)) > 0]
    return len(working) > 1 or (len(working) == 1 and cost(graph, working) >= worth_alone)


def _reason(graph: Graph, node: int) -> str:
    kind = graph.kind(node)
    if kind in ("size", "count"):
        return "a size, read when its array is there"
    if kind != "op":
        return "not elementwise"
    return unfusable(graph, node) or "a single op: MLX's own kernel is as good"


def _ordered(graph: Graph, steps: list[Step]) -> tuple[Step, ...]:
    """`steps` so that each comes after what it reads; earlier nodes first."""
    import networkx as nx

    owner = {n: i for i, step in enumerate(steps) for n in _nodes(step)}
    order = nx.DiGraph()
    order.add_nodes_from(range(len(steps)))
    for node, index in owner.items():
        for operand in graph.operands(node):
            if owner.get(operand, index) != index:
                order.add_edge(owner[operand], index)
    effects = [owner[n] for n in sorted(owner) if not graph[n].get("pure", True)]
    order.add_edges_from(zip(effects, effects[1:], strict=False))
    try:
        sequence = list(
            nx.lexicographical_topological_sort(order, key=lambda i: max(_nodes(steps[i])))
        )
    except nx.NetworkXUnfeasible as error:
        raise PlanError("[zmlx.plan] two regions wait for each other.") from error
    return tuple(steps[i] for i in sequence)


def _nodes(step: Step) -> tuple[int, ...]:
    if isinstance(step, Native):
        return (step.node,) if step.squeeze is None else (step.node, step.squeeze)
    return (*step.nodes, *[node for s in step.sums for node in {s.node, s.result}])
