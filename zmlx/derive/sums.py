"""The sums that derivatives make over broadcast dimensions, told apart from a user's own.

zmlx.derive.accumulate puts them into its graphs; zmlx.fuse.absorb may have a kernel add them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from zmlx.trace.graph import OpaqueCall, Ref


@dataclass(frozen=True, eq=False)
class SumCall(OpaqueCall):
    """mx.sum of the one operand over `kwargs["axis"]`, none of them negative."""


def sum_call(axes: Sequence[int], keepdims: bool) -> SumCall:
    """The call that sums its operand, of any shape and float type, over `axes`."""
    return SumCall(mx.sum, (Ref(0),), {"axis": tuple(axes), "keepdims": keepdims}, "sum")
