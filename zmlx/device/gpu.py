"""Kernels on a GPU, through MLX's own custom kernels: what Metal and CUDA have in common.

Comes in: a KernelSource and what MLX made of it. Goes out: a launcher. zmlx.device.metal and
zmlx.device.cuda say how MLX gets the text, and how many elements a thread takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.device import tuning
from zmlx.device.base import NEVER_ALONE, DeviceReport, GridLauncher, Launcher, device_named
from zmlx.device.gpu_grid import GpuGridLauncher
from zmlx.device.operands import output_shape
from zmlx.device.rules import Fitted, native_or_none
from zmlx.errors import DeviceError
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import MAX_BUFFERS, Extent, MetalKernelSpec

INT32_MAX = 2**31 - 1
LARGEST_GROUP, WARP = 1024, 32  # threads
SHORT_ROWS, SHORT_ELEMENTS = 8, 8  # rows of fewer than so many threads; elements of a thread there


class GpuDevice(ABC):
    """Launches kernels on a GPU through MLX; a subclass per maker of GPUs says what differs."""

    name: str
    threadgroup: int  # threads
    takes_turns = False
    worth_alone = NEVER_ALONE
    rows_alone = False  # where nobody has measured it
    products: tuple[str, ...] = ()  # a launch from Python costs more than it saves
    slots = MAX_BUFFERS  # arguments that a kernel may take

    def __init__(self) -> None:
        self._launchers: dict[str, Launcher] = {}  # by the kernels' content

    @abstractmethod
    def unavailable(self) -> str | None:
        """See zmlx.device.base.Device."""

    @abstractmethod
    def elements(self, kernel: KernelSource) -> int:
        """Output elements that a thread of `kernel` computes, at least."""

    def group(self, kernel: KernelSource) -> int:
        """Threads of a group that launches `kernel`."""
        return self.threadgroup

    def across(self, kernel: KernelSource) -> tuple[int, int]:
        """Elements of a thread and threads of a group where an input's memory crosses the rows."""
        return self.elements(kernel), self.group(kernel)

    def deals(self, kernel: KernelSource) -> bool:
        """Whether the text of `kernel` asks for SHORT, see zmlx.msl.short."""
        return False

    @abstractmethod
    def written(self, spec: MetalKernelSpec, name: str) -> Any:
        """The hand-written kernel `spec` under `name`, as MLX's callable."""

    @abstractmethod
    def made(self, kernel: KernelSource) -> Any:
        """`kernel` as MLX's callable."""

    def build(self, kernels: Sequence[KernelSource]) -> list[Launcher]:
        """One launcher per kernel; MLX compiles when it first evaluates a call."""
        return [self._launchers.get(k.digest) or self._launcher(k) for k in kernels]

    def grid_launcher(self, spec: MetalKernelSpec) -> GridLauncher:
        """MLX compiles, for each template, when it first evaluates a call."""
        return GpuGridLauncher(spec, self.written)

    def compiled_by(self) -> tuple[str, str]:
        """What compiles kernels, and what keeps that from being fast, with the command, or ""."""
        return "MLX", ""

    def report(self) -> DeviceReport:
        """The host's compiler makes the native module and its folder keeps kernels here too."""
        host, problem = device_named("host").report(), self.unavailable()
        if problem:
            return replace(host, device=self.name, missing=(problem,))
        made, slow = self.compiled_by()
        slower = [f"calls and gradients take longer: {missing}" for missing in host.missing]
        slower += [slow] if slow else []
        return replace(
            host, device=self.name, missing=(), slower=tuple(slower), kernel_compiler=made
        )

    def _launcher(self, kernel: KernelSource) -> Launcher:
        if not kernel.elementwise:
            raise DeviceError(
                f"[zmlx.device] kernel {kernel.name} is not elementwise, and GPU devices run "
                "elementwise kernels only. Run it as MLX ops."
            )
        kinds = [getattr(mx, dtypes.attribute(a.dtype)) for a in kernel.outputs]
        native = native_or_none()
        repeat = None if native is None else native.Repeater()
        made = GpuLauncher(
            kernel, self.made(kernel), kinds, self.elements(kernel), self.group(kernel), repeat,
            self.across(kernel), self.deals(kernel), tuning.settings(self.name, kernel),
        )  # fmt: skip
        return self._launchers.setdefault(kernel.digest, made)


@dataclass
class GpuLauncher:
    """One kernel as MLX's callable, with what a launch must know."""

    kernel: KernelSource
    launch: Any
    dtypes: list[mx.Dtype]
    elements: int  # output elements a thread computes
    threadgroup: int
    repeat: Any  # a Repeater of the native module, None where there is none
    across: tuple[int, int]  # elements and threads where an input's memory crosses the rows
    deals: bool = False  # the text has a way of its own for short rows
    tuned: dict[int, tuple[int, ...]] = field(default_factory=dict)  # by size class

    def __call__(
        self, arrays: Sequence[mx.array], rules: Any = None, ruled: Any = None
    ) -> list[mx.array]:
        outputs = None if self.repeat is None else self.repeat(arrays, rules)
        if outputs is None:
            outputs = self._described(arrays)
            if self.repeat is not None:
                self.repeat.learn(arrays, outputs)
            if rules is not None:
                outputs = ruled(outputs, rules)
        return outputs

    def with_rules(self, rules: Any, ruled: Any) -> Launcher:
        """The same launcher for results that carry `rules`, as `ruled` attaches them."""
        scalars = [a.rank == 0 for a in self.kernel.inputs]
        fitted = Fitted(rules, scalars) if any(scalars) else rules
        return partial(self, rules=fitted, ruled=ruled)

    def setting(self, size: int, arrays: Sequence[mx.array] = ()) -> tuple[int, int]:
        """Elements of a thread and threads of a group, for outputs of `size` elements."""
        found = self.tuned.get(tuning.size_class(size)) if self.tuned else None
        if found:
            return found[0], found[1]
        straight = self.elements, self.threadgroup
        return self.across if self.across != straight and crosses(arrays) else straight

    def with_setting(self, elements: int, threadgroup: int) -> GpuLauncher:
        """The same kernel launched otherwise, to be compared with this one."""
        repeat = None if self.repeat is None else type(self.repeat)()
        asked = elements, threadgroup
        return replace(
            self, elements=elements, threadgroup=threadgroup, repeat=repeat, across=asked, tuned={}
        )

    def adopt(self, size: int, elements: int, threadgroup: int) -> None:
        """Launch outputs of the class of `size` like this from now on."""
        self.tuned = {**self.tuned, tuning.size_class(size): (elements, threadgroup)}
        if self.repeat is not None:
            self.repeat = type(self.repeat)()  # the old one repeats the old launch

    def output_size(self, arrays: Sequence[mx.array]) -> int:
        """Elements of each output."""
        return prod(output_shape(self.kernel, arrays))

    def _described(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        """The launch as MLX takes it from Python."""
        shape = output_shape(self.kernel, arrays)
        if prod(shape) == 0:
            return [mx.zeros(shape, dtype) for dtype in self.dtypes]
        grid, threadgroup, template = self.extent(arrays)
        return list(
            self.launch(
                # MLX passes an array of rank 0 as a reference, which a text cannot index.
                inputs=[a if a.ndim else a.reshape(1) for a in arrays],
                template=template,
                grid=grid,
                threadgroup=threadgroup,
                output_shapes=[shape] * len(self.dtypes),
                output_dtypes=self.dtypes,
            )
        )

    def extent(self, arrays: Sequence[mx.array]) -> tuple[Extent, Extent, list[tuple[str, Any]]]:
        """The grid in threads, a threadgroup, and the template of a launch over `arrays`."""
        shape = output_shape(self.kernel, arrays)
        size = prod(shape)
        least, threadgroup = self.setting(size, arrays)
        short = self.deals and _is_short(shape, least)
        least = min(least, SHORT_ELEMENTS) if short else least
        elements = elements_of_a_thread(size, least)
        threads = -(-size // elements)
        threads = -(-threads // WARP) * WARP if short else threads  # its lanes share their elements
        index = index_type(size, self.kernel.rank, elements)
        template = [("ELEMS", elements), ("INDEX", index)]
        if self.deals:
            template.append(("SHORT", short))
        return (threads, 1, 1), (min(threadgroup, threads), 1, 1), template


def crosses(arrays: Sequence[mx.array]) -> bool:
    """Whether the memory of one of `arrays` runs across its rows; False where none can tell."""
    native = native_or_none()
    return native is not None and bool(native.any_crosses(arrays))


def _is_short(shape: Sequence[int], elements: int) -> bool:
    """Whether threads of so many elements would often take parts of two rows."""
    columns = next((n for n in reversed(shape) if n != 1), 1)
    return columns < SHORT_ROWS * elements and columns % elements != 0


def elements_of_a_thread(size: int, least: int) -> int:
    """`least` output elements, or as many as a grid of 31 bits asks for."""
    elements = least
    while -(-size // elements) > INT32_MAX:
        elements *= 2
    return elements


def index_type(size: int, rank: int, elements: int) -> mx.Dtype:
    """32 bits where they count all elements: GPUs divide 64-bit integers slowly.

    A kernel of one dimension divides nothing.
    """
    beyond = elements * LARGEST_GROUP  # whole groups run: some threads begin behind the end
    return mx.int32 if rank > 1 and size <= INT32_MAX - beyond else mx.int64
