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

from zmlx import dtypes
from zmlx.msl import walk_text as text
from zmlx.msl.loop import LOOP_MACRO
from zmlx.msl.schedule import Schedule, Walk
from zmlx.msl.spec import MetalKernelSpec
from zmlx.msl.walk_across import Across, AcrossAlone
from zmlx.msl.walk_alone import Alone
from zmlx.msl.walk_meeting import Fold, Slots, near, near_text, shared_memory
from zmlx.msl.walk_parts import Parts, indent, join_of, spot
from zmlx.ops.reductions import REDUCTIONS
from zmlx.trace.graph import Graph


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
    return _spec(quick, "\n".join([*lines, ways]), text.PARTS + exchanges, [first, second])


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


class _Way(Parts):
    """One of the two ways."""

    slot = sink_end = ""  # of a sink's value for a column: where it is held, and goes
    thread_begins = ""  # a thread's first column

    def __init__(self, plan: Schedule, prefix: str, registers: bool) -> None:
        super().__init__(plan, prefix)
        self.registers = registers

    def body(self) -> list[str]:
        """The loop over rows, and the sinks around it."""
        lines = [*self.row_begins(), *self.declared()]
        for k, walk in enumerate(self.plan.walks):
            lines += [*self.row_part(k), *self._walk(k, walk)]
        lines += [*self.row_part(len(self.plan.walks)), *self.row_ends()]
        rows = text.ROWS.format(body=indent(lines), before=self.before).splitlines()
        body = [*self._sink_starts(), *self.steady(), *rows, *self._sink_ends()]
        return text.OUTER.format(body=indent(body)).splitlines() if self.layers else body

    def meetings(self) -> list[list[Fold]]:
        """What the threads of a row join at one time: after each walk, and at the end."""
        found = [self._folds(walk) for walk in self.plan.walks]
        found.append(self._joined_sinks())
        return [meeting for meeting in found if meeting]

    def _folds(self, walk: Walk) -> list[Fold]:
        return [(self.region[n]["op"], self.fold_kind(n), f"kk_fold{n}") for n in walk.folds]

    def _joined_sinks(self) -> list[Fold]:
        plan, region = self.plan, self.region
        joined = [n for n in plan.sinks if self.is_full(n) and not plan.keeps_columns(n)]
        return [(region[n]["op"], self.fold_kind(n), f"kk_sink{n}") for n in joined]

    def across_lines(self) -> list[list[Fold]]:
        """What the lines of a group join at one time: column by column, then one value a row.

        Sums of columns that grow in memory are those of a group's only line.
        """
        keeps, region = self.plan.keeps_columns, self.region
        sinks = [n for n in self.plan.sinks if self.registers or not keeps(n)]
        columns = [n for n in sinks if keeps(n)]
        ones = [n for n in sinks if n not in columns]
        named = [[(n, f"kk_sink{n}[kk_k]") for n in columns], [(n, f"kk_sink{n}") for n in ones]]
        return [[(region[n]["op"], self.fold_kind(n), v) for n, v in pairs] for pairs in named]

    def _in_memory(self, sink: int) -> bool:
        """Whether a sink's sums, one for each column, grow where they are to be."""
        return self.plan.keeps_columns(sink) and not self.registers

    def declared(self) -> list[str]:
        """What a thread holds of a row."""
        return []

    def steady(self) -> list[str]:
        """What a thread reads once for all rows."""
        return []

    def _sink_starts(self) -> list[str]:
        lines = []
        for node in self.plan.sinks:
            kind, neutral = self.fold_kind(node), self.neutral(node)
            if not self.plan.keeps_columns(node):
                lines.append(f"{kind} kk_sink{node} = {neutral};")
            elif self.registers:
                start = text.SINK_START.format(node=node, kind=kind, neutral=neutral)
                lines += start.splitlines()
        return lines

    def _sink_ends(self) -> list[str]:
        meeting = self._joined_sinks()
        lines = self._meeting(meeting) if meeting else []
        columns, ones = map(self._joined_lines, self.across_lines())
        if columns:
            lines += text.LINES_LOOP.format(lines=indent(columns)).splitlines()
        lines += ones
        for node in self.plan.sinks:
            out, place = self.sums[node], self.part_at(node)
            if not self.plan.keeps_columns(node):
                lines.append(f"if (kk_place == 0) {{ {out}[{place}] = kk_sink{node}; }}")
            elif self.registers:
                end = self.sink_end.format(node=node, out=out, place=place)
                lines += end.splitlines()
        return lines

    def _walk(self, k: int, walk: Walk) -> list[str]:
        lines = [line for n in walk.folds for line in self.begun(n, self.thread_begins)]
        lines += self.loops(k, walk)
        if walk.folds:
            lines += [*self._meeting(self._folds(walk)), *self.ended(walk.folds)]
        return lines

    def loops(self, k: int, walk: Walk) -> list[str]:
        """A thread's share of a walk."""
        raise NotImplementedError

    def _meeting(self, folds: Sequence[Fold]) -> list[str]:
        """Threads of a row join their values."""
        lines = [near(op, kind, v, "(TX < 32) ? TX : 32") for op, kind, v in folds]
        slots, tell, hear = Slots(), [], []
        for op, kind, total in folds:
            places = REDUCTIONS[op].index
            values = [(kind, total), *([("int", spot(total))] if places else [])]
            heard = []
            for kept, value in values:
                place = f"kk_partials_{kept}[kk_turn][{slots.next(kept)}]"
                tell.append(f"{place}[kk_place / 32] = {value};")
                heard.append(f"{place}[kk_of]")
            if places:
                hear += [f"{v} = {h};" for (_, v), h in zip(values, heard, strict=True)]
            hear.append(near(op, kind, total, "kk_share", "" if places else heard[0]))
        meet = text.MEET.format(tell=indent(tell, 4), hear=indent(hear))
        return [*lines, *meet.splitlines()]

    def _joined_lines(self, folds: Sequence[Fold]) -> list[str]:
        """The lines of a group join their values; what line 0 then has counts."""
        slots, tell, join, hear = Slots(), [], [], []
        for op, kind, value in folds:
            at = f"kk_lines_{kind}[{slots.next(kind)}]"
            tell.append(f"{at}[kk_place] = {value};")
            join.append(f"{{ const {kind} a = {at}[kk_place], b = {at}[kk_other];")
            join.append(f"  {at}[kk_place] = {join_of(op)}; }}")
            hear.append(f"{value} = {at}[kk_place];")
        if not folds:
            return []
        return text.LINES_JOIN.format(
            tell=indent(tell), join=indent(join, 6), hear=indent(hear)
        ).splitlines()

    def folded(self, walk: Walk, y: dict[int, str], place: str) -> list[str]:
        """What folds and sinks make of one element; `place` is its column."""
        lines = []
        for node in walk.folds:
            value = y[self.region.operands(node)[0]]
            lines += self.joined(node, f"kk_fold{node}", value, False, place)
        for node in walk.sunk:
            value, total = y[self.region.operands(node)[0]], f"kk_sink{node}"
            if self._in_memory(node):
                grown = f"{self.sums[node]}[{self.part_at(node)} + {place}]"
                begun = f"kk_base < kk_blocks ? {self.neutral(node)} : {grown}"
                lines.append(f"{{ {self.fold_kind(node)} kk_sum = {begun};")
                lines += [*self.joined(node, "kk_sum", value), f"{grown} = kk_sum; }}"]
            else:
                where = f"[{self.slot}]" if self.plan.keeps_columns(node) else ""
                lines += self.joined(node, total + where, value)
        return lines


class _Quick(_Way):
    """Threads move packs."""

    slot, sink_end = "kk_p * LANES + kk_v", text.SINK_END
    thread_begins = "kk_thread * LANES"

    def __init__(self, plan: Schedule, prefix: str, registers: bool) -> None:
        super().__init__(plan, prefix, registers)
        self.held = {n for n, walks in plan.read.items() if registers and len(walks) > 1}
        moves = {n: self.space.moves[self.place[n]] for n in plan.read}
        once = registers and plan.cut  # a thread's columns are the same in all rows
        self.alike = [n for n, dims in moves.items() if once and dims == (self.column,)]

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
        held = sorted(self.held)
        return kept + [f"kk_part<{self.memory(n)}, LANES> kk_held{n}[PACKS];" for n in held]

    def steady(self) -> list[str]:
        lines = [f"{self._pack(n)} w{self.place[n]}[PACKS];" for n in self.alike]
        begins = [f"const long kk_row{self.place[n]} = {self.begin(n)};" for n in self.alike]
        loads = [f"w{self.place[n]}[kk_p] = {self._taken(n)};" for n in self.alike]
        load = text.PACK_LOOP.format(lines=indent([*begins, *loads], 4)).splitlines()
        return [*lines, *load] if loads else []

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
            if n in self.held and self.plan.read[n][0] == k
        ]
        load = text.PACK_LOOP.format(lines=indent(loads, 4)).splitlines() if loads else []
        work = text.PACK_LOOP.format(lines=indent(self._lanes(k, walk), 4))
        return [*declared, *load, *work.splitlines()]

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
            f"  kk_give<{self.memory(n)}, LANES>({self.outs[p]} + "
            f"({self.first} + kk_at), r{p});"
            for p, n in written
        ]
        return [
            *[f"{self.kind(n)} r{p}[LANES];" for p, n in written],
            *text.LANE_LOOP.format(lines=indent(lines)).splitlines(),
            *(["if (kk_live) {", *gives, "}"] if gives else []),
        ]

    def _values(self, walk: Walk) -> list[str]:
        """An element of each input of the walk."""
        lines = []
        for node in self.full_inputs(walk):
            pack = f"w{self.place[node]}" + ("[kk_p]" if self.registers else "")
            pack = f"kk_held{node}[kk_p]" if node in self.held else pack
            lines.append(f"const {self.kind(node)} x{node} = {self.kind(node)}({pack}[kk_v]);")
        for node in self.kept_inputs(walk):
            value = f"kk_keep{node}[kk_p * LANES + kk_v]"
            lines.append(f"const {self.kind(node)} x{node} = {value};")
        return lines


class _Slow(_Way):
    """Threads take column by column, from any strides; each walk reads again."""

    slot, sink_end = "kk_k", text.SLOW_SINK_END
    thread_begins = "kk_thread"

    def loops(self, k: int, walk: Walk) -> list[str]:
        lines = []
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
