"""Geometry: how a kernel that walks over rows is launched.

Comes in: rows and columns, the types of what lies in memory, a schedule. Goes out: Geometry, with
the template that zmlx.msl.walk_text explains. zmlx.fuse.walked launches by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zmlx import dtypes
from zmlx.msl.schedule import Schedule
from zmlx.msl.spec import Launch

SIMDGROUP, GROUP, LARGEST = 32, 256, 1024  # threads
PACK_BYTES = 16  # what a thread moves in one go
HELD_BYTES = 256  # of a thread, in registers
MAX_GROUPS = 32768  # CUDA has at most 65535 along y; more rows share a group
SINK_GROUPS = 528  # groups that each add up rows, four for each multiprocessor of a large GPU
SINK_ROWS = 8  # of a group, at least
ALONE_COLUMNS = 512  # of one step: its values stay in the first cache
ALONE_BLOCKS, ALONE_ELEMENTS = 64, 1 << 14  # blocks of rows at most; what one is worth at least
FEW_ROWS, LONG = 64, 1 << 16
MAX_ROOM = 1 << 14  # elements that a thread alone keeps of a row


@dataclass(frozen=True)
class Geometry:
    """The template and the groups of one launch."""

    lanes: int
    packs: int
    threads: int  # of a row
    lines: int  # rows side by side in a group
    groups: int
    exact: bool = False
    once: bool = False
    room: int = 0

    @property
    def blocks(self) -> int:
        """Parts of a sum over rows."""
        return self.groups * self.lines

    def launch(self, shapes: Sequence[tuple[int, ...]], kinds: Sequence[str]) -> Launch:
        """With outputs of these shapes and types."""
        template: tuple[tuple[str, int | bool | str], ...] = (
            ("LANES", self.lanes), ("PACKS", self.packs), ("TX", self.threads),
            ("RY", self.lines), ("EXACT", self.exact), ("ONCE", self.once),
        )  # fmt: skip
        if self.room:
            template = (("LANES", self.lanes), ("ROOM", self.room))
        return Launch(
            grid=(self.threads, self.groups * self.lines, 1),
            threadgroup=(self.threads, self.lines, 1),
            output_shapes=tuple(shapes),
            output_dtypes=tuple(kinds),
            template=template,
        )


def alone(rows: int, columns: int) -> Geometry:
    """For a device on which the threads of a group take turns."""
    blocks = max(1, min(rows, ALONE_BLOCKS, rows * columns // ALONE_ELEMENTS))
    room = 1 << max(0, columns - 1).bit_length()
    return Geometry(ALONE_COLUMNS, 0, 1, 1, blocks, room=min(room, MAX_ROOM))


def starves(rows: int, columns: int) -> bool:
    """Whether a GPU has too few rows to be busy, and rows too long for one group."""
    return rows < FEW_ROWS and columns > LONG


def on_gpu(plan: Schedule, rows: int, columns: int) -> Geometry:
    """A row in registers where it finds room there, else read again by each walk."""
    lanes = _lanes(plan, columns)
    packs = -(-columns // lanes)
    threads = _threads(packs)
    share = -(-packs // threads)
    if share * lanes * _bytes(plan) > HELD_BYTES and threads < LARGEST:
        wanted = -(-packs * lanes * _bytes(plan) // HELD_BYTES)
        threads = min(LARGEST, 1 << (wanted - 1).bit_length())
        share = -(-packs // threads)
    held = share * lanes * _bytes(plan) <= HELD_BYTES
    lines = max(1, GROUP // threads)
    groups = min(-(-rows // lines), MAX_GROUPS)
    if plan.sinks:
        groups = max(1, min(groups, SINK_GROUPS, -(-rows // (lines * SINK_ROWS))))
    exact = held and share * threads * lanes == columns
    once = groups * lines >= rows
    return Geometry(lanes, share if held else 0, threads, lines, groups, exact, once)


def _threads(packs: int) -> int:
    """Threads of a row: a pack each up to a simdgroup, then two."""
    if packs <= SIMDGROUP:
        return 1 << (packs - 1).bit_length()
    return min(LARGEST, max(SIMDGROUP, 1 << (-(-packs // 2) - 1).bit_length()))


def _lanes(plan: Schedule, columns: int) -> int:
    """Neighbours that a thread moves at once, so that each pack begins where one may."""
    graph = plan.region
    nodes = [*plan.read, *[n for n in graph.outputs if n in plan.full]]
    least = min((dtypes.itemsize(graph[n]["dtype"]) for n in nodes), default=4)
    lanes = max(1, min(8, PACK_BYTES // least))
    while columns % lanes:
        lanes //= 2
    return lanes


def _bytes(plan: Schedule) -> int:
    """Of a thread's registers, for each element of its share of a row."""
    graph = plan.region
    held = sum(dtypes.itemsize(graph[n]["dtype"]) for n, w in plan.read.items() if len(w) > 1)
    kept = 4 * len(plan.kept)
    sunk = 4 * sum(
        graph[n]["axes"] != tuple(range(len(graph[n]["shape"]))) for n in plan.sinks
    )
    return max(1, held + kept + sunk)
