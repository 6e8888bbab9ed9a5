"""Spellings: the ways in which a pattern may be written, traced to graphs to compare with.

Comes in: a Pattern, whose spellings are functions of MLX's ops. Goes out: Spelling, the graph of
one of them for one float type and one number of leading axes, made when first asked for.
zmlx.fuse.patterns holds the patterns, zmlx.fuse.matching compares graphs with spellings.

Arrays are described by a letter for each axis: "*SD" has any leading axes, up to two; "~*LS" any
shape that broadcasts to that; a 1 is an axis of one. A letter stands for one size. Each letter is
traced with a size of its own, from which halves and products can be told.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.fuse.forms import Form, form_of
from zmlx.fuse.simplify import simplify
from zmlx.trace.graph import Graph, title
from zmlx.trace.run import Call, trace
from zmlx.trace.tree import flatten_call

_PRIMES = (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157)
_LEADS = "YZ"  # letters of leading axes
SAME = "T"  # the float type that arrays share
FLOATS = ("float32", "float16", "bfloat16")
DEVICES = ("cpu", "metal", "cuda")
WHOLE = "integer"  # any integer type; traced as int32


@dataclass(frozen=True, eq=False)
class Pattern:
    """What is looked for in graphs, on which conditions, and what takes its place.

    `spellings` take arrays and numbers by name, all or some of those that `arrays` and `numbers`
    name, and return what `by`, called with the same names, returns. See zmlx.fuse.patterns.pattern.
    """

    name: str
    spellings: tuple[Callable[..., Any], ...]
    by: Callable[..., Any]
    arrays: Mapping[str, str]
    numbers: Mapping[str, float]
    types: tuple[Mapping[str, str], ...]
    floats: tuple[str, ...]
    where: Callable[[Any], str]  # of a Found: why not, "" where it may
    even: str  # letters of sizes that must be even
    least: tuple[str, int] | None  # letters, and what their sizes' product must be on a CPU
    devices: Mapping[str, str]  # on which it fires, and why it pays there
    inline: bool  # `by` is traced in place; else it is called
    needs: tuple[str, ...]  # titles of nodes without which no graph holds it
    leads: tuple[int, ...]
    root: tuple[str, int] | None = None  # the op of its result, and its axes beside leading ones
    sizes: Mapping[str, int] = field(default_factory=dict)  # that letters are traced with
    doc: str = ""
    proof: str = ""  # the test that compares it with plain MLX
    _made: dict[Any, Spelling] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How graphs call what replaces it."""
        name = getattr(self.by, "__name__", "").strip("_<>")
        return self.name if name in ("", "lambda") else name

    def check(self) -> None:
        """Raise ValueError, naming what is wrong, where the pattern's parts do not fit."""
        named = {*self.arrays, *self.numbers}
        axes = [c for spec in self.arrays.values() for c in spec]
        wrong = [c for c in axes if not (c.isalpha() or c in "*~1")]
        kinds = [t for types in self.types for t in types.values()]
        wrong += [t for t in kinds if t not in (*dtypes.ALL, WHOLE)]
        wrong += [t for t in self.floats if t not in FLOATS]
        wrong += [device for device in self.devices if device not in DEVICES]
        wrong += [p for fn in self.spellings for p in inspect.signature(fn).parameters
                  if p not in named]  # fmt: skip
        wrong += [] if self.spellings else ["no spelling"]
        if wrong:
            raise ValueError(
                f"[zmlx.patterns] pattern {self.name!r}: {', '.join(map(repr, wrong))}. Axes are "
                f"letters, *, ~ and 1; types those of MLX or {WHOLE!r}; devices "
                f"{', '.join(DEVICES)}; spellings take arrays and numbers by their names."
            )

    def variants(self, ends: Mapping[Any, set[tuple[int, str]]]) -> Iterator[Spelling]:
        """Its spellings for a graph with `ends`: for each op the ranks and types of its results."""
        types = {kind for found in ends.values() for _, kind in found}
        ranks = None
        if self.root is not None:
            ranks = {rank - self.root[1] for rank, _ in ends.get(self.root[0], ())}
        kinds = [kind for kind in self.floats if kind in types]
        leads = [lead for lead in self.leads if ranks is None or lead in ranks]
        for fn, kind, given, lead in product(self.spellings, kinds, self.types, leads):
            key = (fn, kind, tuple(sorted(given.items())), lead)
            if key not in self._made:
                self._made[key] = Spelling(self, fn, kind, given, lead)
            yield self._made[key]


class Spelling:
    """One function of a pattern, for arrays of one float type with `lead` leading axes."""

    def __init__(
        self, pattern: Pattern, fn: Callable[..., Any], kind: str, types: Mapping[str, str],
        lead: int,
    ) -> None:  # fmt: skip
        self.pattern, self.fn, self.kind, self.lead = pattern, fn, kind, lead
        taken = inspect.signature(fn).parameters
        self.arrays = [name for name in pattern.arrays if name in taken]
        self.numbers = [name for name in pattern.numbers if name in taken]
        self.types = {name: types.get(name, SAME) for name in self.arrays}
        self.specs = {name: pattern.arrays[name] for name in self.arrays}
        used = sorted({c for spec in pattern.arrays.values() for c in spec if c.isalpha()})
        letters = zip([*_LEADS, *used], _PRIMES, strict=False)
        self.size_of = {c: 2 * p for c, p in letters} | dict(pattern.sizes)

    def dtype(self, name: str) -> str:
        """The type that the array `name` is traced with."""
        kind = self.types[name]
        return self.kind if kind == SAME else "int32" if kind == WHOLE else kind

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the array `name` is traced with."""
        spec = self.specs[name].lstrip("~")
        letters = spec.replace("*", _LEADS[: self.lead])
        return tuple([1 if c == "1" else self.size_of[c] for c in letters])

    def places_of(self, letter: str) -> list[tuple[str, int]]:
        """An array that has the axis `letter`, and which one it is there, from the end; of "*" as
        many as it stands for."""
        for name in self.arrays:
            axes = self.specs[name].lstrip("~")
            if letter in axes and not self.spreads(name):
                last = axes.index(letter) - len(axes)
                first = last - self.lead + 1 if letter == "*" else last
                return [(name, axis) for axis in range(first, last + 1)]
        raise ValueError(f"[zmlx.patterns] pattern {self.pattern.name!r}: no axis {letter!r}")

    def spreads(self, name: str) -> bool:
        """Whether any shape may stand for `name` that broadcasts to its own."""
        return self.specs[name].startswith("~")

    @cached_property
    def graph(self) -> Graph:
        """What the function does."""
        arrays = [
            mx.zeros(self.shape(n), getattr(mx, dtypes.attribute(self.dtype(n))))
            for n in self.arrays
        ]
        numbers = [float(self.pattern.numbers[n]) for n in self.numbers]
        names = [*self.arrays, *self.numbers]

        def called(*given: Any) -> Any:
            return self.fn(**dict(zip(names, given, strict=True)))

        call = Call(*flatten_call((*arrays, *numbers), {}))
        return simplify(trace(called, call).graph)

    @cached_property
    def forms(self) -> dict[int, Form | None]:
        """The form of each call in the graph."""
        return {n: form_of(self.graph, n) for n in self.graph if self.graph.kind(n) == "opaque"}

    @cached_property
    def titles(self) -> dict[int, Any]:
        return titles(self.graph, self.forms)

    @cached_property
    def needed(self) -> frozenset[Any]:
        """What must be in a graph that it matches."""
        return frozenset(t for t in self.titles.values() if t is not None)

    @cached_property
    def root(self) -> int:
        """The node that all others are computed for."""
        return max(self.graph.outputs)

    @cached_property
    def last(self) -> list[Any]:
        """What computes each array that the root reads; None for arrays and numbers."""
        form = self.forms.get(self.root)
        reads = self.graph.operands(self.root) if form is None else form.arrays
        return [self.titles[node] for node in reads]

    @cached_property
    def working(self) -> int:
        """How many nodes compute something."""
        return sum(t is not None for t in self.titles.values())


def titles(graph: Graph, forms: Mapping[int, Form | None]) -> dict[int, Any]:
    """What each node that computes something is called; None for arrays and numbers."""
    found: dict[int, Any] = {}
    for node in graph:
        data = graph[node]
        if data["kind"] == "opaque":
            form = forms[node]
            found[node] = (title(data), node) if form is None else form.name
        else:
            found[node] = data["op"] if data["kind"] in ("op", "reduce") else None
    return found
