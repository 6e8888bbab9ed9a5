"""The CUDA device: kernels handed to mx.fast.cuda_kernel behind a header of Metal's names.

Comes in: KernelSource objects. Goes out: launchers. MLX compiles the text at run time when it first
evaluates a call and keeps the result by kernel name, which carries the content's digest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.device.cuda_text import cuda_text, names_of_metal
from zmlx.device.gpu import GpuDevice
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import Extent, MetalKernelSpec

BYTES, MOST_ELEMENTS = 32, 16  # what a thread takes: two instructions of 16 bytes for each array
# A kernel that computes much gains nothing from more loads in flight, and compiles longer.
MANY_OPS, FEW_ELEMENTS = 24, 4


class CudaDevice(GpuDevice):
    """Launches kernels on an NVIDIA GPU."""

    name = "cuda"
    threadgroup = 128  # as fast as 256 or faster in every elementwise kernel measured on an H100

    def unavailable(self) -> str | None:
        if mx.cuda.is_available():
            return None
        return 'this MLX has no CUDA; on Linux with an NVIDIA GPU: pip install "mlx[cuda13]"'

    def elements(self, kernel: KernelSource) -> int:
        """32 bytes of the narrowest array (but 4 bytes an element count at most), 16 at most."""
        if len(kernel.ops) > MANY_OPS:
            return FEW_ELEMENTS
        sizes = [dtypes.itemsize(a.dtype) for a in (*kernel.inputs, *kernel.outputs)]
        return min(BYTES // min(4, *sizes), MOST_ELEMENTS)

    def written(self, spec: MetalKernelSpec, name: str) -> Any:
        text = cuda_text(spec)
        made = mx.fast.cuda_kernel(
            name=name,
            input_names=list(text.input_names),
            output_names=list(text.output_names),
            source=text.source,
            header=text.header,
            ensure_row_contiguous=spec.ensure_row_contiguous,
        )
        return lambda inputs, grid, **more: made(
            inputs=[*inputs, _grid_array(grid)], grid=grid, **more
        )

    def made(self, kernel: KernelSource) -> Any:
        return mx.fast.cuda_kernel(
            name=kernel.name,
            input_names=[a.name for a in kernel.inputs],
            output_names=[a.name for a in kernel.outputs],
            source=kernel.body,
            header=names_of_metal() + kernel.header,
            ensure_row_contiguous=False,
        )


@lru_cache(maxsize=256)
def _grid_array(grid: Extent) -> mx.array:
    return mx.array(grid, dtype=mx.uint32)
