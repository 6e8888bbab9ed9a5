"""Formulas: graphs of elementwise ops as sympy expressions that people can read.

Comes in: a region's graph, or the graph of its derivative. Goes out: one expression per output,
over symbols named after the inputs, and the temporaries that they share. Each op contributes its
own row's formula; nothing is expanded. zmlx.fuse.explain shows them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import sympy as sp
from sympy.core.parameters import distribute

from zmlx import dtypes
from zmlx.derive.partials import SYMBOLS, formula
from zmlx.ops.spec import OPERANDS
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph, title

WIDEST = 12  # ops in one expression; beyond that its parts become temporaries
KEEPDIMS = sp.Symbol("keepdims")
_RELATIONS = {
    "greater": sp.Gt,
    "greater_equal": sp.Ge,
    "less": sp.Lt,
    "less_equal": sp.Le,
    "equal": sp.Eq,
    "not_equal": sp.Ne,
}


class Formulas:
    """Expressions of one or more graphs; what was named in one keeps its name in the next.

    `temporaries` says what the symbols u0, u1, … stand for, each in terms of those before it.
    """

    def __init__(self) -> None:
        self.temporaries: dict[sp.Symbol, sp.Expr] = {}
        self.named: dict[int, sp.Symbol] = {}  # by the number of a value
        self._numbers: dict[Any, int] = {}

    def of(self, graph: Graph, names: Sequence[str]) -> list[sp.Expr]:
        """One expression per output of `graph`; `names` are those of its inputs."""
        with distribute(False):  # 2*(x + y) stays as it was written
            return _Reading(self, graph, names).outputs()

    def numbers(self, graph: Graph, names: Sequence[str]) -> dict[int, int]:
        """For each node the number of its value: equal for what is computed the same way."""
        symbols, found = iter(names), dict[int, int]()
        for node in graph:
            data = graph[node]
            kind = data["kind"]
            operands = tuple(found[o] for o in data["operands"])
            key: Any = ("unlike any other", len(self._numbers))
            if kind in ("input", "scalar"):
                key = next(symbols)
            elif kind == "const":
                key = (data["dtype"], repr(data["value"]))
            elif kind in ("reduce", "count"):
                key = (kind, data.get("op"), data["axes"], *operands)
            elif kind == "op":
                key = (data["op"], data["at"], data["dtype"], *operands)
            found[node] = self._numbers.setdefault(key, len(self._numbers))
        return found

    def name(self, value: int, expression: sp.Expr) -> sp.Symbol:
        """The symbol of the value numbered `value`, which `expression` computes."""
        if value not in self.named:
            made = sp.Symbol(f"u{len(self.temporaries)}", real=True)
            self.named[value], self.temporaries[made] = made, expression
        return self.named[value]


class _Reading:
    """One pass over one graph."""

    def __init__(self, formulas: Formulas, graph: Graph, names: Sequence[str]) -> None:
        self._formulas, self._graph = formulas, graph
        self._numbers = formulas.numbers(graph, names)
        self._names = dict(zip(graph.inputs, names, strict=True))
        self._uses = Counter(graph.outputs)
        self._values: dict[int, sp.Expr] = {}
        self._sizes: dict[int, int] = {}  # ops written out in the expression
        self._conditions: dict[int, sp.Basic] = {}

    def outputs(self) -> list[sp.Expr]:
        for node in reversed(range(len(self._graph))):  # what stands behind a name stays there
            if self._uses[node] and self._numbers[node] not in self._formulas.named:
                self._uses.update(self._graph.operands(node))
        for node in self._graph:
            if self._uses[node]:
                self._read(node)
        return [self._values[node] for node in self._graph.outputs]

    def _read(self, node: int) -> None:
        data = self._graph[node]
        if self._numbers[node] in self._formulas.named:
            self._set(node, self._formulas.named[self._numbers[node]], 0)
        elif data["kind"] in ("input", "scalar"):
            self._set(node, sp.Symbol(self._names[node], real=True), 0)
        elif data["kind"] == "const":
            self._set(node, number(data["value"]), 0)
        elif data["kind"] in ("reduce", "count", "opaque"):
            self._set(node, self._call(data), 1 + sum(self._sizes[o] for o in data["operands"]))
        else:
            self._shorten(data["operands"], data["op"])
            value = self._row(node, data)
            if OPS[data["op"]].result == "param":
                value = self._cast(value, data["at"], data["dtype"])
            self._set(node, value, 1 + sum(self._sizes[o] for o in data["operands"]))

    def _set(self, node: int, value: sp.Expr, size: int) -> None:
        self._values[node], self._sizes[node] = value, 0 if value.is_Atom else size
        if self._uses[node] > 1 and not _is_short(value):
            self._name(node)

    def _name(self, node: int) -> None:
        """Make the value of `node` a temporary."""
        self._values[node] = self._formulas.name(self._numbers[node], self._values[node])
        self._sizes[node] = 0
        self._conditions.pop(node, None)

    def _shorten(self, operands: Sequence[int], op: str) -> None:
        """Name what the row writes out twice, and the longest operands of a long expression."""
        for node, count in zip(operands, _occurrences(op), strict=True):
            if count > 1 and not _is_short(self._values[node]):
                self._name(node)
        for node in sorted(set(operands), key=lambda o: self._sizes[o], reverse=True):
            if sum(self._sizes[o] for o in operands) >= WIDEST and self._sizes[node]:
                self._name(node)

    def _row(self, node: int, data: dict[str, Any]) -> sp.Expr:
        """The row's formula over the operands' values."""
        given = [self._operand(o, data) for o in data["operands"]]
        op, logic = data["op"], data["at"] == "bool" and len(given) == 2
        if op in _RELATIONS:
            self._compare(node, op, given)
        if OPS[op].sym is not None and not logic:
            values: dict[sp.Basic, sp.Basic] = {
                SYMBOLS[name]: value for name, value in zip(OPERANDS, given, strict=False)
            }
            condition = self._conditions.get(data["operands"][0])
            if condition is not None:
                values[sp.Ne(SYMBOLS["x"], 0)] = condition
            try:
                return formula(op).xreplace(values)
            except TypeError:  # sympy compares no infinite or imaginary constants
                pass
        return sp.Function(op, real=True)(*given)

    def _operand(self, node: int, data: dict[str, Any]) -> sp.Expr:
        choice = data["op"] == "where" and node == data["operands"][0]
        value = self._values[node]
        return value if choice else self._cast(value, self._graph[node]["dtype"], data["at"])

    def _compare(self, node: int, op: str, given: Sequence[sp.Expr]) -> None:
        """Remember the comparison as sympy has it, for where; as a value it is a function."""
        relation = _RELATIONS[op](*given)
        if relation not in (sp.true, sp.false):  # x != x asks for NaN, which sympy does not know
            self._conditions[node] = relation

    def _cast(self, value: sp.Expr, source: str, target: str) -> sp.Expr:
        """`value` converted; a type that holds all values of the other leaves it as it is."""
        same = value.is_Number or dtypes.promote(source, target) == target
        return value if same else sp.Function(target, real=True)(value)

    def _call(self, data: dict[str, Any]) -> sp.Expr:
        """A fold, as sum(value, axes[, keepdims]); a call likewise."""
        source = data["operands"][0]
        inner, call = self._graph[source], data.get("call")
        axes = data["axes"] if call is None else tuple(call.kwargs.get("axis", ()))
        kept = (KEEPDIMS,) if data["kind"] == "reduce" else ()
        if inner["kind"] == "reduce" and call and call.label == "squeeze" and axes == inner["axes"]:
            data, source = inner, inner["operands"][0]
        operands = [source] if axes else data["operands"]
        values = [self._values[o] for o in operands]
        places = [sp.Tuple(*axes)] if axes else []
        return sp.Function(title(data), real=True)(*values, *places, *kept)


def number(value: Any) -> sp.Expr:
    """A constant of the graph. Infinities and NaN are symbols: sympy would calculate with them."""
    if isinstance(value, float) and not math.isfinite(value):
        symbol = sp.Symbol("nan" if math.isnan(value) else "inf", real=True)
        return -symbol if value < 0 else symbol
    whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e6)
    return sp.Integer(int(value)) if whole else sp.Float(value)


@cache
def _occurrences(op: str) -> tuple[int, ...]:
    """How often the row's formula writes out each operand."""
    names = OPERANDS[: OPS[op].arity]
    if OPS[op].sym is None:
        return (1,) * len(names)
    atoms = Counter(a for a in sp.preorder_traversal(formula(op)) if a.is_Atom)
    return tuple(atoms[SYMBOLS[name]] for name in names)


def _is_short(value: sp.Expr) -> bool:
    """Whether naming `value` would save nothing: an atom, one cheap op on two, a comparison."""
    if type(value).__name__ in _RELATIONS:
        return all(_is_short(a) for a in value.args)
    cheap = value.is_Add or value.is_Mul or value.is_Pow
    return value.is_Atom or (cheap and len(value.args) <= 2 and all(a.is_Atom for a in value.args))
