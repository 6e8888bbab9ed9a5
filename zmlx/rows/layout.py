"""How the arrays of a row-wise op lie before its kernel, and how many threads a row gets.

Comes in: arrays that broadcast to the shape of the first, and the device. Goes out: arrays of the
forms that zmlx.rows.text knows, and a Setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import mlx.core as mx

from zmlx.msl.spec import MAX_THREADS, Extent
from zmlx.rows.text import COLUMNS, MAX_GROUPS_Y, ROWS

SIMDGROUP = 32
PACK_BYTES = 16  # what a thread of a GPU reads in one go
HOST_LANES = 16  # floats in the widest vectors of CPUs
MAX_HELD = 64  # elements that a thread holds in registers, over all inputs


@dataclass(frozen=True)
class Setting:
    """Threads that share a row, rows that share a threadgroup: powers of two."""

    threads: int
    rows: int


@dataclass(frozen=True)
class Work:
    """What the kernel's template says of a thread: elements read at once, packs it holds."""

    lanes: int
    packs: int


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether `shape` broadcasts to `wanted`."""
    if len(shape) > len(wanted):
        return False
    tail = list(wanted)[len(wanted) - len(shape) :]
    return all(n in (1, m) for n, m in zip(shape, tail, strict=True))


def laid_out(value: mx.array, shape: tuple[int, ...]) -> mx.array:
    """`value` as the kernel reads it: (rows, d), (rows, 1), (d,) or (1,)."""
    rows, d = prod(shape[:-1]), shape[-1]
    if value.shape == shape:
        return value.reshape(rows, d)
    if value.size == 1:
        return value.reshape(1)
    if value.shape[-1] == value.size == d:
        return value.reshape(d)
    if value.shape == (*shape[:-1], 1):
        return value.reshape(rows, 1)
    return mx.broadcast_to(value, shape).reshape(rows, d)


def form(value: mx.array, d: int) -> int:
    """COLUMNS where it differs from column to column, ROWS from row to row, or both.

    In rows of one element nothing differs from column to column.
    """
    return (ROWS if value.ndim == 2 else 0) + (COLUMNS if value.shape[-1] == d > 1 else 0)


def setting(d: int, itemsize: int, threadgroup: int) -> Setting:
    """On a GPU: a thread a pack, at most `threadgroup` for a row; short rows share a group."""
    threads = min(threadgroup, most_threads(d, itemsize))
    return Setting(threads, max(1, threadgroup // threads))


def settings(d: int, itemsize: int) -> list[Setting]:
    """What zmlx.autotune tries: groups of whole simdgroups, no thread without a pack."""
    most = most_threads(d, itemsize)
    powers = [1 << k for k in range(MAX_THREADS.bit_length())]
    return [
        Setting(threads, rows)
        for threads in powers
        for rows in powers
        if threads <= most and SIMDGROUP <= threads * rows <= MAX_THREADS
    ]


def most_threads(d: int, itemsize: int) -> int:
    """Threads of a GPU that find a pack in a row: a power of two."""
    packs = -(-d // lanes(d, itemsize, alone=False))
    return 1 << (packs - 1).bit_length()


def lanes(d: int, itemsize: int, alone: bool) -> int:
    """Elements that a thread takes at once.

    `alone` is for devices on which the threads of a group take turns.
    """
    wanted = HOST_LANES if alone else PACK_BYTES // itemsize
    return wanted if d >= wanted else 1


def work(d: int, itemsize: int, how: Setting, held: int, alone: bool) -> Work:
    """`held` inputs of the kernel are worth registers, where a row's share of a thread is small."""
    width = lanes(d, itemsize, alone)
    packs = -(-(d // width) // how.threads)
    holds = not alone and 0 < held * packs * width <= MAX_HELD
    return Work(width, packs if holds else 0)


def grid(rows: int, how: Setting) -> tuple[Extent, Extent]:
    """Grid and threadgroup: groups along y, and on along z beyond what CUDA takes."""
    high, deep = stacked(-(-rows // how.rows))
    return (how.threads, high * how.rows, deep), (how.threads, how.rows, 1)


def stacked(count: int) -> tuple[int, int]:
    """`count` along y, and on along z beyond what CUDA takes; a grid has one of each at least."""
    high = max(1, min(count, MAX_GROUPS_Y))
    return high, max(1, -(-count // high))
