"""Together: regions of one body as a step of its own, whose small launches are made as one.

Comes in: regions that compute the same of other arrays (zmlx.fuse.alike). Goes out: Together, a
callable from arrays to the results of all. zmlx.fuse.program calls it, for arrays that no
transformation of MLX traces: those go through the regions one by one, with their own rules.

On a CPU the launches are the regions' own, made by one primitive; on a GPU they are a kernel of its
own (zmlx.msl.alike), which takes arrays without gaps. Large launches stay apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.device import watch
from zmlx.device.base import current_name, device_for_current_stream
from zmlx.device.gpu import GpuDevice, crosses, elements_of_a_thread, index_type
from zmlx.device.rules import grouped, is_native
from zmlx.fuse import dumped
from zmlx.fuse.by_size import BySize, alone
from zmlx.fuse.check import same
from zmlx.fuse.extract import Ends, Region
from zmlx.fuse.region import RegionFunction
from zmlx.fuse.runtime import Run, Runtime
from zmlx.fuse.shapes import reshaped
from zmlx.msl.alike import Reads, alike_kernel, slots, table
from zmlx.msl.emit import emit
from zmlx.msl.kernel import KernelSource
from zmlx.msl.space import MAX_BUFFERS
from zmlx.msl.spec import Launch, MetalKernelSpec
from zmlx.trace.graph import Graph, broadcast
from zmlx.trace.operands import name_of

Arrays = Sequence[mx.array]
# Launches that one primitive of a CPU makes: each of its outputs holds all inputs, so that more of
# them cost more than they save.
HOST_MOST = 4
# Bytes that a launch moves from which on it is worth a primitive, or a kernel, of its own.
HOST_BYTES, GPU_BYTES = 1 << 21, 1 << 26
HOST_FEWEST, GPU_FEWEST = 4, 2  # regions that a step of several has
ELEMENTS, GROUP = 4, 64  # of a GPU's kernel where the sanitizer watches it


def fewest() -> int:
    """How many regions of one body are worth a step of their own, on the current device."""
    return HOST_FEWEST if alone() else GPU_FEWEST


@dataclass(frozen=True, eq=False)
class _Member:
    """A region: its function, and where what it reads and gives is among the step's."""

    function: RegionFunction
    arrays: tuple[int, ...]
    scalars: tuple[int, ...]
    results: tuple[int, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        return (*self.arrays, *self.scalars)


class Together(BySize):
    """Such a step as a function of its inputs: arrays, then numbers as arrays of shape (1,)."""

    def __init__(
        self, regions: Sequence[Region], functions: Sequence[RegionFunction], runtime: Runtime,
        name: str,
    ) -> None:  # fmt: skip
        super().__init__(runtime, name, [regions[0].graph])
        self.regions = tuple(regions)
        arrays = dict.fromkeys(n for r in regions for n in r.ends.inputs)
        scalars = dict.fromkeys(n for r in regions for n in r.ends.scalars)
        outputs = tuple(n for r in regions for n in r.ends.outputs)
        self.ends = Ends(tuple(arrays), tuple(scalars), outputs)
        places = {n: i for i, n in enumerate((*arrays, *scalars))}
        results = {n: i for i, n in enumerate(outputs)}
        self._members = [
            _Member(
                function,
                tuple(places[n] for n in region.ends.inputs),
                tuple(places[n] for n in region.ends.scalars),
                tuple(results[n] for n in region.ends.outputs),
            )
            for region, function in zip(regions, functions, strict=True)
        ]

    def plain(self, arrays: Arrays) -> list[mx.array]:
        """The same by a launch for each region."""
        return _run(self._members, arrays)

    def launches(self, arrays: Arrays) -> list[list[int]]:
        """Which regions, by position, are launched together for such arrays."""
        return [[self._members.index(m) for m in part] for part in self._dealt(arrays)]

    def _key(self, arrays: Arrays) -> Any:
        if not alone():  # a launch knows its sizes
            return (super()._key(arrays), *[crosses([a]) for a in arrays])
        small = [self._is_small([arrays[i] for i in m.arrays], m) for m in self._members]
        empty = [a.size == 0 for a in arrays]
        return (current_name(), self.runtime.signature(arrays), *small, *empty)

    def _made(self, arrays: Arrays) -> Run:
        runs: list[tuple[Sequence[_Member], Run | None]] = []
        dealt = self._dealt(arrays)
        for members in dealt:
            several = len(members) > 1
            runs.append((members, self._joined(members, arrays) if several else None))
        count, names = len(self.ends.outputs), [", ".join(_names(m)) for m in dealt]
        how = "by one primitive" if alone() else "by one kernel"
        lines = [f"{n} {how if len(m) > 1 else 'alone'}" for n, m in zip(names, dealt, strict=True)]
        dumped.shared(self.name, "regions of one body, launched", lines)

        def run(arrays: Arrays) -> list[mx.array]:
            results: list[Any] = [None] * count
            for members, joined in runs:
                made = _run(members, arrays) if joined is None else joined(arrays)
                places = [i for m in members for i in m.results]
                for place, result in zip(places, made, strict=True):
                    results[place] = result
            return results

        return run

    # -- which launches are made together ---------------------------------------------------------
    def _dealt(self, arrays: Arrays) -> list[list[_Member]]:
        """The regions of each launch: small ones share it, on a GPU those that broadcast alike."""
        groups: dict[Any, list[_Member]] = {}
        dealt: list[list[_Member]] = []
        for member in self._members:
            own = [arrays[i] for i in member.arrays]
            pattern = _pattern(own, alone())
            if pattern is None or not self._is_small(own, member):
                dealt.append([member])
            else:
                groups.setdefault(pattern, []).append(member)
        for members in groups.values():
            most = self._most(members)
            dealt += [members[k : k + most] for k in range(0, len(members), most)]
        return dealt

    def _is_small(self, arrays: Arrays, member: _Member) -> bool:
        graph, space = member.function.graph, prod(broadcast([a.shape for a in arrays]))
        written = [space * dtypes.itemsize(graph[n]["dtype"]) for n in graph.outputs]
        return sum(a.nbytes for a in arrays) + sum(written) <= (
            HOST_BYTES if alone() else GPU_BYTES
        )

    def _most(self, members: Sequence[_Member]) -> int:
        """How many of them one launch takes."""
        if alone():
            return HOST_MOST
        room = getattr(device_for_current_stream(), "slots", MAX_BUFFERS)
        outputs = len(members[0].results)
        counts = range(len(members), 1, -1)
        return next((n for n in counts if slots(_reads(members[:n])[1], outputs) <= room), 1)

    # -- launches ---------------------------------------------------------------------------------
    def _joined(self, members: Sequence[_Member], arrays: Arrays) -> Run | None:
        """The launch of several; None where each is to have its own."""
        if device_for_current_stream().unavailable() is not None:
            return None
        made = (self._primitive if alone() else self._kernel)(members, arrays)
        if made is None or not self.runtime.check:
            return made
        return same(made, partial(_run, members), self.runtime.exact, self.name)

    def _primitive(self, members: Sequence[_Member], arrays: Arrays) -> Run | None:
        """The launches of all as one primitive."""
        special = [m.function.specialized([arrays[i].shape for i in m.reads]) for m in members]
        kernels = [s.kernel for s in special if s.kernel is not None]
        launchers = [s.launcher for s in special if s.launcher is not None]
        if len(launchers) < len(members) or not all(map(is_native, launchers)):
            return None
        other = partial(_elsewhere, members, arrays)
        launch = grouped(launchers)
        launch = dumped.launching_grouped(self.runtime, self.name, kernels, launch, other)
        if self.runtime.watched:
            launch = watch.watched(kernels[0], current_name(), launch, self.name)
        reads = [i for m in members for i in m.reads]
        return lambda arrays: launch([arrays[i] for i in reads])

    def _kernel(self, members: Sequence[_Member], arrays: Arrays) -> Run | None:
        """A kernel that computes all; each array is one row to it."""
        exact, (inputs, _) = self.runtime.exact, _reads(members)
        spec, kernel = _one(members, arrays), emit(_flat(members[0], arrays), exact)
        launch, numbers = _launch(kernel, members, arrays)
        launcher = self._launcher(spec, lambda: spec)

        def run(arrays: Arrays) -> list[mx.array]:
            given = [arrays[i] for i in inputs]
            return launcher([*[a if a.ndim else a.reshape(1) for a in given], numbers], launch)

        return run


def _run(members: Sequence[_Member], arrays: Arrays) -> list[mx.array]:
    """The results of `members`, each by its own launch."""
    return [r for m in members for r in m.function([arrays[i] for i in m.reads])]


def _names(members: Sequence[_Member]) -> list[str]:
    return [m.function.name.rpartition(".")[2] for m in members]


def _pattern(arrays: Arrays, own: bool) -> tuple[bool, ...] | None:
    """Which arrays are one number for all elements, the same where regions run kernels of their
    `own`; None where one is neither that nor as large as what is computed, or read across its
    rows: a kernel of rows would need a copy.
    """
    space = broadcast([a.shape for a in arrays])
    if 0 in space:
        return None
    if own:
        return ()
    ones = tuple([a.size == 1 for a in arrays])
    full = all(one or a.shape == space for one, a in zip(ones, arrays, strict=True))
    return ones if full and not all(ones) and not crosses(arrays) else None


def _reads(members: Sequence[_Member]) -> tuple[list[int], list[Reads]]:
    """The inputs of a kernel for `members`, as the step's, and which of them each reads."""
    arrays = dict.fromkeys(i for m in members for i in m.arrays)
    scalars = dict.fromkeys(i for m in members for i in m.scalars)
    own = {i: k for k, i in enumerate(arrays)}
    numbers = {i: k for k, i in enumerate(scalars)}
    reads = [
        Reads(tuple(own[i] for i in m.arrays), tuple(numbers[i] for i in m.scalars))
        for m in members
    ]
    return [*arrays, *scalars], reads


def _flat(member: _Member, arrays: Arrays) -> Graph:
    """What `member` computes, of rows and of single numbers."""
    shapes = [(1,) if arrays[i].size == 1 else (2,) for i in member.arrays]
    return reshaped(member.function.graph, [*shapes, *[(1,) for _ in member.scalars]])


def _one(members: Sequence[_Member], arrays: Arrays) -> MetalKernelSpec:
    """The kernel that computes all of `members`."""
    exact = members[0].function.runtime.exact
    return alike_kernel(_flat(members[0], arrays), _reads(members)[1], exact)


def _elsewhere(members: Sequence[_Member], arrays: Arrays) -> MetalKernelSpec | None:
    """The kernel that a GPU would run for `members`, if it ran one."""
    patterns = {_pattern([arrays[i] for i in m.arrays], False) for m in members}
    room = slots(_reads(members)[1], len(members[0].results)) <= MAX_BUFFERS
    return _one(members, arrays) if len(patterns) == 1 and None not in patterns and room else None


def _launch(
    kernel: KernelSource, members: Sequence[_Member], arrays: Arrays
) -> tuple[Launch, mx.array]:
    """How the kernel of all is launched, and the table it reads; `kernel` is that of one."""
    device = device_for_current_stream()
    elements, group = ELEMENTS, GROUP
    if isinstance(device, GpuDevice):
        elements, group = device.elements(kernel), device.group(kernel)
    shapes = [broadcast([arrays[i].shape for i in m.arrays]) for m in members]
    sizes = [prod(shape) for shape in shapes]
    elements = elements_of_a_thread(sum(sizes), elements)
    numbers, threads = table(sizes, elements, group)
    index = index_type(threads * elements, 2, elements)
    launch = Launch(
        grid=(threads, 1, 1),
        threadgroup=(group, 1, 1),
        output_shapes=tuple(shape for shape in shapes for _ in kernel.outputs),
        output_dtypes=tuple(a.dtype for a in kernel.outputs) * len(members),
        template=(("ELEMS", elements), ("INDEX", name_of(index))),
    )
    return launch, mx.array(numbers, mx.int64)
