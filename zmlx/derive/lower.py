"""Lowering: a partial derivative becomes rows of the op table again.

Comes in: a sympy expression over x, y, z and `out`. Goes out: a tree of rows (`chain_rule`), made
once per row of the table, and nodes in a Graph (`Builder.plant`). The functions sympy knows are
matched to rows by the rows' own formulas. zmlx.derive.accumulate calls both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import sympy as sp

from zmlx.derive.partials import ZERO, formula, partials
from zmlx.errors import DeriveError
from zmlx.ops.infer import infer
from zmlx.ops.reductions import REDUCTIONS
from zmlx.ops.spec import OPERANDS
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph, broadcast, folded_shape

# ("op", row, *subtrees), ("reduce", row, subtree), ("value", number), or the name of a value: "x",
# "y", "z", "out", "g".
Tree = tuple[Any, ...] | str

_RELATIONS = {
    sp.StrictGreaterThan: "greater",
    sp.GreaterThan: "greater_equal",
    sp.StrictLessThan: "less",
    sp.LessThan: "less_equal",
    sp.Equality: "equal",
    sp.Unequality: "not_equal",
}


# -- sympy -> trees -------------------------------------------------------------------------------
@cache
def chain_rule(op_name: str) -> tuple[Tree | None, ...]:
    """For each operand of a row the tree of g * (partial derivative); None where that is zero."""
    return tuple(None if p == ZERO else _times(p, "g") for p in partials(op_name))


def _times(partial: sp.Expr, factor: Tree) -> Tree:
    """factor * partial; a choice between cases chooses between products, so 0*inf cannot arise."""
    if isinstance(partial, sp.Piecewise):
        return _cases(partial, lambda e: _times(e, factor))
    if partial == ZERO:
        return ("value", 0)
    return _product(partial, factor)


@cache
def tree(expression: sp.Expr) -> Tree:
    """`expression` as rows of the table."""
    if expression.is_Symbol:
        return str(expression)
    if expression.is_number:
        return ("value", _number(expression))
    if isinstance(expression, sp.Piecewise):
        return _cases(expression, tree)
    if expression.is_Add:
        return _sum(expression)
    if expression.is_Mul or (expression.is_Pow and expression.exp.is_number):
        return _product(expression, None)
    if expression.is_Pow:
        return ("op", "power", tree(expression.base), tree(expression.exp))
    row = _rows_by_function().get(type(expression).__name__)
    if row is None:
        raise DeriveError(f"[zmlx.derive] no row of the op table computes {expression}.")
    return ("op", row, *map(tree, expression.args))


@cache
def _rows_by_function() -> dict[str, str]:
    """sympy's function names and the rows that compute them: those whose formula is f(x, ...)."""
    found = {name: name for name in OPS}
    for name, spec in OPS.items():
        if spec.sym is not None:
            expression = formula(name)
            plain = [str(a) for a in expression.args] == list(OPERANDS[: spec.arity])
            if expression.is_Function and plain:
                found[type(expression).__name__] = name
    return found


def _number(expression: sp.Expr) -> int | float:
    return int(expression) if expression.is_Integer else float(expression.evalf(20))


def _cases(expression: sp.Piecewise, lower: Callable[[sp.Expr], Tree]) -> Tree:
    *cases, last = expression.args
    result = lower(last.expr)
    for value, condition in reversed(cases):
        result = ("op", "where", _condition(condition), lower(value), result)
    return result


def _condition(condition: sp.Basic) -> Tree:
    row = _RELATIONS.get(type(condition))
    if row is None:
        raise DeriveError(f"[zmlx.derive] the condition {condition} is not a comparison.")
    left, right = condition.args
    if row == "not_equal" and right == ZERO:
        return ("truth", tree(left))
    return ("op", row, tree(left), tree(right))


def _sum(expression: sp.Add) -> Tree:
    """Positive terms first, then what is subtracted."""
    terms = sorted(
        expression.args, key=lambda t: (t.could_extract_minus_sign(), not t.is_number, str(t))
    )
    result = tree(terms[0])
    for term in terms[1:]:
        negative = term.could_extract_minus_sign()
        result = (
            "op",
            "subtract" if negative else "add",
            result,
            tree(-term if negative else term),
        )
    return result


def _product(expression: sp.Expr, factor: Tree | None) -> Tree:
    """factor * constant / denominators * numerators: in this order operands share divisions."""
    constant, rest = expression.as_independent(*expression.free_symbols, as_Add=False)
    above: list[Tree] = []
    below: list[Tree] = []
    for part in sp.Mul.make_args(rest):
        base, exponent = part.as_base_exp()
        if base == sp.E or not exponent.is_number:
            above.append(
                tree(part) if not part.is_Pow else ("op", "power", tree(base), tree(exponent))
            )
        elif exponent == -sp.S.Half:
            above.append(("op", "rsqrt", tree(base)))
        else:
            (above if exponent.is_positive else below).append(_power(base, abs(exponent)))
    if rest == 1:
        above = []
    return _assembled(_number(constant), factor, above, below)


def _assembled(
    constant: int | float, factor: Tree | None, above: list[Tree], below: list[Tree]
) -> Tree:
    sign, size = (-1, -constant) if constant < 0 else (1, constant)
    if factor is None and above:
        factor = above.pop(0)
    result: Tree = ("value", size) if factor is None else factor
    if factor is not None and size != 1:
        result = ("op", "multiply", result, ("value", size))
    for divisor in below:
        result = (
            ("op", "reciprocal", divisor)
            if result == ("value", 1)
            else ("op", "divide", result, divisor)
        )
    for multiplier in above:
        result = ("op", "multiply", result, multiplier)
    return ("op", "negative", result) if sign < 0 else result


def _power(base: sp.Expr, exponent: sp.Expr) -> Tree:
    """base ** exponent for a positive number: products and roots where these are exact forms."""
    value = tree(base)
    if exponent == sp.S.Half:
        return ("op", "sqrt", value)
    if not exponent.is_Integer or exponent > 8:
        return ("op", "power", value, ("value", _number(exponent)))
    result, square = (value if exponent % 2 else None), value
    for bit in bin(int(exponent))[-2:1:-1]:
        square = ("op", "square", square)
        if bit == "1":
            result = square if result is None else ("op", "multiply", result, square)
    return value if result is None else result


# -- trees -> nodes -------------------------------------------------------------------------------
class Builder:
    """Appends to a Graph; equal nodes are made once, exact constants fold."""

    def __init__(self) -> None:
        self.graph = Graph()
        self._seen: dict[Any, int] = {}

    def plant(
        self,
        what: Tree,
        values: Mapping[str, int],
        at: str,
        loc: str,
        axes: tuple[int, ...] = (),
    ) -> int:
        """The node of tree `what`; names stand for `values`, numbers adopt the type `at`.

        Reductions in it fold `axes`.
        """
        if isinstance(what, str):
            return values[what]
        if what[0] == "value":
            return self.const(what[1], at)
        operands = [
            self.plant(part, values, at, loc, axes)
            for part in what[1 if what[0] == "truth" else 2 :]
        ]
        if what[0] == "truth":
            return self.truth(operands[0], loc)
        if what[0] == "reduce":
            return self.reduce(what[1], operands[0], axes, loc)
        return self.op(what[1], operands, loc)

    def const(self, value: bool | int | float, dtype: str) -> int:
        if isinstance(value, float) and not dtype.startswith(("float", "bfloat")):
            dtype = "float32"
        key = ("const", type(value), repr(value), dtype)
        if key not in self._seen:
            self._seen[key] = self.graph.add("const", dtype=dtype, value=value)
        return self._seen[key]

    def truth(self, node: int, loc: str) -> int:
        """`node` != 0, or itself if it is bool."""
        dtype = self.graph[node]["dtype"]
        return node if dtype == "bool" else self.op("not_equal", (node, self.const(0, dtype)), loc)

    def astype(self, node: int, dtype: str, loc: str) -> int:
        if self.graph[node]["dtype"] == dtype:
            return node
        return self.raw("astype", (node,), self.graph[node]["dtype"], dtype, loc)

    def op(self, name: str, operands: Sequence[int], loc: str) -> int:
        """The node of row `name`, folded where a constant makes it trivial."""
        folded = self._folded(name, operands, loc)
        if folded is not None:
            return folded
        if name == "negative" and self.graph[operands[0]]["dtype"] == "bool":
            return operands[0]  # -1 is true
        at, dtype = infer(name, [self.graph[o]["dtype"] for o in operands])
        return self.raw(name, operands, at, dtype, loc)

    def raw(self, name: str, operands: Sequence[int], at: str, dtype: str, loc: str) -> int:
        """The node of row `name` as stated."""
        key = (name, tuple(operands), at, dtype)
        if key not in self._seen:
            shape = broadcast([self.graph[o]["shape"] for o in operands])
            self._seen[key] = self.graph.add(
                "op", operands, shape=shape, dtype=dtype, op=name, at=at, loc=loc
            )
        return self._seen[key]

    def reduce(self, name: str, node: int, axes: tuple[int, ...], loc: str) -> int:
        """The node of reduction `name` over `axes`, which are sorted and not negative."""
        key = ("reduce", name, node, axes)
        if key not in self._seen:
            data = self.graph[node]
            dtype, shape = REDUCTIONS[name].dtype(data["dtype"]), folded_shape(data["shape"], axes)
            self._seen[key] = self.graph.add(
                "reduce", (node,), shape=shape, dtype=dtype, loc=loc, op=name, axes=axes
            )
        return self._seen[key]

    def count(self, node: int, axes: tuple[int, ...], loc: str) -> int:
        """How many elements of `node` a fold of `axes` joins, a number of type float32."""
        key = ("count", node, axes)
        if key not in self._seen:
            self._seen[key] = self.graph.add("count", (node,), loc=loc, axes=axes)
        return self._seen[key]

    def spread(self, node: int, like: int) -> int:
        """`node`, whose shape broadcasts to that of `like`, in that shape."""
        data = self.graph[node]
        if data["shape"] == self.graph[like]["shape"]:
            return node
        ones = self.op("ones_like", (like,), "")
        return self.op("multiply", (self.astype(ones, data["dtype"], ""), node), "")

    def _folded(self, name: str, operands: Sequence[int], loc: str) -> int | None:
        numbers = [self._value(o) for o in operands]
        if name in _ARITHMETIC and None not in numbers:
            return self._constant(name, operands, numbers)
        if len(operands) != 2 or name not in ("multiply", "divide", "subtract", "power", "add"):
            return None
        a, b = operands
        same = self._keeps(name, a, b)
        if same and numbers[1] == (0 if name == "subtract" else 1) and name != "add":
            return a
        if name == "multiply" and numbers[0] == 1 and self._keeps(name, b, a):
            return b
        if name == "power" and numbers[1] == 2:
            return self.op("square", (a,), loc) if same else None
        if name == "add":
            return self._difference(a, b, loc)
        return None

    def _difference(self, a: int, b: int, loc: str) -> int | None:
        """a + -b as a - b."""
        for kept, other in ((a, b), (b, a)):
            node = self.graph[other]
            if node["kind"] == "op" and node["op"] == "negative":
                return self.op("subtract", (kept, node["operands"][0]), loc)
        return None

    def _constant(self, name: str, operands: Sequence[int], numbers: Sequence[Any]) -> int | None:
        dtype = infer(name, [self.graph[o]["dtype"] for o in operands])[1]
        if name == "divide" and numbers[1] == 0:
            return None
        return self.const(_ARITHMETIC[name](*numbers), dtype)

    def _value(self, node: int) -> Any:
        data = self.graph[node]
        return data["value"] if data["kind"] == "const" else None

    def _keeps(self, name: str, node: int, other: int) -> bool:
        """Whether combining with the scalar constant `other` leaves type and shape of `node`."""
        data = self.graph[node]
        kinds = [data["dtype"], self.graph[other]["dtype"]]
        return self.graph[other]["shape"] == () and infer(name, kinds)[1] == data["dtype"]


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "negative": lambda a: -a,
}
