"""Factoring: the sums of products that a chain rule leaves behind, in fewer operations.

Comes in: a derivative's graph. Goes out: one of the same values but for rounding, or the same graph
where nothing is won. Products of the same factors are computed once, however they were multiplied
out; like terms become one; what several terms share is multiplied in last (Horner's rule), so that
g*a*x + g*b*x*x becomes x*(g*a + g*b*x). A cotangent stays inside: where it is 0, each term is 0,
however large the rest is. So that no product overflows which the chain rule kept small, factors
are multiplied cotangents first, then what was computed last, then inputs, numbers at the end: the
small slope of a function at a large x comes before x, and is shared only by terms that are bounded
otherwise. Only terms that were rounded before are put together: a bare x in a sum stays as exact as
it was. numerics="mlx", which promises bits, does without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from zmlx import dtypes
from zmlx.ops.table import OPS
from zmlx.trace.graph import NUMBERS, Graph, broadcast
from zmlx.trace.passes import verified

_SUMS = ("add", "subtract", "negative")
_PRODUCTS = ("multiply", "square")
_BOUNDED = frozenset(("arctan", "cos", "erf", "sech2", "sigmoid", "sign", "sin", "tanh"))
MOST_TERMS, MOST_FACTORS = 16, 16  # of a sum, of a product; longer ones stay as they are
Factors = tuple[int, ...]  # nodes of the new graph in order; what occurs twice is squared


@dataclass(frozen=True)
class Term:
    """`count` times the product of `factors`; `exact` where the sum adds a value as it is."""

    count: float
    factors: Factors
    exact: bool

    def has(self, factor: int) -> bool:
        return not self.exact and factor in self.factors

    def without(self, factor: int) -> Term:
        left = list(self.factors)
        left.remove(factor)
        return Term(self.count, tuple(left), self.exact)


@verified("factor")
def factored(graph: Graph, seeds: Collection[int] = (), moved: Collection[int] = ()) -> Graph:
    """`graph` with its sums of products rearranged, where that saves operations.

    `seeds` are the positions of the inputs that are cotangents or tangents, `moved` further nodes.
    """
    made = _Rewriter(graph, {*moved, *[graph.inputs[i] for i in seeds]}).result
    return made if _cost(made) < _cost(graph) else graph


def _cost(graph: Graph) -> int:
    """Of what the outputs need; duplicates, which simplification merges, count once."""
    same: dict[Any, int] = {}
    number: dict[int, int] = {}
    live, stack = set(graph.outputs), [*graph.outputs]
    while stack:
        fresh = set(graph.operands(stack.pop())) - live
        live |= fresh
        stack += fresh
    total = 0
    for node in sorted(live):
        data = graph[node]
        key: Any = node
        if data["kind"] == "op":
            key = data["op"], data["at"], data["dtype"], *[number[o] for o in data["operands"]]
        elif data["kind"] == "const":
            key = data["dtype"], repr(data["value"])
        elif data["kind"] == "reduce":
            key = data["op"], data["axes"], number[data["operands"][0]]
        if key not in same:
            same[key] = len(same)
            total += OPS[data["op"]].cost if data["kind"] == "op" else 0
        number[node] = same[key]
    return total


class _Rewriter:
    """Copies a graph node by node: products are shared, sums that share factors are built anew.

    It never makes an op of numbers alone: such a one has no size, and would be no part of a kernel.
    """

    def __init__(self, source: Graph, seeds: set[int]) -> None:
        self.source, self.result = source, Graph()
        self._new: dict[int, int] = {}
        self._factors: dict[int, Factors] = {}  # of the new graph's products
        self._known: dict[Any, int] = {}  # the new graph's consts and ops by what they are
        self._bounded: set[int] = set()  # nodes whose values are never far from 1
        self._moved: set[int] = set()  # cotangents and tangents among the new graph's nodes
        self._arrays: set[int] = set()  # nodes of the new graph that depend on an array
        self._outputs = set(source.outputs)
        self._seeds = seeds
        for node in source:
            self._new[node] = self._copied(node)
            if node in self._seeds:
                self._moved.add(self._new[node])
                self._bounded.add(self._new[node])
        self.result.outputs = [self._new[n] for n in source.outputs]

    def _copied(self, node: int) -> int:
        data = self.source[node]
        operands = tuple(self._new[o] for o in data["operands"])
        if _arithmetic(data, _PRODUCTS):
            both = operands * 2 if data["op"] == "square" else operands
            factors = tuple(sorted(f for o in both for f in self._factors_of(o, data["at"])))
            if len(factors) <= MOST_FACTORS:
                return self._product(factors, data, (data["op"], operands))
        if _arithmetic(data, _SUMS) and not self._is_inner(node):
            terms = self._collected(node)
            if terms is not None:
                return self._sum(terms, data)
        return self._add(data["kind"], operands, self.source.attributes(node))

    # -- taking apart -----------------------------------------------------------------------------
    def _factors_of(self, node: int, at: str) -> Factors:
        """Of a product in the new graph; anything else is a factor itself."""
        found = self._factors.get(node)
        return found if found is not None and self.result[node]["at"] == at else (node,)

    def _is_inner(self, node: int) -> bool:
        """Whether a sum is only part of another: its terms are that one's."""
        users = self.source.users(node)
        if node in self._outputs or len(users) != 1:
            return False
        user = self.source[users[0]]
        alike = _arithmetic(user, _SUMS) and user["at"] == self.source[node]["at"]
        return alike and user["operands"].count(node) == 1

    def _collected(self, node: int) -> list[Term] | None:
        """The terms of a sum, like ones as one; None where rearranging them wins nothing."""
        leaves = self._leaves(node)
        at = self.source[node]["at"]
        counts: dict[Factors, int] = {}
        if len(leaves) > MOST_TERMS:
            return None
        for sign, leaf in leaves:
            factors = self._factors_of(self._new[leaf], at)
            counts[factors] = counts.get(factors, 0) + sign
        if 0 in counts.values():  # x - x is no 0 where x is infinite
            return None
        terms = [Term(n, f, len(f) == 1 and abs(n) == 1) for f, n in counts.items()]
        gain = len(terms) < len(leaves) or self._shared(terms) is not None
        return terms if gain else None

    def _leaves(self, node: int) -> list[tuple[int, int]]:
        """The terms of a sum in order, each with its sign; one more than MOST_TERMS at most."""
        leaves: list[tuple[int, int]] = []
        stack = [(1, node)]
        while stack and len(leaves) <= MOST_TERMS:
            sign, top = stack.pop()
            if top != node and not self._is_part(top):
                leaves.append((sign, top))
                continue
            data = self.source[top]
            signs = {"add": (1, 1), "subtract": (1, -1), "negative": (-1,)}[data["op"]]
            pairs = zip(signs, data["operands"], strict=True)
            stack += reversed([(sign * own, operand) for own, operand in pairs])
        return leaves

    def _is_part(self, node: int) -> bool:
        return _arithmetic(self.source[node], _SUMS) and self._is_inner(node)

    # -- putting together -------------------------------------------------------------------------
    def _sum(self, terms: Sequence[Term], like: dict[str, Any]) -> int:
        """Arrays come before numbers, and positive parts first so that nothing need be negated."""
        parts = self._parts(terms, like)
        parts.sort(key=lambda part: (-part[0], not self._sized(part[1])))
        (sign, total), *others = parts
        if sign < 0:
            total = self._op("negative", (total,), like)
        for sign, part in sorted(others, key=lambda part: not self._sized(part[1])):
            total = self._op("add" if sign > 0 else "subtract", (total, part), like)
        return total

    def _parts(self, terms: Sequence[Term], like: dict[str, Any]) -> list[tuple[int, int]]:
        """What is to be added, each with its sign."""
        factor = self._shared(terms)
        if factor is None:
            return [self._term(term, like) for term in terms]
        group = [term.without(factor) for term in terms if term.has(factor)]
        rest = [term for term in terms if not term.has(factor)]
        inside = self._factors_of(self._sum(group, like), like["at"])
        whole = self._product(tuple(sorted((factor, *inside))), like)
        return [(1, whole), *(self._parts(rest, like) if rest else [])]

    def _shared(self, terms: Sequence[Term]) -> int | None:
        """The factor of most terms, the first of several, if two have one."""
        several = [term for term in terms if not term.exact]
        found = Counter(f for term in several for f in dict.fromkeys(term.factors))
        for factor, count in found.most_common():
            group = [term.without(factor) for term in several if term.has(factor)]
            left = [f for term in group for f in term.factors]
            if count > 1 and any(map(self._sized, left)) and self._may_wait(factor, left):
                return factor
        return None

    def _may_wait(self, factor: int, left: Sequence[int]) -> bool:
        """Whether `factor` may come after the sum of `left`: it is 0 where no such sum overflows.

        Inputs come last in their products anyway.
        """
        if factor in self._moved:
            return False
        raw = self._sized(factor) and self.result.kind(factor) != "op"
        return raw or all(f in self._bounded or not self._sized(f) for f in left)

    def _term(self, term: Term, like: dict[str, Any]) -> tuple[int, int]:
        """A sign, and the node of its value."""
        sign, size = (1 if term.count > 0 else -1), abs(term.count)
        if not term.factors:
            return sign, self._const(size, like)
        value = self._product(term.factors, like)
        if size == 1:
            return sign, value
        return sign, self._op("multiply", (self._const(size, like), value), like)

    def _product(self, factors: Factors, like: dict[str, Any], asked: Any = None) -> int:
        """The node that is the product of `factors`: a known one, or `asked`, or a new one."""
        if len(factors) == 1:
            return factors[0]
        key = ("product", factors, like["at"])
        if key not in self._known:
            if asked is not None:
                name, operands = asked
                node = self._op(name, operands, like)
            else:
                *some, last = sorted(factors, key=self._place)
                most = self._product(tuple(sorted(some)), like)
                node = self._op("multiply", (most, last), like)
            self._known[key] = node
            self._factors[node] = factors
        return self._known[key]

    def _place(self, node: int) -> tuple[int, int]:
        """When a factor is multiplied in: in the order in which the least can overflow."""
        if node in self._moved:
            return 0, node
        if not self._sized(node):
            return 3, node
        return (1, -node) if self.result.kind(node) == "op" else (2, node)

    def _sized(self, node: int) -> bool:
        """Whether an array is among what `node` depends on."""
        return node in self._arrays

    def _const(self, value: float, like: dict[str, Any]) -> int:
        attributes = {"shape": (), "dtype": like["dtype"], "loc": "", "value": value}
        return self._add("const", (), attributes)

    def _op(self, name: str, operands: tuple[int, ...], like: dict[str, Any]) -> int:
        shape = broadcast([self.result[o]["shape"] for o in operands])
        kinds = {"dtype": like["dtype"], "at": like["at"], "loc": like["loc"]}
        return self._add("op", operands, {"shape": shape, "op": name, **kinds})

    def _add(self, kind: str, operands: Sequence[int], attributes: dict[str, Any]) -> int:
        key = None
        if kind == "op":
            key = attributes["op"], attributes["at"], attributes["dtype"], *operands
        elif kind == "const":
            value = attributes["value"]
            key = attributes["dtype"], type(value), repr(value)
        elif kind == "reduce":
            key = kind, attributes["op"], attributes["axes"], *operands
        if key is not None and key in self._known:
            return self._known[key]
        node = self.result.add(kind, operands, **attributes)
        own = kind not in ("const", *NUMBERS, "op")
        if own or not self._arrays.isdisjoint(operands):
            self._arrays.add(node)
        if kind == "op" and self._is_bounded(attributes["op"], operands):
            self._bounded.add(node)
        if key is not None:
            self._known[key] = node
        return node

    def _is_bounded(self, op: str, operands: Sequence[int]) -> bool:
        known = all(o in self._bounded or not self._sized(o) for o in operands)
        return op in _BOUNDED or (op in (*_SUMS, *_PRODUCTS) and known)


def _arithmetic(data: dict[str, Any], ops: Sequence[str]) -> bool:
    if data["kind"] != "op" or data["op"] not in ops:
        return False
    return data["at"] == data["dtype"] and dtypes.is_float(data["at"])
