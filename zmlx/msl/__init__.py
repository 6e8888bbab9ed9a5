"""Metal text: what hand-written kernels share. The generator's modules stand beside."""

from __future__ import annotations

from dataclasses import dataclass

from zmlx.msl.default_header import DEFAULT_HEADER, REDUCE_HEADER, reduction

__all__ = ["DEFAULT_HEADER", "REDUCE_HEADER", "Launch2D", "reduction"]


@dataclass(frozen=True)
class Launch2D:
    """A launch in three extents, as `grid` and `threadgroup` of a kernel's call take it."""

    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
