"""Walks: what a kernel that folds its rows does, as data and in words.

Comes in: what is launched for one combination of sizes (zmlx.fuse.walked.Made). Goes out: Walks,
with a Walk for each time that the kernel goes over the columns of a row: what it reads, computes,
folds, keeps and writes. zmlx.fuse.reports hands it to explanations, zmlx.fuse.dumped writes it.

Inputs and outputs go by their names in the kernel (in0, s0, out0), folds by fold0, fold1, …
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from zmlx.msl.geometry import Geometry
from zmlx.msl.schedule import Schedule

if TYPE_CHECKING:
    from zmlx.fuse.walked import Made


@dataclass(frozen=True)
class Walk:
    """One time over the columns; `before` are the ops of one value a row that come first."""

    before: tuple[str, ...]
    reads: tuple[str, ...]
    takes: tuple[str, ...]  # values of the row, and what an earlier walk has kept
    ops: tuple[str, ...]
    folds: tuple[str, ...]  # "fold0 = max(in0)"
    keeps: tuple[str, ...]
    writes: tuple[str, ...]
    sinks: tuple[str, ...]  # folds over rows, of which each block of them gives a part
    parts: tuple[str, ...]  # outputs of which it gives parts

    @property
    def text(self) -> str:
        """In one line."""
        parts = [
            (f"first, once a row: {', '.join(self.before)}", self.before),
            (f"reads {', '.join(self.reads)}", self.reads),
            (f"takes {', '.join(self.takes)}", self.takes),
            (f"computes {', '.join(self.ops)}", self.ops),
            (f"folds {', '.join(self.folds)}", self.folds),
            (f"keeps {', '.join(self.keeps)}", self.keeps),
            (f"writes {', '.join(self.writes)}", self.writes),
            (f"adds up by blocks of rows {', '.join(self.sinks)}", self.sinks),
        ]
        return "; ".join(words for words, there in parts if there)


@dataclass(frozen=True)
class Walks:
    """All walks of one kernel, in order, in the example call."""

    rows: int
    columns: int
    walks: tuple[Walk, ...]
    after: tuple[str, ...]  # ops of one value a row behind the last walk
    per_row: tuple[str, ...]  # outputs of one value a row
    held: tuple[str, ...]  # inputs that several walks read, and that come from memory once
    again: tuple[str, ...]  # inputs that several walks read from memory, or from a cache
    how: str  # how many threads share a row
    parts: tuple[str, ...]  # outputs that the kernel gives in parts, and what joins them

    @property
    def lines(self) -> list[str]:
        """In words, a line for each walk."""
        times = "once" if len(self.walks) == 1 else f"{len(self.walks)} times"
        found = [f"{self.rows} rows of {self.columns} columns, walked over {times}; {self.how}"]
        found += [f"walk {k}: {walk.text}" for k, walk in enumerate(self.walks, start=1)]
        if self.after:
            found.append(f"then, once a row: {', '.join(self.after)}")
        if self.per_row:
            found.append(f"writes a value a row: {', '.join(self.per_row)}")
        if self.held:
            found.append(f"held in registers, read from memory once: {', '.join(self.held)}")
        if self.again:
            found.append(f"read by each walk that needs it: {', '.join(self.again)}")
        return [*found, *self.parts]


def walks_of(made: Made) -> Walks:
    """The walks of the kernel that is launched."""
    plan, names = made.plan, _Names(made.plan)
    region, last = plan.region, len(plan.walks) - 1
    rows, columns = prod(made.layout.sizes) // made.layout.columns, made.layout.columns
    several = [n for n, walks in plan.read.items() if len(walks) > 1]
    held = made.geometry.packs > 0
    read = tuple(names.of(n) for n in several)
    return Walks(
        rows=rows,
        columns=columns,
        walks=tuple(_walk(plan, k, names) for k in range(len(plan.walks))),
        after=tuple(op for part in plan.rows[last + 1 :] for op in part.ops),
        per_row=tuple(f"out{i}" for i in plan.per_row),
        held=read if held else (),
        again=() if held else read,
        how=_how(made.geometry, plan.across),
        parts=tuple(
            f"out{region.outputs.index(n)} comes in {join.count} parts, which one {join.op} of "
            "MLX's joins, in the same order in every run"
            for n, join in zip(plan.partial, made.joins, strict=True)
            if join.axes
        ),
    )


class _Names:
    """What the nodes of a schedule are called."""

    def __init__(self, plan: Schedule) -> None:
        region = self.region = plan.region
        self._known: dict[int, str] = {}
        arrays = [n for n in region.inputs if region.kind(n) == "input"]
        numbers = [n for n in region.inputs if region.kind(n) != "input"]
        self._known |= {n: f"in{i}" for i, n in enumerate(arrays)}
        self._known |= {n: f"s{i}" for i, n in enumerate(numbers)}
        folds = [n for n in region if region.kind(n) == "reduce"]
        self._known |= {n: f"fold{i}" for i, n in enumerate(folds)}
        self._known |= {n: "count" for n in region if region.kind(n) == "count"}

    def of(self, node: int) -> str:
        """An op goes by its own name: within one walk that tells it."""
        return self._known.get(node) or str(self.region[node].get("op", "number"))

    def fold(self, node: int) -> str:
        """A fold with what it folds."""
        operand = self.region.operands(node)[0]
        return f"{self.of(node)} = {self.region[node]['op']}({self.of(operand)})"


def _walk(plan: Schedule, k: int, names: _Names) -> Walk:
    walk, region = plan.walks[k], plan.region
    inputs = walk.part.inputs
    reads = [n for n in inputs if region.kind(n) in ("input", "scalar", "count")]
    made = [n for n in walk.part.outputs if n in plan.kept]
    return Walk(
        before=plan.rows[k].ops,
        reads=tuple(map(names.of, reads)),
        takes=tuple(names.of(n) for n in inputs if n not in reads),
        ops=walk.part.ops,
        folds=tuple(map(names.fold, walk.folds)),
        keeps=tuple(names.of(n) for n in made if n not in inputs),
        writes=tuple(f"out{i}" for i in walk.written),
        sinks=tuple(map(names.fold, walk.sunk)),
        parts=tuple(
            f"out{region.outputs.index(n)}" for n in (*walk.folds, *walk.sunk) if n in plan.partial
        ),
    )


def _how(geometry: Geometry, across: bool) -> str:
    if across:
        many = f"{geometry.lanes} at a time" if geometry.room else f"by {geometry.threads} threads"
        return f"rows are neighbours in memory, and taken together: {many}"
    if geometry.room:
        share = f"{geometry.cut} columns of a row" if geometry.cut else "rows"
        return f"a core takes {share}, {geometry.lanes} columns at a time"
    threads = f"{geometry.threads} threads share {'columns of it' if geometry.cut else 'a row'}"
    packs = f", {geometry.packs} packs of {geometry.lanes} each" if geometry.packs else ""
    return f"{threads}{packs}, {geometry.lines} rows a group"
