"""Launches: what a kernel's launch needs, worked out once for all arrays of the same shapes.

Comes in: how to prepare a launch. Goes out: a callable over arrays that are laid out. Checks and
templates cost tens of microseconds in Python, as long as a small kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx.device.base import device_for_current_stream
from zmlx.metal import MetalKernel
from zmlx.msl.spec import Launch

Prepared = tuple[MetalKernel, Launch]
MOST = 1024  # combinations of shapes that are remembered


class Launches:
    """`prepare` gives the kernel and its launch; `more`: what these depend on beside the arrays."""

    def __init__(self, prepare: Callable[[Sequence[mx.array]], Prepared]) -> None:
        self._prepare = prepare
        self._known: dict[Any, Prepared] = {}

    def __call__(self, arrays: Sequence[mx.array], more: Any = None) -> list[mx.array]:
        device = device_for_current_stream()
        key = (device.name, device.takes_turns, more, *[(a.shape, a.dtype) for a in arrays])
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MOST:
                self._known.clear()
            found = self._known[key] = self._prepare(arrays)
        kernel, launch = found
        return kernel.run(arrays, launch)

    def forget(self) -> None:
        """Prepare anew: something that `more` does not tell has changed."""
        self._known.clear()
