"""Lowering: a partial derivative becomes rows of the op table again.

Comes in: a sympy expression over x, y, z and `out`. Goes out: a tree of rows (`chain_rule`), made
once per row of the table, which zmlx.derive.builder plants in a graph. Functions sympy knows are
matched to rows by the rows' own formulas. zmlx.derive.accumulate calls this.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import sympy as sp

from zmlx.derive.builder import Tree
from zmlx.derive.partials import ZERO, formula, partials
from zmlx.errors import DeriveError
from zmlx.ops.spec import OPERANDS
from zmlx.ops.table import OPS

_RELATIONS = {
    sp.StrictGreaterThan: "greater",
    sp.GreaterThan: "greater_equal",
    sp.StrictLessThan: "less",
    sp.LessThan: "less_equal",
    sp.Equality: "equal",
    sp.Unequality: "not_equal",
}


# -- sympy -> trees -------------------------------------------------------------------------------
# MLX multiplies by the condition: what is not chosen receives 0, or NaN where g is not finite.
_CHOSEN: tuple[Tree | None, ...] = (
    None,
    ("op", "multiply", "g", ("truth", "x")),
    ("op", "multiply", "g", ("op", "logical_not", "x")),
)


@cache
def chain_rule(op_name: str) -> tuple[Tree | None, ...]:
    """For each operand of a row the tree of g * (partial derivative); None where that is zero."""
    if op_name == "where":
        return _CHOSEN
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
