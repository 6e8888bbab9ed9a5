"""Tuning row-wise ops: threads of a row and rows of a threadgroup, on GPUs.

Comes in: the ops that a call launched, with their arrays. Goes out: a TunedKernel for each. A
setting under which one bit of a result changes is rejected, so that tuning never changes a result;
where threads add up a row in another order, the number of rows is all that is left to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from zmlx.device import tuning
from zmlx.device.base import current_name, device_for_current_stream
from zmlx.rows import layout
from zmlx.rows.layout import Setting
from zmlx.rows.op import RowOp, valid
from zmlx.tuning import timing
from zmlx.tuning.report import ROUNDS, TunedKernel, best_of, has_values

WORDS = ("threads of a row", "rows of a threadgroup")


@dataclass(eq=False)
class RowLaunches:
    """One launch of each op for each length, type and class of numbers of rows."""

    found: dict[tuple[str, int], tuple[RowOp, list[mx.array]]] = field(default_factory=dict)

    def launched(self, op: RowOp, arrays: Sequence[mx.array]) -> None:
        if not device_for_current_stream().takes_turns and has_values(arrays):
            key = (op.tuning_key(arrays[0]), tuning.size_class(arrays[0].shape[0]))
            self.found.setdefault(key, (op, list(arrays)))


def tune_rows(seen: RowLaunches, again: bool) -> list[TunedKernel]:
    """Tune every op that was seen."""
    return [_tuned(key, size, *found, again) for (key, size), found in seen.found.items()]


def _tuned(key: str, size: int, op: RowOp, arrays: list[mx.array], again: bool) -> TunedKernel:
    identity, first = tuning.identity(current_name()), arrays[0]
    before = op.setting(first)
    kept = tuning.STORE.find(identity, key).get(size, ())
    shown = (before.threads, before.rows)
    if valid(kept) and not again:
        op.adopt(first, Setting(*kept))
        return TunedKernel(op.row.name, first.size, shown, (kept[0], kept[1]), {}, {}, WORDS)
    builds, rejected = _equal(op, arrays, before)
    timings = timing.medians(builds, ROUNDS, f"autotune {op.row.name}")
    after = best_of(timings, shown)
    op.adopt(first, Setting(*after))
    tuning.STORE.keep(identity, key, size, after)
    return TunedKernel(op.row.name, first.size, shown, after, timings, rejected, WORDS)


def _equal(
    op: RowOp, arrays: list[mx.array], before: Setting
) -> tuple[dict[tuple[int, int], timing.Build], dict[tuple[int, int], str]]:
    """The settings whose results are those of `before`, bit by bit, and why others are not."""
    wanted = op.launch(arrays, before)
    mx.eval(wanted)
    builds: dict[tuple[int, int], timing.Build] = {}
    rejected: dict[tuple[int, int], str] = {}
    others = layout.settings(arrays[0].shape[-1], arrays[0].dtype.size)
    for how in {before: None, **dict.fromkeys(others)}:
        try:
            got = op.launch(arrays, how)
            mx.eval(got)
            problem = timing.difference(got, wanted, exact=True)
        except (RuntimeError, ValueError) as error:  # what MLX raises for a launch that fails
            problem = str(error)
        if problem is None:
            builds[how.threads, how.rows] = partial(op.launch, arrays, how)
        else:
            rejected[how.threads, how.rows] = problem
    return builds, rejected
