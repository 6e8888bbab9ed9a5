"""Absorption: sums that a derivative makes move into the region whose values they add up.

Comes in: a graph, its regions, and the op nodes that no kernel holds. Goes out: regions with sums.
zmlx.fuse.plan calls it; zmlx.fuse.summed runs such a region.

A region takes the sums that one split of its space serves (zmlx.fuse.split); the others stay with
MLX, which then reads their operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zmlx.fuse.extract import Region, Sum
from zmlx.fuse.ones import squeezed
from zmlx.fuse.split import best_split
from zmlx.msl.space import MAX_BUFFERS
from zmlx.msl.sums import sums_slots
from zmlx.trace.graph import Graph


def with_sums(graph: Graph, region: Region) -> Region:
    """`region` with the sums of its outputs that its kernel can add up, maybe none."""
    sums = _sums_of(graph, region)
    if not sums:
        return region
    shapes = [region.graph[n]["shape"] for n in region.graph.inputs]
    arrays = shapes[: len(region.ends.inputs)]
    space = tuple(region.graph[region.graph.outputs[0]]["shape"])
    if any(region.graph[n]["shape"] != space for n in region.graph.outputs):
        return region
    split = best_split(arrays, [s.axes for s in sums])
    if split is None or split.shape != space:
        return region
    served = [s for s, kind in zip(sums, split.kinds, strict=True) if kind is not None]
    found = replace(region, sums=tuple(served), kept=_kept(graph, region, served))
    if sums_slots(region.graph, len(found.kept) + len(served)) > MAX_BUFFERS:
        return region
    return found


def _sums_of(graph: Graph, region: Region) -> list[Sum]:
    found = []
    for position, node in enumerate(region.ends.outputs):
        if graph[node]["dtype"] != "float32":
            continue
        for user in graph.users(node):
            data = graph[user]
            if data["kind"] == "reduce" and data["op"] == "sum":
                short = squeezed(graph, user)
                result = user if short is None else short
                found.append(Sum(user, result, position, data["axes"], short is None))
    return found


def _kept(graph: Graph, region: Region, sums: Sequence[Sum]) -> tuple[int, ...]:
    """Positions of the outputs that something else than `sums` and the region reads."""
    absorbed = {*region.nodes, *(s.node for s in sums)}
    returned = set(graph.outputs)
    return tuple(
        position
        for position, node in enumerate(region.ends.outputs)
        if node in returned or any(user not in absorbed for user in graph.users(node))
    )
