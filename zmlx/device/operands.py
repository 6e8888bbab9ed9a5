"""Operands: whether arrays are those that a generated kernel takes, and what they broadcast to.

Comes in: a KernelSource and arrays. Goes out: the shape of each output. Launchers that size their
outputs in Python ask.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from zmlx.msl.kernel import KernelSource


def output_shape(kernel: KernelSource, arrays: Sequence[mx.array]) -> tuple[int, ...]:
    """The shape; ValueError for other dtypes or ranks, or shapes that do not broadcast."""
    got = [(str(a.dtype).removeprefix("mlx.core."), a.ndim) for a in arrays]
    wanted = [(a.dtype, a.rank) for a in kernel.inputs]
    if got != wanted:
        raise ValueError(
            f"[zmlx.device] kernel {kernel.name}: needs {wanted} as (dtype, rank), got {got}. "
            "Pass arrays as the kernel declares them."
        )
    rank = kernel.rank
    return tuple(mx.broadcast_shapes((1,) * rank, *[a.shape for a in arrays if a.ndim <= rank]))
