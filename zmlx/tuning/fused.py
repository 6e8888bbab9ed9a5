"""Tuning what zmlx.fuse generates: how its kernels are launched, on GPUs.

Comes in: a function and arguments. Goes out: a TuneReport; winners are launched from then on, and
by later processes. Callers: zmlx.autotune(...). Results are compared bit by bit, so that tuning
never changes one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx

from zmlx.device import tuning, watch
from zmlx.device.base import current_name
from zmlx.tuning import timing
from zmlx.tuning.kernels import Tunable, tunable
from zmlx.tuning.report import ROUNDS, Setting, TunedKernel, TuneReport, best_of, has_values


@dataclass(eq=False)
class _Launches:
    """One launch of each kernel and size class: a watcher."""

    found: dict[tuple[str, int], tuple[watch.Event, Tunable]] = field(default_factory=dict)
    others: int = 0

    def launched(self, event: watch.Event) -> None:
        kernel = tunable(event)
        if kernel is None:
            self.others += 1
        elif kernel.size and has_values(event.inputs):
            self.found.setdefault((kernel.key, tuning.size_class(kernel.size)), (event, kernel))


def tune_fused(fn: Callable[..., Any], /, *args: Any, again: bool = False, **kwargs: Any) -> Any:
    """Find how the kernels that a call of `fn` launches run fastest for these arguments.

    Args:
        fn: a fused function, a row-wise op, or any function that calls some, such as mx.grad of
            one: its derivatives' kernels are tuned too.
        args, kwargs: arguments of the sizes to tune for.
        again: search even where an earlier search left a winner on disk.

    Returns:
        A TuneReport. Winners are used at once, for outputs of the same class of sizes. On the CPU
        there is nothing to tune, and the report says so.
    """
    if not callable(fn):
        raise TypeError(f"[zmlx.autotune] fn is a {type(fn).__name__}; give a function.")
    seen = _Launches()
    watch.start(seen)
    try:
        mx.eval(fn(*args, **kwargs))
    finally:
        watch.stop(seen)
    device = current_name()
    kernels = [_tuned(event, kernel, device, again) for event, kernel in seen.found.values()]
    if kernels:
        tuning.changed()
    return TuneReport(device, kernels, "" if kernels else _nothing(device, seen.others))


def _tuned(event: watch.Event, kernel: Tunable, device: str, again: bool) -> TunedKernel:
    identity, size = tuning.identity(device), tuning.size_class(kernel.size)
    before = kernel.setting()
    kept = tuning.STORE.find(identity, kernel.key).get(size, ())
    if kernel.valid(kept) and not again:
        after = kept[0], kept[1]
        kernel.adopt(after)
        return TunedKernel(kernel.name, kernel.size, before, after, {}, {}, kernel.words)
    builds, rejected = _equal(event, kernel)
    timings = timing.medians(builds, ROUNDS, f"autotune {event.name}")
    after = best_of(timings, before)
    kernel.adopt(after)
    if kernel.valid(after):
        tuning.STORE.keep(identity, kernel.key, size, after)
    return TunedKernel(kernel.name, kernel.size, before, after, timings, rejected, kernel.words)


def _equal(
    event: watch.Event, kernel: Tunable
) -> tuple[dict[Setting, timing.Build], dict[Setting, str]]:
    """The settings whose results are those of now, bit by bit, and why others are not."""
    before = kernel.setting()
    wanted = kernel.launched(event.inputs, before)
    mx.eval(wanted)
    builds: dict[Setting, timing.Build] = {}
    rejected: dict[Setting, str] = {}
    for setting in {before: None, **dict.fromkeys(kernel.settings())}:
        try:
            build = partial(kernel.launched, event.inputs, setting)
            got = build()
            mx.eval(got)
            problem = timing.difference(got, wanted, exact=True)
        except (RuntimeError, ValueError) as error:  # what MLX raises for a launch that fails
            problem = str(error)
        if problem is None:
            builds[setting] = build
        else:
            rejected[setting] = problem
    return builds, rejected


def _nothing(device: str, others: int) -> str:
    if device == "host":
        return (
            "nothing to tune: the CPU gives each thread its share of the elements, whatever the "
            "kernel. ZMLX_THREADS sets how many threads there are"
        )
    if others:
        return "nothing to tune: the call launched kernels written by hand only"
    return "nothing to tune: the call launched no fused kernel with values to run on"
