"""Ends: reductions move into the region whose values they fold.

Comes in: a graph and its groups of nodes (zmlx.fuse.regions, zmlx.fuse.folded). Goes out: groups in
which some that fold nothing have grown by reduce nodes that nothing in them reads, each legal as
one kernel (zmlx.fuse.rows, zmlx.msl.schedule). zmlx.fuse.plan calls it.

A group takes the reductions that one choice of rows and columns serves; the others stay with MLX,
which then reads their operand.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zmlx import dtypes
from zmlx.errors import EmitError
from zmlx.fuse.extract import extract
from zmlx.fuse.regions import fits
from zmlx.fuse.rows import layout
from zmlx.fuse.shapes import Shape
from zmlx.msl.schedule import FOLD_TYPES, schedule
from zmlx.trace.graph import Graph


def with_ends(graph: Graph, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """`groups`, some of them together with reductions of their values."""
    taken = {n for group in groups for n in group}
    return [_grown(graph, list(group), taken) for group in groups]


def can_fold(graph: Graph, node: int) -> bool:
    """Whether a kernel can fold what the reduce node `node` folds."""
    data, operand = graph[node], graph[graph.operands(node)[0]]
    kinds = [data["dtype"], operand["dtype"]]
    return all(dtypes.has_msl(kind) and dtypes.value_type(kind) in FOLD_TYPES for kind in kinds)


def _grown(graph: Graph, group: list[int], taken: Collection[int]) -> list[int]:
    if any(graph.kind(n) != "op" for n in group):
        return group
    users = sorted({u for n in group for u in graph.nx.successors(n)})
    folds = [u for u in users if graph.kind(u) == "reduce" and u not in taken]
    ends = [u for u in folds if can_fold(graph, u)]
    if ends and _is_legal(graph, [*group, *ends]):
        return [*group, *ends]
    found = group
    for end in ends if len(ends) > 1 else ():
        found = [*found, end] if _is_legal(graph, [*found, end]) else found
    return found


def _is_legal(graph: Graph, nodes: Sequence[int]) -> bool:
    """Whether one kernel can compute `nodes` at the sizes of the example."""
    region = extract(graph, nodes).graph
    made = layout(region, [_some(region[n]["shape"]) for n in region.inputs])
    if made is None:
        return False
    try:
        schedule(made.region, outer=made.outer)
    except EmitError:
        return False
    return fits(graph, nodes, set(graph.outputs))


def _some(shape: Shape) -> Shape:
    """`shape` without zeros: a call with more elements may come."""
    return tuple(size or 2 for size in shape)
