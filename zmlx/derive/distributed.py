"""Distributed: sums over a row that would wait for other sums of that row, as sums that do not.

Comes in: a derivative's graph. Goes out: one of the same values but for rounding. The sum of
r*a + s*b, where r and s are one number a row, r computed from another sum of the row, is r times
the sum of a plus s times the sum of b: all of them are added up in one walk over the row; so is
that of (r*a)*(s*b), r*s times the sum of a*b. The gradients of a layer norm and of a softmax are
short of a walk by that. zmlx.fuse calls it for what is simplified.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import product

from zmlx import dtypes
from zmlx.derive.builder import Builder
from zmlx.trace.graph import Graph

MOST = 3  # sums in place of one
_SIGNS = {"add": (1, 1), "subtract": (1, -1), "negative": (-1,)}
Axes = tuple[int, ...]


@dataclass(frozen=True)
class Term:
    """`sign` times the product of `factors`, one number a row each, times what is added up."""

    sign: int
    factors: tuple[tuple[str, int], ...]  # ("multiply" or "divide", node)
    leaf: tuple[int, ...]  # what is added up is their product

    def times(self, other: Term) -> Term:
        leaf = tuple(sorted((*self.leaf, *other.leaf)))
        return Term(self.sign * other.sign, (*self.factors, *other.factors), leaf)


def distributed(graph: Graph) -> Graph:
    """`graph` with those sums taken apart that wait for others of their row."""
    waits = _Waits(graph)
    found = {n: terms for n in graph if (terms := waits.terms(n))}
    if not found:
        return graph
    builder = Builder()
    made = builder.graph
    new: dict[int, int] = {}
    for node in graph:
        if node not in found:
            operands = [new[o] for o in graph.operands(node)]
            new[node] = made.add(graph.kind(node), operands, **graph.attributes(node))
        else:
            new[node] = _total(builder, graph, node, found[node], new)
    made.outputs = [new[n] for n in graph.outputs]
    return made


def _total(
    builder: Builder, graph: Graph, node: int, terms: list[Term], new: dict[int, int]
) -> int:
    """The sum of the sums: of the same array once."""
    data = graph[node]
    kind, line = data["dtype"], data["loc"]
    by_leaf: dict[tuple[int, ...], list[Term]] = {}
    for term in terms:
        by_leaf.setdefault(term.leaf, []).append(term)
    parts = []
    for leaf, found in by_leaf.items():
        wide = [builder.astype(new[n], kind, "") for n in leaf]
        added = reduce(lambda a, b: builder.op("multiply", (a, b), line), wide)
        folded = builder.reduce("sum", added, data["axes"], line)
        if len(found) == 1:  # one factor after the other: their product alone may overflow
            parts.append(_scaled(builder, found[0], folded, new, line))
            continue
        one = builder.const(1.0, kind)
        factors = [_scaled(builder, term, one, new, line) for term in found]
        factor = reduce(lambda a, b: builder.op("add", (a, b), ""), factors)
        parts.append(builder.op("multiply", (factor, folded), ""))
    total = reduce(lambda a, b: builder.op("add", (a, b), ""), parts)
    return builder.astype(total, kind, "")


def _scaled(builder: Builder, term: Term, value: int, new: dict[int, int], line: str) -> int:
    """`value` with the sign and the factors of `term`."""
    for op, factor in term.factors:
        value = builder.op(op, (value, new[factor]), line)
    return value if term.sign > 0 else builder.op("negative", (value,), line)


class _Waits:
    """How many folds each node of a graph waits for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.levels: dict[int, int] = {}
        for node in graph:
            below = max((self.levels[o] for o in graph.operands(node)), default=0)
            self.levels[node] = below + (graph.kind(node) == "reduce")

    def terms(self, node: int) -> list[Term]:
        """What the sum `node` is made of; [] where it stays as it is."""
        graph, data = self.graph, self.graph[node]
        if data["kind"] != "reduce" or data["op"] != "sum" or data["dtype"] != "float32":
            return []
        (source,) = graph.operands(node)
        level, shape = self.levels[source], graph[source]["shape"]
        if level == 0 or not any(graph.kind(u) == "op" for u in graph.users(node)):
            return []
        terms = self._parts(source, data["axes"], level)
        leaves = {term.leaf for term in terms}
        fits = all(
            self.levels[n] < level and graph[n]["shape"] == shape for leaf in leaves for n in leaf
        )
        apart = any(self._waits_for_row(f, data["axes"]) for t in terms for _, f in t.factors)
        return terms if fits and apart and len(leaves) <= MOST else []

    def _waits_for_row(self, node: int, axes: Axes) -> bool:
        """Whether a number a row is computed from a fold of these axes."""
        stack, seen = [node], {node}
        while stack:
            top = stack.pop()
            data = self.graph[top]
            if data["kind"] == "reduce" and data["axes"] == axes:
                return True
            fresh = set(self.graph.operands(top)) - seen if data["kind"] == "op" else set()
            seen |= fresh
            stack += fresh
        return False

    def _parts(self, node: int, axes: Axes, level: int) -> list[Term]:
        """The terms of a value, as far as it is linear in them.

        What does not wait stays whole: a difference from a mean, say, would lose its digits.
        """
        graph, data = self.graph, self.graph[node]
        waits = self.levels[node] >= level
        if waits and data["kind"] == "op" and dtypes.is_float(data["dtype"]):
            operands = data["operands"]
            if data["op"] in _SIGNS and dtypes.is_float(data["at"]):
                pairs = zip(_SIGNS[data["op"]], operands, strict=True)
                parts = [(sign, self._parts(o, axes, level)) for sign, o in pairs]
                return [Term(s * t.sign, t.factors, t.leaf) for s, found in parts for t in found]
            if data["op"] == "astype" and dtypes.is_float(graph[operands[0]]["dtype"]):
                return self._parts(operands[0], axes, level)
            if data["op"] in ("multiply", "divide"):
                first, second = operands
                if data["op"] == "multiply" and self._is_row(first, axes, node):
                    first, second = second, first
                if self._is_row(second, axes, node):
                    found = self._parts(first, axes, level)
                    own = (data["op"], second)
                    return [Term(t.sign, (*t.factors, own), t.leaf) for t in found]
                if data["op"] == "multiply":
                    both = product(*(self._parts(o, axes, level) for o in operands))
                    return [a.times(b) for a, b in both]
        return [Term(1, (), (node,))]

    def _is_row(self, node: int, axes: Axes, within: int) -> bool:
        """Whether `node` is one number where `within` has all elements along `axes`."""
        own, full = self.graph[node]["shape"], self.graph[within]["shape"]
        padded = (1,) * (len(full) - len(own)) + own
        return all(padded[a] == 1 for a in axes)
