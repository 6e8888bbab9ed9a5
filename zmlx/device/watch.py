"""Watching: who is told of each kernel's launch, and how long kernels took to compile.

Comes in: watchers (zmlx.profile, zmlx.autotune). Goes out: an Event for each launch, to all,
whichever thread launches. Nothing is wrapped and nothing counted while no one watches: callers ask
`if watch.active` first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from zmlx import switches
from zmlx.device.base import Device, GridLauncher, Launcher
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import Launch, MetalKernelSpec


@dataclass(frozen=True)
class Event:
    """One launch: of which kernel, over which arrays. Its graph is built; it may not have run."""

    name: str
    digest: str
    device: str
    fused: bool  # of a fused function; False for a kernel written by hand
    ops: tuple[str, ...]
    inputs: tuple[mx.array, ...]
    outputs: tuple[mx.array, ...]
    again: Callable[[], list[mx.array]]  # builds the same launch once more, unwatched
    launcher: Any  # what launched it, or says how it may be launched
    function: str = ""  # of which fused function, and which region: "gelu.region0.vjp"


class Watcher(Protocol):
    """Told of each launch, on the thread that builds it."""

    def launched(self, event: Event) -> None: ...


active: tuple[Watcher, ...] = ()
compile_ms: dict[tuple[str, str], float] = {}  # by device and digest of the kernel
_lock = threading.Lock()


def start(watcher: Watcher) -> None:
    """Tell `watcher` of every launch from now on."""
    global active
    with _lock:
        active = (*active, watcher)
        switches.watched = True


def stop(watcher: Watcher) -> None:
    """No longer tell `watcher`."""
    global active
    with _lock:
        active = tuple(w for w in active if w is not watcher)
        switches.watched = bool(active)


def build(device: Device, kernels: Sequence[KernelSource]) -> list[Launcher]:
    """`device.build`; the time it took is noted, in equal shares, for kernels not built before."""
    fresh = {(device.name, k.digest) for k in kernels} - compile_ms.keys()
    started = time.perf_counter()
    launchers = device.build(kernels)
    share = 1000 * (time.perf_counter() - started) / max(1, len(fresh))
    for key in fresh:
        compile_ms.setdefault(key, share)
    return launchers


def watched(kernel: KernelSource, device: str, launch: Launcher, function: str) -> Launcher:
    """`launch`, which tells the watchers of the moment; `function` is whose kernel it is."""

    def run(arrays: Sequence[mx.array]) -> list[mx.array]:
        outputs = launch(arrays)
        if active:
            inputs = tuple(arrays)
            _tell(
                Event(
                    kernel.name, kernel.digest, device, True, kernel.ops, inputs, tuple(outputs),
                    lambda: launch(inputs), launch, function,
                )
            )  # fmt: skip
        return outputs

    return run


def watched_grid(
    spec: MetalKernelSpec,
    device: str,
    run: GridLauncher,
    stats: Any,
    function: str = "",
    ops: tuple[str, ...] = (),
    tuned: Any = None,
) -> GridLauncher:
    """The same for a kernel written by hand, or one of a fused function that knows its sizes.

    `tuned` says how such a one may be launched otherwise.
    """

    def told(arrays: Sequence[mx.array], launch: Launch) -> list[mx.array]:
        started = time.perf_counter()
        outputs = run(arrays, launch)
        if stats.run_count == 1:  # the first call ever compiles, where Python can see it
            spent = stats.compile_time_ms + 1000 * (time.perf_counter() - started)
            compile_ms[device, spec.digest] = spent
        inputs = tuple(arrays)
        _tell(
            Event(
                spec.name, spec.digest, device, bool(function), ops, inputs, tuple(outputs),
                lambda: run(inputs, launch), tuned or run, function,
            )
        )  # fmt: skip
        return outputs

    return told


def _tell(event: Event) -> None:
    for watcher in active:
        watcher.launched(event)
