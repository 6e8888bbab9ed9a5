"""Walks: the kernel of a region that folds its rows.

Comes in: a region over shapes (rows…, columns), each dimension full or one, which zmlx.msl.schedule
cuts into walks. Goes out: a MetalKernelSpec; zmlx.msl.walk_text says what its template means, and
zmlx.fuse.walked launches it. Inputs in0, … have any strides, numbers s0, … one element.

Outputs: those of the region that are given whole, in their order, then parts of folds, in the type
in which they run (`Parts.fold_kind`): of a sink, (outer…, groups, columns) where it keeps columns,
else (outer…, groups, cuts); of a fold over columns that are cut, (rows…, cuts).

Rows that are neighbours in memory have a kernel of their own (zmlx.msl.walk_across). Else a GPU's
has two ways. Where all rows begin where packs may, and columns are neighbours,
threads move packs, and hold a row in registers if PACKS is not 0. Else they take column by column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zmlx import dtypes
from zmlx.msl import walk_text as text
from zmlx.msl.loop import LOOP_MACRO
from zmlx.msl.schedule import Schedule, Walk
from zmlx.msl.spec import MetalKernelSpec
from zmlx.msl.walk_across import Across, AcrossAlone
from zmlx.msl.walk_alone import Alone
from zmlx.msl.walk_meeting import near_text, shared_memory
from zmlx.msl.walk_parts import Parts, indent
from zmlx.msl.walk_way import Way
from zmlx.trace.graph import Graph

MANY = 64  # halves of a row that a thread holds, two in a word: as floats they would take too much
BUSY = 512  # threads: two groups that go through all rows, and wait for memory in turn


def walk_kernel(quick: Schedule, slow: Schedule, registers: bool) -> MetalKernelSpec:
    """The kernel for GPUs, of the same region scheduled with and without kept values.

    `registers`: a thread holds its share of a row (PACKS is not 0).
    """
    if quick.across:
        return _whole(quick, Across(quick, "zmlx_"))
    first = _Quick(quick, "zmlx_", registers)
    second = _Slow(slow, "zmlx_slow_", registers)
    ways = text.BOTH_WAYS.format(
        quick=first.condition(), first=indent(first.body()), second=indent(second.body())
    )
    memory = shared_memory([*first.meetings(), *second.meetings()], first.across_lines())
    lines = [*first.sizes(), *first.once(), *text.PLACE.splitlines(), *memory]
    ops = {(op, kind) for meeting in first.meetings() for op, kind, _ in meeting}
    exchanges = "".join(near_text(op, kind) for op, kind in sorted(ops))
    whole = "\n".join([*lines, ways])
    spec = _spec(quick, whole, text.PARTS + exchanges, [first, second])
    return replace(spec, whole=True, busy=BUSY if quick.persists else 0)


def alone_kernel(plan: Schedule) -> MetalKernelSpec:
    """The kernel for a device on which the threads of a group take turns: a thread a row."""
    return _whole(plan, (AcrossAlone if plan.across else Alone)(plan, "zmlx_"))


def _whole(plan: Schedule, parts: Across | Alone) -> MetalKernelSpec:
    body = "\n".join([*parts.sizes(), *parts.once(), *parts.body()])
    return _spec(plan, body + "\n", "", [parts])


def _spec(plan: Schedule, body: str, header: str, texts: Sequence[Parts]) -> MetalKernelSpec:
    region, first = plan.region, texts[0]
    elements = [element for parts in texts for element in parts.elements.values()]
    folds = [region[n]["op"] for walk in plan.walks for n in walk.folds]
    ops = [op for walk in plan.walks for op in walk.part.ops]
    return MetalKernelSpec(
        name="_".join(["zmlx_rows", *dict.fromkeys([*folds, *ops])])[:60],
        input_names=(
            *[f"in{i}" for i in range(len(first.place))],
            *[f"s{i}" for i in range(len(first.number))],
        ),
        output_names=(*first.outs.values(), *first.sums.values()),
        source=body,
        header=LOOP_MACRO + header + elements[0].text(*elements[1:]),
        ensure_row_contiguous=False,
        halves=_all_halves(plan, region),
    )


def _all_halves(plan: Schedule, region: Graph) -> bool:
    """Whether what is read and written has 16 bits; sinks are the gradients of what is read."""
    nodes = [n for n in region.outputs if n not in plan.sinks] + list(plan.read)
    return all(region[n]["dtype"] in dtypes.HALVES for n in nodes)


class _Quick(Way):
    """Threads move packs."""

    slot, sink_end = "kk_p * LANES + kk_v", text.SINK_END
    thread_begins = "kk_thread * LANES"

    def __init__(self, plan: Schedule, prefix: str, registers: bool) -> None:
        super().__init__(plan, prefix, registers)
        several = {n for n, walks in plan.read.items() if registers and len(walks) > 1}
        moves = {n: self.space.moves[self.place[n]] for n in plan.read}
        self.ahead = registers and plan.persists
        # A thread has the same columns in all of them: what rows share is loaded before the first.
        once = self.ahead or (registers and plan.cut)
        self.alike = [n for n, dims in moves.items() if once and dims == (self.column,)]
        self.held = (set(plan.read) if self.ahead else several).difference(self.alike)

    def condition(self) -> str:
        """Whether every pack of every input lies as one: columns side by side, rows in step."""
        tests = []
        for node in self.plan.read:
            i = self.place[node]
            tests.append(f"kk_step{i}_{self.column} == 1")
            tests.append(f"kk_whole<{self.memory(node)}, LANES>(in{i})")
            rows = [d for d in self.space.moves[i] if d != self.column]
            tests += [f"kk_step{i}_{d} % LANES == 0" for d in rows]
        return " && ".join(tests) or "true"

    def declared(self) -> list[str]:
        if not self.registers:
            return []
        kept = [f"{self.kind(n)} kk_keep{n}[PACKS * LANES];" for n in self.plan.kept]
        kept += [f"{self._pack(n)} kk_held{n}[PACKS];" for n in sorted(self.held)]
        if not self.ahead:
            return kept
        loads = {
            "here": self._loaded("kk_held"),
            "moved": [f"kk_held{n}[kk_p] = kk_next{n}[kk_p];" for n in sorted(self.held)],
            "next": self._loaded("kk_next"),
        }
        packed = {name: self._packed(lines) for name, lines in loads.items()}
        row = text.AHEAD.format(
            before=self.before, here=indent(packed["here"]), moved=indent(packed["moved"]),
            begins=indent(self._begins(), 4), next=indent(packed["next"], 4),
        )  # fmt: skip
        return [*kept, *row.splitlines()]

    def _loaded(self, name: str) -> list[str]:
        return [f"{name}{n}[kk_p] = {self._taken(n)};" for n in sorted(self.held)]

    def _packed(self, lines: Sequence[str]) -> list[str]:
        return text.PACK_LOOP.format(lines=indent(lines, 4)).splitlines()

    def _begins(self) -> list[str]:
        """Where a row begins in each input that is held."""
        held = [f"const long kk_row{self.place[n]} = {self.begin(n)};" for n in sorted(self.held)]
        return [*self.coordinates(), *held]

    def steady(self) -> list[str]:
        lines = [f"{self._pack(n)} w{self.place[n]}[PACKS];" for n in self.alike]
        begins = [f"const long kk_row{self.place[n]} = {self.begin(n)};" for n in self.alike]
        loads = [f"w{self.place[n]}[kk_p] = {self._taken(n)};" for n in self.alike]
        lines += self._packed([*begins, *loads]) if loads else []
        if self.ahead:
            lines += [f"{self._pack(n)} kk_next{n}[PACKS];" for n in sorted(self.held)]
            first = text.AHEAD_FIRST.format(
                before=self.before, begins=indent(self._begins()),
                next=indent(self._packed(self._loaded("kk_next"))),
            )  # fmt: skip
            lines += first.splitlines()
        return lines

    def loops(self, k: int, walk: Walk) -> list[str]:
        if not self.registers:
            lines = [f"const {self._pack(n)} w{self.place[n]} = {self._taken(n)};"
                     for n in self.full_inputs(walk)]  # fmt: skip
            lines += self._lanes(k, walk)
            return text.STREAM_LOOP.format(lines=indent(lines)).splitlines()
        there = {*self.held, *self.alike}
        fresh = [n for n in self.full_inputs(walk) if n not in there]
        declared = [f"{self._pack(n)} w{self.place[n]}[PACKS];" for n in fresh]
        loads = [f"w{self.place[n]}[kk_p] = {self._taken(n)};" for n in fresh]
        loads += [
            f"kk_held{n}[kk_p] = {self._taken(n)};"
            for n in self.full_inputs(walk)
            if n in self.held and not self.ahead and self.plan.read[n][0] == k
        ]
        load = self._packed(loads) if loads else []
        again = [n for n in self.full_inputs(walk) if n in self.held and self.plan.read[n][0] < k]
        halves = [n for n in again if dtypes.itemsize(self.region[n]["dtype"]) == 2]
        renewed = [f"kk_renew<(PACKS * LANES >= {MANY})>(kk_held{n}[kk_p]);" for n in halves]
        return [*declared, *load, *self._packed([*renewed, *self._lanes(k, walk)])]

    def _pack(self, node: int) -> str:
        return f"kk_part<{self.memory(node)}, LANES>"

    def _taken(self, node: int) -> str:
        i = self.place[node]
        return f"kk_take<{self.memory(node)}, LANES>(in{i} + (kk_row{i} + kk_at))"

    def _lanes(self, k: int, walk: Walk) -> list[str]:
        """What becomes of one pack."""
        written = [(p, self.region.outputs[p]) for p in walk.written]
        call, y = self.results(k, walk)
        lines = [*self._values(walk), *call]
        lines += self.folded(walk, y, "kk_at + kk_v")
        lines += [f"kk_keep{n}[kk_p * LANES + kk_v] = {y[n]};" for n in self.kept_here(walk)]
        lines += [f"r{p}[kk_v] = {y[n]};" for p, n in written]
        gives = [
            f"  kk_give<{self.memory(n)}, LANES>({self.outs[p]} + ({self.first} + kk_at), r{p});"
            for p, n in written
        ]
        return [
            *[f"{self.kind(n)} r{p}[LANES];" for p, n in written],
            *text.LANE_LOOP.format(lines=indent(lines)).splitlines(),
            *(["if (kk_live) {", *gives, "}"] if gives else []),
        ]

    def _values(self, walk: Walk) -> list[str]:
        """An element of each input of the walk."""
        lines = self.numbered(walk, "kk_at + kk_v")
        for node in self.full_inputs(walk):
            pack = f"w{self.place[node]}" + ("[kk_p]" if self.registers else "")
            pack = f"kk_held{node}[kk_p]" if node in self.held else pack
            lines.append(f"const {self.kind(node)} x{node} = {self.kind(node)}({pack}[kk_v]);")
        for node in self.kept_inputs(walk):
            value = f"kk_keep{node}[kk_p * LANES + kk_v]"
            lines.append(f"const {self.kind(node)} x{node} = {value};")
        return lines


class _Slow(Way):
    """Threads take column by column, from any strides; each walk reads again."""

    slot, sink_end = "kk_k", text.SLOW_SINK_END
    thread_begins = "kk_thread"

    def loops(self, k: int, walk: Walk) -> list[str]:
        lines = self.numbered(walk, "kk_at")
        for node in self.full_inputs(walk):
            i = self.place[node]
            at = f"kk_row{i} + kk_at * kk_step{i}_{self.column}"
            lines.append(f"const {self.kind(node)} x{node} = {self.kind(node)}(in{i}[{at}]);")
        call, y = self.results(k, walk)
        lines += [*call, *self.folded(walk, y, "kk_at")]
        gives = []
        for p in walk.written:
            node = self.region.outputs[p]
            out = f"{self.outs[p]}[{self.first} + kk_at]"
            gives.append(f"  {out} = {self.memory(node)}({y[node]});")
        lines += ["if (kk_live) {", *gives, "}"] if gives else []
        held = self.registers and any(self.plan.keeps_columns(n) for n in walk.sunk)
        if held:
            return text.HELD_LOOP.format(lines=indent(lines, 4)).splitlines()
        return text.SINGLE_LOOP.format(lines=indent(lines)).splitlines()
