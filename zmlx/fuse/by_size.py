"""By size: functions whose launches know their sizes, made once for each combination of them.

Comes in: how a kernel is made for shapes, and what computes the same without it. Goes out: BySize,
a callable from arrays to arrays. zmlx.fuse.joined and walked build on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from zmlx import switches
from zmlx.device import watch
from zmlx.device.base import GridLauncher, current_name, device_for_current_stream
from zmlx.device.rules import traces_shapeless
from zmlx.device.warned import problem_of, run_as_ops
from zmlx.errors import DeviceError
from zmlx.fuse import dumped
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.shapes import Shape
from zmlx.log import logger
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.trace.graph import Graph

Arrays = Sequence[mx.array]
_log = logger("zmlx.fuse")
MOST = 1024  # combinations of shapes that are remembered


class BySize:
    """A function that computes `graphs` by kernels of its own, or `plain`, as shapes allow."""

    def __init__(self, runtime: Runtime, name: str, graphs: Sequence[Graph]) -> None:
        self.runtime, self.name, self._graphs = runtime, name, graphs
        self._runs: dict[Any, Run] = {}
        self._launchers: dict[tuple[str, MetalKernelSpec], GridLauncher] = {}
        self._stats: dict[GridLauncher, SimpleNamespace] = {}

    def __call__(self, arrays: Arrays) -> list[mx.array]:
        if traces_shapeless():  # a launch has its own sizes
            return self.plain(arrays)
        key = self._key(arrays)
        run = self._runs.get(key)
        if run is None:
            if len(self._runs) >= MOST:
                self._runs.clear()
            with self.runtime.making():
                run = self._runs[key] = self._made(arrays)
        try:
            return run(arrays)
        except DeviceError as error:  # the kernel cannot be built: the first launch finds out
            run_as_ops(problem_of(error))
            self._runs[key] = self.plain
            return self.plain(arrays)

    def forget(self) -> None:
        """Make every launch anew: how kernels are launched best is known better now."""
        self._runs.clear()

    def plain(self, arrays: Arrays) -> list[mx.array]:
        """The same without a kernel of its own."""
        raise NotImplementedError

    def _key(self, arrays: Arrays) -> Any:
        """What decides how `arrays` are computed with; switches stand as in `runtime`."""
        return (current_name(), *[a.shape for a in arrays])

    def _made(self, arrays: Arrays) -> Run:
        """The function for such arrays."""
        return self._run([a.shape for a in arrays])

    def _run(self, shapes: Sequence[Shape]) -> Run:
        """The function for inputs of these shapes."""
        raise NotImplementedError

    def _launcher(
        self,
        spec: MetalKernelSpec,
        grouped: Callable[[], MetalKernelSpec],
        tuned: Callable[[GridLauncher], Any] | None = None,
    ) -> GridLauncher:
        """What launches `spec`; `grouped` is the kernel of a device whose groups run together.

        Watchers are told what `tuned` makes of the launcher: how it may be launched otherwise.
        """
        device = device_for_current_stream()
        key = (device.name, spec)
        if key not in self._launchers:
            _log.debug("kernel %s:\n%s%s", spec.name, spec.header, spec.source)
            launcher = device.grid_launcher(spec)
            launcher = dumped.launching_written(self.runtime, self.name, spec, launcher, grouped)
            self._launchers[key] = launcher
        launcher = self._launchers[key]
        if not self.runtime.watched:
            return launcher
        return self._told(spec, device.name, launcher, tuned and tuned(launcher))

    def _told(
        self, spec: MetalKernelSpec, device: str, launcher: GridLauncher, tuned: Any
    ) -> GridLauncher:
        """`launcher`, whose launches are told to zmlx.device.watch."""
        stats = self._stats.setdefault(launcher, SimpleNamespace(run_count=0, compile_time_ms=0.0))
        ops = tuple([g[n]["op"] for g in self._graphs for n in g if g.kind(n) in ("op", "reduce")])
        watched = watch.watched_grid(spec, device, launcher, stats, self.name, ops, tuned)

        def run(arrays: Arrays, launch: Launch) -> list[mx.array]:
            stats.run_count += 1
            return watched(arrays, launch)

        return run


def alone() -> bool:
    """Whether a thread has no others beside it; the sanitizer watches what a GPU does."""
    return device_for_current_stream().takes_turns and not switches.SANITIZE.on()


def fits(shape: Shape, space: Shape) -> bool:
    """Whether `shape` broadcasts to `space`."""
    tail = space[len(space) - len(shape) :]
    return all(n in (1, m) for n, m in zip(shape, tail, strict=True))
