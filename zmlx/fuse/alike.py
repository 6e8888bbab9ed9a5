"""Alike: regions that compute the same of other arrays, and so can share a launch.

Comes in: a graph, the units of its steps and how they wait for each other. Goes out: groups of
regions of one body, none of which waits for another. zmlx.fuse.plan makes them neighbours,
zmlx.fuse.together runs them.

A region is put off as long as nothing waits for it: an optimizer's steps then stand side by side,
whenever their gradients are ready.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zmlx.fuse.extract import Region

if TYPE_CHECKING:
    import networkx as nx

# What two regions of one body may differ in: sizes, and where they were written.
_FREE = ("shape", "loc", "expr")


def alike(order: nx.DiGraph, units: Mapping[Any, Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Of `units`, those that are one region each and alike, by key, if there are several."""
    import networkx as nx

    latest: dict[Any, int] = {}
    for unit in reversed(list(nx.topological_sort(order))):
        latest[unit] = min((latest[after] for after in order.successors(unit)), default=0) - 1
    groups: dict[Hashable, list[Any]] = {}
    for unit, steps in units.items():
        (first, *rest) = steps
        if not rest and isinstance(first, Region) and not first.folds:
            groups.setdefault((latest[unit], body_of(first)), []).append(unit)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def body_of(region: Region) -> Hashable:
    """What the region computes of its inputs, whatever their sizes."""
    graph = region.graph
    nodes = []
    for node in graph:
        data = {k: v for k, v in graph.attributes(node).items() if k not in _FREE}
        told = tuple(sorted((k, type(v).__name__, repr(v)) for k, v in data.items()))
        nodes.append((graph.kind(node), graph.operands(node), told))
    return (tuple(nodes), tuple(graph.outputs))
