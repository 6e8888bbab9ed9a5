"""Geometry: how a kernel that walks over rows is launched.

Comes in: rows and columns, the types of what lies in memory, a schedule. Goes out: Geometry, with
the template that zmlx.msl.walk_text explains. zmlx.fuse.walked launches by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zmlx import dtypes
from zmlx.msl.schedule import Schedule
from zmlx.msl.spec import Launch

SIMDGROUP, GROUP, LARGEST = 32, 256, 1024  # threads
PACK_BYTES = 16  # what a thread moves in one go
HELD_BYTES = 256  # of a thread, in registers
TWICE_BYTES = 128  # the same, with which two groups of half the most threads find room
SHARE_BYTES = 192  # the same, with which a thread still takes four packs
MAX_GROUPS = 32768  # CUDA has at most 65535 along y; more rows share a group
SINK_GROUPS = 528  # groups that each add up rows, four for each multiprocessor of a large GPU
WHOLE_GROUPS = 264  # the same, of whole rows: two for each
SINK_ROWS = 8  # of a group, at least
COLUMN_GROUPS = 2112  # where columns are cut, so that none idles for long at the end
SINK_LENGTHS = (64, 8)  # rows that a thread folds there: at most, at least
CUT_BYTES = 32  # of a thread, each value of a sink for a column
ALONE_COLUMNS = 512  # of one step: its values stay in the first cache
ALONE_BLOCKS, ALONE_ELEMENTS = 64, 1 << 14  # blocks of rows at most; what one is worth at least
ALONE_CUT, ALONE_ROWS = 1024, (128, 4)  # columns whose sums stay in cache, rows of a block
# Columns that a kernel of their own is made for, and how many elements that is worth.
ALONE_SHORT, ALONE_WORTH = 64, 1 << 18
FEW_ROWS, LONG = 64, 1 << 16
# Neighbours that a thread alone takes at once: such that it finds them in its cache again, where
# they are not too few for that; else as many as there are, for it reads them in order.
ACROSS_LANES, ACROSS_CACHE = (64, 256, 1024), 1 << 20
ACROSS_SHARE = 4  # columns of a thread, at least
MAX_ROOM = 1 << 14  # elements that a thread alone keeps of a row
CUT_PACKS = 4  # of a thread, where groups share a row
MOST_CUTS = 8192  # groups that share rows
Sizes = tuple[int, int, int]  # outer, rows, columns


@dataclass(frozen=True)
class Geometry:
    """The template and the groups of one launch."""

    lanes: int
    packs: int
    threads: int  # of a row
    lines: int  # rows side by side in a group, a power of two
    groups: int  # each gives one part of a fold over rows
    exact: bool = False
    once: bool = False
    full: bool = False  # all lines have a row in every turn
    room: int = 0
    cut: int = 0  # columns of a group, where they are cut
    cuts: int = 1
    layers: int = 1  # groups that share the outer dimensions

    def launch(self, shapes: Sequence[tuple[int, ...]], kinds: Sequence[str]) -> Launch:
        """With outputs of these shapes and types."""
        template: tuple[tuple[str, int | bool | str], ...] = (
            ("LANES", self.lanes), ("PACKS", self.packs), ("TX", self.threads),
            ("RY", self.lines), ("EXACT", self.exact), ("ONCE", self.once),
            ("FULL", self.full),
        )  # fmt: skip
        if self.room:
            template = (("LANES", self.lanes), ("ROOM", self.room), ("EXACT", self.exact))
        if self.cut:
            template = (*template, ("CUT", self.cut))
        return Launch(
            grid=(self.threads * self.cuts, self.groups * self.lines, self.layers),
            threadgroup=(self.threads, self.lines, 1),
            output_shapes=tuple(shapes),
            output_dtypes=tuple(kinds),
            template=template,
        )


def alone(plan: Schedule, sizes: Sizes) -> Geometry:
    """For a device on which the threads of a group take turns."""
    outer, rows, columns = _blocks(plan, sizes)
    layers = min(outer, MAX_GROUPS)
    if plan.ends_only and any(map(plan.keeps_columns, plan.sinks)):
        length, least = ALONE_ROWS
        cuts = -(-columns // ALONE_CUT)
        while length > least and layers * cuts * -(-rows // length) < ALONE_BLOCKS:
            length //= 2
        blocks = min(-(-rows // length), MAX_GROUPS)
        return Geometry(ALONE_CUT, 0, 1, 1, blocks, room=1, cut=ALONE_CUT, cuts=cuts, layers=layers)
    few = max(1, ALONE_BLOCKS // layers)
    blocks = max(1, min(rows, few, rows * columns // ALONE_ELEMENTS))
    if plan.ends_only and layers * rows < ALONE_BLOCKS and columns > ALONE_ELEMENTS:
        cuts = -(-columns // ALONE_ELEMENTS)
        return Geometry(
            ALONE_COLUMNS, 0, 1, 1, blocks, room=1, cut=ALONE_ELEMENTS, cuts=cuts, layers=layers
        )
    if plan.sinks:  # long sums of one block would lose digits
        blocks = min(max(blocks, -(-rows // ALONE_ROWS[0])), MAX_GROUPS)
    if columns <= ALONE_SHORT and outer * rows * columns >= ALONE_WORTH:
        return Geometry(columns, 0, 1, 1, blocks, True, room=columns, layers=layers)
    room = 1 << max(0, columns - 1).bit_length()
    return Geometry(ALONE_COLUMNS, 0, 1, 1, blocks, room=min(room, MAX_ROOM), layers=layers)


def across(sizes: Sizes, lone: bool) -> Geometry:
    """Where rows are neighbours in memory: `sizes` are rows of these, columns, neighbours."""
    leads, columns, lanes = sizes
    if not lone:
        threads = min(SIMDGROUP, 1 << (lanes - 1).bit_length())
        cuts = -(-lanes // threads)
        most = (LARGEST if leads * cuts < SINK_GROUPS else GROUP) // threads
        lines = min(most, 1 << max(0, -(-columns // ACROSS_SHARE) - 1).bit_length())
        return Geometry(1, 0, threads, lines, min(leads, MAX_GROUPS), cuts=cuts)
    _, usual, most = ACROSS_LANES
    room = ACROSS_CACHE // (4 * columns)
    width = min(usual, 1 << (room.bit_length() - 1)) if finds_again(columns) else most
    span = 1 << (columns.bit_length() + 1) // 2  # as many in a part as there are parts
    units = leads * -(-lanes // width)
    few = max(1, leads * columns * lanes // ALONE_ELEMENTS)
    return Geometry(width, 0, 1, 1, min(units, few, ALONE_BLOCKS), room=span)


def finds_again(columns: int) -> bool:
    """Whether a thread alone still has in its cache what it read of its rows, one after another."""
    return 4 * columns * ACROSS_LANES[0] <= ACROSS_CACHE


def starves(rows: int, columns: int) -> bool:
    """Whether a GPU has too few rows to be busy, and rows too long for one group."""
    return rows < FEW_ROWS and columns > LONG


def starves_across(sizes: Sizes) -> bool:
    """The same where rows are neighbours in memory: a group takes a simdgroup of them."""
    leads, columns, lanes = sizes
    return leads * -(-lanes // SIMDGROUP) < FEW_ROWS and columns > LONG // SIMDGROUP


def on_gpu(plan: Schedule, sizes: Sizes) -> Geometry:
    """How a GPU runs it."""
    sizes = _blocks(plan, sizes)
    made = _shared_out(plan, sizes)
    return _told_full(made, sizes[1])


def _told_full(made: Geometry, rows: int) -> Geometry:
    full = made.lines == 1 or rows % (made.groups * made.lines) == 0
    return replace(made, full=full)


def _shared_out(plan: Schedule, sizes: Sizes) -> Geometry:
    if plan.ends_only:
        if any(map(plan.keeps_columns, plan.sinks)):
            return _columns_apart(plan, sizes)
        if sizes[0] * sizes[1] < SINK_GROUPS:
            return _few_rows(plan, sizes)
    return _rows_whole(plan, sizes)


def _blocks(plan: Schedule, sizes: Sizes) -> Sizes:
    """`sizes`, where nothing folds rows without outer indices: all rows are alike."""
    outer, rows, columns = sizes
    return sizes if plan.sinks else (1, outer * rows, columns)


def _columns_apart(plan: Schedule, sizes: Sizes) -> Geometry:
    """A thread folds a few columns of many rows, in registers."""
    outer, rows, columns = sizes
    lanes = _lanes(plan, columns)
    packs = -(-columns // lanes)
    threads = _across(packs)
    share = max(1, min(CUT_BYTES // (4 * lanes), packs // threads))
    cut = share * threads * lanes
    cuts, lines, layers = -(-columns // cut), GROUP // threads, min(outer, MAX_GROUPS)
    most, least = SINK_LENGTHS
    even = -(-rows * cuts * layers // (COLUMN_GROUPS * lines))
    length = max(least, min(most, even))
    groups = min(-(-rows // (length * lines)), MAX_GROUPS)
    exact = cuts * cut == columns
    return Geometry(lanes, share, threads, lines, groups, exact, cut=cut, cuts=cuts, layers=layers)


def _few_rows(plan: Schedule, sizes: Sizes) -> Geometry:
    """Several groups share a row."""
    outer, rows, columns = sizes
    lanes = _lanes(plan, columns)
    packs = -(-columns // lanes)
    threads = min(GROUP, 1 << (packs - 1).bit_length())
    step, most = threads * lanes, MOST_CUTS // (outer * rows)
    share = max(1, min(CUT_PACKS, packs // threads), -(-columns // (step * max(1, most))))
    cut = share * step
    cuts, held = -(-columns // cut), share <= CUT_PACKS
    return Geometry(
        lanes, share if held else 0, threads, GROUP // threads, -(-rows // (GROUP // threads)),
        held and cuts * cut == columns, cut=cut, cuts=cuts, layers=min(outer, MAX_GROUPS),
    )  # fmt: skip


def shared(plan: Schedule, sizes: Sizes, made: Geometry) -> list[tuple[int, int]]:
    """Threads of a row and lines of a group under which a GPU may launch the text of `made` too.

    None where columns are cut. A row that registers do not hold has a group to itself.
    """
    powers = [1 << k for k in range(LARGEST.bit_length())]
    several = [(x, y) for x in powers for y in powers if SIMDGROUP <= x * y <= LARGEST]
    if made.cut or made.room or plan.across:
        return []
    return [pair for pair in several if asked(plan, sizes, made, *pair) is not None]


def asked(
    plan: Schedule, sizes: Sizes, made: Geometry, threads: int, lines: int
) -> Geometry | None:
    """`made` with so many threads a row and lines a group; None where its text cannot."""
    sizes = _blocks(plan, sizes)
    packs = -(-sizes[2] // made.lanes)
    if threads * lines > LARGEST or threads >= 2 * packs or (not made.packs and lines > 1):
        return None
    found = _told_full(_sharing(plan, sizes, threads, lines), sizes[1])
    return found if (found.packs > 0) == (made.packs > 0) else None


def capped(plan: Schedule, sizes: Sizes, made: Geometry, group: int) -> Geometry:
    """`made` with at most `group` threads in a group, as far as its text can."""
    threads = min(made.threads, group)
    found = asked(plan, sizes, made, threads, max(1, group // threads) if made.packs else 1)
    return made if found is None else found


def _rows_whole(plan: Schedule, sizes: Sizes) -> Geometry:
    """A row in registers where it finds room there, else read again by each walk."""
    lanes = _lanes(plan, sizes[2])
    packs = -(-sizes[2] // lanes)
    threads = _threads(packs, _share(plan, lanes))
    while -(-packs // threads) * lanes * _bytes(plan) > HELD_BYTES and threads < LARGEST:
        threads *= 2
    if threads == LARGEST and -(-packs // (threads // 2)) * lanes * _bytes(plan) <= TWICE_BYTES:
        threads //= 2
    return _sharing(plan, sizes, threads, max(1, GROUP // threads))


def alternates(plan: Schedule, made: Geometry) -> bool:
    """Whether two groups of many threads fit into a multiprocessor's registers: one of them moves
    its row while the other one computes.
    """
    held = made.packs * made.lanes * _bytes(plan)
    return made.packs > 0 and (made.threads < LARGEST // 2 or held <= TWICE_BYTES)


def _sharing(plan: Schedule, sizes: Sizes, threads: int, lines: int) -> Geometry:
    """So many threads share a row, so many rows lie side by side in a group."""
    outer, rows, columns = sizes
    layers = min(outer, MAX_GROUPS)
    lanes = _lanes(plan, columns)
    share = -(-(columns // lanes) // threads)
    held = share * lanes * _bytes(plan) <= HELD_BYTES  # else a row has a group to itself
    groups = min(-(-rows // lines), MAX_GROUPS)
    if plan.persists:
        enough = max(1, WHOLE_GROUPS // layers)
        groups = max(1, min(groups, enough, -(-rows // (lines * SINK_ROWS))))
    exact = held and share * threads * lanes == columns
    once = groups * lines >= rows
    return Geometry(lanes, share if held else 0, threads, lines, groups, exact, once, layers=layers)


def _across(wanted: int) -> int:
    """Threads of a group along the columns, a power of two: all, or such that few idle."""
    if wanted <= SIMDGROUP:
        return 1 << (wanted - 1).bit_length()
    idle = {x: -(-wanted // x) * x - wanted for x in (128, 64, 32)}
    return next((x for x, n in idle.items() if 8 * n <= wanted), SIMDGROUP)


def _threads(packs: int, share: int) -> int:
    """Threads of a row: a pack each up to a simdgroup, then `share`."""
    if packs <= SIMDGROUP:
        return 1 << (packs - 1).bit_length()
    return min(LARGEST, max(SIMDGROUP, 1 << (-(-packs // share) - 1).bit_length()))


def _share(plan: Schedule, lanes: int) -> int:
    """Packs of a thread: four, as rows then meet in few threads, where registers hold them.

    Two where rows are added up, which takes registers, and where one array of 4 bytes is read and
    one written: more threads then wait for memory at a time.
    """
    graph = plan.region
    written = [n for n in graph.outputs if n in plan.full]
    read = [n for n in plan.read if any(size != 1 for size in graph[n]["shape"][:-1])]
    wide = all(dtypes.itemsize(graph[n]["dtype"]) >= 4 for n in (*read, *written))
    few = plan.persists or 4 * lanes * _bytes(plan) > SHARE_BYTES
    return 2 if few or (wide and len(read) == len(written) == 1) else 4


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
    sunk = 4 * sum(map(plan.keeps_columns, plan.sinks))
    return max(1, held + kept + sunk)
