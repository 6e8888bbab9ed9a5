"""Statistics: numbers a row that kernels write in a forward pass of which a gradient may be taken.

Comes in: a plan. Goes out: the folds that its kernels could write, and the graph that returns some
of them as well. zmlx.fuse.whole chooses among them, zmlx.fuse.program runs that graph where a
transformation of MLX traces what it is given.

The mean of a row, or the largest and the sum of a softmax, takes a walk over the row to fold again.
A kernel that holds a row in registers has it at hand for that: there nothing is written, and where
only the gradient is wanted the forward kernel need not run. A row of more than LONG elements is
read from memory once more for each walk, and then the forward pass writes what it folded of it.
Without a gradient nothing writes it. A kernel that writes nothing as long as its rows, a loss's
say, is not asked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

from zmlx.fuse.extract import Region
from zmlx.fuse.plan import Plan
from zmlx.fuse.simplify import copy_node
from zmlx.ops.reductions import REDUCTIONS
from zmlx.trace.graph import Graph

LONG = 1 << 14  # elements, beyond which registers hold no row and its cotangent


def offered(plan: Plan, at_hand: Collection[int]) -> list[int]:
    """The folds that kernels of `plan` read themselves and could write, by node of its graph."""
    found = []
    for region in plan.regions:
        found += [n for n in region.nodes if n not in at_hand and _is_offered(plan, region, n)]
    return found


def _is_offered(plan: Plan, region: Region, node: int) -> bool:
    graph = plan.graph
    if graph.kind(node) != "reduce" or REDUCTIONS[graph[node]["op"]].index:
        return False
    if not any(user in region.nodes for user in graph.users(node)):
        return False
    sizes = {n: prod(graph[n]["shape"]) for n in (*graph.operands(node), *region.ends.outputs)}
    row = sizes[graph.operands(node)[0]]
    written = max(sizes[n] for n in region.ends.outputs)
    return prod(graph[node]["shape"]) * LONG < row <= written


def returning(graph: Graph, nodes: Sequence[int]) -> Graph:
    """`graph`, of which `nodes` are results too, behind its own."""
    made = Graph()
    for node in graph:
        copy_node(graph, node, made, graph.operands(node))
    made.outputs = [*graph.outputs, *nodes]
    return made
