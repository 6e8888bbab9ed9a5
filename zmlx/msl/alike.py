"""Alike: the kernel of several launches of one elementwise region, each over arrays of its own.

Comes in: a region, flat (each array is one row, or one number for all), which inputs of the kernel
each launch reads, and how many there are. Goes out: a MetalKernelSpec, and the table of sizes that
a call hands it, so that one text serves all sizes. zmlx.fuse.together launches it.

An array or a number that several read is one input. A thread finds its launch by counting threads
off; pointers go to a template, as the address space of an input depends on its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zmlx import dtypes
from zmlx.msl.element import Element
from zmlx.msl.lines import indent
from zmlx.msl.loop import LOOP_MACRO, walk
from zmlx.msl.space import Space
from zmlx.msl.spec import MetalKernelSpec
from zmlx.trace.graph import Graph

TABLE = "sizes"  # the last input: 64-bit integers, of each launch its threads and its elements


@dataclass(frozen=True)
class Reads:
    """Which inputs of the kernel one launch reads: for each of the region's, in{i} or s{i}."""

    arrays: tuple[int, ...]
    scalars: tuple[int, ...]


def slots(reads: Sequence[Reads], outputs: int) -> int:
    """Buffers of a kernel for these launches, of a region with so many outputs."""
    arrays = {i for read in reads for i in read.arrays}
    scalars = {i for read in reads for i in read.scalars}
    return len(arrays) + len(scalars) + outputs * len(reads) + 1


def alike_kernel(region: Graph, reads: Sequence[Reads], exact: bool) -> MetalKernelSpec:
    """The kernel; its outputs are those of the first launch, then of the second, and so on."""
    space = Space.of(region)
    element = Element(region, space, exact)
    arrays = 1 + max(i for read in reads for i in read.arrays)
    scalars = 1 + max((i for read in reads for i in read.scalars), default=-1)
    kinds = [region[n]["dtype"] for n in (*space.arrays, *region.outputs)]
    count = len(region.outputs)
    lines = ["INDEX t = INDEX(thread_position_in_grid.x);"]
    for number, read in enumerate(reads):
        lines += _chosen(region, space, read, number, number + 1 == len(reads))
    return MetalKernelSpec(
        name="_".join(["alike", *dict.fromkeys(element.ops)])[:60],
        input_names=(
            *[f"in{i}" for i in range(arrays)],
            *[f"s{i}" for i in range(scalars)],
            TABLE,
        ),
        output_names=tuple(f"out{i}" for i in range(count * len(reads))),
        source="\n".join(lines) + "\n",
        header=LOOP_MACRO + element.text() + _member(region, space),
        halves=not exact and all(kind in dtypes.HALVES for kind in kinds),
        exact=exact,
        widest=max(dtypes.itemsize(kind) for kind in kinds),
    )


def table(sizes: Sequence[int], elements: int, group: int) -> tuple[list[int], int]:
    """The table for launches of so many elements, in whole groups; how many threads they are."""
    numbers: list[int] = []
    for size in sizes:
        groups = -(-size // (elements * group))
        numbers += [groups * group, size]
    return numbers, sum(numbers[::2])


def _chosen(region: Graph, space: Space, read: Reads, number: int, last: bool) -> list[str]:
    """The call of launch `number`, by the threads that are its own."""
    count = len(region.outputs)
    given = [f"in{read.arrays[i]}" for i, wanted in enumerate(space.read) if wanted]
    given += [f"out{number * count + k}" for k in range(count)]
    for i, node in enumerate(space.scalars):
        kind = dtypes.value_type(region[node]["dtype"])
        given.append(f"{kind}(s{read.scalars[i]}[0])")
    given += ["t", f"INDEX({TABLE}[{2 * number + 1}])"]
    call = f"zmlx_launch<INDEX, ELEMS>({', '.join(given)});"
    own = f"INDEX({TABLE}[{2 * number}])"
    if last:
        return [call]
    return [f"if (t < {own}) {{", f"  {call}", "  return;", "}", f"t -= {own};"]


def _member(region: Graph, space: Space) -> str:
    """The function that computes the elements of thread `t` of one launch."""
    read = [i for i, wanted in enumerate(space.read) if wanted]
    outputs = range(len(region.outputs))
    types = [f"typename A{i}" for i in read] + [f"typename B{k}" for k in outputs]
    parameters = [f"A{i} in{i}" for i in read] + [f"B{k} out{k}" for k in outputs]
    kinds = [dtypes.value_type(region[n]["dtype"]) for n in space.scalars]
    parameters += [f"{kind} p{i}" for i, kind in enumerate(kinds)]
    parameters += ["INDEX t", "INDEX total"]
    (inner,) = space.dims
    steps = [f"const long in{i}_step{inner} = 1;" for i in read if space.moves[i]]
    results = [region[n]["dtype"] for n in region.outputs]
    lines = [
        f"const INDEX n{inner} = total;",
        *steps,
        *walk(
            space,
            [dtypes.value_type(region[n]["dtype"]) for n in space.arrays],
            len(kinds),
            [(dtypes.value_type(kind), dtypes.msl_type(kind)) for kind in results],
        ),
    ]
    return (
        f"template <typename INDEX, int ELEMS, {', '.join(types)}>\n"
        f"inline void zmlx_launch({', '.join(parameters)}) {{\n"
        + "".join(f"{line}\n" for line in indent(lines))
        + "}\n"
    )
