"""Stepped: a fused call taken step by step, each evaluated and timed by itself.

Comes in: an entry and the leaves of a call. Goes out: the median time of each of its plan's steps.
zmlx.fuse.explain asks for it.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from zmlx.fuse.entry import Entry
from zmlx.trace.calls import keeping_random_state


def step_times(
    entry: Entry, arrays: Sequence[mx.array], numbers: Sequence[Any], rounds: int
) -> list[float]:
    """Milliseconds of each step of the plan, in its order; the first round, not counted, warms up.

    What the program computes is thrown away: containers of `outputs=` keep what they hold.
    """
    inputs = _inputs(entry, arrays, numbers)
    mx.eval([value for value in inputs if isinstance(value, mx.array)])
    taken: list[list[float]] = [[] for _ in entry.program.plan.steps]
    with keeping_random_state():
        for i in range(rounds + 1):
            started = time.perf_counter()
            for spent, made in zip(taken, entry.program.stepwise(inputs), strict=True):
                mx.eval(made)
                mx.synchronize()
                now = time.perf_counter()
                spent += [1000 * (now - started)] if i else []
                started = now
    return [statistics.median(spent) for spent in taken]


def _inputs(entry: Entry, arrays: Sequence[mx.array], numbers: Sequence[Any]) -> list[Any]:
    """What the entry hands to its program for this call."""
    asked = copy.copy(entry)
    asked._run, asked._unsettled = lambda given: list(given), None
    return asked.values(arrays, numbers)
