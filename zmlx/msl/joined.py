"""Joined: the kernel of several regions, whose values it writes at their places in shared arrays.

Comes in: bodies, each a region, the buffers that it reads, and where its values go. Goes out: a
MetalKernelSpec, and the table that one launch hands it: sizes, places, how many threads each body
has. A thread works on ELEMS neighbouring elements of one body, row by row. Sizes and places are
read at run time, so that one text serves all sizes. zmlx.fuse.joined launches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from zmlx import dtypes
from zmlx.msl.element import Element
from zmlx.msl.lines import indent, next_row
from zmlx.msl.loop import LOOP_MACRO
from zmlx.msl.space import Space
from zmlx.msl.spec import MetalKernelSpec
from zmlx.trace.graph import Graph

TABLE = "places"  # the last input: 64-bit integers, see `table`


@dataclass(frozen=True)
class Store:
    """A value of a body, by position, and the output that it is written to.

    `apart`: neighbours along the innermost dimension lie so far apart there; None where only the
    table says it.
    """

    value: int
    output: int
    apart: int | None = 1


@dataclass(frozen=True, eq=False)
class Body:
    """A region, over arrays and numbers that are inputs of the kernel, and what is written of it.

    All its values have the shape of its space, which has a dimension that is not one.
    """

    graph: Graph
    arrays: tuple[int, ...]  # in{i} for each of its arrays
    scalars: tuple[int, ...]  # s{i} for each of its numbers
    stores: tuple[Store, ...]


@dataclass(frozen=True)
class Place:
    """Where the values of a store lie: the first one, and its steps along all dimensions.

    `fixed`: the step of a dimension behind which all others are one is the same for all sizes.
    """

    begin: int
    steps: tuple[int, ...]
    fixed: bool = False


def joined_kernel(
    bodies: Sequence[Body], inputs: Sequence[str], scalars: int, kinds: Sequence[str], exact: bool
) -> MetalKernelSpec:
    """The kernel over arrays of the types `inputs`, that many numbers, and the table.

    It writes one output for each of `kinds`. Raises EmitError for a region that no kernel can
    compute.
    """
    texts, at = [], 0
    for number, body in enumerate(bodies):
        texts.append(_Text(body, number, at, exact))
        at = texts[-1].end
    names = dict.fromkeys(op for text in texts for op in text.element.ops)
    first, *rest = texts
    lines = ["INDEX t = INDEX(thread_position_in_grid.x);"]
    for number, text in enumerate(texts):
        if number + 1 < len(texts):
            lines += [f"if (t < INDEX({TABLE}[{text.begin}])) {{", *indent(text.lines()), "}"]
            lines += [f"t -= INDEX({TABLE}[{text.begin}]);"]
        else:
            lines += ["{", *indent(text.lines()), "}"]
    halves = not exact and all(kind in dtypes.HALVES for kind in (*inputs, *kinds))
    return MetalKernelSpec(
        name="_".join(["joined", *names])[:60],
        input_names=(
            *[f"in{i}" for i in range(len(inputs))],
            *[f"s{i}" for i in range(scalars)],
            TABLE,
        ),
        output_names=tuple(f"out{i}" for i in range(len(kinds))),
        source="\n".join(lines) + "\n",
        header=LOOP_MACRO + first.element.text(*[text.element for text in rest]),
        ensure_row_contiguous=False,
        halves=halves,
        exact=exact,
    )


def slots(bodies: Sequence[Body], inputs: int, scalars: int, outputs: int) -> int:
    """How many of Metal's buffers the kernel takes."""
    moving = {
        outer
        for body in bodies
        for outer, dims in zip(body.arrays, Space.of(body.graph).moves, strict=True)
        if dims
    }
    return inputs + len(moving) + scalars + outputs + 1


def table(
    bodies: Sequence[Body],
    sizes: Sequence[Sequence[int]],
    places: Sequence[Sequence[Place]],
    elements: int,
) -> tuple[list[int], int]:
    """The table for bodies of these sizes, whose stores lie at `places`; how many threads.

    For each body: threads, the sizes of the dimensions that are not one, then for each store its
    begin and its steps along them.
    """
    numbers: list[int] = []
    threads = 0
    for body, size, stored in zip(bodies, sizes, places, strict=True):
        dims = Space.of(body.graph).dims
        own = -(-prod(size) // elements)
        threads += own
        numbers += [own, *[size[d] for d in dims]]
        for place in stored:
            numbers += [place.begin, *[place.steps[d] for d in dims]]
    return numbers, threads


class _Text:
    """The text of one body; its part of the table begins at `begin`."""

    def __init__(self, body: Body, number: int, begin: int, exact: bool) -> None:
        self.body, self.begin = body, begin
        self.space = space = Space.of(body.graph)
        self.element = Element(body.graph, space, exact, f"zmlx_region{number}")
        self.dims, self.inner = space.dims, space.dims[-1]
        self.end = begin + 1 + len(self.dims) + len(body.stores) * (1 + len(self.dims))
        nodes = [body.graph[n]["dtype"] for n in space.arrays]
        self.kinds = [dtypes.value_type(kind) for kind in nodes]
        self.read = [i for i, read in enumerate(space.read) if read]
        self.moving = [i for i in self.read if self.inner in space.moves[i]]

    def lines(self) -> list[str]:
        """The block that computes the elements of thread t of this body."""
        several = len(self.dims) > 1
        return [
            *self._sizes(),
            *self._merged(),
            f"const INDEX total = {' * '.join(f'n{d}' for d in self.dims)};",
            "const INDEX begin = t * INDEX(ELEMS);",
            *self._once(),
            *(self._divided() if several else []),
            "const INDEX stop = (total - begin < INDEX(ELEMS)) ? total : begin + INDEX(ELEMS);",
            "for (INDEX i = begin; i < stop;) {",
            *indent(self._row()),
            "}",
            "return;",
        ]

    # -- before the rows --------------------------------------------------------------------------
    def _sizes(self) -> list[str]:
        at = self.begin + 1
        lines = [f"INDEX n{d} = INDEX({TABLE}[{at + k}]);" for k, d in enumerate(self.dims)]
        at += len(self.dims)
        for j in range(len(self.body.stores)):
            lines.append(f"const long to{j}_begin = {TABLE}[{at}];")
            lines += [
                f"const long to{j}_step{d} = {TABLE}[{at + 1 + k}];"
                for k, d in enumerate(self.dims)
                if d != self.inner or self.body.stores[j].apart is None
            ]
            at += 1 + len(self.dims)
        for i in self.read:
            name = f"in{self.body.arrays[i]}"
            lines += [
                f"const long at{i}_step{d} = {name}_strides[{self.space.own(i, d)}];"
                for d in self.space.moves[i]
            ]
        return lines

    def _merged(self) -> list[str]:
        """Outer dimensions join the innermost one where all memory is one row."""
        n, opened, lines = f"n{self.inner}", 0, []
        for d in reversed(self.dims[:-1]):
            if any((d in self.space.moves[i]) != (i in self.moving) for i in self.read):
                break
            tests = [f"at{i}_step{d} == at{i}_step{self.inner} * long({n})" for i in self.moving]
            tests += [
                f"to{j}_step{d} == long({n}) * {self._apart(j)}"
                for j in range(len(self.body.stores))
            ]
            pad = "  " * opened
            lines += [f"{pad}if ({' && '.join(tests)}) {{", f"{pad}  {n} *= n{d};"]
            lines.append(f"{pad}  n{d} = 1;")
            opened += 1
        return [*lines, *["  " * k + "}" for k in reversed(range(opened))]]

    def _once(self) -> list[str]:
        """Numbers, and arrays of one element."""
        graph, lines = self.body.graph, []
        for i, node in enumerate(self.space.scalars):
            kind = dtypes.value_type(graph[node]["dtype"])
            lines.append(f"const {kind} p{i} = {kind}(s{self.body.scalars[i]}[0]);")
        still = [i for i in self.read if not self.space.moves[i]]
        return [*lines, *[self._load(i, "0") for i in still]]

    def _divided(self) -> list[str]:
        lines = [f"INDEX {', '.join(f'c{d} = 0' for d in self.dims)};", "INDEX rest = begin;"]
        for d in reversed(self.dims[1:]):
            lines += [f"c{d} = rest % n{d};", f"rest /= n{d};"]
        return [*lines, f"c{self.dims[0]} = rest;"]

    # -- rows -------------------------------------------------------------------------------------
    def _row(self) -> list[str]:
        several = len(self.dims) > 1
        lines = ["const INDEX run = stop - i;"]
        if several:
            lines = [
                f"const INDEX row = n{self.inner} - c{self.inner};",
                "const INDEX run = (stop - i < row) ? stop - i : row;",
            ]
        count = {d: f"c{d}" if several else "i" for d in self.dims}
        for i in self.read:
            terms = [f"long({count[d]}) * at{i}_step{d}" for d in self.space.moves[i]]
            if terms:
                lines.append(f"const long at{i} = {' + '.join(terms)};")
        for j in range(len(self.body.stores)):
            steps = {d: f"to{j}_step{d}" for d in self.dims} | {self.inner: self._apart(j)}
            terms = [f"long({count[d]}) * {steps[d]}" for d in self.dims]
            lines.append(f"const long to{j} = {' + '.join([f'to{j}_begin', *terms])};")
        still = [i for i in self.read if self.space.moves[i] and i not in self.moving]
        lines += [self._load(i, f"at{i}") for i in still]
        strided = self._loop(f" * at{{0}}_step{self.inner}")
        if self.moving:
            unit = " && ".join(f"at{i}_step{self.inner} == 1" for i in self.moving)
            lines += [f"if ({unit}) {{", *indent(self._loop("")), "} else {", *indent(strided)]
            lines.append("}")
        else:
            lines += strided
        return [*lines, "i += run;", *(next_row(self.dims) if several else [])]

    def _loop(self, step: str) -> list[str]:
        region, body = self.body.graph, self.body
        names = [f"x{i}" for i in self.read] + [f"p{i}" for i in range(len(self.space.scalars))]
        kinds = [dtypes.value_type(region[n]["dtype"]) for n in region.outputs]
        results = [f"y{k}" for k in range(len(kinds))]
        stores = []
        for j, store in enumerate(body.stores):
            memory = dtypes.msl_type(region[region.outputs[store.value]]["dtype"])
            apart = f" * {self._apart(j)}" if store.apart != 1 else ""
            stores.append(f"out{store.output}[to{j} + k{apart}] = {memory}(y{store.value});")
        return [
            "ZMLX_LOOP",
            "for (INDEX k = 0; k < run; ++k) {",
            *indent([
                *[self._load(i, f"at{i} + k{step.format(i)}") for i in self.moving],
                *[f"{kind} y{k};" for k, kind in enumerate(kinds)],
                f"{self.element.name}({', '.join([*names, *results])});",
                *stores,
            ]),
            "}",
        ]  # fmt: skip

    def _apart(self, j: int) -> str:
        apart = self.body.stores[j].apart
        return f"to{j}_step{self.inner}" if apart is None else str(apart)

    def _load(self, i: int, place: str) -> str:
        kind = self.kinds[i]
        return f"const {kind} x{i} = {kind}(in{self.body.arrays[i]}[{place}]);"
