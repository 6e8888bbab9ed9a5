"""What all texts of one row-wise kernel share: names, sizes, what is one value a row.

Comes in: a Schedule. Goes out: lines of text. zmlx.msl.walk and zmlx.msl.walk_alone build on it.
Values of region nodes are called n7 where there is one a row, x7 for an element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zmlx import dtypes
from zmlx.msl import walk_text as text
from zmlx.msl.element import Element
from zmlx.msl.literal import literal
from zmlx.msl.schedule import FOLD_TYPES, Part, Schedule, Walk, columns_of
from zmlx.msl.space import Space
from zmlx.ops.reductions import REDUCTIONS


def join_of(op: str) -> str:
    """The text that joins a, what was folded so far, and b."""
    return REDUCTIONS[op].join.format(a="a", b="b")


def spot(total: str) -> str:
    """The name of the place that a running value `total` was found at."""
    return f"kk_spot_{total}"


class Parts:
    """The region of a schedule as arrays and names; `prefix` begins the functions' names."""

    def __init__(self, plan: Schedule, prefix: str) -> None:
        self.plan, self.region, self.prefix = plan, plan.region, prefix
        self.space = Space.of(plan.region)
        self.column = columns_of(plan.region)
        self.place = {node: i for i, node in enumerate(self.space.arrays)}
        self.number = {node: i for i, node in enumerate(self.space.scalars)}
        self.sums = {node: f"sum{j}" for j, node in enumerate(plan.partial)}
        plain = [i for i, n in enumerate(self.region.outputs) if n not in self.sums]
        self.outs = {position: f"out{j}" for j, position in enumerate(plain)}
        pairs = [(f"walk{k}", walk.part) for k, walk in enumerate(plan.walks)]
        pairs += [(f"row{k}", part) for k, part in enumerate(plan.rows) if part.outputs]
        self.elements = {
            name: Element(part.graph, Space.of(part.graph), False, prefix + name, stored=False)
            for name, part in pairs
        }

    # -- types --------------------------------------------------------------------------------
    def kind(self, node: int) -> str:
        """The type in which a value of `node` is computed with."""
        return dtypes.value_type(self.region[node]["dtype"])

    def finds(self, fold: int) -> bool:
        """Whether `fold` gives a place: it has a running place beside its running value."""
        return REDUCTIONS[self.region[fold]["op"]].index

    def fold_kind(self, node: int) -> str:
        """The type of a fold's running value."""
        kind = self.kind(self.region.operands(node)[0] if self.finds(node) else node)
        return FOLD_TYPES[kind]

    def term(self, fold: int, value: str) -> str:
        """What `fold` joins of an element `value`, in the type of its running value.

        A number is true where it is not zero: 0.5 and NaN are.
        """
        kind, to = self.kind(self.region.operands(fold)[0]), self.fold_kind(fold)
        if self.kind(fold) == "bool" and kind != "bool":
            return f"{to}({value} != 0)"
        return value if kind == to else f"{to}({value})"

    def memory(self, node: int) -> str:
        return dtypes.msl_type(self.region[node]["dtype"])

    def is_full(self, sink: int) -> bool:
        """Whether what a sink folds differs from column to column."""
        return self.region.operands(sink)[0] in self.plan.full

    @property
    def layers(self) -> bool:
        """Whether blocks of rows are counted anew for each index of the outer dimensions."""
        return self.plan.outer > 0 and bool(self.plan.sinks)

    # -- places -------------------------------------------------------------------------------
    @property
    def before(self) -> str:
        """What comes before a row's number in its block."""
        return "kk_before + " if self.layers else ""

    @property
    def first(self) -> str:
        """Where a row, or the part of it that is the group's, begins in an output."""
        return f"kk_row * {self._wide}"

    @property
    def _wide(self) -> str:
        return "kk_wide + kk_left" if self.plan.cut else "kk_columns"

    @property
    def _part(self) -> str:
        return "kk_nth" if self.layers else "kk_group"

    def part_at(self, sink: int) -> str:
        """The place of what a sink folds for a block of rows; the first of several."""
        if self.plan.keeps_columns(sink):
            return f"{self._part} * {self._wide}"
        cut = self.plan.cut and self.is_full(sink)
        return f"{self._part} * kk_cuts + kk_cut" if cut else self._part

    # -- once a thread ------------------------------------------------------------------------
    def sizes(self) -> list[str]:
        outer = self.plan.outer if self.layers else 0
        lines = [f"const long kk_n{d} = {self._size(d)};" for d in range(self.column)]
        lines.append(f"const long kk_rows = {product(range(outer, self.column))};")
        if self.layers:
            lines.append(f"const long kk_outer = {product(range(outer))};")
        if self.plan.cut:
            lines.append(f"const long kk_wide = {self._size(self.column)};")
            lines += text.CUT.splitlines()
        else:
            lines.append(f"const int kk_columns = {self.columns};")
        for i in self.place.values():
            for d in self.space.moves[i]:
                lines.append(f"const long kk_step{i}_{d} = in{i}_strides[{d}];")
        return lines

    @property
    def columns(self) -> str:
        """How many columns a row has, where they are not cut."""
        return self._size(self.column)

    def _size(self, dim: int) -> str:
        source = next((i for i in self.space.sources if dim in self.space.moves[i]), None)
        return "1" if source is None else f"in{source}_shape[{dim}]"

    def once(self) -> list[str]:
        """Numbers, and arrays of one element."""
        lines = []
        for node, i in self.number.items():
            lines.append(f"const {self.kind(node)} n{node} = {self.kind(node)}(s{i}[0]);")
        for node, i in self.place.items():
            if not self.space.moves[i]:
                lines.append(self._read(node, "0"))
        for node in self.region:
            if self.region.kind(node) == "count":
                sizes = [f"float({self._size(d)})" for d in self.region[node]["axes"]]
                lines.append(f"const float n{node} = {' * '.join(sizes) or '1.0f'};")
        return lines

    # -- once a row ---------------------------------------------------------------------------
    def row_begins(self) -> list[str]:
        """Where a row begins in each input, and what does not differ from column to column."""
        lines = self.coordinates()
        for node, i in self.place.items():
            if node in self.plan.full:
                lines.append(f"const long kk_row{i} = {self.begin(node)};")
            elif self.space.moves[i]:
                lines.append(self._read(node, self.begin(node)))
        return lines

    def begin(self, node: int) -> str:
        """Where a row, or the part of it that is the group's, begins in an input."""
        i = self.place[node]
        moves = [d for d in self.space.moves[i] if d != self.column]
        terms = [f"{self._coordinate(d)} * kk_step{i}_{d}" for d in moves]
        if self.plan.cut and node in self.plan.full:
            terms.append(f"kk_left * kk_step{i}_{self.column}")
        return " + ".join(terms) or "0"

    def coordinates(self) -> list[str]:
        """kk_c0, kk_c1, …: where kk_row lies in the dimensions of rows."""
        if self.column < 2:
            return []
        lines, rest = [], "kk_row"
        for d in reversed(range(1, self.column)):
            lines.append(f"const long kk_c{d} = {rest} % kk_n{d};")
            lines.append(f"const long kk_rest{d} = {rest} / kk_n{d};")
            rest = f"kk_rest{d}"
        return [*lines, f"const long kk_c0 = {rest};"]

    def _coordinate(self, dim: int) -> str:
        return "kk_row" if self.column < 2 else f"kk_c{dim}"

    def _read(self, node: int, at: str) -> str:
        return f"const {self.kind(node)} n{node} = {self.kind(node)}(in{self.place[node]}[{at}]);"

    def row_part(self, k: int) -> list[str]:
        """What is one value a row, and known before walk k."""
        part = self.plan.rows[k] if k < len(self.plan.rows) else None
        if part is None or not part.outputs:
            return []
        results = [f"n{n}" for n in part.outputs]
        declared = [f"{self.kind(n)} n{n};" for n in part.outputs]
        return [*declared, self.call(f"row{k}", part, results)]

    def row_ends(self) -> list[str]:
        """Outputs, parts and sinks of one value a row."""
        lines = []
        for position in self.plan.per_row:
            node, out = self.region.outputs[position], self.outs[position]
            value = f"{self.memory(node)}(n{node})"
            lines.append(f"if (kk_live && kk_thread == 0) {{ {out}[kk_row] = {value}; }}")
        for node, out in self.sums.items():
            if node not in self.plan.sinks:
                place = "kk_row * kk_cuts + kk_cut" if self.plan.cut else "kk_row"
                value = f"kk_fold{node}"
                lines.append(f"if (kk_live && kk_thread == 0) {{ {out}[{place}] = {value}; }}")
            elif not self.is_full(node):
                value = f"n{self.region.operands(node)[0]}"
                lines += self.joined(node, f"kk_sink{node}", value)
        return lines

    def begun(self, fold: int, first: str) -> list[str]:
        """The running values of a fold; `first` is the first column that they may meet."""
        lines = [f"{self.fold_kind(fold)} kk_fold{fold} = {self.neutral(fold)};"]
        return [*lines, f"int {spot(f'kk_fold{fold}')} = {first};"] if self.finds(fold) else lines

    def ended(self, folds: Iterable[int]) -> list[str]:
        """What later walks read of folds."""
        kinds = [(n, self.kind(n), f"kk_fold{n}") for n in folds]
        values = [(n, k, spot(v) if self.finds(n) else v) for n, k, v in kinds]
        return [f"const {kind} n{n} = {kind}({value});" for n, kind, value in values]

    def joined(
        self, node: int, total: str, value: str, live: bool = True, place: str = ""
    ) -> list[str]:
        """`total` of a fold or sink, joined with `value`, where `live` that of a row that counts.

        A row beyond the last counts as what changes nothing. `place` is the column.
        """
        kind, data = self.fold_kind(node), self.region[node]
        value = self.term(node, value)
        if self.finds(node):
            hit = f"const bool kk_hit = {join_of(data['op'])};"
            return [
                f"{{ const {kind} a = {total}, b = {value};", f"  {hit}",
                f"  {total} = kk_hit ? b : a;",
                f"  {spot(total)} = kk_hit ? int({place}) : {spot(total)}; }}",
            ]  # fmt: skip
        value = f"kk_live ? {value} : {self.neutral(node)}" if live else value
        if data["op"] == "sum" and total.startswith("kk_sink"):
            return [f"{total} += {value};"]
        join = self.join(data["op"], kind)
        return [f"{{ const {kind} a = {total}, b = {value};", f"  {total} = {join}; }}"]

    def merged(self, node: int, total: str, part: str) -> list[str]:
        """`total` of a fold, joined with another running value of it."""
        kind, join = self.fold_kind(node), join_of(self.region[node]["op"])
        if self.finds(node):
            return text.FOUND.format(
                kind=kind, a=total, spot_a=spot(total), b=part, spot_b=spot(part), hit=join
            ).splitlines()
        return [f"{{ const {kind} a = {total}, b = {part};", f"  {total} = {join}; }}"]

    def join(self, op: str, kind: str) -> str:
        """The text that joins a and b, values of type `kind`."""
        return join_of(op)

    # -- a walk -------------------------------------------------------------------------------
    def full_inputs(self, walk: Walk) -> list[int]:
        full = self.plan.full - self.plan.placed
        return [n for n in walk.part.inputs if n in self.place and n in full]

    def numbered(self, walk: Walk, column: str) -> list[str]:
        """The inputs of a walk that are the number of a column."""
        placed = [n for n in walk.part.inputs if n in self.plan.placed]
        return [f"const {self.kind(n)} x{n} = {self.kind(n)}({column});" for n in placed]

    def kept_inputs(self, walk: Walk) -> list[int]:
        return [n for n in walk.part.inputs if n in self.plan.kept]

    def kept_here(self, walk: Walk) -> list[int]:
        """Values that `walk` makes and a later one reads."""
        return [n for n in walk.part.outputs if n in self.plan.kept and n not in walk.part.inputs]

    def results(self, k: int, walk: Walk) -> tuple[list[str], dict[int, str]]:
        """The call for one element, and the names of its results by node."""
        names = {node: f"y{i}" for i, node in enumerate(walk.part.outputs)}
        declared = [f"{self.kind(n)} {y};" for n, y in names.items()]
        return [*declared, self.call(f"walk{k}", walk.part, names.values())], names

    def call(self, name: str, part: Part, results: Iterable[str]) -> str:
        arguments = [f"x{n}" if n in self.plan.full else f"n{n}" for n in part.inputs]
        return f"{self.prefix}{name}({', '.join([*arguments, *results])});"

    def neutral(self, node: int) -> str:
        """What a fold begins with."""
        data = self.region[node]
        dtype = self.region[self.region.operands(node)[0]]["dtype"] if self.finds(node) else ""
        dtype = dtype or data["dtype"]
        first = REDUCTIONS[data["op"]].neutral(dtype)
        return f"{self.fold_kind(node)}({literal(first, dtype)})"


def product(dims: Iterable[int]) -> str:
    return " * ".join(f"kk_n{d}" for d in dims) or "1"


def indent(lines: Sequence[str], by: int = 2) -> str:
    return "\n".join(" " * by + line for line in lines)
