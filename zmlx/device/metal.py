"""The Metal device: kernels handed to MLX's own mx.fast.metal_kernel.

Comes in: KernelSource objects. Goes out: launchers. MLX compiles the text when it first evaluates a
call and keeps the result by kernel name, which carries the content's digest.
"""

from __future__ import annotations

from typing import Any

from zmlx.device.base import metal_available, metal_kernel
from zmlx.device.gpu import GpuDevice
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import MetalKernelSpec

ELEMENTS = 4  # output elements a GPU thread computes
THREADGROUP = 256


class MetalDevice(GpuDevice):
    """Launches kernels on the GPU of a Mac."""

    name = "metal"
    threadgroup = THREADGROUP

    def unavailable(self) -> str | None:
        if metal_available():
            return None
        return "this MLX has no Metal; on a Mac with Apple silicon: pip install --upgrade mlx"

    def elements(self, kernel: KernelSource) -> int:
        return ELEMENTS

    def written(self, spec: MetalKernelSpec, name: str) -> Any:
        options = {} if spec.math == "safe" else {"compile_options": {"math_mode": spec.math}}
        return metal_kernel(
            name=name,
            input_names=list(spec.input_names),
            output_names=list(spec.output_names),
            source=spec.source,
            header=spec.header,
            ensure_row_contiguous=spec.ensure_row_contiguous,
            atomic_outputs=spec.atomic_outputs,
            **options,
        )

    def made(self, kernel: KernelSource) -> Any:
        return metal_kernel(
            name=kernel.name,
            input_names=[a.name for a in kernel.inputs],
            output_names=[a.name for a in kernel.outputs],
            source=kernel.body,
            header=kernel.header,
            ensure_row_contiguous=False,
        )
