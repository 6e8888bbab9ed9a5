"""Loop: the body of an elementwise kernel, which walks ELEMS output elements a thread.

Comes in: a Space and the value types. Goes out: MSL text that calls `zmlx_region` for each element.
Sizes and strides are read at run time, so one text serves all sizes of one broadcast pattern. An
element's index is an INDEX; offsets into inputs have 64 bits, as a small view may lie anywhere in a
large array. No pointer is named: the address space of an input depends on its size.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.msl.space import Space


def body(
    space: Space,
    array_types: Sequence[str],
    scalar_types: Sequence[str],
    output_types: Sequence[tuple[str, str]],
) -> str:
    """The text. Types are those of values; of outputs as values and in memory."""
    inner = space.dims[-1] if space.dims else None
    lines = [*_sizes(space), *_steps(space)]
    lines += [f"const {kind} p{i} = {kind}(s{i}[0]);" for i, kind in enumerate(scalar_types)]
    loads = _Loads(space, array_types, inner)
    lines += [*loads.once(), *_range(space)]
    lines += [f"  {line}" for line in _row(space, loads, len(scalar_types), output_types)]
    return "\n".join([*lines, "}"]) + "\n"


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


def _range(space: Space) -> list[str]:
    """The thread's elements, where it starts in every dimension, and the head of the loop."""
    lines = [
        *_thread(space),
        "const INDEX begin = t * INDEX(ELEMS);",
        "const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);",
    ]
    if len(space.dims) > 1:
        lines += _coordinates(space)
    return [*lines, "for (INDEX i = begin; i < stop;) {"]


def _coordinates(space: Space) -> list[str]:
    """c0, c1, …: where the thread starts; not needed where all memory is one row (`flat`)."""
    names = ", ".join(f"c{d} = 0" for d in space.dims)
    divide = ["INDEX rest = begin;"]
    for d in reversed(space.dims[1:]):
        divide += [f"c{d} = rest % n{d};", f"rest /= n{d};"]
    divide += [f"c{space.dims[0]} = rest;"]
    if not _may_be_flat(space):
        return [f"INDEX {names};", *divide]
    return [
        *["#ifdef ZMLX_WIDE", f"const bool flat = {_dense(space)};"],
        *["#else", "const bool flat = false;", "#endif"],
        *[f"INDEX {names};", "if (!flat) {", *_indent(divide), "}"],
    ]


def _may_be_flat(space: Space) -> bool:
    """Whether no input is broadcast, so that dense inputs are read in the order of the output."""
    moves = [m for m, read in zip(space.moves, space.read, strict=True) if read and m]
    return len(space.dims) > 1 and bool(moves) and all(m == space.dims for m in moves)


def _dense(space: Space) -> str:
    """The condition under which every input is row-contiguous."""
    *_, inner = space.dims
    tests = []
    for i, dims in enumerate(space.moves):
        if space.read[i] and dims:
            tests.append(f"in{i}_step{inner} == 1")
            for d, after in zip(space.dims, space.dims[1:], strict=False):
                tests.append(f"in{i}_step{d} == in{i}_step{after} * long(n{after})")
    return " && ".join(tests)


def _thread(space: Space) -> list[str]:
    """Which chunk of ELEMS elements the thread takes.

    Where an input's memory runs along the second innermost dimension, neighbouring threads take
    chunks of neighbouring rows, so that what one of them loads lies beside what the next one does.
    """
    lines = ["INDEX t = INDEX(thread_position_in_grid.x);"]
    if len(space.dims) < 2:
        return lines
    outer, inner = space.dims[-2:]
    both = [i for i, m in enumerate(space.moves) if space.read[i] and {outer, inner} <= set(m)]
    across = " || ".join(f"(in{i}_step{outer} == 1 && in{i}_step{inner} != 1)" for i in both)
    if not both:
        return lines
    move = f"  t = zmlx_across<ELEMS>(t, n{inner}, n{outer});"
    return [*lines, "#ifdef ZMLX_WIDE", f"if ({across}) {{", move, "}", "#endif"]


def _row(
    space: Space,
    loads: _Loads,
    scalars: int,
    output_types: Sequence[tuple[str, str]],
) -> list[str]:
    """What the loop does for one row: elements that differ in the innermost dimension only."""
    inner, several = loads.inner, len(space.dims) > 1
    flat = _may_be_flat(space)
    lines = ["const INDEX run = stop - i;"]
    if several:
        whole = "flat || stop - i < row" if flat else "stop - i < row"
        lines = [
            f"const INDEX row = n{inner} - c{inner};",
            f"const INDEX run = ({whole}) ? stop - i : row;",
        ]
    for i in loads.read:
        terms = [f"long({f'c{d}' if several else 'i'}) * in{i}_step{d}" for d in space.moves[i]]
        if terms:
            place = f"flat ? long(i) : {' + '.join(terms)}" if flat else " + ".join(terms)
            lines.append(f"const long at{i} = {place};")
    lines += loads.per_row()
    arguments = [f"x{i}" for i in loads.read] + [f"p{i}" for i in range(scalars)]
    strided = _elements(loads.per_element(unit=False), arguments, output_types)
    if loads.moving:
        unit = _elements(loads.per_element(unit=True), arguments, output_types)
        wide = _wide(loads, arguments, output_types)
        lines += ["#ifdef ZMLX_WIDE", "if (run == INDEX(ELEMS)) {", *_indent(wide)]
        lines += ["#else", f"if ({loads.unit_steps()}) {{", *_indent(unit), "#endif", "} else {"]
        lines += [*_indent(strided), "}"]
    else:
        lines += strided
    return [*lines, "i += run;", *(_next_row(space) if several else [])]


def _wide(
    loads: _Loads, arguments: Sequence[str], output_types: Sequence[tuple[str, str]]
) -> list[str]:
    """All ELEMS elements at once: for devices whose threads load and store several in one go."""
    results = [f"y{i}" for i in range(len(output_types))]
    stores = [f"r{i}[k] = {memory}(y{i});" for i, (_, memory) in enumerate(output_types)]
    inside = [f"const {loads.kinds[i]} x{i} = {loads.kinds[i]}(w{i}[k]);" for i in loads.moving]
    inside += [f"{kind} y{i};" for i, (kind, _) in enumerate(output_types)]
    inside += [f"zmlx_region({', '.join([*arguments, *results])});", *stores]
    return [
        *[
            f"const auto w{i} = zmlx_fetch<ELEMS>(in{i} + at{i}, in{i}_step{loads.inner});"
            for i in loads.moving
        ],
        *[f"auto r{i} = zmlx_wide<ELEMS>(out{i});" for i in range(len(output_types))],
        "ZMLX_UNROLL",
        "for (int k = 0; k < ELEMS; ++k) {",
        *_indent(inside),
        "}",
        *[f"zmlx_put<ELEMS>(out{i} + i, r{i});" for i in range(len(output_types))],
    ]


def _elements(
    loads: Sequence[str], arguments: Sequence[str], output_types: Sequence[tuple[str, str]]
) -> list[str]:
    """The innermost loop."""
    results = [f"y{i}" for i in range(len(output_types))]
    lines = [*loads, *[f"{kind} y{i};" for i, (kind, _) in enumerate(output_types)]]
    lines += [f"zmlx_region({', '.join([*arguments, *results])});"]
    lines += [f"out{i}[i + k] = {memory}(y{i});" for i, (_, memory) in enumerate(output_types)]
    return ["ZMLX_LOOP", "for (INDEX k = 0; k < run; ++k) {", *_indent(lines), "}"]


def _next_row(space: Space) -> list[str]:
    """Counts up, outermost last, so that a thread divides only where it begins."""
    *outer, inner = space.dims
    lines = [f"++c{outer[0]};"]
    for d in outer[1:]:
        lines = [f"if (++c{d} == n{d}) {{", f"  c{d} = 0;", *_indent(lines), "}"]
    return [f"c{inner} = 0;", *lines]


def _indent(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
