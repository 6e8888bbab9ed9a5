"""Kept: what a gradient of a fused function reads of its forward pass, and what it computes again.

Comes in: a planned graph, its regions, their derivatives. Goes out: nodes with reasons, and the ops
that are computed once more. zmlx.fuse.reports makes a report of them.

A region's gradient is one graph of what the region reads and of the cotangents: values inside the
region are computed again in registers, where keeping them would cost a write and a read of memory.
So nothing is written for a gradient but numbers a row; what it reads must stay in memory until it
is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zmlx.fuse.extract import Region
from zmlx.trace.graph import NUMBERS, Graph, title


def read_by(region: Region, derivative: Graph) -> list[int]:
    """The arrays, by node of the whole graph, that a region and its `derivative` read."""
    needed = set(derivative.outputs)
    for node in reversed(range(len(derivative))):
        if node in needed:
            needed.update(derivative.operands(node))
    pairs = zip((*region.ends.inputs, *region.ends.scalars), derivative.inputs, strict=False)
    return [n for n, own in pairs if own in needed and derivative.kind(own) not in NUMBERS]


def why_kept(graph: Graph, node: int, regions: Sequence[Region]) -> tuple[str, bool]:
    """Why a gradient finds the value of `node`, and whether it is in memory without one too."""
    kind = graph.kind(node)
    if kind in ("input", "array"):
        return f"{'an argument' if kind == 'input' else 'captured'}, in memory anyway", True
    if node in graph.outputs:
        return "a result, in memory anyway", True
    for i, region in enumerate(regions):
        if graph.kind(node) == "reduce" and node in region.nodes and node not in region.results:
            return f"a number a row, which region{i} writes where a gradient may follow", False
    home = [i for i, region in enumerate(regions) if node in region.results]
    what = f"what region{home[0]} writes for others" if home else "what MLX computes"
    return f"{what}, which stays until the gradient is taken", False


def again_of(region: Graph, derivative: Graph) -> tuple[str, ...]:
    """The ops of a region that its `derivative` computes once more."""
    known: dict[Any, int] = {}
    ours, theirs = _keys(region, known), set(_keys(derivative, known))
    again = [n for n, key in enumerate(ours) if key in theirs]
    return tuple(title(region[n]) for n in again if region.kind(n) in ("op", "reduce"))


def _keys(graph: Graph, known: dict[Any, int]) -> list[int]:
    """For each node a number that tells what it computes of the inputs; `known` gives them out."""
    keys: list[int] = []
    for node in graph:
        data = graph[node]
        place = data["index"] if data["kind"] in ("input", "scalar") else None
        told = [data.get(k) for k in ("op", "at", "axes")] + [repr(data.get("value"))]
        what = (data["kind"], place, *told, *[keys[o] for o in graph.operands(node)])
        keys.append(known.setdefault(what, len(known)))
    return keys
