"""Slicing: slices of one array that MLX makes, in one call where it differentiates.

Comes in: the slices of one array in a graph. Goes out: a function that makes them. Slices that lie
apart along one axis are then items of one split, whose gradient MLX writes once; of single slices
it pads every gradient to the array's size and adds them up. zmlx.fuse.program calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx.device.base import device_for_current_stream
from zmlx.device.rules import any_traced, traces_shapeless
from zmlx.fuse.cuts import Cut, cutter
from zmlx.fuse.views import INDEX, kind_of
from zmlx.trace.graph import Graph

Values = list[Any]
Step = Callable[[Values], None]
_SPLIT = mx.split
SMALL = 1 << 18  # elements; MLX pads and copies fewer on a CPU in less time than a call takes


def smallest() -> int:
    """Elements of an array of which writing the gradient once pays for the calls that it takes."""
    return SMALL if device_for_current_stream().takes_turns else 0


def several(graph: Graph) -> list[tuple[int, ...]]:
    """The slices of each array that has two or more, steered by nothing that waits for MLX."""
    found: dict[int, list[int]] = {}
    for node in graph:
        if kind_of(graph, node) == INDEX:
            array, *numbers = graph.operands(node)
            if all(graph.kind(n) == "scalar" for n in numbers):
                found.setdefault(array, []).append(node)
    return [tuple(nodes) for nodes in found.values() if len(nodes) > 1]


def slicing(graph: Graph, nodes: Sequence[int], steps: Sequence[Step]) -> Step:
    """A step that makes the slices `nodes` of one array; `steps` make one each."""
    source = graph.operands(nodes[0])[0]
    steering = [graph.operands(node)[1:] for node in nodes]
    cutters = [cutter(graph, node) for node in nodes]

    def run(values: Values) -> None:
        x = values[source]
        if x.size >= smallest() and any_traced([x]) and not traces_shapeless():
            shape = x.shape
            cuts = [
                cut(shape, [values[n] for n in numbers])
                for cut, numbers in zip(cutters, steering, strict=True)
            ]
            ordered = _apart(cuts)
            if ordered is not None:
                _split(values, x, nodes, cuts, ordered)
                return
        for step in steps:
            step(values)

    return run


def _apart(cuts: Sequence[Cut | None]) -> list[int] | None:
    """The order of cuts along their one axis; None where they are not of one or overlap."""
    known = [cut for cut in cuts if cut is not None]
    if len(known) < len(cuts) or len({cut.axis for cut in known}) != 1:
        return None
    order = sorted(range(len(known)), key=lambda i: known[i].start)
    pairs = zip(order, order[1:], strict=False)
    return order if all(known[i].stop <= known[j].start for i, j in pairs) else None


def _split(
    values: Values, x: mx.array, nodes: Sequence[int], cuts: Sequence[Any], order: Sequence[int]
) -> None:
    axis = cuts[0].axis
    ends = sorted({e for c in cuts for e in (c.start, c.stop) if 0 < e < x.shape[axis]})
    parts = dict(zip([0, *ends], _SPLIT(x, ends, axis), strict=True))
    for i in order:
        part = parts[cuts[i].start]
        values[nodes[i]] = part.squeeze(axis) if cuts[i].drops else part
