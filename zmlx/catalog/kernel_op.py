"""KernelOp: a kernel written by hand as a differentiable op; and packs, as such kernels read them.

Comes in: how to prepare a launch over arrays that are laid out, and its rules. Goes out: a callable
that @zmlx.fuse keeps as one node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod

import mlx.core as mx

from zmlx.device.base import Launcher, device_for_current_stream
from zmlx.fuse.function_rules import FunctionRules
from zmlx.msl import DEFAULT_HEADER
from zmlx.msl.packs import PACKS_TEXT
from zmlx.msl.spec import Extent
from zmlx.rows import layout
from zmlx.rows.launches import Launches, Prepared
from zmlx.rows.rules import op_of
from zmlx.rows.text import MAX_GROUPS_Y
from zmlx.trace import intercept

Arrays = Sequence[mx.array]
HEADER = DEFAULT_HEADER + PACKS_TEXT
GROUP = 256  # threads


class KernelOp:
    """An op over arrays; called with a list of them it gives a list."""

    def __init__(
        self, name: str, prepare: Callable[[Arrays], Prepared], rules: FunctionRules
    ) -> None:
        self.name, self._launch, self._rules = name, Launches(prepare), rules

    def __repr__(self) -> str:
        return f"<catalog op {self.name}>"

    def __call__(self, *arrays: mx.array) -> list[mx.array]:
        tracer = intercept.current()
        if tracer is not None and tracer.sees(arrays):
            found: list[mx.array] = tracer.opaque(self.name, self, arrays, {})
            return found
        return self._run(arrays)

    @cached_property
    def _run(self) -> Launcher:
        return op_of(self._launch, self._rules)


def packed_grid(rows: int, d: int, itemsize: int) -> tuple[int, Extent, Extent]:
    """Elements that a thread takes of rows of length `d`; grid and threadgroup.

    Packs lie along x, rows along y, and on along z beyond what CUDA takes.
    """
    lanes = layout.lanes(d, itemsize, device_for_current_stream().takes_turns)
    across = -(-d // lanes)
    return lanes, (across, *layout.stacked(rows)), (min(across, GROUP), 1, 1)


def joined_rows(op: KernelOp, inputs: Arrays, axes: Sequence[int]) -> list[mx.array] | None:
    """A mapped call of an op of rows: those of all examples are rows of one launch.

    None where anything but the first input is mapped.
    """
    if axes[0] < 0 or any(axis >= 0 for axis in axes[1:]):
        return None
    x = mx.moveaxis(inputs[0], axes[0], 0)
    rows = x.reshape(prod(x.shape[:-1]), x.shape[-1])  # of no examples none: -1 would not do
    (found,) = op(rows, *inputs[1:])
    return [found.reshape(*x.shape[:-1], found.shape[-1])]


# Where a thread of such a grid stands; `columns` is the length of a row.
PLACE = f"""\
const uint kk_row = thread_position_in_grid.y + thread_position_in_grid.z * {MAX_GROUPS_Y}u;
const uint kk_at = thread_position_in_grid.x * uint(LANES);
if (kk_row >= rows) {{
  return;
}}
const bool kk_full = columns - kk_at >= uint(LANES);
const uint kk_count = kk_full ? uint(LANES) : columns - kk_at;
"""
