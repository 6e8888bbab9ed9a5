"""The CUDA device: kernels handed to mx.fast.cuda_kernel behind a header of Metal's names.

Comes in: KernelSource objects. Goes out: launchers. MLX compiles the text at run time when it first
evaluates a call and keeps the result by kernel name, which carries the content's digest.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.device.cuda_kernel import cuda_kernel, described
from zmlx.device.cuda_text import HALVES, NAMES, CudaText, cuda_text
from zmlx.device.gpu import LARGEST_GROUP, GpuDevice
from zmlx.msl.kernel import Arg, KernelSource
from zmlx.msl.spec import Extent, MetalKernelSpec

# Output elements of a thread, by the bytes of an element of the widest array: up to 32 bytes of an
# array, in two instructions, are loads enough in flight.
ELEMENTS = {8: 4, 4: 8, 2: 16, 1: 16}
# Halves move so fast that the ~120 instructions of a thread's own weigh as much as its elements do,
# where it divides its index (a broadcast) or computes on. More elements share them, as long as what
# they hold finds room in registers.
MORE_HALVES, SOME_OPS, FEW_ARRAYS = 32, 12, 4
# What merely streams, such as silu(a) * b in float32, is 1 % faster with one instruction for each
# of its arrays and the largest groups: mx.compile's own speed.
STREAMING_OPS, STREAMING_ARRAYS = 4, 3
# Elements and threads where an input is transposed, by the bytes of an element of the widest array:
# large groups read more of what lies beside what they need.
ACROSS = {4: (8, 1024), 2: (32, 256)}
# A kernel that computes much gains nothing from more loads in flight, and compiles longer: one
# instruction for each array. Beyond TOO_MANY_OPS its function is compiled once, and called.
MANY_OPS, TOO_MANY_OPS = 32, 40
# The headers of Metal's names go in by their places: they would be most of the text (see _compact).
_INCLUDED = "".join(f'#include "{path.as_posix()}"\n' for path in NAMES)
# What other devices read; of two parts, the one for this device is "wide".
_FOR_OTHERS = re.compile(
    r"^ *#ifdef ZMLX_WIDE\n(?P<wide>.*?)(?: *#else\n.*?)?^ *#endif\n"
    r"|^ *#ifndef ZMLX_WIDE\n.*?^ *#endif\n",
    re.DOTALL | re.MULTILINE,
)


class CudaDevice(GpuDevice):
    """Launches kernels on an NVIDIA GPU."""

    name = "cuda"
    slots = 128  # of 4 KB
    worth_alone = 150  # from tanh on: 1.1 times as fast as MLX's in float32, to 1.5 in bfloat16
    rows_alone = True  # logsumexp 2 times, softmax 1.4 times, layer norm 2 times as fast as MLX's
    threadgroup = 128  # within 3 % of the best of 128, 256 and 512 in every kernel measured

    def unavailable(self) -> str | None:
        if mx.cuda.is_available():
            return None
        return 'this MLX has no CUDA; on Linux with an NVIDIA GPU: pip install "mlx[cuda13]"'

    def compiled_by(self) -> tuple[str, str]:
        """See GpuDevice."""
        return described()

    def elements(self, kernel: KernelSource) -> int:
        """As many as make the fastest kernel; see the constants."""
        least = ELEMENTS[_widest(kernel)]
        if len(kernel.ops) > MANY_OPS or _streams(kernel):
            return least // 2
        works = _divides(kernel) or len(kernel.ops) > SOME_OPS
        few = len(_arrays(kernel)) <= FEW_ARRAYS
        return MORE_HALVES if _gives_halves(kernel) and works and few else least

    def group(self, kernel: KernelSource) -> int:
        """See GpuDevice."""
        return LARGEST_GROUP if _streams(kernel) else self.threadgroup

    def across(self, kernel: KernelSource) -> tuple[int, int]:
        """See GpuDevice."""
        straight = self.elements(kernel), self.group(kernel)
        simple = kernel.rank > 1 and len(kernel.ops) <= SOME_OPS
        few = len(_arrays(kernel)) <= FEW_ARRAYS
        return ACROSS.get(_widest(kernel), straight) if simple and few else straight

    def deals(self, kernel: KernelSource) -> bool:
        """See GpuDevice."""
        return _divides(kernel)

    def written(self, spec: MetalKernelSpec, name: str) -> Any:
        made = cuda_kernel(name, cuda_text(spec), spec.ensure_row_contiguous)
        if spec.whole:
            return made
        return lambda inputs, grid, **more: made(
            inputs=[*inputs, _grid_array(grid)], grid=grid, **more
        )

    def made(self, kernel: KernelSource) -> Any:
        text = CudaText(
            tuple(a.name for a in kernel.inputs),
            tuple(a.name for a in kernel.outputs),
            _compact(kernel.body),
            _header(kernel),
        )
        return cuda_kernel(kernel.name, text, ensure_row_contiguous=False)


def text_of(kernel: KernelSource) -> str:
    """The CUDA text of a kernel of the generator: its header, then the body of its function."""
    return f"{_header(kernel)}// body\n{_compact(kernel.body)}"


def _header(kernel: KernelSource) -> str:
    return _facts(kernel) + _INCLUDED + _compact(_function(kernel))


def _arrays(kernel: KernelSource) -> tuple[Arg, ...]:
    return (*kernel.inputs, *kernel.outputs)


def _widest(kernel: KernelSource) -> int:
    """Bytes of an element of the widest array."""
    return max(dtypes.itemsize(a.dtype) for a in _arrays(kernel))


def _gives_halves(kernel: KernelSource) -> bool:
    return all(a.dtype in dtypes.HALVES for a in kernel.outputs)


def _divides(kernel: KernelSource) -> bool:
    """Whether threads divide their index even where all memory is dense: a broadcast."""
    return kernel.rank > 1 and not kernel.flat


def _streams(kernel: KernelSource) -> bool:
    """Whether it is all memory: wide elements of several arrays, little to compute."""
    few = len(kernel.ops) <= STREAMING_OPS and len(_arrays(kernel)) == STREAMING_ARRAYS
    return _widest(kernel) == 4 and few and not _divides(kernel)


def _function(kernel: KernelSource) -> str:
    """The kernel's function; where it is long, one that is called, not copied into each place."""
    if len(kernel.ops) <= TOO_MANY_OPS:
        return kernel.header
    return kernel.header.replace("inline void zmlx_region(", "ZM_CALLED void zmlx_region(")


def _compact(text: str) -> str:
    """What of `text` matters here: MLX hashes the source at every launch, 0.2 us for each kB."""
    text = _FOR_OTHERS.sub(lambda m: m["wide"] or "", text)
    lines = [line.strip() for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("//"))


def _facts(kernel: KernelSource) -> str:
    """What the header of Metal's names must know of a kernel: macros."""
    halves = not kernel.exact and _gives_halves(kernel)
    return f"#define ZM_WIDEST {_widest(kernel)}\n" + (HALVES if halves else "")


@lru_cache(maxsize=256)
def _grid_array(grid: Extent) -> mx.array:
    return mx.array(grid, dtype=mx.uint32)
