"""Sums: the kernel of a region that adds up some of its values in place of writing them.

Comes in: a region over inputs of shape (outer, rows, columns), in which each dimension is full or
one, which outputs are written, and what is added up. Goes out: a MetalKernelSpec. Its template says
how a thread works: on LANES neighbouring columns, in a simdgroup of whose threads NEAR neighbours
share a row. The grid has TX * TY threads a group, along y one thread for
each block of rows, along z outer indices.

Partial sums are float32: over the rows of a block, (outer, blocks, columns); over the columns of
NEAR threads, (outer, rows, parts); over both, (outer, blocks, parts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zmlx import dtypes
from zmlx.msl import sums_text as text
from zmlx.msl.element import Element
from zmlx.msl.packs import PACKS_TEXT, SOME_TEXT
from zmlx.msl.space import Space
from zmlx.msl.spec import MetalKernelSpec
from zmlx.trace.graph import Graph

OUTER, ROW, COLUMN = 0, 1, 2  # dimensions


@dataclass(frozen=True)
class Partial:
    """Partial sums of the region's output `value`, over a block of rows, over columns, or both."""

    value: int
    rows: bool
    columns: bool


def sums_kernel(
    region: Graph, kept: Sequence[int], partials: Sequence[Partial], alone: bool
) -> MetalKernelSpec:
    """The kernel that writes the outputs `kept` of `region`, by position, then `partials`.

    `alone`: for a device on which the threads of a group take turns, so that it has but one.

    Inputs in0, … have rank 3 and any strides, numbers s0, … one element; the values of `partials`
    are float32. Raises EmitError for a region that no kernel can compute.
    """
    parts = (_Alone if alone else _Text)(region, kept, partials)
    return MetalKernelSpec(
        name="_".join(["zmlx_sums", *dict.fromkeys(parts.element.ops)])[:60],
        input_names=(
            *[f"in{i}" for i in range(len(parts.space.arrays))],
            *[f"s{i}" for i in range(len(parts.space.scalars))],
        ),
        output_names=(
            *[f"out{i}" for i in range(len(kept))],
            *[f"sum{k}" for k in range(len(partials))],
        ),
        source=parts.body(),
        header=PACKS_TEXT + SOME_TEXT + text.NEAR_SUM + parts.element.text(),
        ensure_row_contiguous=False,
        halves=_all_halves(region, kept),
    )


def _all_halves(region: Graph, kept: Sequence[int]) -> bool:
    """Whether what is read and written has 16 bits; sums are the gradients of what is read."""
    nodes = [n for n in region.inputs if region.kind(n) == "input"]
    nodes += [region.outputs[k] for k in kept]
    return all(region[n]["dtype"] in dtypes.HALVES for n in nodes)


def sums_slots(region: Graph, outputs: int) -> int:
    """At most how many of Metal's buffers the kernel of `region` takes that writes `outputs`."""
    arrays = [n for n in region.inputs if region.kind(n) == "input"]
    shapes = min(3, len(arrays))
    return 2 * len(arrays) + shapes + len(region.inputs) - len(arrays) + outputs


class _Text:
    """The parts of one kernel's body."""

    width = "LANES"  # columns of a thread

    def __init__(self, region: Graph, kept: Sequence[int], partials: Sequence[Partial]) -> None:
        self.region, self.kept, self.partials = region, kept, partials
        self.space = Space.of(region)
        self.element = Element(region, self.space, exact=False)
        self._read = [i for i, read in enumerate(self.space.read) if read]
        moves = self.space.moves
        self._still = [i for i in self._read if moves[i] and COLUMN not in moves[i]]
        self._across = [k for k, p in enumerate(partials) if p.columns]
        self._moving = [i for i in self._read if COLUMN in moves[i]]
        self._steady = [i for i in self._moving if ROW not in moves[i]]  # the same in every row

    def body(self) -> str:
        """All of it."""
        parts = text.PARTS if any(p.columns for p in self.partials) else ""
        lines = [line for line in self._walk().splitlines() if line.strip()]
        return "\n".join([*self._sizes(), *self._once(), text.PLACE + parts, *lines]) + "\n"

    def _walk(self) -> str:
        """The loop over rows."""
        return text.WALK.format(
            starts=_indent(self._steady_packs() + self._starts(), 2),
            row_starts=_indent(self._row_starts(), 4),
            per_row=_indent(self._per_row(), 6),
            packs=_indent(self._packs("kk_fetch", ""), 8),
            lane=_indent(self._pack_lane("{}"), 10),
            stores=_indent(self._stores("kk_store", ""), 8),
            some_packs=_indent(self._packs("kk_fetch_some", ", kk_some"), 8),
            some_lane=_indent(self._pack_lane("(kk_v < kk_some) ? {} : 0.0f"), 10),
            some_stores=_indent(self._stores("kk_store_some", ", kk_some"), 8),
            row_ends=_indent(self._row_ends(), 4),
            ends=_indent(self._ends(), 2),
        )

    def _sizes(self) -> list[str]:
        """Sizes, each from an input that has it, and steps."""
        lines = []
        for name, dim in (("outer", OUTER), ("rows", ROW), ("columns", COLUMN)):
            source = next((i for i in self.space.sources if dim in self.space.moves[i]), None)
            size = "1" if source is None else f"in{source}_shape[{dim}]"
            lines.append(f"const long kk_{name} = {size};")
        for i in self._read:
            lines += [
                f"const long kk_step{i}_{d} = in{i}_strides[{d}];" for d in self.space.moves[i]
            ]
        return lines

    def _once(self) -> list[str]:
        """What is the same for all elements."""
        space, lines = self.space, []
        for i in self._read:
            if not space.moves[i]:
                lines.append(self._value(i, f"in{i}[0]"))
        for i, node in enumerate(space.scalars):
            kind = dtypes.value_type(self.region[node]["dtype"])
            lines.append(f"const {kind} p{i} = {kind}(s{i}[0]);")
        return lines

    def _per_row(self) -> list[str]:
        """Where the row begins in each input, and what stands still along it."""
        fresh = [i for i in self._moving if i not in self._steady]
        lines = [self._begin(i) for i in (*fresh, *self._still)]
        return lines + [self._value(i, f"in{i}[kk_row{i}]") for i in self._still]

    def _begin(self, i: int) -> str:
        names = {OUTER: "kk_o", ROW: "kk_row"}
        terms = [f"{names[d]} * kk_step{i}_{d}" for d in self.space.moves[i] if d in names]
        return f"const long kk_row{i} = {' + '.join(terms) or '0'};"

    def _steady_packs(self) -> list[str]:
        """Inputs that are the same in every row, once for all of them."""
        lines = []
        for i in self._steady:
            whole = self._fetched(i, "kk_fetch", "")
            some = self._fetched(i, "kk_fetch_some", ", int(kk_room)")
            lines += text.STEADY.format(
                begin=self._begin(i), pack=f"kk_pack<{self._memory(i)}, LANES> w{i}",
                whole=f"w{i} = {whole}", some=f"w{i} = {some}",
            ).splitlines()  # fmt: skip
        return lines

    def _fetched(self, i: int, fetch: str, count: str) -> str:
        return (
            f"{fetch}<{self._memory(i)}, LANES>("
            f"in{i} + (kk_row{i} + kk_left * kk_step{i}_{COLUMN}), kk_step{i}_{COLUMN}{count});"
        )

    def _packs(self, fetch: str, count: str) -> list[str]:
        loads = [
            f"const kk_pack<{self._memory(i)}, LANES> w{i} = {self._fetched(i, fetch, count)}"
            for i in self._moving
            if i not in self._steady
        ]
        return [*loads, *[f"kk_pack<{self._kind(k)}, LANES> r{k};" for k in range(len(self.kept))]]

    def _stores(self, store: str, count: str) -> list[str]:
        return [
            f"{store}<{self._kind(k)}, LANES>(out{k} + ({_OUT} + kk_left), r{k}{count});"
            for k in range(len(self.kept))
        ]

    def _pack_lane(self, counted: str) -> list[str]:
        """One element of the packs; `counted` is what a value adds to the sums."""
        sums = [f"kk_lanes{k}[kk_v] +=" for k in range(len(self.partials))]
        return self._lane("w{0}.item[kk_v]", "r{0}.item[kk_v]", sums, counted)

    def _lane(self, source: str, target: str, sums: Sequence[str], counted: str) -> list[str]:
        """One element, from `source` of input {0} to `target` of output {0}; `sums` take it."""
        region, space = self.region, self.space
        names = [f"x{i}" for i in self._read] + [f"p{i}" for i in range(len(space.scalars))]
        kinds = [dtypes.value_type(region[n]["dtype"]) for n in region.outputs]
        results = [f"y{k}" for k in range(len(kinds))]
        return [
            *[self._value(i, source.format(i)) for i in self._moving],
            *[f"{kind} y{k};" for k, kind in enumerate(kinds)],
            f"zmlx_region({', '.join([*names, *results])});",
            *[f"{target.format(k)} = {self._kind(k)}(y{y});" for k, y in enumerate(self.kept)],
            *[
                f"{added} {counted.format(f'y{p.value}')};"
                for added, p in zip(sums, self.partials, strict=True)
            ],
        ]

    def _starts(self) -> list[str]:
        lines = []
        for k, partial in enumerate(self.partials):
            if partial.rows and partial.columns:
                lines.append(f"float kk_all{k} = 0.0f;")
            elif partial.rows:
                lines += text.ZERO.format(name=f"kk_lanes{k}", count=self.width).splitlines()
        return lines

    def _row_starts(self) -> list[str]:
        """Sums over columns start anew in each row, so that none gets long."""
        lines = []
        for k, partial in enumerate(self.partials):
            if partial.columns:
                lines += text.ZERO.format(name=f"kk_lanes{k}", count="LANES").splitlines()
        return lines

    def _row_ends(self) -> list[str]:
        lines = []
        for k, partial in enumerate(self.partials):
            if partial.columns:
                total = f"kk_total{k}"
                lines += self._added_lanes(total, f"kk_lanes{k}")
                if partial.rows:
                    lines.append(f"kk_all{k} += {total};")
                else:
                    lines += text.COLUMN_END.format(total=total, out=f"sum{k}").splitlines()
        return lines

    def _added_lanes(self, total: str, lanes: str) -> list[str]:
        return text.ADDED_LANES.format(total=total, lanes=lanes).splitlines()

    def _ends(self) -> list[str]:
        lines = []
        for k, partial in enumerate(self.partials):
            if partial.rows and partial.columns:
                lines += text.BOTH_END.format(all=f"kk_all{k}", out=f"sum{k}").splitlines()
            elif partial.rows:
                end = text.ROW_END.format(lanes=f"kk_lanes{k}", out=f"sum{k}", count=self.width)
                lines += end.splitlines()
        return lines

    def _value(self, i: int, place: str) -> str:
        kind = dtypes.value_type(self.region[self.space.arrays[i]]["dtype"])
        return f"const {kind} x{i} = {kind}({place});"

    def _memory(self, i: int) -> str:
        return dtypes.msl_type(self.region[self.space.arrays[i]]["dtype"])

    def _kind(self, k: int) -> str:
        return dtypes.msl_type(self.region[self.region.outputs[self.kept[k]]]["dtype"])


class _Alone(_Text):
    """The same for a thread that runs alone."""

    width = "kk_run"

    def __init__(self, region: Graph, kept: Sequence[int], partials: Sequence[Partial]) -> None:
        super().__init__(region, kept, partials)
        self._steady = []  # it reads element by element

    def _walk(self) -> str:
        unit = " && ".join(f"kk_step{i}_{COLUMN} == 1" for i in self._moving) or "true"
        return text.WALK_ALONE.format(
            starts=_indent(self._starts(), 2),
            row_starts=_indent([f"float kk_terms{k}[LANES];" for k in self._across], 4),
            per_row=_indent(self._per_row(), 4),
            unit=unit,
            unit_lane=_indent(self._alone_lane(""), 8),
            lane=_indent(self._alone_lane(f" * kk_step{{0}}_{COLUMN}"), 8),
            row_ends=_indent(self._row_ends(), 4),
            ends=_indent(self._ends(), 2),
        )

    def _alone_lane(self, step: str) -> list[str]:
        sums = [
            f"kk_terms{k}[kk_v] =" if k in self._across else f"kk_lanes{k}[kk_v] +="
            for k in range(len(self.partials))
        ]
        source = f"in{{0}}[kk_row{{0}} + (kk_left + kk_v){step}]"
        return self._lane(source, f"out{{0}}[{_OUT} + kk_left + kk_v]", sums, "{}")

    def _added_lanes(self, total: str, lanes: str) -> list[str]:
        return text.ADDED_TERMS.format(
            total=total, terms=lanes.replace("lanes", "terms")
        ).splitlines()


_OUT = "(kk_o * kk_rows + kk_row) * kk_columns"


def _indent(lines: Sequence[str], by: int) -> str:
    return "\n".join(" " * by + line for line in lines)
