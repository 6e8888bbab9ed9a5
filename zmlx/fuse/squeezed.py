"""Squeezed: what runs a region takes away the axes that it has folded.

Comes in: a region, and what gives its outputs with folded axes of size one. Goes out: what gives
its results. zmlx.fuse.program calls it.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from zmlx.fuse.extract import Region
from zmlx.fuse.runtime import Run


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
