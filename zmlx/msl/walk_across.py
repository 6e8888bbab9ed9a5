"""Kernels over rows that are neighbours in memory: columns lie before the last dimensions of rows.

Comes in: a Schedule that is `across`. Goes out: lines of text, for zmlx.msl.walk. Threads, or the
lanes of one core's vectors, take neighbouring rows, and walk over their columns together.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.msl import across_text as text
from zmlx.msl.schedule import Schedule, Walk
from zmlx.msl.walk_parts import Parts, indent, product, spot


class Across(Parts):
    """For groups of threads: a thread has one row at a time, and shares its columns."""

    def __init__(self, plan: Schedule, prefix: str) -> None:
        super().__init__(plan, prefix)
        self.lane = len(self.space.shape) - 1
        self.leads = [d for d in range(self.lane) if d != self.column]

    def body(self) -> list[str]:
        """All of the kernel."""
        lines = self.row_begins()
        for k, walk in enumerate(self.plan.walks):
            lines += [*self.row_part(k), *self._walk(k, walk)]
        lines += [*self.row_part(len(self.plan.walks)), *self._row_ends()]
        leads = text.LEADS.format(body=indent(lines)).splitlines()
        return [*self._shared(), *text.PLACE.splitlines(), *leads]

    # -- places -------------------------------------------------------------------------------
    def sizes(self) -> list[str]:
        dims = range(self.lane + 1)
        lines = [f"const long kk_n{d} = {self._size(d)};" for d in dims if d != self.column]
        lines.append(f"const int kk_columns = {self._size(self.column)};")
        lines.append(f"const long kk_leads = {product(self.leads)};")
        lines.append(f"const long kk_lanes = kk_n{self.lane};")
        for i in self.place.values():
            for d in self.space.moves[i]:
                lines.append(f"const long kk_step{i}_{d} = in{i}_strides[{d}];")
        behind = product(d for d in dims if d > self.column)
        return [*lines, f"const long kk_next = {behind};"]

    def begin(self, node: int) -> str:
        i = self.place[node]
        moves = [d for d in self.space.moves[i] if d != self.column]
        return " + ".join(f"{self._coordinate(d)} * kk_step{i}_{d}" for d in moves) or "0"

    @property
    def out_row(self) -> str:
        """Where the column 0 of a row is in an output."""
        steps = []
        for d in [*self.leads, self.lane]:
            behind = product(e for e in range(d + 1, self.lane + 1) if e != self.column)
            size = f" * {behind}" if behind != "1" else ""
            size += " * long(kk_columns)" if d < self.column else ""
            steps.append(f"{self._coordinate(d)}{size}")
        return " + ".join(steps)

    def coordinates(self) -> list[str]:
        lines, rest = [], "kk_lead"
        for d in reversed(self.leads[1:]):
            lines.append(f"const long kk_c{d} = {rest} % kk_n{d};")
            lines.append(f"const long kk_rest{d} = {rest} / kk_n{d};")
            rest = f"kk_rest{d}"
        lines += [f"const long kk_c{d} = {rest};" for d in self.leads[:1]]
        return [*lines, f"const long kk_c{self.lane} = {self._first_lane};"]

    _first_lane = "kk_lane"

    def _coordinate(self, dim: int) -> str:
        return f"kk_c{dim}"

    # -- walks --------------------------------------------------------------------------------
    def _walk(self, k: int, walk: Walk) -> list[str]:
        lines = [line for n in walk.folds for line in self.begun(n, "kk_line")]
        inner = self._element(k, walk, [f"kk_fold{n}" for n in walk.folds], "")
        lines += text.WALK.format(lines=indent(inner)).splitlines()
        if walk.folds:
            lines += [*self._meeting(walk), *self.ended(walk.folds)]
        return lines

    def _element(self, k: int, walk: Walk, totals: Sequence[str], lane: str) -> list[str]:
        """One element; `lane` says how its place differs from that of the row's."""
        lines = []
        for node in self.full_inputs(walk):
            i, kind = self.place[node], self.kind(node)
            step = lane.format(i, self.lane) if self.lane in self.space.moves[i] else ""
            at = f"kk_row{i} + kk_at * kk_step{i}_{self.column}{step}"
            lines.append(f"const {kind} x{node} = {kind}(in{i}[{at}]);")
        call, y = self.results(k, walk)
        lines += call
        for node, total in zip(walk.folds, totals, strict=True):
            value = y[self.region.operands(node)[0]]
            lines += self.joined(node, total, value, False, "kk_at")
        beside = " + kk_v" if lane else ""
        for p in walk.written:
            node = self.region.outputs[p]
            give = f"{self.outs[p]}[kk_out + kk_at * kk_next{beside}]"
            give += f" = {self.memory(node)}({y[node]});"
            lines.append(give if lane else f"if (kk_live) {{ {give} }}")
        return lines

    def row_begins(self) -> list[str]:
        return [*super().row_begins(), f"const long kk_out = {self.out_row};"]

    def _row_ends(self) -> list[str]:
        lines = []
        for position in self.plan.per_row:
            node, out = self.region.outputs[position], self.outs[position]
            value = f"{self.memory(node)}(n{node})"
            lines.append(f"if (kk_live && kk_line == 0) {{ {out}[kk_row] = {value}; }}")
        return lines

    # -- what threads of a row join -----------------------------------------------------------
    def _slots(self, walk: Walk) -> list[tuple[int, str]]:
        """Each fold, and where its parts are."""
        count: dict[str, int] = {}
        found = []
        for node in walk.folds:
            kind = self.fold_kind(node)
            slot = count[kind] = count.get(kind, -1) + 1
            found.append((node, f"kk_parts_{kind}[{slot}]"))
        return found

    def _shared(self) -> list[str]:
        most: dict[tuple[str, str], int] = {}
        for walk in self.plan.walks:
            slots = self._slots(walk)
            parts = [(self.fold_kind(n), slot) for n, slot in slots]
            parts += [("int", spot(slot)) for n, slot in slots if self.finds(n)]
            for kind, slot in parts:
                name, _, place = slot.removesuffix("]").partition("[")
                most[kind, name] = max(most.get((kind, name), 0), int(place) + 1)
        return [
            text.SHARED.format(kind=kind, name=name, count=count)
            for (kind, name), count in sorted(most.items())
        ]

    def _meeting(self, walk: Walk) -> list[str]:
        tell, first, hear = [], [], []
        for node, slot in self._slots(walk):
            total = f"kk_fold{node}"
            values = [(slot, total)]
            values += [(spot(slot), spot(total))] if self.finds(node) else []
            tell += [f"{part}[kk_line][kk_thread] = {value};" for part, value in values]
            first += [f"{value} = {part}[0][kk_thread];" for part, value in values]
            hear += self.merged(node, total, f"{slot}[kk_of][kk_thread]")
        return text.MEET.format(
            tell="\n".join(tell), first="\n".join(first), hear=indent(hear)
        ).splitlines()


class AcrossAlone(Across):
    """For a device on which the threads of a group take turns: LANES neighbours at once."""

    _first_lane = "kk_from"

    def body(self) -> list[str]:
        lines = self.row_begins()
        for k, walk in enumerate(self.plan.walks):
            lines += [*self.row_part(k), *self._walk(k, walk)]
        lines += [*self.row_part(len(self.plan.walks)), *self._row_ends()]
        units = text.ALONE_UNITS.format(body=indent(lines)).splitlines()
        return [line for line in [*text.ALONE_PLACE.splitlines(), *units] if line.strip()]

    def row_begins(self) -> list[str]:
        """Where the rows begin in each input, and the values of each that is not full."""
        lines = self.coordinates()
        reads = []
        for node, i in self.place.items():
            if node not in self.plan.full and not self.space.moves[i]:
                continue
            lines.append(f"const long kk_row{i} = {self.begin(node)};")
            if node not in self.plan.full:
                lines.append(f"{self.kind(node)} kk_v{node}[LANES];")
                step = f" + kk_v * kk_step{i}_{self.lane}" if self._varies(node) else ""
                value = f"{self.kind(node)}(in{i}[kk_row{i}{step}])"
                reads.append(f"kk_v{node}[kk_v] = {value};")
        lines.append(f"const long kk_out = {self.out_row};")
        return [*lines, *(self._lanes(reads) if reads else [])]

    def _varies(self, node: int) -> bool:
        return self.lane in self.space.moves[self.place[node]]

    def _lanes(self, lines: Sequence[str]) -> list[str]:
        return text.ALONE_LANES.format(lines=indent(lines)).splitlines()

    def _values(self, nodes: Sequence[int]) -> list[str]:
        """What is one value a row, of those of `nodes` that are kept for each lane."""
        numbers = [n for n in nodes if self.region.kind(n) in ("scalar", "count")]
        once = [n for n, i in self.place.items() if not self.space.moves[i]]
        lanes = [n for n in nodes if n not in self.plan.full and n not in (*numbers, *once)]
        return [f"const {self.kind(n)} n{n} = kk_v{n}[kk_v];" for n in lanes]

    def row_part(self, k: int) -> list[str]:
        part = self.plan.rows[k] if k < len(self.plan.rows) else None
        if part is None or not part.outputs:
            return []
        declared = [f"{self.kind(n)} kk_v{n}[LANES];" for n in part.outputs]
        results = [f"{self.kind(n)} n{n};" for n in part.outputs]
        call = self.call(f"row{k}", part, [f"n{n}" for n in part.outputs])
        keeps = [f"kk_v{n}[kk_v] = n{n};" for n in part.outputs]
        return [*declared, *self._lanes([*self._values(part.inputs), *results, call, *keeps])]

    def _walk(self, k: int, walk: Walk) -> list[str]:
        folds = [(n, self.fold_kind(n)) for n in walk.folds]
        lines = [f"{kind} {v}{n}[LANES];" for n, kind in folds for v in ("kk_fold", "kk_part")]
        finds = [(f"kk_fold{n}", f"kk_part{n}") for n in walk.folds if self.finds(n)]
        lines += [f"int {spot(value)}[LANES];" for pair in finds for value in pair]
        starts = [f"kk_fold{n}[kk_v] = {self.neutral(n)};" for n in walk.folds]
        starts += [f"{spot(fold)}[kk_v] = 0;" for fold, _ in finds]
        lines += self._lanes(starts) if starts else []
        begin = [f"kk_part{n}[kk_v] = {self.neutral(n)};" for n in walk.folds]
        begin += [f"{spot(part)}[kk_v] = kk_start;" for _, part in finds]
        end = []
        for n in walk.folds:
            end += self.merged(n, f"kk_fold{n}[kk_v]", f"kk_part{n}[kk_v]")
        values = self._values(walk.part.inputs)
        totals = [f"kk_part{n}[kk_v]" for n in walk.folds]
        ways = [
            self._element(k, walk, totals, by) for by in (" + kk_v", " + kk_v * kk_step{0}_{1}")
        ]
        unit, other = [self._lanes([*values, *way]) for way in ways]
        lines += text.ALONE_WALK.format(
            unit=self._unit(walk),
            start=indent(self._lanes(begin)) if folds else "",
            end=indent(self._lanes(end)) if folds else "",
            unit_lanes=indent(unit, 6),
            any_lanes=indent(other, 6),
        ).splitlines()
        if folds:
            lines += [f"{self.kind(n)} kk_v{n}[LANES];" for n in walk.folds]
            ends = [(n, f"kk_fold{n}[kk_v]") for n in walk.folds]
            ends = [(n, spot(value) if self.finds(n) else value) for n, value in ends]
            keeps = [f"kk_v{n}[kk_v] = {self.kind(n)}({value});" for n, value in ends]
            lines += self._lanes(keeps)
        return lines

    def _unit(self, walk: Walk) -> str:
        nodes = [n for n in self.full_inputs(walk) if self._varies(n)]
        return " && ".join(f"kk_step{self.place[n]}_{self.lane} == 1" for n in nodes) or "true"

    def _row_ends(self) -> list[str]:
        lines = []
        for position in self.plan.per_row:
            node, out = self.region.outputs[position], self.outs[position]
            value = f"{self.memory(node)}(n{node})"
            lines += self._lanes([*self._values([node]), f"{out}[kk_row + kk_v] = {value};"])
        return lines
