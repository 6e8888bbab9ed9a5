"""Lines: what the loops of elementwise kernels are put together of.

Comes in: a Space, the types of values. Goes out: lines of MSL. zmlx.msl.loop, short and joined
write them.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.msl.space import Space


class Loads:
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


def coordinates(space: Space) -> str:
    return f"INDEX {', '.join(f'c{d} = 0' for d in space.dims)};"


def divided(space: Space) -> list[str]:
    """c0, c1, …: where the thread starts in every dimension."""
    divide = ["INDEX rest = begin;"]
    for d in reversed(space.dims[1:]):
        divide += [f"c{d} = rest % n{d};", f"rest /= n{d};"]
    return [*divide, f"c{space.dims[0]} = rest;"]


def each(
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
