"""The Metal device: kernels handed to MLX's own mx.fast.metal_kernel.

Comes in: KernelSource objects. Goes out: launchers. MLX compiles the text when it first evaluates a
call and keeps the result by kernel name, which carries the content's digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from zmlx.device.base import NEVER_ALONE, DeviceReport, Launcher
from zmlx.errors import DeviceError
from zmlx.msl.kernel import KernelSource

ELEMENTS = 4  # output elements a GPU thread computes
THREADGROUP = 256
INT32_MAX = 2**31 - 1


class MetalDevice:
    """Launches kernels on the GPU through MLX."""

    name = "metal"
    worth_alone = NEVER_ALONE

    def __init__(self) -> None:
        self._launchers: dict[str, Launcher] = {}

    def unavailable(self) -> str | None:
        if mx.metal.is_available():
            return None
        return "this MLX has no Metal; on a Mac with Apple silicon: pip install --upgrade mlx"

    def build(self, kernels: Sequence[KernelSource]) -> list[Launcher]:
        for kernel in kernels:
            if kernel.digest not in self._launchers:
                self._launchers[kernel.digest] = MetalLauncher.of(kernel)
        return [self._launchers[kernel.digest] for kernel in kernels]

    def report(self) -> DeviceReport:
        problem = self.unavailable()
        return DeviceReport("metal", mx.__version__, missing=(problem,) if problem else ())


@dataclass(frozen=True)
class MetalLauncher:
    """One kernel as MLX's callable, with what a launch must know."""

    kernel: KernelSource
    launch: Any
    dtypes: list[mx.Dtype] = field(default_factory=list)

    @classmethod
    def of(cls, kernel: KernelSource) -> MetalLauncher:
        if not kernel.elementwise:
            raise DeviceError(
                f"[zmlx.device] kernel {kernel.name} is not elementwise, and the Metal device runs "
                "elementwise kernels only. Run it as MLX ops."
            )
        launch = mx.fast.metal_kernel(
            name=kernel.name,
            input_names=[a.name for a in kernel.inputs],
            output_names=[a.name for a in kernel.outputs],
            source=kernel.body,
            header=kernel.header,
            ensure_row_contiguous=False,
        )
        return cls(kernel, launch, [getattr(mx, _member(a.dtype)) for a in kernel.outputs])

    def __call__(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        shape, size = self._output_shape(arrays), 1
        for n in shape:
            size *= n
        if size == 0:
            return [mx.zeros(shape, dtype) for dtype in self.dtypes]
        elements = _elements(size)
        threads = -(-size // elements)
        return list(
            self.launch(
                # MLX passes an array of rank 0 as a reference, which a text cannot index.
                inputs=[a if a.ndim else a.reshape(1) for a in arrays],
                template=[("ELEMS", elements), ("INDEX", _index_type(size, self.kernel.rank))],
                grid=(threads, 1, 1),
                threadgroup=(min(THREADGROUP, threads), 1, 1),
                output_shapes=[shape] * len(self.dtypes),
                output_dtypes=self.dtypes,
            )
        )

    def _output_shape(self, arrays: Sequence[mx.array]) -> tuple[int, ...]:
        got = [(str(a.dtype).removeprefix("mlx.core."), a.ndim) for a in arrays]
        if got != [(a.dtype, a.rank) for a in self.kernel.inputs]:
            raise ValueError(
                f"[zmlx.device] kernel {self.kernel.name}: needs "
                f"{[(a.dtype, a.rank) for a in self.kernel.inputs]} as (dtype, rank), got {got}. "
                "Pass arrays as the kernel declares them."
            )
        rank = self.kernel.rank
        shape = mx.broadcast_shapes((1,) * rank, *[a.shape for a in arrays if a.ndim <= rank])
        return tuple(shape)


def _member(dtype: str) -> str:
    """The attribute of mlx.core for the MLX dtype `dtype`."""
    return "bool_" if dtype == "bool" else dtype


def _elements(size: int) -> int:
    """Output elements of a thread: a few, or as many as a grid of 31 bits asks for."""
    elements = ELEMENTS
    while -(-size // elements) > INT32_MAX:
        elements *= 2
    return elements


def _index_type(size: int, rank: int) -> mx.Dtype:
    """32 bits where they count all elements: GPUs divide 64-bit integers slowly.

    A kernel of one dimension divides nothing.
    """
    return mx.int32 if rank > 1 and size <= INT32_MAX - ELEMENTS else mx.int64
