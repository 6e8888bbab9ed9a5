"""Hand-written kernels: the text a person writes, and one launch of it.

Comes in: what mx.fast.metal_kernel takes. Goes out: MetalKernelSpec, which devices build, and
Launch, which they run. The generator's kernels are zmlx.msl.kernel.KernelSource: those know their
own launch.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property

Extent = tuple[int, int, int]
MAX_BUFFERS = 31  # Metal's limit for one kernel
MAX_THREADS = 1024  # of a threadgroup, on every GPU that MLX runs on
MATH_MODES = ("safe", "relaxed", "fast")  # of mx.fast.metal_kernel's compile_options
_NO_WORD = r"\W"


@dataclass(frozen=True)
class MetalKernelSpec:
    """A kernel as text: `source` is the body of the function, `header` stands in front of it.

    The body sees input and output names as pointers, `<input>_shape`, `<input>_strides` and
    `<input>_ndim`, the template's names and Metal's thread attributes. Inputs at the places
    `references`, all of rank 0, are references, as in MLX; no other has rank 0. `math` is Metal's
    math mode. `halves` says that every result will be rounded to
    a type of 16 bits: a device may take functions that are exact enough for that; `exact` that the
    device must use the very functions MLX uses there. `widest` are the bytes of an element of the
    widest array, where threads are dealt elements by zmlx_deal. `whole` says that every grid is
    whole threadgroups, and that the text does not ask for the grid in threads; `busy` is how
    many threads a multiprocessor is to hold at one time, whatever registers each of them wants.
    """

    name: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    source: str
    header: str = ""
    ensure_row_contiguous: bool = True
    atomic_outputs: bool = False
    halves: bool = False
    exact: bool = False
    widest: int = 0
    whole: bool = False
    busy: int = 0
    references: tuple[int, ...] = ()
    math: str = "safe"

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that decides what the kernel computes."""
        parts = (
            self.name, *self.input_names, "", *self.output_names, "", self.source, self.header,
            str(self.ensure_row_contiguous), str(self.atomic_outputs), str(self.halves),
            *(["exact"] if self.exact else []), *([str(self.widest)] if self.widest else []),
            *(["whole"] if self.whole else []), *([f"busy {self.busy}"] if self.busy else []),
            *[f"&{i}" for i in self.references],
            *([self.math] if self.math != "safe" else []),
        )  # fmt: skip
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def launched(self, launch: Launch) -> MetalKernelSpec:
        """The kernel as `launch` has it: the same text may take references or arrays."""
        if launch.references == self.references:
            return self
        return replace(self, references=launch.references)

    @property
    def unique_name(self) -> str:
        """MLX and the caches hold kernels by name, so it carries the content."""
        return f"zmlx_{re.sub(_NO_WORD, '_', self.name)[:40]}_{self.digest[:16]}"


@dataclass(frozen=True)
class Launch:
    """How one call runs: `grid` counts threads, `threadgroup` those of a group.

    `template` pairs names with an int, a bool or an MLX dtype name (a str). `init_value` fills the
    outputs first. `references`: see MetalKernelSpec.
    """

    grid: Extent
    threadgroup: Extent
    output_shapes: tuple[tuple[int, ...], ...]
    output_dtypes: tuple[str, ...]
    template: tuple[tuple[str, int | bool | str], ...] = ()
    init_value: float | None = None
    references: tuple[int, ...] = ()

    @cached_property
    def typed(self) -> tuple[tuple[str, str, int | bool | str], ...]:
        """The template as a key: True is not 1."""
        return tuple((name, type(value).__name__, value) for name, value in self.template)
