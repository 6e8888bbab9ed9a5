"""Partials: the partial derivatives of one row of the op table, by sympy from the row's `sym`.

Comes in: a row's name. Goes out: one sympy expression per operand, in x, y, z and `out` (the op's
own result). Nothing is typed by hand beside the table; results are cached. zmlx.derive.accumulate
multiplies them along the chain rule, zmlx.derive.lower turns them into rows again.

A derivative is brought into a form that neither overflows nor loses NaN-freeness where the function
itself is fine: through `out` where that needs no new division (sigmoid: out*(1 - out)), rational
functions of exponentials as a sigmoid, powers merged (x**2*2/x is 2*x at 0 too).
"""

from __future__ import annotations

from functools import cache

import sympy as sp

from zmlx.errors import DeriveError
from zmlx.ops.spec import OPERANDS, OpSpec
from zmlx.ops.table import OPS

SYMBOLS = {name: sp.Symbol(name, real=True) for name in (*OPERANDS, "out")}
OUT = SYMBOLS["out"]
ZERO, ONE = sp.Integer(0), sp.Integer(1)


class sigmoid(sp.Function):  # lower case, as sympy names its functions
    """1/(1 + exp(-u)), kept whole so that no exponential overflows."""

    nargs = 1


class sech2(sp.Function):
    """1/cosh(u)**2, kept whole likewise."""

    nargs = 1


class _Step(sp.Function):
    """Stands for a locally constant function (floor, ceiling, sign) while sympy differentiates."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return ZERO


_CONSTANT = {name: type(name, (_Step,), {}) for name in ("floor", "ceiling", "sign")}
_BACK = {step: getattr(sp, name) for name, step in _CONSTANT.items()}
_REFUSED = (sp.Derivative, sp.Subs, sp.Heaviside, sp.DiracDelta)


@cache
def formula(op_name: str) -> sp.Expr:
    """The row's textbook expression; DeriveError where it has none."""
    text = OPS[op_name].sym
    if text is None:
        raise DeriveError(f"[zmlx.derive] {op_name} has no formula to differentiate.")
    return sp.sympify(text, locals=SYMBOLS)


@cache
def partials(op_name: str) -> tuple[sp.Expr, ...]:
    """The derivative of row `op_name` by each operand; 0 where it is locally constant."""
    spec = OPS[op_name]
    if spec.grad == "none":
        raise DeriveError(f"[zmlx.derive] {op_name} cannot be differentiated.")
    if spec.grad == "zero":
        return (ZERO,) * spec.arity
    return tuple(_partial(spec, name) for name in OPERANDS[: spec.arity])


def _partial(spec: OpSpec, operand: str) -> sp.Expr:
    function = formula(spec.name)
    masked = function.replace(lambda e: type(e).__name__ in _CONSTANT and e.is_Function, _mask)
    derivative = sp.diff(masked, SYMBOLS[operand])
    derivative = derivative.replace(lambda e: type(e) in _BACK, lambda e: _BACK[type(e)](*e.args))
    if derivative.has(*_REFUSED):
        raise DeriveError(
            f"[zmlx.derive] d {spec.name}/d {operand}: sympy leaves {derivative}. "
            "Mark the row grad='zero' or state the case in `at`."
        )
    stable = _stable(derivative, function)
    return _with_fixed_points(spec, operand, stable)


def _mask(expression: sp.Expr) -> sp.Expr:
    return _CONSTANT[type(expression).__name__](*expression.args)


def _with_fixed_points(spec: OpSpec, operand: str, derivative: sp.Expr) -> sp.Expr:
    """`derivative`, except where the row's `at` says another ("condition: partial; ...")."""
    if operand not in spec.at:
        return derivative
    known = {**SYMBOLS, "sech2": sech2, "sigmoid": sigmoid}
    cases = [case.split(":") for case in spec.at[operand].split(";")]
    fixed = [tuple(sp.sympify(part, locals=known) for part in reversed(case)) for case in cases]
    return sp.Piecewise(*fixed, (derivative, True))


# -- stable forms ---------------------------------------------------------------------------------
def _stable(derivative: sp.Expr, function: sp.Expr) -> sp.Expr:
    """The best form of `derivative`: never one with a division that it does not have itself."""
    derivative = sp.powsimp(derivative)
    if derivative.is_Piecewise or derivative.is_Atom:
        return derivative
    candidates = [derivative, derivative.xreplace({function: OUT})]
    solved = [c for s in function.free_symbols for c in _through_out(derivative, function, s)]
    solved += [_as_sigmoid(derivative)]
    candidates += [c for c in solved if c is not None and _tame(c, derivative)]
    allowed = _denominators(derivative) | {OUT}
    return min((c for c in candidates if _denominators(c) <= allowed), key=_price)


def _through_out(derivative: sp.Expr, function: sp.Expr, symbol: sp.Symbol) -> list[sp.Expr]:
    """`derivative` with `symbol` (or an exponential of it) eliminated by solving function = out."""
    found = []
    value = sp.Dummy(positive=True)
    for generator in [*(e for e in function.atoms(sp.exp) if e.has(symbol)), symbol]:
        unknown = sp.Dummy(positive=True) if generator.is_Function else sp.Dummy(real=True)
        masked = function.xreplace({generator: unknown})
        solution = None if masked.has(symbol) else _solved(masked, value, unknown)
        if solution is not None:
            rewritten = derivative.xreplace({generator: unknown}).subs(unknown, solution)
            found.append(sp.factor_terms(sp.cancel(rewritten)).xreplace({value: OUT}))
    return found


def _solved(masked: sp.Expr, value: sp.Symbol, unknown: sp.Symbol) -> sp.Expr | None:
    """The one `unknown` with masked = value: for roots, and where the equation is linear."""
    if masked.is_Pow and masked.base == unknown and not masked.exp.is_Integer:
        return value ** (1 / masked.exp)
    if not masked.is_algebraic_expr():
        return None
    numerator = sp.numer(sp.together(masked - value)).as_poly(unknown)
    if numerator is None or numerator.degree() != 1:
        return None
    slope, constant = numerator.all_coeffs()
    return -constant / slope


def _as_sigmoid(derivative: sp.Expr) -> sp.Expr | None:
    """a/(a + b) with exponentials a, b, that is 1/(1 + exp(u)), as sigmoid(-u)."""
    numerator, denominator = sp.fraction(sp.together(derivative))
    if not (denominator.is_Add and denominator.has(sp.exp) and len(denominator.args) == 2):
        return None
    ratio = sp.powsimp(sp.expand(denominator / numerator))
    constant, rest = ratio.as_independent(*derivative.free_symbols, as_Add=True)
    if constant != 1 or not isinstance(rest, sp.exp):
        return None
    return sigmoid(-rest.args[0])


def _denominators(expression: sp.Expr) -> set[sp.Expr]:
    """What `expression` divides by, wherever it does so."""
    powers = (p for p in expression.atoms(sp.Pow) if p.exp.is_number and p.exp.is_negative)
    return {p.base for p in powers}


def _tame(candidate: sp.Expr, derivative: sp.Expr) -> bool:
    """No function of `out` that the derivative lacks, no power of `out` with odd exponents, and no
    sum where the derivative has none: out + 1 for exp(x) loses all digits where out is near -1.
    """
    if candidate.has(sp.Add) and not derivative.has(sp.Add):
        return False
    functions = candidate.atoms(sp.Function) - derivative.atoms(sp.Function)
    if any(f.has(OUT) for f in functions):
        return False
    return all(p.exp.is_Integer for p in candidate.atoms(sp.Pow) if p.base == OUT)


def _price(expression: sp.Expr) -> tuple[int, int, str]:
    """Functions and roots first, then operations; the text makes the choice repeatable."""
    costly = len(expression.atoms(sp.Function)) + sum(
        not p.exp.is_Integer for p in expression.atoms(sp.Pow) if not p.is_number
    )
    return costly, int(sp.count_ops(expression)), str(expression)
