"""The text of a row-wise kernel for a thread that has rows to itself: one core of a CPU.

Comes in: a Schedule. Goes out: lines of text, for zmlx.msl.walk. The loop over columns computes
elements only, in vectors; folds run over what it left in an array.
"""

from __future__ import annotations

from zmlx.msl import walk_text as text
from zmlx.msl.schedule import Walk
from zmlx.msl.walk_parts import Parts, indent, spot


class Alone(Parts):
    """All of the kernel."""

    @property
    def columns(self) -> str:
        return f"EXACT ? LANES : int({super().columns})"

    def body(self) -> list[str]:
        lines = self.row_begins()
        for k, walk in enumerate(self.plan.walks):
            lines += [*self.row_part(k), *self._walk(k, walk)]
        lines += [*self.row_part(len(self.plan.walks)), *self.row_ends()]
        rows = text.ALONE_ROWS.format(before=self.before, body=indent(lines)).splitlines()
        whole = [*self._sink_starts(), *rows, *self._sink_ends()]
        whole = text.OUTER.format(body=indent(whole)).splitlines() if self.layers else whole
        kept = [f"{self.kind(n)} kk_keep{n}[ROOM];" for n in self.plan.kept]
        lines = [*text.ALONE_PLACE.splitlines(), *kept, *whole]
        return [line for line in lines if line.strip()]

    def _sink_starts(self) -> list[str]:
        lines = []
        for node in self.plan.sinks:
            if not self.is_full(node):
                lines.append(f"{self.fold_kind(node)} kk_sink{node} = {self.neutral(node)};")
            elif not self.plan.keeps_columns(node):
                lines += self._started(node, f"kk_terms{node}", "LANES", "kk_lead")
            elif self.plan.cut:
                lines += self._started(node, f"kk_sink{node}", "CUT", "kk_columns")
        return lines

    def _started(self, node: int, name: str, size: str, count: str) -> list[str]:
        """An array in which a fold goes on, column by column."""
        kind, neutral = self.fold_kind(node), self.neutral(node)
        start = text.ALONE_START.format(
            name=name, kind=kind, size=size, count=count, neutral=neutral
        ).splitlines()
        if not self.finds(node):
            return start
        places = text.ALONE_START.format(
            name=spot(name), kind="int", size=size, count=count, neutral="kk_v"
        )
        return [*start, *places.splitlines()]

    def _sink_ends(self) -> list[str]:
        lines = []
        for node in self.plan.sinks:
            out, place = self.sums[node], self.part_at(node)
            if self.is_full(node) and not self.plan.keeps_columns(node):
                lines += self._folded(node, f"kk_sink{node}")
            if not self.plan.keeps_columns(node):
                lines.append(f"{out}[{place}] = kk_sink{node};")
            elif self.plan.cut:
                lines += text.ALONE_END.format(node=node, out=out, place=place).splitlines()
        return lines

    def _walk(self, k: int, walk: Walk) -> list[str]:
        lines = []
        for node in walk.folds:
            lines += self._started(node, f"kk_terms{node}", "LANES", "kk_lead")
        lines += text.ALONE_WALK.format(
            unit=self._unit(walk),
            unit_lane=indent(self._lane(k, walk, ""), 6),
            lane=indent(self._lane(k, walk, " * kk_step{0}_{1}"), 6),
        ).splitlines()
        for node in walk.folds:
            lines += self._folded(node, f"kk_fold{node}")
        return [*lines, *self.ended(walk.folds)]

    def _folded(self, node: int, total: str) -> list[str]:
        """`total`, of the values of a fold for each of the first columns."""
        kind = self.fold_kind(node)
        template, words = text.ALONE_FOLD[self.region[node]["op"]]
        odd = "NAN" if kind == "float" else total
        lines = template.format(node=node, kind=kind, total=total, odd=odd, **words).splitlines()
        if self.finds(node):
            lines += text.ALONE_FOUND.format(node=node, kind=kind, total=total).splitlines()
        return [f"{kind} {total} = {self.neutral(node)};", *lines]

    def _unit(self, walk: Walk) -> str:
        steps = [f"kk_step{self.place[n]}_{self.column} == 1" for n in self.full_inputs(walk)]
        return " && ".join(steps) or "true"

    def _lane(self, k: int, walk: Walk, step: str) -> list[str]:
        """One element; `step` is how an input's place grows from column to column."""
        lines = self.numbered(walk, "kk_from + kk_v")
        for node in self.full_inputs(walk):
            i, kind = self.place[node], self.kind(node)
            at = f"kk_row{i} + (kk_from + kk_v){step.format(i, self.column)}"
            lines.append(f"const {kind} x{node} = {kind}(in{i}[{at}]);")
        for node in self.kept_inputs(walk):
            lines.append(f"const {self.kind(node)} x{node} = kk_keep{node}[kk_from + kk_v];")
        call, y = self.results(k, walk)
        lines += call
        for node in (*walk.folds, *walk.sunk):
            value = y[self.region.operands(node)[0]]
            if node in walk.folds or not self.plan.keeps_columns(node):
                place = "kk_from + kk_v"
                lines += self.joined(node, f"kk_terms{node}[kk_v]", value, False, place)
            elif self.plan.cut:
                lines += self.joined(node, f"kk_sink{node}[kk_from + kk_v]", value, live=False)
            else:
                grown = f"{self.sums[node]}[{self.part_at(node)} + kk_from + kk_v]"
                begun = f"kk_inner == kk_first ? {self.neutral(node)} : {grown}"
                lines.append(f"{{ {self.fold_kind(node)} kk_sum = {begun};")
                lines += self.joined(node, "kk_sum", value, live=False)
                lines.append(f"{grown} = kk_sum; }}")
        lines += [f"kk_keep{n}[kk_from + kk_v] = {y[n]};" for n in self.kept_here(walk)]
        for p in walk.written:
            node = self.region.outputs[p]
            place = f"{self.outs[p]}[{self.first} + kk_from + kk_v]"
            lines.append(f"{place} = {self.memory(node)}({y[node]});")
        return lines
