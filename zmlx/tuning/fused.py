"""Tuning what zmlx.fuse generates: elements of a thread and threads of a group, on GPUs.

Comes in: a function and arguments. Goes out: a TuneReport; winners are launched from then on, and
by later processes. Callers: zmlx.autotune(...). Results are compared bit by bit, so that tuning
never changes one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import mlx.core as mx

from zmlx.device import tuning, watch
from zmlx.device.base import current_name
from zmlx.device.gpu import GpuLauncher
from zmlx.tuning import timing

ROUNDS = 9
WORTH = 0.97  # a setting wins if it takes at most this share of the default's time
Setting = tuple[int, int]  # elements of a thread, threads of a group


@dataclass(frozen=True)
class TunedKernel:
    """What was found for one kernel and one class of sizes."""

    name: str
    size: int  # elements of an output
    before: Setting  # elements of a thread, threads of a group
    after: Setting
    timings_ms: dict[Setting, float]  # medians; empty where the winner was known from disk
    rejected: dict[Setting, str]  # settings that failed or changed a result

    def __str__(self) -> str:
        words = f"{self.name}, {self.size} elements: elements {self.after[0]}, "
        words += f"threadgroup {self.after[1]}"
        if not self.timings_ms:
            return f"{words} (kept from an earlier search)"
        was, now = self.timings_ms[self.before], self.timings_ms[self.after]
        return f"{words}, {now:.4f} ms (before: {self.before[0]}, {self.before[1]}, {was:.4f} ms)"


@dataclass(frozen=True)
class TuneReport:
    """What zmlx.autotune found: a TunedKernel for each kernel and size, and why there may be none.

    `note` is empty where kernels were tuned.
    """

    device: str
    kernels: list[TunedKernel] = field(default_factory=list)
    note: str = ""

    def __str__(self) -> str:
        lines = [f"zmlx.autotune on {self.device}: {self.note or f'{len(self.kernels)} kernels'}"]
        return "\n".join([*lines, *(f"  {kernel}" for kernel in self.kernels)])


@dataclass(eq=False)
class _Launches:
    """One launch of each kernel and size class: a watcher."""

    found: dict[tuple[str, int], watch.Event] = field(default_factory=dict)
    others: int = 0

    def launched(self, event: watch.Event) -> None:
        if not event.fused or not isinstance(event.launcher, GpuLauncher):
            self.others += 1
            return
        size = event.launcher.output_size(event.inputs)
        if size and _has_values(event):
            self.found.setdefault((event.digest, tuning.size_class(size)), event)


def tune_fused(fn: Callable[..., Any], /, *args: Any, again: bool = False, **kwargs: Any) -> Any:
    """Find how the kernels that a call of `fn` launches run fastest for these arguments.

    Args:
        fn: a fused function, or any function that calls some, such as mx.grad of one: its
            derivatives' kernels are tuned too.
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
    kernels = [_tuned(event, device, again) for event in seen.found.values()]
    return TuneReport(device, kernels, "" if kernels else _nothing(device, seen.others))


def _tuned(event: watch.Event, device: str, again: bool) -> TunedKernel:
    launcher: GpuLauncher = event.launcher
    size = launcher.output_size(event.inputs)
    before = launcher.setting(size)
    identity, key = tuning.identity(device), tuning.kernel_key(event.name, event.digest)
    kept = tuning.STORE.find(identity, key).get(tuning.size_class(size), ())
    if tuning.valid(kept) and not again:
        launcher.adopt(size, *kept)
        return TunedKernel(event.name, size, before, (kept[0], kept[1]), {}, {})
    builds, rejected = _equal(event, before)
    timings = timing.medians(builds, ROUNDS, f"autotune {event.name}")
    best = min(timings, key=lambda setting: timings[setting])
    after = best if timings[best] <= WORTH * timings[before] else before
    launcher.adopt(size, *after)
    if tuning.valid(after):
        tuning.STORE.keep(identity, key, tuning.size_class(size), after)
    return TunedKernel(event.name, size, before, after, timings, rejected)


def _equal(
    event: watch.Event, before: Setting
) -> tuple[dict[Setting, timing.Build], dict[Setting, str]]:
    """The settings whose results are those of `before`, bit by bit, and why others are not."""
    wanted = event.again()
    mx.eval(wanted)
    builds: dict[Setting, timing.Build] = {}
    rejected: dict[Setting, str] = {}
    for setting in {before: None, **dict.fromkeys(product(tuning.ELEMENTS, tuning.THREADGROUPS))}:
        launcher = event.launcher.with_setting(*setting)
        try:
            got = launcher(event.inputs)
            mx.eval(got)
            problem = timing.difference(got, wanted, exact=True)
        except (RuntimeError, ValueError) as error:  # what MLX raises for a launch that fails
            problem = str(error)
        if problem is None:
            builds[setting] = partial(launcher, event.inputs)
        else:
            rejected[setting] = problem
    return builds, rejected


def _has_values(event: watch.Event) -> bool:
    try:
        mx.eval(event.inputs)
    except (RuntimeError, ValueError):  # placeholders of mx.compile or mx.vmap
        return False
    return True


def _nothing(device: str, others: int) -> str:
    if device == "host":
        return (
            "nothing to tune: the CPU gives each thread its share of the elements, whatever the "
            "kernel. ZMLX_THREADS sets how many threads there are"
        )
    if others:
        return "nothing to tune: the call launched kernels written by hand only"
    return "nothing to tune: the call launched no fused kernel with values to run on"
