"""Schedules: the order in which one kernel computes a region that folds its rows.

Comes in: a region whose shapes all have the rank of its space: dimensions of rows, and one of
columns (`columns_of`), which is the last, or lies before rows that are neighbours in memory. Goes
out: a Schedule. zmlx.msl.walk and walk_across write the kernel's text from it.

The level of a node is the number of row folds that its value waits for: 0 for an input, the most of
its operands for an op, one more for a fold over columns. Walk k goes over the columns and computes
what the folds of level k fold; the last one writes. Between two walks stands what is one value a
row. Each walk, and what stands between two, is an elementwise graph (`Part`), so that what serves
elementwise regions serves them too. Values that cost more to compute than to keep are kept from the
walk that makes them, if the kernel holds rows in registers.

A fold that nothing inside the region reads is an end: it raises no level. Sinks are ends over rows,
or over rows and columns: the kernel folds a part for each block of rows. The first `outer`
dimensions of rows are no part of blocks: a fold over one of them is left to whoever joins the
parts. Where all folds are ends, columns may be `cut`: each group of threads folds some of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from zmlx import dtypes
from zmlx.errors import EmitError
from zmlx.msl.element import rounds_as_stored
from zmlx.msl.shares import with_shares
from zmlx.ops.reductions import REDUCTIONS
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph, broadcast
from zmlx.trace.passes import verified

KEPT_COST = 6  # adds; what a value must cost at least to be kept in place of computed again
MAX_WALKS = 8
# By the type of a value in a kernel, that in which it is folded: simdgroups exchange no small ones.
FOLD_TYPES = {
    "float": "float", "int": "int", "uint": "uint", "bool": "int",
    "char": "int", "short": "int", "uchar": "uint", "ushort": "uint",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Part:
    """An elementwise function: `graph` over values of the region's nodes `inputs`, to `outputs`."""

    graph: Graph  # arrays before numbers, as `inputs`
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def ops(self) -> tuple[str, ...]:
        return tuple(self.graph[n]["op"] for n in self.graph if self.graph.kind(n) == "op")


@dataclass(frozen=True, eq=False)
class Walk:
    """One walk over the columns."""

    part: Part
    folds: tuple[int, ...]  # reduce nodes over columns that are complete after it
    written: tuple[int, ...] = ()  # positions in the region's outputs
    sunk: tuple[int, ...] = ()  # reduce nodes


@dataclass(frozen=True, eq=False)
class Schedule:
    """A region's walks, and before each walk, and after the last, what is one value a row."""

    region: Graph
    walks: tuple[Walk, ...]
    rows: tuple[Part, ...]  # rows[k] before walks[k]; one more at the end
    full: frozenset[int]  # nodes that differ from column to column
    kept: tuple[int, ...]  # nodes of a walk that a later one reads
    per_row: tuple[int, ...]  # positions of outputs of one value a row, written at the end
    outer: int = 0  # dimensions of rows
    cut: bool = False

    @property
    def read(self) -> dict[int, tuple[int, ...]]:
        """For each full input that is read from memory, the walks that read it."""
        found: dict[int, list[int]] = {}
        for k, walk in enumerate(self.walks):
            for node in walk.part.inputs:
                if self.region.kind(node) == "input" and node in self.full - self.placed:
                    found.setdefault(node, []).append(k)
        return {node: tuple(walks) for node, walks in found.items()}

    @cached_property
    def placed(self) -> frozenset[int]:
        """Full inputs whose elements are the numbers of their columns, which a thread knows."""
        if self.cut or self.across:
            return frozenset()
        return frozenset(n for n in self.full if self.region[n].get("places"))

    def keeps_columns(self, sink: int) -> bool:
        """Whether a sink gives a value for each column."""
        return not self.folds_columns(sink) and self.region.operands(sink)[0] in self.full

    @property
    def persists(self) -> bool:
        """Whether a group goes through many rows: it adds up columns, or does nothing else."""
        ends = bool(self.sinks) and self.ends_only
        return ends or any(map(self.keeps_columns, self.sinks))

    def folds_columns(self, node: int) -> bool:
        return bool(self.region[node]["axes"][-1] == columns_of(self.region))

    @property
    def sinks(self) -> tuple[int, ...]:
        """Reduce nodes that cover blocks of rows, in the order of the region's outputs."""
        return tuple(n for n in self.partial if is_sink(self.region, n, self.outer))

    @cached_property
    def partial(self) -> tuple[int, ...]:
        """Reduce nodes of which the kernel gives parts, in the order of the region's outputs."""
        graph = self.region
        ends = [n for n in dict.fromkeys(graph.outputs) if graph.kind(n) == "reduce"]
        return tuple(n for n in ends if self.cut or is_sink(graph, n))

    @property
    def ends_only(self) -> bool:
        """Whether no fold is read by what follows, so that columns may be cut."""
        return ends_only(self.region)

    @property
    def across(self) -> bool:
        """Whether neighbours in memory are elements of different rows."""
        return columns_of(self.region) < rank_of(self.region) - 1


def rank_of(region: Graph) -> int:
    return max(len(region[n]["shape"]) for n in region)


def rules(region: Graph, node: int) -> bool:
    """Whether `node` is a fold that says which dimensions are columns, all of them in one kernel:
    one that is read, or finds a place."""
    if region.kind(node) != "reduce":
        return False
    return bool(region.users(node)) or REDUCTIONS[region[node]["op"]].index


def columns_of(region: Graph) -> int:
    """The number of the dimension of columns: what folds that rule fold, else the last."""
    axes = next((region[n]["axes"] for n in region if rules(region, n)), ())
    return axes[-1] if axes else rank_of(region) - 1


def is_sink(region: Graph, node: int, outer: int = 0) -> bool:
    """Whether `node` folds rows, beyond the first `outer` dimensions of them."""
    data = region[node]
    if data["kind"] != "reduce":
        return False
    column = columns_of(region)
    return any(outer <= axis != column for axis in data["axes"])


def ends_only(region: Graph) -> bool:
    """Whether no fold is read inside `region`, and each may be joined of parts."""
    return not any(rules(region, n) for n in region)


def schedule(region: Graph, keep: bool = True, outer: int = 0, cut: bool = False) -> Schedule:
    """The walks of `region`; EmitError for one that no such kernel computes.

    With `keep` dear values are kept between walks.
    """
    return _Maker(with_shares(region), keep, outer, cut).made()


class _Maker:
    def __init__(self, region: Graph, keep: bool, outer: int, cut: bool) -> None:
        self.region, self.keep, self.outer, self.cut = region, keep, outer, cut
        self.column = columns_of(region)
        self.space = broadcast([region[n]["shape"] for n in region])
        self.full = frozenset(n for n in region if self._is_full(n))
        self.level = self._levels()
        self.sinks = [n for n in region if is_sink(region, n, outer)]
        self._check()

    def made(self) -> Schedule:
        region = self.region
        top = max(self.level.values(), default=0)
        if top + 1 > MAX_WALKS:
            raise EmitError(f"[zmlx.emit] {top + 1} walks over a row are too many for one kernel.")
        folds: list[list[int]] = [[] for _ in range(top + 1)]
        for node in region:
            if region.kind(node) == "reduce" and node not in self.sinks:
                folds[self.level[region.operands(node)[0]]].append(node)
        written = tuple(i for i, n in enumerate(region.outputs) if n in self.full)
        parts = [n for n in region if is_sink(region, n) or self._is_cut(n)]
        per_row = tuple(
            i for i, n in enumerate(region.outputs) if n not in self.full and n not in parts
        )
        roots = [[region.operands(n)[0] for n in group] for group in folds]
        sunk = [n for n in self.sinks if region.operands(n)[0] in self.full]
        roots[top] += [region.operands(n)[0] for n in sunk]
        roots[top] += [region.outputs[i] for i in written]
        kept = self._kept(roots) if self.keep else []
        walks, made = [], set[int]()
        for k, wanted in enumerate(roots):
            last = k == top
            if last and not wanted:
                break
            part = self._walk_part(wanted, kept, made)
            walks.append(
                Walk(part, tuple(folds[k]), written if last else (), tuple(sunk) if last else ())
            )
        needed = {n for walk in walks for n in walk.part.inputs}
        needed |= {region.outputs[i] for i in per_row}
        needed |= {region.operands(n)[0] for n in self.sinks if n not in sunk}
        rows = self._row_parts(needed, top)
        return Schedule(
            region, tuple(walks), rows, self.full, tuple(kept), per_row, self.outer, self.cut
        )

    # -- what nodes are -----------------------------------------------------------------------
    def _is_full(self, node: int) -> bool:
        shape = self.region[node]["shape"]
        sink = is_sink(self.region, node)
        return not sink and len(shape) == len(self.space) and shape[self.column] != 1

    def _levels(self) -> dict[int, int]:
        level: dict[int, int] = {}
        for node in self.region:
            data = self.region[node]
            level[node] = max((level[o] for o in data["operands"]), default=0)
            if data["kind"] == "reduce" and self.region.users(node):
                level[node] += 1
        return level

    def _is_cut(self, node: int) -> bool:
        return self.cut and self.region.kind(node) == "reduce"

    def _check(self) -> None:
        region = self.region
        for node in region:
            data = region[node]
            if data["kind"] != "reduce":
                continue
            operand, part = region.operands(node)[0], is_sink(region, node)
            kinds = [dtypes.value_type(region[n]["dtype"]) for n in (node, operand)]
            if any(kind not in FOLD_TYPES for kind in kinds):
                what = f"{data['op']} of {data['dtype']}"
                raise EmitError(f"[zmlx.emit] {what} is not folded in rows.")
            if part and region.users(node):
                raise EmitError("[zmlx.emit] a fold over rows is read by the same kernel.")
            inner = [d for d in range(self.outer, self.column) if self.space[d] != 1]
            if node in self.sinks and not set(data["axes"]).issuperset(inner):
                raise EmitError("[zmlx.emit] a fold over some of a block's rows.")
            if node not in self.sinks and operand not in self.full:
                raise EmitError("[zmlx.emit] a fold over columns of what does not differ in them.")
            if self.cut and (operand not in self.full or region.users(node)):
                raise EmitError("[zmlx.emit] what is one value a row is not cut into columns.")
        if not any(n in self.full for n in region if region.kind(n) == "input"):
            raise EmitError("[zmlx.emit] no input has columns.")
        for node in region.outputs:
            shape = region[node]["shape"]
            if self.cut and region.kind(node) == "op" and node not in self.full:
                raise EmitError("[zmlx.emit] what is one value a row is not cut into columns.")
            if not is_sink(region, node) and self._rows(shape) != self._rows(self.space):
                raise EmitError(f"[zmlx.emit] an output of shape {shape} does not fill the rows.")

        if self.column < len(self.space) - 1 and (self.sinks or self.cut):
            raise EmitError("[zmlx.emit] a fold over rows that are neighbours in memory.")

    def _rows(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The sizes of `shape` but for that of the columns."""
        return (*shape[: self.column], *shape[self.column + 1 :])

    # -- walks --------------------------------------------------------------------------------
    def _inside(self, roots: Iterable[int], stop: Collection[int] = ()) -> list[int]:
        """The full ops that `roots` need, in order; those in `stop` are there already."""
        found: set[int] = set()
        stack = [n for n in roots if n not in stop]
        while stack:
            node = stack.pop()
            if node in found or self.region.kind(node) != "op" or node not in self.full:
                continue
            found.add(node)
            stack += [o for o in self.region.operands(node) if o not in stop]
        return sorted(found)

    def _kept(self, roots: Sequence[Sequence[int]]) -> list[int]:
        """Dear ops that two walks need."""
        seen: set[int] = set()
        kept: dict[int, None] = {}
        for wanted in roots:
            inside = self._inside(wanted)
            for node in inside:
                if node in seen and OPS[self.region[node]["op"]].cost >= KEPT_COST:
                    kept[node] = None
            seen.update(inside)
        # What only other kept values read need not be kept itself.
        again: set[int] = set()
        seen.clear()
        for wanted in roots:
            early = [n for n in kept if n in seen]
            inside = self._inside(wanted, early)
            reads = {o for n in inside for o in self.region.operands(n)} | set(wanted)
            again.update(n for n in early if n in reads)
            seen.update(self._inside(wanted))
        return [n for n in kept if n in again]

    def _walk_part(self, roots: Sequence[int], kept: Sequence[int], made: set[int]) -> Part:
        early = [n for n in kept if n in made]
        inside = self._inside(roots, early)
        fresh = [n for n in inside if n in kept]
        made.update(fresh)
        return self._part(inside, list(dict.fromkeys([*roots, *fresh])))

    def _row_parts(self, needed: set[int], top: int) -> tuple[Part, ...]:
        """By level, the ops of one value a row; each gives what is needed beyond its level."""
        region = self.region
        rows = [n for n in region if region.kind(n) == "op" and n not in self.full]
        for node in reversed(rows):
            if node in needed or any(u in needed for u in region.users(node) if u in rows):
                needed.add(node)
        folded = {region.operands(n)[0] for n in region if region.kind(n) == "reduce"}
        found = []
        for k in range(top + 1):
            mine = [n for n in rows if n in needed and self.level[n] == k]
            given = [
                n for n in mine
                if n in folded or n in region.outputs
                or any(u not in mine for u in region.users(n))
            ]  # fmt: skip
            found.append(self._part(mine, given))
        return tuple(found)

    @verified("schedule")
    def _part(self, inside: Sequence[int], roots: Sequence[int]) -> Part:
        """The ops `inside` as a graph; what they read else are its inputs."""
        region, within = self.region, set(inside)
        read = [o for n in inside for o in region.operands(n) if o not in within]
        read += [n for n in roots if n not in within]
        outside = [n for n in dict.fromkeys(read) if region.kind(n) != "const"]
        numbers = [n for n in outside if region.kind(n) in ("scalar", "count")]
        arrays = [n for n in outside if n not in numbers]
        made, new = Graph(), dict[int, int]()
        for kind, nodes in (("input", arrays), ("scalar", numbers)):
            for node in nodes:
                data = region[node]
                new[node] = made.add(kind, shape=data["shape"], dtype=data["dtype"])
        for node in inside:
            for operand in region.operands(node):
                if operand not in new:
                    new[operand] = made.add("const", **region.attributes(operand))
            operands = [new[o] for o in region.operands(node)]
            if rounds_as_stored(region, node):
                new[node] = operands[0]
            else:
                new[node] = made.add("op", operands, **region.attributes(node))
        made.outputs = [new[n] for n in roots]
        return Part(made, (*arrays, *numbers), tuple(roots))
