"""What both ways of a GPU's kernel that walks over rows share: how threads meet, and what sinks do.

Comes in: a Schedule. Goes out: lines of text, for zmlx.msl.walk. The threads of a row meet after
each walk; the lines of a group, which have rows side by side, meet once, behind their last rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.msl import walk_text as text
from zmlx.msl.schedule import Schedule, Walk
from zmlx.msl.walk_meeting import Fold, Slots, fast_join, near, turn
from zmlx.msl.walk_parts import Parts, indent, spot
from zmlx.ops.reductions import REDUCTIONS


class Way(Parts):
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
        columns, ones = self.across_lines()
        lines += self._joined_lines(columns, "PACKS * LANES")
        lines += self._joined_lines(ones, "1")
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

    def join(self, op: str, kind: str) -> str:
        return fast_join(op, kind)

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

    def _joined_lines(self, folds: Sequence[Fold], values: str) -> list[str]:
        """The lines of a group join their values; what line 0 then has counts."""
        if not folds:
            return []
        slots, tell, join, hear = Slots(), [], [], []
        for op, kind, value in folds:
            at = f"kk_lines_{kind}[{slots.next(kind)}][kk_k - kk_b]"
            tell.append(f"{at}[kk_place] = {value};")
            join.append(f"{{ const {kind} a = {at}[kk_place], b = {at}[kk_far];")
            join.append(f"  {at}[kk_place] = {fast_join(op, kind)}; }}")
            hear.append(f"{value} = {at}[kk_place];")
        sizes = {"values": values, "turn": turn(self.across_lines())}
        parts = {"tell": (tell, 2), "join": (join, 6), "hear": (hear, 2)}
        turns = {
            name: indent(text.LINES_TURN.format(lines=indent(lines), **sizes).splitlines(), by)
            for name, (lines, by) in parts.items()
        }
        return text.LINES_JOIN.format(**turns, **sizes).splitlines()

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
