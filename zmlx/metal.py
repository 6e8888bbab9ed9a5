"""Kernels written in Metal Shading Language, on every device: `kernel` and what it returns.

The text is what mx.fast.metal_kernel takes. It runs on Metal as it is, on CUDA behind a header of
Metal's names, and on the CPU compiled as C++.
"""

from __future__ import annotations

import numbers
import operator
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.cache import GLOBAL_KERNEL_CACHE, KernelCacheKey
from zmlx.device import watch
from zmlx.device.base import GridLauncher, device_for_current_stream
from zmlx.device.grid_text import ATTRIBUTES
from zmlx.errors import DeviceError
from zmlx.msl.spec import MAX_THREADS, Extent, Launch, MetalKernelSpec
from zmlx.msl.words import KEYWORDS
from zmlx.trace import intercept
from zmlx.trace.operands import name_of

__all__ = ["KernelStats", "MetalKernel", "MetalKernelSpec", "kernel"]

INT32_MAX = 2**31 - 1
IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"


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
    *,
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
    cache: bool = True,
) -> MetalKernel:
    """A kernel from the body of a Metal function; the same object for the same arguments.

    `cache=False` always builds a new one and keeps it nowhere. ValueError for names that are no
    identifiers or occur twice, and for an empty source.
    """
    for argument, names in (("input_names", input_names), ("output_names", output_names)):
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise ValueError(
                f"[zmlx.metal] kernel {name!r}: {argument} is {names!r}; give a list of names."
            )
    spec = MetalKernelSpec(
        name, tuple(input_names), tuple(output_names), source, header,
        ensure_row_contiguous, atomic_outputs,
    )  # fmt: skip
    _check_spec(spec)
    if not cache:
        return MetalKernel(spec)
    key = KernelCacheKey.from_parts(
        name=name, input_names=input_names, output_names=output_names, source=source,
        header=header, ensure_row_contiguous=ensure_row_contiguous, atomic_outputs=atomic_outputs,
    )  # fmt: skip
    found: MetalKernel = GLOBAL_KERNEL_CACHE.get(key)
    return found or GLOBAL_KERNEL_CACHE.put(key, MetalKernel(spec))


class MetalKernel:
    """A kernel that can be launched; `spec` says what it is, `stats` what it did."""

    def __init__(self, spec: MetalKernelSpec) -> None:
        self.spec = spec
        self.stats = KernelStats()
        self._launchers: dict[str, GridLauncher] = {}

    def __repr__(self) -> str:
        spec = self.spec
        return f"<MetalKernel {spec.name}{spec.input_names} -> {spec.output_names}>"

    def __call__(
        self,
        *inputs: mx.array,
        template: Sequence[tuple[str, Any]] | None = None,
        grid: Sequence[int] | None = None,
        threadgroup: Sequence[int] | None = None,
        output_shapes: Sequence[Sequence[int]] | None = None,
        output_dtypes: Sequence[mx.Dtype] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        timed: bool = False,
    ) -> list[mx.array]:
        """Launch: a list of arrays, one for each output name.

        `grid` counts threads, `threadgroup` those of a group. Left out, outputs are shaped and
        typed like the first input, the grid has a thread for each element of the first output, and
        a group has the largest power of two up to 512 that is not above it. `timed` waits for the
        result and adds to the statistics; `verbose` also prints the launch. ValueError where counts
        or sizes do not fit; DeviceError where this machine cannot run kernels, or the text does not
        compile.
        """
        tracer = intercept.current()
        if tracer is not None and tracer.sees(inputs):
            how = {
                "template": template, "grid": grid, "threadgroup": threadgroup,
                "output_shapes": output_shapes, "output_dtypes": output_dtypes,
                "init_value": init_value,
            }  # fmt: skip
            found: list[mx.array] = tracer.opaque(self.spec.name, self, inputs, how)
            return found
        launch = self.prepared(
            inputs, template, grid, threadgroup, output_shapes, output_dtypes, init_value
        )
        arrays = [x if x.ndim else x.reshape(1) for x in inputs]
        if verbose or timed:
            return self._measured(arrays, launch, verbose)
        return self.run(arrays, launch)

    def prepared(
        self,
        inputs: Sequence[mx.array],
        template: Sequence[tuple[str, Any]] | None = None,
        grid: Sequence[int] | None = None,
        threadgroup: Sequence[int] | None = None,
        output_shapes: Sequence[Sequence[int]] | None = None,
        output_dtypes: Sequence[mx.Dtype] | None = None,
        init_value: float | None = None,
    ) -> Launch:
        """The launch of a call, checked; `run` takes it for inputs of these shapes and types."""
        self._check_inputs(inputs)
        shapes, kinds = self._outputs(inputs, output_shapes, output_dtypes)
        if init_value is not None and not isinstance(init_value, numbers.Real):
            raise self._wrong("init_value", repr(init_value), "a number")
        if self.spec.atomic_outputs and init_value is None:
            raise self._wrong("init_value", "None", "a number, since its outputs are atomic")
        wide = self._grid(grid, shapes)
        return Launch(
            wide, self._threadgroup(threadgroup, wide), shapes, kinds,
            self._template(template or ()), init_value,
        )  # fmt: skip

    def run(self, arrays: Sequence[mx.array], launch: Launch) -> list[mx.array]:
        """A call that has been prepared; `arrays`, none of rank 0, are not checked again."""
        self.stats.run_count += 1
        if all(prod(shape) == 0 for shape in launch.output_shapes):
            pairs = zip(launch.output_shapes, launch.output_dtypes, strict=True)
            return [mx.zeros(shape, getattr(mx, dtypes.attribute(kind))) for shape, kind in pairs]
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

    def _measured(self, arrays: list[mx.array], launch: Launch, verbose: bool) -> list[mx.array]:
        mx.eval(arrays)
        mx.synchronize()
        started = time.perf_counter()
        results = self.run(arrays, launch)
        mx.eval(results)
        mx.synchronize()
        spent = 1000 * (time.perf_counter() - started)
        self.stats.total_run_time_ms += spent
        if verbose:
            print(f"{self!r}: {launch} took {spent:.3f} ms\n{self.spec.header}{self.spec.source}")
        return results

    def _check_inputs(self, inputs: Sequence[mx.array]) -> None:
        names = self.spec.input_names
        if len(inputs) != len(names):
            raise self._wrong("inputs", f"{len(inputs)} arrays", f"{len(names)}: {names}")
        for name, value in zip(names, inputs, strict=True):
            if not isinstance(value, mx.array):
                raise TypeError(str(self._wrong(name, type(value).__name__, "an mx.array")))
            if not dtypes.has_msl(name_of(value.dtype)):
                raise self._wrong(name, name_of(value.dtype), "a type that Metal has")

    def _outputs(
        self,
        inputs: Sequence[mx.array],
        shapes: Sequence[Sequence[int]] | None,
        kinds: Sequence[mx.Dtype] | None,
    ) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
        """Shapes and types of all outputs, those of the first input where they are left out."""
        count = len(self.spec.output_names)
        if not inputs and (shapes is None or kinds is None):
            wanted = "both, since the kernel has no input to copy them from"
            raise self._wrong("output_shapes and output_dtypes", "None", wanted)
        shapes = [inputs[0].shape] * count if shapes is None else shapes
        kinds = [inputs[0].dtype] * count if kinds is None else kinds
        for name, given in (("output_shapes", shapes), ("output_dtypes", kinds)):
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise self._wrong(name, repr(given), "a list with an entry for each output")
            if len(given) != count:
                raise self._wrong(name, f"{len(given)} entries", f"{count}, one for each output")
        for kind in kinds:
            if not isinstance(kind, mx.Dtype) or not dtypes.has_msl(name_of(kind)):
                raise self._wrong("output_dtypes", repr(kind), "types that Metal has")
        sizes = []
        for shape in shapes:
            whole = _whole(shape)
            if whole is None or any(n < 0 for n in whole):
                raise self._wrong("output_shapes", repr(shape), "sizes from 0 on")
            sizes.append(whole)
        return tuple(sizes), tuple(name_of(kind) for kind in kinds)

    def _grid(self, grid: Sequence[int] | None, shapes: Sequence[tuple[int, ...]]) -> Extent:
        if grid is None:
            grid = (max(1, prod(shapes[0])), 1, 1)
        return self._extent("grid", grid, INT32_MAX)

    def _threadgroup(self, threadgroup: Sequence[int] | None, grid: Extent) -> Extent:
        if threadgroup is None:
            return (1 << min(9, grid[0].bit_length() - 1), 1, 1)
        extent = self._extent("threadgroup", threadgroup, MAX_THREADS)
        if prod(extent) > MAX_THREADS:
            raise self._wrong("threadgroup", repr(extent), f"at most {MAX_THREADS} threads in all")
        return extent

    def _extent(self, name: str, given: Sequence[int], most: int) -> Extent:
        sizes = _whole(given)
        if sizes is None or len(sizes) != 3 or not all(1 <= n <= most for n in sizes):
            raise self._wrong(name, repr(given), f"three whole numbers from 1 to {most}")
        return sizes[0], sizes[1], sizes[2]

    def _template(self, pairs: Sequence[tuple[str, Any]]) -> tuple[tuple[str, int | str], ...]:
        found: dict[str, int | str] = {}
        taken = {*KEYWORDS, *ATTRIBUTES, *self.spec.input_names, *self.spec.output_names}
        for pair in pairs:
            name, value = pair if isinstance(pair, Sequence) and len(pair) == 2 else (pair, None)
            if not isinstance(name, str) or not re.fullmatch(IDENTIFIER, name):
                raise self._wrong("template", repr(pair), "pairs of a name and a value")
            if name in taken or name in found:
                raise self._wrong("template", f"{name!r}, which is taken", "another name")
            if isinstance(value, mx.Dtype) and dtypes.has_msl(name_of(value)):
                found[name] = name_of(value)
            elif isinstance(value, int) and -INT32_MAX - 1 <= value <= INT32_MAX:
                found[name] = value
            else:
                wanted = "an int of 32 bits, a bool or a dtype"
                raise self._wrong(f"template {name}", repr(value), wanted)
        return tuple(found.items())

    def _wrong(self, argument: str, came: str, wanted: str) -> ValueError:
        return ValueError(
            f"[zmlx.metal] kernel {self.spec.name!r}: {argument} is {came}; give {wanted}."
        )


def _whole(given: Any) -> tuple[int, ...] | None:
    """`given` as whole numbers, of NumPy too; None where it is none."""
    try:
        return tuple([operator.index(n) for n in given])
    except TypeError:
        return None


def _check_spec(spec: MetalKernelSpec) -> None:
    names = [*spec.input_names, *spec.output_names]
    for name in (spec.name, *names):
        if not isinstance(name, str) or not re.fullmatch(IDENTIFIER, name):
            raise _bad(spec, f"{name!r} is no identifier")
    for name in names:
        if name in KEYWORDS or name in ATTRIBUTES:
            raise _bad(
                spec, f"{name!r} is a word of Metal's own, so no array can have it as a name"
            )
    if len(set(names)) < len(names):
        raise _bad(spec, f"a name occurs twice in {names}")
    for name in spec.input_names:
        for described in (f"{name}_shape", f"{name}_strides", f"{name}_ndim"):
            if described in names:
                raise _bad(spec, f"{described!r} is what MLX calls a part of {name!r}; rename one")
    if not spec.output_names:
        raise _bad(spec, "it has no output; name one")
    for argument, text in (("source", spec.source), ("header", spec.header)):
        if not isinstance(text, str):
            raise _bad(spec, f"{argument} is a {type(text).__name__}; give a str")
    if not spec.source.strip():
        raise _bad(spec, "it has an empty source")


def _bad(spec: MetalKernelSpec, problem: str) -> ValueError:
    return ValueError(f"[zmlx.metal] kernel {spec.name!r}: {problem}.")
