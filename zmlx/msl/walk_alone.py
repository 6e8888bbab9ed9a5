"""The text of a row-wise kernel for a thread that has rows to itself: one core of a CPU.

Comes in: a Schedule. Goes out: lines of text, for zmlx.msl.walk. The loop over columns computes
elements only, in vectors; folds run over what it left in an array.
"""

from __future__ import annotations

from zmlx.msl import walk_text as text
from zmlx.msl.schedule import Walk
from zmlx.msl.walk_parts import Parts, indent


class Alone(Parts):
    """All of the kernel."""

    def body(self) -> list[str]:
        lines = self.row_begins()
        for k, walk in enumerate(self.plan.walks):
            lines += [*self.row_part(k), *self._walk(k, walk)]
        lines += [*self.row_part(len(self.plan.walks)), *self.row_ends()]
        single = [n for n in self.sums if not self.plan.keeps_columns(n)]
        starts = [f"{self.kind(n)} kk_keep{n}[ROOM];" for n in self.plan.kept]
        starts += [f"float kk_sink{n} = 0.0f;" for n in single]
        ends = [f"{self.sums[n]}[kk_block] = kk_sink{n};" for n in single]
        whole = text.ALONE_ROWS.format(
            starts="\n".join(starts), body=indent(lines), ends="\n".join(ends)
        )
        return [line for line in whole.splitlines() if line.strip()]

    def _walk(self, k: int, walk: Walk) -> list[str]:
        lines = [f"{self.fold_kind(n)} kk_fold{n} = {self.neutral(n)};" for n in walk.folds]
        lines += text.ALONE_WALK.format(
            terms=indent(self._terms(walk)),
            unit=self._unit(walk),
            unit_lane=indent(self._lane(k, walk, ""), 6),
            lane=indent(self._lane(k, walk, " * kk_step{0}_{1}"), 6),
            folds=indent(self._folds(walk)),
        ).splitlines()
        kinds = [(n, self.kind(n)) for n in walk.folds]
        return [*lines, *[f"const {kind} n{n} = {kind}(kk_fold{n});" for n, kind in kinds]]

    def _unit(self, walk: Walk) -> str:
        steps = [f"kk_step{self.place[n]}_{self.column} == 1" for n in self.full_inputs(walk)]
        return " && ".join(steps) or "true"

    def _single(self, walk: Walk) -> list[int]:
        """Sinks that need one sum, not one for each column."""
        return [n for n in walk.sunk if not self.plan.keeps_columns(n)]

    def _terms(self, walk: Walk) -> list[str]:
        kinds = [(n, self.fold_kind(n)) for n in walk.folds]
        kinds += [(n, "float") for n in self._single(walk)]
        return [f"{kind} kk_terms{n}[LANES];" for n, kind in kinds]

    def _folds(self, walk: Walk) -> list[str]:
        lines = []
        for node in (*walk.folds, *self._single(walk)):
            sink = node in self.sums
            kind = "float" if sink else self.fold_kind(node)
            total = f"kk_sink{node}" if sink else f"kk_fold{node}"
            template, words = text.ALONE_FOLD[self.region[node]["op"]]
            odd = "NAN" if kind == "float" else total
            lines += template.format(
                node=node, kind=kind, total=total, odd=odd, **words
            ).splitlines()
        return lines

    def _lane(self, k: int, walk: Walk, step: str) -> list[str]:
        """One element; `step` is how an input's place grows from column to column."""
        lines = []
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
            if self.plan.keeps_columns(node) and node in self.sums:
                place = f"{self.sums[node]}[kk_block * kk_columns + kk_from + kk_v]"
                lines.append(f"{place} = (kk_row == kk_first) ? {value} : {place} + {value};")
            else:
                lines.append(f"kk_terms{node}[kk_v] = {value};")
        lines += [f"kk_keep{n}[kk_from + kk_v] = {y[n]};" for n in self.kept_here(walk)]
        for p in walk.written:
            node = self.region.outputs[p]
            place = f"{self.outs[p]}[kk_row * kk_columns + kk_from + kk_v]"
            lines.append(f"{place} = {self.memory(node)}({y[node]});")
        return lines
