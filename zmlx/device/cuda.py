"""The CUDA device: kernels handed to mx.fast.cuda_kernel behind a header of Metal's names.

Comes in: KernelSource objects. Goes out: launchers. MLX compiles the text at run time when it first
evaluates a call and keeps the result by kernel name, which carries the content's digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx

from zmlx.device.base import NEVER_ALONE, DeviceReport, Launcher
from zmlx.device.gpu import Launchers
from zmlx.msl.kernel import KernelSource

HEADER = Path(__file__).parent / "headers" / "msl_on_cuda.h"
THREADGROUP = 128  # as fast as 256 or faster in every elementwise kernel measured on an H100
BYTES, MOST_ELEMENTS = 32, 16  # what a thread takes: two instructions of 16 bytes for each array
# A kernel that computes much gains nothing from more loads in flight, and compiles longer.
MANY_OPS, FEW_ELEMENTS = 24, 4
_SIZES = {"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2}


class CudaDevice:
    """Launches kernels on an NVIDIA GPU through MLX."""

    name = "cuda"
    worth_alone = NEVER_ALONE

    def __init__(self) -> None:
        self._launchers = Launchers(_made, elements, THREADGROUP)

    def unavailable(self) -> str | None:
        if mx.cuda.is_available():
            return None
        return 'this MLX has no CUDA; on Linux with an NVIDIA GPU: pip install "mlx[cuda13]"'

    def build(self, kernels: Sequence[KernelSource]) -> list[Launcher]:
        return self._launchers.build(kernels)

    def report(self) -> DeviceReport:
        problem = self.unavailable()
        return DeviceReport("cuda", mx.__version__, missing=(problem,) if problem else ())


def elements(kernel: KernelSource) -> int:
    """Output elements of a thread: 32 bytes of the narrowest array, 16 elements at most."""
    if len(kernel.ops) > MANY_OPS:
        return FEW_ELEMENTS
    arguments = (*kernel.inputs, *kernel.outputs)
    narrowest = min(_SIZES.get(a.dtype, 4) for a in arguments)
    return min(BYTES // narrowest, MOST_ELEMENTS)


def _made(kernel: KernelSource) -> Any:
    return mx.fast.cuda_kernel(
        name=kernel.name,
        input_names=[a.name for a in kernel.inputs],
        output_names=[a.name for a in kernel.outputs],
        source=kernel.body,
        header=_header() + kernel.header,
        ensure_row_contiguous=False,
    )


@lru_cache(maxsize=1)
def _header() -> str:
    return HEADER.read_text("utf-8")
