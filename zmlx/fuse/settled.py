"""Settled: whether what a pattern cuts by holds for all sizes of a trace, or for some only.

Comes in: a match, and the sizes of the trace's arrays as expressions. Goes out: why the match does
not hold, or Decisions that tell the trace for which sizes it does. zmlx.fuse.patterns asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from math import prod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from zmlx.device.base import current_name
from zmlx.fuse.matched import Match, Subject
from zmlx.trace.exprs import Expr, Numbering, evaluate, leaves, replaced
from zmlx.trace.scalars import expr_of
from zmlx.trace.sizes import Decision

if TYPE_CHECKING:
    from zmlx.trace.sizes import Sizes


def too_few(found: Match) -> str:
    """Why a match does not pay on a CPU for sizes like the example's; "" where it does."""
    asked = _least(found)
    if asked is None:
        return ""
    places, least = asked
    total = prod(found.shape(name)[axis] for name, axis in places)
    return "" if total >= least else f"{total} numbers in the middle: from {least} on it pays"


def _least(found: Match) -> tuple[list[tuple[str, int]], int] | None:
    """The axes whose sizes are multiplied, and the least product; None where nothing is asked."""
    asked = found.spelling.pattern.least
    if asked is None or current_name() != "host":
        return None
    letters, least = asked
    return [place for letter in letters for place in found.spelling.places_of(letter)], least


class Settling:
    """Decides the Equals of matches: by what is known of sizes, else by a Decision of the trace."""

    def __init__(self, subject: Subject, sizes: Sizes, behind: Mapping[int, int]) -> None:
        self.subject, self.sizes, self.behind = subject, sizes, behind
        self.decisions: list[Decision] = []
        self._numbering = Numbering()

    def holds(self, found: Match) -> str:
        """Why a match does not hold for all sizes; "" where it does, or the trace is told."""
        loc = self.subject.graph[max(found.outputs)]["loc"]
        pairs = [
            (self._wanted(found, equal.wanted), self._there(equal.there))
            for equal in found.state.equals
        ]
        pairs += [
            (None if size is None else ("mod", size, ("value", 2)), ("value", 0))
            for size in self._even(found)
        ]
        for first, second in pairs:
            if first is None or second is None:
                return _UNKNOWN
            same = self._numbering.of(first) == self._numbering.of(second)
            if not same and not self._decided(("eq", first, second), loc):
                return _ODD
        return self._too_few(found, loc)

    def _decided(self, expr: Expr, loc: str) -> bool:
        """Whether it holds; where sizes tell, the trace depends on it."""
        if not leaves(expr):
            return bool(evaluate(expr, ()))
        value = bool(self.now(expr))
        if expr not in [d.expr for d in self.decisions]:
            self.decisions.append(Decision(expr, value, loc))
        return value

    def _too_few(self, found: Match, loc: str) -> str:
        """Why it does not pay for these sizes; the trace is told on which side they are."""
        asked = _least(found)
        if asked is not None:
            places, least = asked
            sizes = [self._size(found.arrays[name], axis) for name, axis in places]
            told = [size for size in sizes if size is not None]
            if len(told) == len(sizes):
                total = reduce(lambda a, b: ("mul", a, b), told)
                self._decided(("ge", total, ("value", least)), loc)
        return too_few(found)

    def now(self, expr: Expr) -> Any:
        """What it is in the example call."""
        graph = self.subject.graph
        shapes = [SimpleNamespace(**graph[n]) for n in graph.inputs]
        return evaluate(expr, self.subject.given, shapes)

    def _even(self, found: Match) -> list[Expr | None]:
        """The sizes that must be even."""
        spelling = found.spelling
        return [
            self._size(found.arrays[name], axis)
            for letter in spelling.pattern.even
            for name, axis in spelling.places_of(letter)
        ]

    def _there(self, term: Any) -> Expr | None:
        """A number of the graph in terms of the call's sizes and numbers."""
        kind, what = term
        if kind == "value":
            return ("value", what)
        data = self.subject.graph[what]
        if data["kind"] == "const":
            return ("value", data["value"])
        if data["kind"] == "scalar":
            expr: Expr = data["expr"]
            return expr
        operands = data["operands"]
        return self._told(data["expr"], lambda k: operands[k], lambda k: self._there(
            ("node", operands[k])))  # fmt: skip

    def _wanted(self, found: Match, term: Any) -> Expr | None:
        """A number of the spelling, in the same terms."""
        kind, what = term
        if kind == "value":
            return ("value", what)
        graph, nodes = found.spelling.graph, found.state.nodes
        data = graph[what]
        if data["kind"] == "const":
            return ("value", data["value"])
        near = graph.inputs if data["kind"] == "scalar" else data["operands"]
        return self._told(
            data["expr"], lambda k: nodes[near[k]], lambda k: self._there(found.state.numbers[k])
        )

    def _told(
        self, expr: Expr, array: Callable[[int], int], number: Callable[[int], Expr | None]
    ) -> Expr | None:
        by: dict[Expr, Expr] = {}
        for leaf in leaves(expr):
            is_size = leaf[0] == "size"
            told = self._size(array(leaf[1]), leaf[2]) if is_size else number(leaf[1])
            if told is None:
                return None
            by[leaf] = told
        return replaced(expr, by)

    def _size(self, node: int, axis: int) -> Expr | None:
        """The size of an array of the graph; None where only the array tells it."""
        if node not in self.behind:
            return None
        told = expr_of(self.sizes.dims(self.behind[node])[axis])
        read = [leaf[1] for leaf in leaves(told) if leaf[0] == "size"]
        graph = self.sizes.tracer.graph
        return told if all(graph.kind(node) == "input" for node in read) else None


_ODD = "a size that is cut in halves is odd"
_UNKNOWN = "where it is cut is known only once its arrays are there"
