"""Loop: the body of an elementwise kernel, which walks ELEMS output elements a thread.

Comes in: a Space and the value types. Goes out: MSL text that calls `zmlx_region` for each element.
Sizes and strides are read at run time, so one text serves all sizes of one broadcast pattern. An
element's index is an INDEX; offsets into inputs have 64 bits, as a small view may lie anywhere in a
large array. No pointer is named: the address space of an input depends on its size.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.msl.layouts import crossing, dense, full_inputs, has_short, may_be_flat
from zmlx.msl.lines import Loads, coordinates, divided, each, indent, next_row
from zmlx.msl.short import lined, over_ends, scattered
from zmlx.msl.space import Space

LOOP_MACRO = "#ifndef ZMLX_LOOP\n#define ZMLX_LOOP\n#endif\n"


def body(
    space: Space,
    array_types: Sequence[str],
    scalar_types: Sequence[str],
    output_types: Sequence[tuple[str, str]],
) -> str:
    """The text. Types are those of values; of outputs as values and in memory."""
    scalars = [f"const {kind} p{i} = {kind}(s{i}[0]);" for i, kind in enumerate(scalar_types)]
    lines = [*_sizes(space), *_steps(space), *scalars]
    lines += walk(space, array_types, len(scalar_types), output_types, [_PLACE], short=True)
    return "\n".join(lines) + "\n"


_PLACE = "const INDEX t = INDEX(thread_position_in_grid.x);"


def walk(
    space: Space,
    array_types: Sequence[str],
    scalars: int,
    output_types: Sequence[tuple[str, str]],
    place: Sequence[str] = (),
    short: bool = False,
) -> list[str]:
    """The lines behind sizes, steps and scalars; `place` tells which thread `t` this is.

    `short`: where `has_short`, a template says whether rows are SHORT.
    """
    inner = space.dims[-1] if space.dims else None
    loads = Loads(space, array_types, inner)
    arguments = [f"x{i}" for i in loads.read] + [f"p{i}" for i in range(scalars)]
    begin = ["const INDEX begin = t * INDEX(ELEMS);"]
    if len(space.dims) > 1:
        begin += [coordinates(space), *divided(space)]
    if loads.moving:
        short = short and has_short(space)
        ends = short and bool(full_inputs(space))
        wide = [*_dealt(space), *_wide(space, loads, arguments, output_types, ends)]
        if short:
            wide = [*lined(space), *scattered(space, loads, arguments, output_types), *wide]
        if len(space.dims) > 1:
            wide = [*_layouts(space), *wide]
        begin = ["#ifdef ZMLX_WIDE", *wide, "#else", *begin, "#endif"]
    return [
        *loads.once(),
        *place,
        *begin,
        "const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);",
        "for (INDEX i = begin; i < stop;) {",
        *indent(_row(space, loads, arguments, output_types)),
        "}",
    ]


def _sizes(space: Space) -> list[str]:
    lines = [f"const INDEX n{d} = {space.size(d)};" for d in space.dims]
    total = " * ".join(f"n{d}" for d in space.dims) or "1"
    return [*lines, f"const INDEX total = {total};"]


def _steps(space: Space) -> list[str]:
    return [
        f"const long in{i}_step{d} = in{i}_strides[{space.own(i, d)}];"
        for i, dims in enumerate(space.moves)
        if space.read[i]
        for d in dims
    ]


def _dealt(space: Space) -> list[str]:
    """Which elements the thread takes, where a device loads several in one go (ZMLX_WIDE).

    ELEMS in chunks `apart`, or in a row. Where an input's memory runs along the second innermost
    dimension, neighbouring threads take neighbouring rows, so that what one of them loads lies
    beside what the next one does. `flat`: all memory is one row, and nothing need be divided.
    """
    lines = ["INDEX apart = 0;"]
    if len(space.dims) < 2:
        return [*lines, "const INDEX begin = zmlx_deal<ELEMS>(t, total, true, apart);", *_BEYOND]
    outer, inner = space.dims[-2:]
    even = f"n{inner} % (32 * ELEMS) == 0"
    even = f"flat || {even}" if may_be_flat(space) else even
    begin = f"zmlx_deal<ELEMS>(t, total, {even}, apart)"
    if crossing(space):
        lines += [
            f"INDEX begin = zmlx_deal<ELEMS>(t, total, !across && ({even}), apart);",
            "if (across) {",
            f"  begin = zmlx_across<ELEMS>(t, n{inner}, n{outer}, apart);",
            "}",
        ]
    else:
        lines += [f"const INDEX begin = {begin};"]
    return [*lines, *_BEYOND]


def _layouts(space: Space) -> list[str]:
    """`flat` and `across`, see _dealt, where the pattern allows either."""
    outer, inner = space.dims[-2:]
    lines = [f"const bool flat = {dense(space)};"] if may_be_flat(space) else []
    tests = [f"(in{i}_step{outer} == 1 && in{i}_step{inner} != 1)" for i in crossing(space)]
    return lines + ([f"const bool across = {' || '.join(tests)};"] if tests else [])


_BEYOND = ["if (begin >= total) {", "  return;", "}"]


def _wide(
    space: Space,
    loads: Loads,
    arguments: Sequence[str],
    output_types: Sequence[tuple[str, str]],
    ends: bool,
) -> list[str]:
    """All ELEMS elements at once, where they lie in one row; with `ends` in dense rows too."""
    inner, several, flat = loads.inner, len(space.dims) > 1, may_be_flat(space)
    lines = [
        "const INDEX reach = zmlx_reach<ELEMS>(apart);",
        "const bool whole = total - begin >= reach;",
    ]
    fits = "whole"
    if several:
        lines += [coordinates(space)]
        counts = divided(space)
        lines += ["if (!flat || !whole) {", *indent(counts), "}"] if flat else counts
        room = f"n{inner} - c{inner} >= reach"
        fits = f"whole && (flat || {room})" if flat else f"whole && {room}"
    places = loads.places("begin", flat)
    if ends:
        lines += over_ends(space, loads, arguments, output_types)
    return [*lines, f"if ({fits}) {{", *indent([
        *places,
        *loads.per_row(),
        *[
            f"const auto w{i} = zmlx_take<ELEMS>(in{i} + at{i}, in{i}_step{inner}, apart);"
            for i in loads.moving
        ],
        *[f"zmlx_results<ELEMS, {kind}> r{i};" for i, (kind, _) in enumerate(output_types)],
        "ZMLX_UNROLL",
        "for (int k = 0; k < ELEMS; ++k) {",
        *indent(each(
            [f"const {loads.kinds[i]} x{i} = {loads.kinds[i]}(w{i}[k]);" for i in loads.moving],
            arguments, output_types, [f"r{i}[k] = y{i};" for i in range(len(output_types))],
        )),
        "}",
        *[f"zmlx_give<ELEMS>(out{i} + begin, r{i}, apart);" for i in range(len(output_types))],
        "return;",
    ]), "}"]  # fmt: skip


def _row(
    space: Space,
    loads: Loads,
    arguments: Sequence[str],
    output_types: Sequence[tuple[str, str]],
) -> list[str]:
    """What the loop does for one row: elements that differ in the innermost dimension only."""
    inner, several = loads.inner, len(space.dims) > 1
    lines = ["const INDEX run = stop - i;"]
    if several:
        lines = [
            f"const INDEX row = n{inner} - c{inner};",
            "const INDEX run = (stop - i < row) ? stop - i : row;",
        ]
    lines += [*loads.places("i", flat=False), *loads.per_row()]
    strided = _elements(loads.per_element(unit=False), arguments, output_types)
    if loads.moving:
        unit = _elements(loads.per_element(unit=True), arguments, output_types)
        lines += ["#ifndef ZMLX_WIDE", f"if ({loads.unit_steps()}) {{", *indent(unit), "} else"]
        lines += ["#endif", "{", *indent(strided), "}"]
    else:
        lines += strided
    return [*lines, "i += run;", *(next_row(space.dims) if several else [])]


def _elements(
    loads: Sequence[str], arguments: Sequence[str], output_types: Sequence[tuple[str, str]]
) -> list[str]:
    """The innermost loop."""
    stores = [f"out{i}[i + k] = {memory}(y{i});" for i, (_, memory) in enumerate(output_types)]
    lines = each(loads, arguments, output_types, stores)
    return ["ZMLX_LOOP", "for (INDEX k = 0; k < run; ++k) {", *indent(lines), "}"]
