"""KernelSource: one kernel as text, the narrow waist between those who write kernels and devices.

The emitter and the catalog make KernelSource objects; devices run them. A device never sees a
graph, and the emitter never sees a device.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Arg:
    """One buffer of a kernel: `dtype` is an MLX name, `rank` the rank that the text expects."""

    name: str
    dtype: str
    rank: int


@dataclass(frozen=True)
class KernelSource:
    """A kernel as mx.fast.metal_kernel takes it: `header` (functions), `body` (no signature).

    The body may use the input names, their `<name>_shape`, `<name>_strides`, `<name>_ndim`, the
    output names, the template names and Metal's thread attributes. Inputs arrive with any strides
    (ensure_row_contiguous=False), those of rank 0 as arrays of one element; outputs are
    row-contiguous. The text must never spell an address space for an input pointer: MLX passes
    inputs of fewer than eight elements as `constant`.

    `elementwise` marks the generator's kernels: one-dimensional grid, each thread computes ELEMS
    elements of every output; which ones, the text says. Their template names are
    `ELEMS` (int, chosen by the device) and `INDEX` (type of an output element's index; offsets
    into inputs may need 64 bits all the same). A device may merge dimensions of such a kernel
    before the launch. Their output shape is the broadcast of the input shapes, of rank `rank`.
    """

    stem: str  # readable part of the name: letters, digits, underscores
    inputs: tuple[Arg, ...]
    outputs: tuple[Arg, ...]
    body: str
    header: str = ""
    rank: int = 0
    elementwise: bool = True
    exact: bool = False  # numerics="mlx": the device must use the very functions MLX uses there
    ops: tuple[str, ...] = field(default=())  # names of the ops inside, for reports
    flat: bool = False  # where memory is dense, no thread divides its index; the body says it too

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w*", self.stem):
            raise ValueError(f"kernel stem {self.stem!r} is not an identifier")

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that decides what the kernel computes."""
        parts = [self.header, self.body, repr(self.inputs), repr(self.outputs)]
        parts += [str(self.rank), str(self.elementwise), str(self.exact)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Unique: MLX and the caches hold kernels by name, so it carries the content."""
        return f"zmlx_{self.stem[:40]}_{self.digest[:16]}"

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KernelSource) and self.digest == other.digest
