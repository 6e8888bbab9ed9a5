"""Loop: the body of an elementwise kernel, which walks ELEMS output elements a thread.

Comes in: a Space and the value types. Goes out: MSL text that calls `zmlx_region` for each element.
Sizes and strides are read at run time, so one text serves all sizes of one broadcast pattern. An
element's index is an INDEX; offsets into inputs have 64 bits, as a small view may lie anywhere in a
large array. No pointer is named: the address space of an input depends on its size.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    loads = _Loads(space, array_types, inner)
    arguments = [f"x{i}" for i in loads.read] + [f"p{i}" for i in range(scalars)]
    begin = ["const INDEX begin = t * INDEX(ELEMS);"]
    if len(space.dims) > 1:
        begin += [_coordinates(space), *_divided(space)]
    if loads.moving:
        wide = [*_dealt(space), *_wide(space, loads, arguments, output_types)]
        if short and has_short(space):
            wide = [*_scattered(space, loads, arguments, output_types), *wide]
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


class _Loads:
    """The lines that read x0, x1, …, by how often they change."""

    def __init__(self, space: Space, kinds: Sequence[str], inner: int | None) -> None:
        self.space, self.kinds, self.inner = space, kinds, inner
        self.read = [i for i, read in enumerate(space.read) if read]
        self.moving = [i for i in self.read if inner in space.moves[i]]

    def once(self) -> list[str]:
        """Inputs of one element."""
        return [self._load(i, "0") for i in self.read if not self.space.moves[i]]

    def per_row(self) -> list[str]:
        """Inputs that stand still along the innermost dimension."""
        still = [i for i in self.read if self.space.moves[i] and i not in self.moving]
        return [self._load(i, f"at{i}") for i in still]

    def per_element(self, unit: bool) -> list[str]:
        step = "k" if unit else "k * in{}_step{}"
        return [self._load(i, f"at{i} + {step.format(i, self.inner)}") for i in self.moving]

    def places(self, start: str, flat: bool) -> list[str]:
        """at0, at1, …: where the element `start` lies in every input that moves."""
        several, lines = len(self.space.dims) > 1, []
        for i in self.read:
            steps = [(f"c{d}" if several else start, d) for d in self.space.moves[i]]
            terms = [f"long({count}) * in{i}_step{d}" for count, d in steps]
            if terms:
                dense = f"flat ? long(in{i}_step{self.inner} == 1 ? {start} : 0) : " if flat else ""
                lines.append(f"const long at{i} = {dense}{' + '.join(terms)};")
        return lines

    def unit_steps(self) -> str:
        """The condition under which consecutive elements are neighbours in every input."""
        return " && ".join(f"in{i}_step{self.inner} == 1" for i in self.moving)

    def _load(self, i: int, place: str) -> str:
        return f"const {self.kinds[i]} x{i} = {self.kinds[i]}(in{i}[{place}]);"


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


def _coordinates(space: Space) -> str:
    return f"INDEX {', '.join(f'c{d} = 0' for d in space.dims)};"


def _divided(space: Space) -> list[str]:
    """c0, c1, …: where the thread starts in every dimension."""
    divide = ["INDEX rest = begin;"]
    for d in reversed(space.dims[1:]):
        divide += [f"c{d} = rest % n{d};", f"rest /= n{d};"]
    return [*divide, f"c{space.dims[0]} = rest;"]


def may_be_flat(space: Space) -> bool:
    """Whether the pattern broadcasts nothing: dense inputs are read in the order of the output."""
    moves = [m for m, read in zip(space.moves, space.read, strict=True) if read and m]
    return len(space.dims) > 1 and bool(moves) and all(m == space.dims for m in moves)


def has_short(space: Space) -> bool:
    """Whether the text has a way of its own for short rows: patterns that broadcast."""
    return len(space.dims) > 1 and not may_be_flat(space)


def _dense(space: Space) -> str:
    """The condition under which every input is row-contiguous, or one element all over.

    The second is the cotangent of a sum, which MLX broadcasts with steps of 0.
    """
    *outer, inner = space.dims
    tests = []
    for i, dims in enumerate(space.moves):
        if space.read[i] and dims:
            one = [f"in{i}_step{inner} == 1"]
            for d, after in zip(outer, space.dims[1:], strict=True):
                span = (
                    f"in{i}_step{after} * long(n{after})" if after != inner else f"long(n{after})"
                )
                one.append(f"in{i}_step{d} == {span}")
            same = [f"in{i}_step{d} == 0" for d in space.dims]
            tests.append(f"(({' && '.join(one)}) || ({' && '.join(same)}))")
    return " && ".join(tests)


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
    if _crossing(space):
        lines += [
            f"INDEX begin = zmlx_deal<ELEMS>(t, total, !across && ({even}), apart);",
            "if (across) {",
            f"  begin = zmlx_across<ELEMS>(t, n{inner}, n{outer}, apart);",
            "}",
        ]
    else:
        lines += [f"const INDEX begin = {begin};"]
    return [*lines, *_BEYOND]


def _crossing(space: Space) -> list[int]:
    """Inputs whose memory may run along the second innermost dimension."""
    last = set(space.dims[-2:])
    return [i for i, m in enumerate(space.moves) if space.read[i] and last <= set(m)]


def _layouts(space: Space) -> list[str]:
    """`flat` and `across`, see _dealt, where the pattern allows either."""
    outer, inner = space.dims[-2:]
    lines = [f"const bool flat = {_dense(space)};"] if may_be_flat(space) else []
    tests = [f"(in{i}_step{outer} == 1 && in{i}_step{inner} != 1)" for i in _crossing(space)]
    return lines + ([f"const bool across = {' || '.join(tests)};"] if tests else [])


_BEYOND = ["if (begin >= total) {", "  return;", "}"]


def _wide(
    space: Space,
    loads: _Loads,
    arguments: Sequence[str],
    output_types: Sequence[tuple[str, str]],
) -> list[str]:
    """All ELEMS elements at once, where they lie in one row."""
    inner, several, flat = loads.inner, len(space.dims) > 1, may_be_flat(space)
    lines = [
        "const INDEX reach = zmlx_reach<ELEMS>(apart);",
        "const bool whole = total - begin >= reach;",
    ]
    fits = "whole"
    if several:
        lines += [_coordinates(space)]
        divided = _divided(space)
        lines += ["if (!flat || !whole) {", *indent(divided), "}"] if flat else divided
        room = f"n{inner} - c{inner} >= reach"
        fits = f"whole && (flat || {room})" if flat else f"whole && {room}"
    places = loads.places("begin", flat)
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
        *indent(_each(
            [f"const {loads.kinds[i]} x{i} = {loads.kinds[i]}(w{i}[k]);" for i in loads.moving],
            arguments, output_types, [f"r{i}[k] = y{i};" for i in range(len(output_types))],
        )),
        "}",
        *[f"zmlx_give<ELEMS>(out{i} + begin, r{i}, apart);" for i in range(len(output_types))],
        "return;",
    ]), "}"]  # fmt: skip


# Rows so short that most threads would take parts of two (SHORT): the lanes of a warp take
# neighbours, and each goes on by as many elements as there are lanes, counting in every dimension.
_SCATTERED = """\
if (SHORT{straight}) {{
  constexpr int kTurn = ELEMS < 8 ? ELEMS : 8;  // loads of an array under way
  const INDEX begin = (t >> 5) * INDEX(32 * ELEMS) + (t & 31);
{coordinates}
  INDEX far = 32;
{steps}
  for (int b = 0; b < ELEMS; b += kTurn) {{
    const INDEX from = begin + INDEX(b * 32);
{declared}
    ZMLX_UNROLL
    for (int k = 0; k < kTurn; ++k) {{
      if (total - from > INDEX(k * 32)) {{
{loads}
      }}
{next}
    }}
    ZMLX_UNROLL
    for (int k = 0; k < kTurn; ++k) {{
      if (total - from > INDEX(k * 32)) {{
{work}
      }}
    }}
  }}
  return;
}}"""


def _scattered(
    space: Space,
    loads: _Loads,
    arguments: Sequence[str],
    output_types: Sequence[tuple[str, str]],
) -> list[str]:
    """All elements of the thread, where rows are short and threads do not divide them."""
    moved = [i for i in loads.read if space.moves[i]]
    steps, onward, carry = [], [f"at{i} += far{i};" for i in moved], ""
    for d, before in zip(reversed(space.dims), reversed([None, *space.dims[:-1]]), strict=True):
        onward.append(f"c{d} += d{d}{carry};")
        if before is None:
            steps.append(f"const INDEX d{d} = far;")
            continue
        steps += [f"const INDEX d{d} = far % n{d};", f"far /= n{d};"]
        carry = f" + carry{d}"
        onward += [f"const INDEX carry{d} = c{d} >= n{d};", f"c{d} -= carry{d} * n{d};"]
        for i in moved:
            back = _offset(space, i, {before: "1", d: f"-n{d}"})
            if back:
                steps.append(f"const long back{i}_{d} = {back};")
                onward.append(f"at{i} += carry{d} ? back{i}_{d} : 0;")
    for i in moved:
        steps.append(f"long at{i} = {_offset(space, i, {d: f'c{d}' for d in space.dims})};")
        steps.append(f"const long far{i} = {_offset(space, i, {d: f'd{d}' for d in space.dims})};")
    work = _each(
        [f"const {loads.kinds[i]} x{i} = v{i}[k];" for i in moved], arguments, output_types,
        [f"out{i}[from + k * 32] = {memory}(y{i});" for i, (_, memory) in enumerate(output_types)],
    )  # fmt: skip
    held = [f"v{i}[k] = {loads.kinds[i]}(in{i}[at{i}]);" for i in moved]
    parts = {
        "coordinates": indent([_coordinates(space), *_divided(space)]),
        "steps": indent(steps),
        "declared": indent([f"{loads.kinds[i]} v{i}[kTurn];" for i in moved], 4),
        "loads": indent(held, 8),
        "next": indent(onward, 6),
        "work": indent(work, 8),
    }
    joined = {name: "\n".join(lines) for name, lines in parts.items()}
    straight = " && !across" if _crossing(space) else ""
    return _SCATTERED.format(straight=straight, **joined).splitlines()


def _offset(space: Space, i: int, counts: dict[int, str]) -> str:
    """How far input `i` moves by `counts` elements in these dimensions."""
    moves = space.moves[i]
    return " + ".join(f"long({n}) * in{i}_step{d}" for d, n in counts.items() if d in moves)


def _row(
    space: Space,
    loads: _Loads,
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
    lines = _each(loads, arguments, output_types, stores)
    return ["ZMLX_LOOP", "for (INDEX k = 0; k < run; ++k) {", *indent(lines), "}"]


def _each(
    loads: Sequence[str],
    arguments: Sequence[str],
    output_types: Sequence[tuple[str, str]],
    stores: Sequence[str],
) -> list[str]:
    """The lines for one element."""
    results = [f"y{i}" for i in range(len(output_types))]
    return [
        *loads,
        *[f"{kind} y{i};" for i, (kind, _) in enumerate(output_types)],
        f"zmlx_region({', '.join([*arguments, *results])});",
        *stores,
    ]


def next_row(dims: Sequence[int]) -> list[str]:
    """Counts up, outermost last, so that a thread divides only where it begins."""
    *outer, inner = dims
    lines = [f"++c{outer[0]};"]
    for d in outer[1:]:
        lines = [f"if (++c{d} == n{d}) {{", f"  c{d} = 0;", *indent(lines), "}"]
    return [f"c{inner} = 0;", *lines]


def indent(lines: Sequence[str], by: int = 2) -> list[str]:
    return [" " * by + line for line in lines]
