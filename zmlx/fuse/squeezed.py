"""Squeezed: what runs a region takes away the axes that it has folded.

Comes in: a region, and what gives its outputs with folded axes of size one. Goes out: what gives
its results. zmlx.fuse.program calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx.fuse.extract import Region
from zmlx.fuse.runtime import Run

Step = Callable[[list[Any]], None]  # over values by node


class Squeezed:
    """`function`, some of whose results lose axes: `axes`, by output."""

    def __init__(self, function: Run, axes: Sequence[tuple[int, ...]]) -> None:
        self.function, self.axes = function, tuple(axes)

    @classmethod
    def of(cls, region: Region, function: Run) -> Run:
        """The function of `region`."""
        if not region.squeezes:
            return function
        outputs = [region.graph[n] for n in region.graph.outputs]
        pairs = zip(outputs, region.squeezes, strict=True)
        return cls(function, [() if short is None else data["axes"] for data, short in pairs])

    def __call__(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        pairs = zip(self.function(arrays), self.axes, strict=True)
        return [mx.squeeze(value, axes) if axes else value for value, axes in pairs]


def then_squeezed(step: Step, region: Region) -> Step:
    """`step`, which makes the outputs of `region`, and its results."""
    outputs = [region.graph[n] for n in region.graph.outputs]
    triples = zip(region.ends.outputs, region.squeezes, outputs, strict=False)
    short = [(node, to, data["axes"]) for node, to, data in triples if to is not None]
    if not short:
        return step

    def run(values: list[Any]) -> None:
        step(values)
        for node, to, axes in short:
            values[to] = mx.squeeze(values[node], axes)

    return run
