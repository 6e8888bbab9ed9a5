"""Kernels as objects: made from the body of a Metal function, called with arrays.

Comes in: what mx.fast.metal_kernel takes. Goes out: MetalKernel, which runs the text on Metal as it
is, on CUDA behind a header of Metal's names, and on the CPU compiled as C++.
"""

from __future__ import annotations

import numbers
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.cache import GLOBAL_KERNEL_CACHE, KernelCacheKey
from zmlx.device import watch
from zmlx.device.base import GridLauncher, device_for_current_stream
from zmlx.device.rules import any_traced, launched
from zmlx.errors import DeviceError
from zmlx.expr.header import uncommented
from zmlx.metal import asked, guesses
from zmlx.metal.transforms import Transforms
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.trace import intercept

__all__ = ["KernelStats", "MetalKernel", "kernel"]

Pairs = Sequence[tuple[str, Any]]
Shapes = Sequence[Sequence[int]]


@dataclass
class KernelStats:
    """Counts of one kernel object.

    `compile_time_ms` is the time spent making it ready in Python (on the CPU: compiling it too);
    `total_run_time_ms` counts only the calls that were measured (verbose=True or timed=True).
    """

    compile_time_ms: float = 0.0
    run_count: int = 0
    total_run_time_ms: float = 0.0


def kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str | None = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
    compile_options: Mapping[str, str] | None = None,
    *,
    cache: bool = True,
) -> MetalKernel:
    """A kernel from the body of a Metal function; the same object for the same arguments.

    Takes what mx.fast.metal_kernel takes. `compile_options` is None or {"math_mode": mode}, a mode
    being "safe", "relaxed" or "fast"; devices other than Metal compute as exactly in each.
    `cache=False` always builds a new one and keeps it nowhere. ValueError for names that are no
    identifiers or occur twice, and for an empty source.
    """
    header = "" if header is None else header
    spec = MetalKernelSpec(
        name, asked.names(name, "input_names", input_names),
        asked.names(name, "output_names", output_names), source, header,
        bool(ensure_row_contiguous), bool(atomic_outputs),
        math=asked.math_mode(name, compile_options),
    )  # fmt: skip
    asked.check_spec(spec)
    if not cache:
        return MetalKernel(spec)
    key = KernelCacheKey.from_parts(
        name=name, input_names=input_names, output_names=output_names, source=source,
        header=header, ensure_row_contiguous=ensure_row_contiguous, atomic_outputs=atomic_outputs,
        math_mode=spec.math,
    )  # fmt: skip
    found: MetalKernel = GLOBAL_KERNEL_CACHE.get_or_put(key, lambda: MetalKernel(spec))
    return found


class MetalKernel:
    """A kernel that can be launched; `spec` says what it is, `stats` what it did."""

    def __init__(self, spec: MetalKernelSpec) -> None:
        self.spec = spec
        self.stats = KernelStats()
        self._launchers: dict[str, GridLauncher] = {}
        self._indexed = _indexed(spec)
        self._transforms = lru_cache(256)(lambda launch, shapes: Transforms(spec, launch, shapes))

    def __repr__(self) -> str:
        spec = self.spec
        return f"<MetalKernel {spec.name}{spec.input_names} -> {spec.output_names}>"

    def __call__(
        self,
        *arrays: Any,
        inputs: Sequence[Any] | None = None,
        template: Pairs | None = None,
        grid: Sequence[int] | None = None,
        threadgroup: Sequence[int] | None = None,
        output_shapes: Shapes | None = None,
        output_dtypes: Sequence[mx.Dtype] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: Any = None,
        timed: bool = False,
    ) -> list[mx.array]:
        """Launch: a list of arrays, one for each output name.

        The inputs, arrays and numbers, come one by one or as the list `inputs`. One of rank 0 is a
        reference in the text, `s`, as in MLX; where the text indexes it, `s[0]`, it is a pointer.
        `grid` counts threads, `threadgroup` those of a group. Left out, outputs are shaped and
        typed like the first input, the grid has a thread for each element of the first output, and
        a group has the largest power of two up to 512 that is not above it. `stream` is a stream or
        a device; `timed` waits for the result and adds to the statistics; `verbose` also prints
        the launch. ValueError where counts or sizes do not fit, or where a launch that is left out
        would leave outputs unwritten; DeviceError where this machine cannot run kernels, or the
        text does not compile.
        """
        if inputs is not None:
            if arrays:
                came = f"{len(arrays)} arrays and inputs="
                raise asked.wrong(self.spec.name, "a call", came, "the inputs in one way")
            arrays = tuple(inputs)
        tracer = intercept.current()
        if tracer is not None and tracer.sees(arrays):
            how = {
                "template": template, "grid": grid, "threadgroup": threadgroup,
                "output_shapes": output_shapes, "output_dtypes": output_dtypes,
                "init_value": init_value, "stream": stream,
            }  # fmt: skip
            found: list[mx.array] = tracer.opaque(self.spec.name, self, arrays, how)
            return found
        given = asked.inputs(self.spec, arrays)
        launch = self.prepared(
            given, template, grid, threadgroup, output_shapes, output_dtypes, init_value
        )
        with _on(stream):
            if verbose or timed:
                return self._measured(given, launch, verbose)
            return self.run(given, launch)

    def prepared(
        self,
        inputs: Sequence[mx.array],
        template: Pairs | None = None,
        grid: Sequence[int] | None = None,
        threadgroup: Sequence[int] | None = None,
        output_shapes: Shapes | None = None,
        output_dtypes: Sequence[mx.Dtype] | None = None,
        init_value: float | None = None,
    ) -> Launch:
        """The launch of a call, checked; `run` takes it for inputs of these shapes and types."""
        spec = self.spec
        shapes, kinds = asked.outputs(spec, inputs, output_shapes, output_dtypes)
        if init_value is not None and not isinstance(init_value, numbers.Real):
            raise asked.wrong(spec.name, "init_value", repr(init_value), "a number")
        if spec.atomic_outputs and init_value is None:
            wanted = "a number, since its outputs are atomic"
            raise asked.wrong(spec.name, "init_value", "None", wanted)
        wide = self._grid(grid, shapes, init_value is not None)
        group = self._threadgroup(threadgroup, wide, init_value is not None)
        references = [
            i for i, x in enumerate(inputs)
            if x.ndim == 0 and spec.input_names[i] not in self._indexed
        ]  # fmt: skip
        return Launch(
            wide, group, shapes, kinds, asked.template(spec, template or ()), init_value,
            tuple(references),
        )  # fmt: skip

    def run(self, arrays: Sequence[mx.array], launch: Launch) -> list[mx.array]:
        """A call that has been prepared; `arrays` are not checked again."""
        self.stats.run_count += 1
        if all(prod(shape) == 0 for shape in launch.output_shapes):
            pairs = zip(launch.output_shapes, launch.output_dtypes, strict=True)
            return [mx.zeros(shape, getattr(mx, dtypes.attribute(kind))) for shape, kind in pairs]
        flat = [
            x if x.ndim or i in launch.references else x.reshape(1) for i, x in enumerate(arrays)
        ]
        rules = self._transforms(launch, tuple([tuple(x.shape) for x in flat]))
        return launched(self.bare(flat, launch), rules)

    def bare(self, arrays: Sequence[mx.array], launch: Launch) -> list[mx.array]:
        """The launch alone, of arrays that have axes: whoever asks has rules of his own."""
        run = self._launcher()
        if watch.active:
            name = device_for_current_stream().name
            run = watch.watched_grid(self.spec, name, run, self.stats)
        return run(arrays, launch)

    def _launcher(self) -> GridLauncher:
        device = device_for_current_stream()
        launcher = self._launchers.get(device.name)
        if launcher is None:
            if problem := device.unavailable():
                raise DeviceError(
                    f"[zmlx.metal] kernel {self.spec.name!r} cannot run here: {problem}."
                )
            started = time.perf_counter()
            launcher = self._launchers[device.name] = device.grid_launcher(self.spec)
            self.stats.compile_time_ms += 1000 * (time.perf_counter() - started)
        return launcher

    def _measured(
        self, arrays: Sequence[mx.array], launch: Launch, verbose: bool
    ) -> list[mx.array]:
        if any_traced(arrays):  # there is nothing to wait for
            spent, results = None, self.run(arrays, launch)
        else:
            spent, results = self._timed(arrays, launch)
        if verbose:
            took = "is traced" if spent is None else f"took {spent:.3f} ms"
            print(f"{self!r}: {launch} {took}\n{self.spec.header}{self.spec.source}")
        return results

    def _timed(self, arrays: Sequence[mx.array], launch: Launch) -> tuple[float, list[mx.array]]:
        mx.eval(list(arrays))
        mx.synchronize()
        started = time.perf_counter()
        results = self.run(arrays, launch)
        mx.eval(results)
        mx.synchronize()
        spent = 1000 * (time.perf_counter() - started)
        self.stats.total_run_time_ms += spent
        return spent, results

    def _grid(
        self, grid: Sequence[int] | None, shapes: Sequence[tuple[int, ...]], filled: bool
    ) -> tuple[int, int, int]:
        if grid is not None:
            return asked.grid(self.spec, grid)
        why = None if filled else guesses.no_grid(self.spec, shapes)
        if why is not None:
            raise asked.wrong(self.spec.name, "grid", f"left out, but {why}", "the grid in threads")
        return asked.grid(self.spec, (max(1, prod(shapes[0])), 1, 1))

    def _threadgroup(
        self, threadgroup: Sequence[int] | None, grid: tuple[int, int, int], filled: bool
    ) -> tuple[int, int, int]:
        if threadgroup is not None:
            return asked.threadgroup(self.spec, threadgroup)
        why = None if filled else guesses.no_threadgroup(self.spec)
        if why is not None:
            wanted = "the threads of a group"
            raise asked.wrong(self.spec.name, "threadgroup", f"left out, but {why}", wanted)
        return (1 << min(9, grid[0].bit_length() - 1), 1, 1)


def _indexed(spec: MetalKernelSpec) -> frozenset[str]:
    """The inputs that the text indexes, so that they are pointers whatever their rank."""
    found = re.findall(r"(?<![\w.])(\w+)\s*\[", uncommented(spec.source))
    return frozenset(found).intersection(spec.input_names)


def _on(stream: Any) -> AbstractContextManager[Any]:
    """`stream` as the current one. Where MLX has no GPU, mx.gpu is what there is."""
    if stream is None:
        return nullcontext()
    device = getattr(stream, "device", stream)
    kind = getattr(device, "type", device)
    if kind == mx.DeviceType.gpu and not mx.is_available(mx.gpu):
        return nullcontext()
    entered: AbstractContextManager[Any] = mx.stream(stream)
    return entered
