"""Matched: a graph as patterns are looked for in it, and what was found.

Data for zmlx.fuse.matching, which compares, zmlx.fuse.patterns, which asks, and zmlx.fuse.replaced,
which puts replacements in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from zmlx.fuse.forms import Form, Term, form_of
from zmlx.fuse.spellings import Spelling, titles
from zmlx.trace.exprs import evaluate
from zmlx.trace.graph import NUMBERS, Graph


class Subject:
    """A graph in which patterns are looked for; `given` are the numbers of the example call."""

    def __init__(self, graph: Graph, given: Sequence[Any]) -> None:
        self.graph, self.given = graph, given
        calls = [n for n in graph if graph.kind(n) == "opaque"]
        self.forms: dict[int, Form | None] = {n: form_of(graph, n) for n in calls}
        self.titles = titles(graph, self.forms)

    @cached_property
    def by_title(self) -> dict[Any, list[int]]:
        found: dict[Any, list[int]] = {}
        for node, name in self.titles.items():
            found.setdefault(name, []).append(node)
        return found

    @cached_property
    def ends(self) -> dict[Any, set[tuple[int, str]]]:
        """For each op, the ranks and types of its results."""
        found: dict[Any, set[tuple[int, str]]] = {}
        for node, name in self.titles.items():
            data = self.graph[node]
            found.setdefault(name, set()).add((len(data["shape"]), data["dtype"]))
        return found

    def number(self, node: int) -> Any:
        """The example's value of a number's node."""
        data = self.graph[node]
        if data["kind"] == "const":
            return data["value"]
        operands = [self.graph[o] for o in data["operands"]]
        if data["kind"] == "scalar":
            shapes = [SimpleNamespace(**self.graph[n]) for n in self.graph.inputs]
            return evaluate(data["expr"], self.given, shapes)
        values: list[Any] = [
            self.number(o) if self.graph.kind(o) in NUMBERS else None for o in data["operands"]
        ]
        return evaluate(data["expr"], values, [SimpleNamespace(**d) for d in operands])


@dataclass(frozen=True)
class Equal:
    """Two numbers that must be one: a term of the spelling's graph and one of the subject's."""

    wanted: Term
    there: Term
    node: int  # of the subject, that is cut by it


@dataclass(frozen=True)
class Miss:
    """How many nodes of a spelling were found, and why the next one was not."""

    found: int
    why: str
    apart: int = 0  # how many things differ, where all was found

    def closeness(self, working: int) -> tuple[bool, int, int]:
        """All of a spelling of `working` nodes is there, or more of it."""
        return self.found >= working, self.found, -self.apart


@dataclass
class State:
    """What stands for what, so far."""

    nodes: dict[int, int] = field(default_factory=dict)  # of the spelling -> of the subject
    sizes: dict[int, int] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    numbers: dict[int, Term] = field(default_factory=dict)  # by position
    equals: tuple[Equal, ...] = ()
    notes: tuple[str, ...] = ()  # what differs, where the walk went on all the same

    def copy(self) -> State:
        return State(
            dict(self.nodes), dict(self.sizes), dict(self.kinds), dict(self.numbers),
            self.equals, self.notes,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Match:
    """A part of `subject` that is what `spelling` says."""

    subject: Subject
    spelling: Spelling
    state: State

    @cached_property
    def arrays(self) -> dict[str, int]:
        """The node that stands for each array, by name."""
        inputs, s = self.spelling.graph.inputs, self.spelling
        return {name: self.state.nodes[inputs[i]] for i, name in enumerate(s.arrays)}

    @cached_property
    def numbers(self) -> dict[str, Term]:
        """What stands for each number, by name: a value, or a node whose value a call knows."""
        return {name: self.state.numbers[i] for i, name in enumerate(self.spelling.numbers)}

    @cached_property
    def outputs(self) -> list[int]:
        return [self.state.nodes[n] for n in self.spelling.graph.outputs]

    @cached_property
    def inner(self) -> set[int]:
        """The nodes between the arrays and the results."""
        graph = self.spelling.graph
        kinds = ("op", "reduce", "opaque", "item")
        found = {u for p, u in self.state.nodes.items() if graph.kind(p) in kinds}
        return found - set(self.outputs)

    def shape(self, name: str) -> tuple[int, ...]:
        found: tuple[int, ...] = self.subject.graph[self.arrays[name]]["shape"]
        return found

    def dtype(self, name: str) -> str:
        found: str = self.subject.graph[self.arrays[name]]["dtype"]
        return found

    def example(self, name: str) -> Any:
        """A number's value in the example call."""
        kind, what = self.numbers[name]
        return what if kind == "value" else self.subject.number(what)

    def value(self, name: str) -> Any:
        """A number that stands in the text; None where it is known at call time only."""
        kind, what = self.numbers[name]
        if kind == "value":
            return what
        data = self.subject.graph[what]
        return data["value"] if data["kind"] == "const" else None
