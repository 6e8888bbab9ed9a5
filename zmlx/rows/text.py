"""The kernel of a row-wise op: Metal Shading Language, from its expressions.

Comes in: a RowSpec, and the form of each input: bit 0 says that it differs from column to column,
bit 1 from row to row. Goes out: header and body. The template gives the types, and how a thread
works: LANES elements at once, PACKS times so many held in registers (0: each pass reads them
again). A row belongs to the threads along x of a threadgroup, a power of two; the rows of a group
lie along y.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.msl.packs import PACKS_TEXT
from zmlx.rows.spec import Fold, RowSpec, words

COLUMNS, ROWS, BOTH = 1, 2, 3  # forms
MAX_GROUPS_Y = 32768  # CUDA has at most 65535 along y; more rows go on along z

# The threads of a row are neighbours, so that a row of up to 32 of them is part of a simdgroup and
# a longer one has simdgroups of its own, whose results meet in threadgroup memory.
_JOIN = """
inline float {name}(
    float value, threadgroup float* partials, uint index, uint threads, uint row) {{
  if (threads == 1u) {{
    return value;
  }}
  metal::simdgroup_barrier(metal::mem_flags::mem_none);
  const uint place = row * threads + index;
  const uint near = (threads < 32u) ? threads : 32u;
  float a = value;
  for (uint far = near / 2u; far > 0u; far >>= 1) {{
    const float b = metal::simd_shuffle_xor(a, ushort(far));
    a = {op};
  }}
  a = metal::simd_shuffle(a, ushort(place % 32u / near * near));
  if (threads <= 32u) {{
    return a;
  }}
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  if (place % 32u == 0u) {{
    partials[place / 32u] = a;
  }}
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  const uint first = row * threads / 32u;
  a = partials[first];
  for (uint k = 1u; k < threads / 32u; ++k) {{
    const float b = partials[first + k];
    a = {op};
  }}
  return a;
}}
"""

_PLACE = """\
const uint kk_thread = thread_position_in_threadgroup.x;
const uint kk_threads = threads_per_threadgroup.x;
const uint kk_line = thread_position_in_threadgroup.y;
const uint kk_rows = uint({x}_shape[0]);
const uint kk_width = uint({x}_shape[1]);
const uint kk_whole = kk_width / uint(LANES) * uint(LANES);
const uint kk_span = kk_threads * uint(LANES);
const uint kk_group = threadgroup_position_in_grid.y + threadgroup_position_in_grid.z * {groups}u;
const uint kk_asked = kk_group * threads_per_threadgroup.y + kk_line;
// Rows beyond the last are computed as the last one, so that all threads meet, and not written.
const bool kk_live = kk_asked < kk_rows;
const uint kk_row = kk_live ? kk_asked : kk_rows - 1u;
const ulong kk_first = ulong(kk_row) * kk_width;
const float d = float(kk_width);
threadgroup float kk_partials[32];
"""
_PACK_LOOP = """\
ZMLX_UNROLL
for (uint kk_p = 0; (PACKS > 0) ? kk_p < uint(PACKS) : kk_p * kk_span < kk_whole; ++kk_p) {{
  const uint kk_at = kk_p * kk_span + kk_thread * uint(LANES);
  if (kk_at < kk_whole) {{
{lines}
  }}
}}
"""
_LANE_LOOP = """\
ZMLX_UNROLL
for (uint kk_v = 0; kk_v < uint(LANES); ++kk_v) {{
{lines}
}}
"""
_TAIL_LOOP = """\
for (uint kk_at = kk_whole + kk_thread; kk_at < kk_width; kk_at += kk_threads) {{
{lines}
}}
"""
_FOLD = """\
float kk_all_{acc} = {lanes}[0];
for (uint kk_v = 1; kk_v < uint(LANES); ++kk_v) {{
  const float a = kk_all_{acc}, b = {lanes}[kk_v];
  kk_all_{acc} = {op};
}}
const float {result} = {join}(kk_all_{acc}, kk_partials, kk_thread, kk_threads, kk_line);
"""


def header(row: RowSpec) -> str:
    """The text in front of the body: the op's own header, packs, a reduction for each operator."""
    joins = {join_name(row, fold): fold.join for fold in row.folds if fold.used}
    joined = "".join(_JOIN.format(name=name, op=op) for name, op in joins.items())
    return row.header + PACKS_TEXT + joined


def source(row: RowSpec, forms: Sequence[int]) -> str:
    """The body of the kernel for inputs of these forms."""
    text = _Text(row, dict(zip(row.inputs, forms, strict=True)))
    first = _PLACE.format(x=values(row.inputs[0]), groups=MAX_GROUPS_Y)
    passes = [text.folded(folds) for folds in row.passes]
    return "".join([first, text.still(), text.held(), *passes, text.written(), text.per_row()])


def held_inputs(row: RowSpec, forms: Sequence[int]) -> tuple[str, ...]:
    """The inputs that several walks over a row read: worth registers."""
    walks = [words([f.update for f in folds if f.used]) for folds in row.passes]
    walks.append(words([o.expr for o in row.outputs if not o.per_row]))
    return tuple(
        name
        for name, form in zip(row.inputs, forms, strict=True)
        if form == BOTH and sum(bool(_called(row, name) & walk) for walk in walks) > 1
    )


def values(name: str) -> str:
    """What the kernel calls the array of the input `name`."""
    return f"{name}_values"


def join_name(row: RowSpec, fold: Fold) -> str:
    """The function that joins what threads found; folds with one operator share it."""
    operators = list(dict.fromkeys(f.join for f in row.folds if f.used))
    return f"kk_join{operators.index(fold.join) + 1}"


def _called(row: RowSpec, name: str) -> frozenset[str]:
    """What expressions call the input `name`."""
    return frozenset({name, row.alias} if name == row.inputs[0] and row.alias else {name})


class _Text:
    """The parts of one kernel's body."""

    def __init__(self, row: RowSpec, forms: dict[str, int]) -> None:
        self.row, self.forms = row, forms
        self.registers = held_inputs(row, [*forms.values()])

    def still(self) -> str:
        """Inputs that do not change along a row."""
        lines = []
        for name, form in self.forms.items():
            if not form & COLUMNS:
                place = f"{values(name)}[{'kk_row' if form & ROWS else '0'}]"
                lines += self._named(name, place)
        return "".join(f"{line}\n" for line in lines)

    def held(self) -> str:
        """Fill the registers."""
        lines = []
        for name in self.registers:
            lines.append(f"kk_pack<{name}_type, LANES> kk_held_{name}[PACKS > 0 ? PACKS : 1];\n")
        fills = [f"kk_held_{name}[kk_p] = {self._pack(name)};" for name in self.registers]
        if fills:
            loop = _PACK_LOOP.format(lines=_indent(fills, 4))
            lines += ["if (PACKS > 0) {\n", _indent(loop.splitlines()), "\n}\n"]
        return "".join(lines)

    def folded(self, folds: Sequence[Fold]) -> str:
        """One walk over the row, and its folds joined among the threads of the row."""
        used = [fold for fold in folds if fold.used]
        text = "".join(f"const float {f.result} = {f.init};\n" for f in folds if not f.used)
        if not used:
            return text
        lanes = {fold.accumulator: f"kk_lanes_{fold.accumulator}" for fold in used}
        for fold in used:
            start = _LANE_LOOP.format(lines=f"  {lanes[fold.accumulator]}[kk_v] = {fold.init};")
            text += f"float {lanes[fold.accumulator]}[LANES];\n{start}"
        lines = []
        for fold in used:
            lane = f"{lanes[fold.accumulator]}[kk_v]"
            lines += [f"float {fold.accumulator} = {lane};", f"{lane} = {fold.update};"]
        tail = [line.replace("[kk_v]", "[0]") for line in lines]
        text += self._walk([fold.update for fold in used], [], lines, [], tail)
        for fold in used:
            text += _FOLD.format(
                acc=fold.accumulator, lanes=lanes[fold.accumulator], op=fold.join,
                result=fold.result, join=join_name(self.row, fold),
            )  # fmt: skip
        return text

    def written(self) -> str:
        """The last walk, which gives every element of the outputs."""
        outputs = [(f"kk_out{i}", f"O{i}", o) for i, o in enumerate(self.row.outputs)]
        wide = [(pack, kind, o) for pack, kind, o in outputs if not o.per_row]
        if not wide:
            return ""
        walk = self._walk(
            [o.expr for _, _, o in wide],
            [f"kk_pack<{kind}, LANES> {pack};" for pack, kind, _ in wide],
            [f"{pack}.item[kk_v] = {kind}({o.expr});" for pack, kind, o in wide],
            [
                f"kk_store<{kind}, LANES>({o.name} + (kk_first + kk_at), {pack});"
                for pack, kind, o in wide
            ],
            [f"{o.name}[kk_first + kk_at] = {kind}({o.expr});" for _, kind, o in wide],
        )
        return f"if (kk_live) {{\n{_indent(walk.splitlines())}\n}}\n"

    def per_row(self) -> str:
        """Outputs of one element a row."""
        lines = [
            f"  {o.name}[kk_row] = O{i}({o.expr});\n"
            for i, o in enumerate(self.row.outputs)
            if o.per_row
        ]
        return "".join(["if (kk_live && kk_thread == 0u) {\n", *lines, "}\n"]) if lines else ""

    def _walk(
        self,
        texts: Sequence[str],
        before: Sequence[str],
        lane: Sequence[str],
        after: Sequence[str],
        tail: Sequence[str],
    ) -> str:
        """Each element once: whole packs, `lane` for their elements; `tail` for what is left.

        Both see the inputs that `texts` name.
        """
        named = words(texts)
        used = [
            name
            for name, form in self.forms.items()
            if form & COLUMNS and _called(self.row, name) & named
        ]
        packs = [
            f"const kk_pack<{name}_type, LANES> kk_in_{name} = {self._read(name)};" for name in used
        ]
        elements = [line for name in used for line in self._named(name, f"kk_in_{name}.item[kk_v]")]
        singles = [
            line for name in used for line in self._named(name, f"{values(name)}[{self._at(name)}]")
        ]
        inner = _LANE_LOOP.format(lines=_indent([*elements, *lane]))
        outer = [*packs, *before, *inner.splitlines(), *after]
        return _PACK_LOOP.format(lines=_indent(outer, 4)) + _TAIL_LOOP.format(
            lines=_indent([*singles, *tail])
        )

    def _named(self, name: str, value: str) -> list[str]:
        """`value` under the names by which expressions call the input."""
        lines = [f"const float {name} = float({value});"]
        if name == self.row.inputs[0] and self.row.alias not in ("", name):
            lines.append(f"const float {self.row.alias} = {name};")
        return lines

    def _read(self, name: str) -> str:
        pack = self._pack(name)
        if name not in self.registers:
            return pack
        return f"(PACKS > 0) ? kk_held_{name}[(PACKS > 0) ? kk_p : 0u] : {pack}"

    def _pack(self, name: str) -> str:
        return f"kk_load<{name}_type, LANES>({values(name)} + ({self._at(name)}))"

    def _at(self, name: str) -> str:
        return "kk_first + kk_at" if self.forms[name] & ROWS else "kk_at"


def _indent(lines: Sequence[str], by: int = 2) -> str:
    return "\n".join(" " * by + line for line in lines)
