"""Pulled: the gradients of a call that MLX runs, as a node of a backward graph.

zmlx.fuse.backward makes it, zmlx.fuse.saved asks what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from zmlx.device.rules import native_or_none
from zmlx.errors import DeriveError


class Pulled:
    """The gradients of a call by some of its operands, by what it left in MLX's graph.

    Called with the arrays that it was given, those that it gave, and what these receive.
    """

    def __init__(self, given: int, moving: Sequence[int], several: bool) -> None:
        self.given, self.moving, self.several = given, tuple(moving), several

    def __call__(self, *arrays: mx.array) -> Any:
        given, rest = arrays[: self.given], arrays[self.given :]
        moving = [given[i] for i in self.moving]
        half = len(rest) // 2
        found = native_or_none().pull_between(moving, given, rest[:half], rest[half:])
        if any(gradient is None for gradient in found):
            raise DeriveError("[zmlx.fuse] a call left no way from its results to its operands.")
        return found if self.several else found[0]

    def reads(self, position: int) -> bool:
        """Whether it reads the values of an argument, as far as is known: calls' gradients read
        what the calls were given. What they gave tells where to begin.
        """
        return position < self.given
