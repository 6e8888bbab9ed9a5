"""MathML: formulas as browsers draw them, without scripts or fonts.

Comes in: a sympy expression made by zmlx.fuse.formulas. Goes out: MathML text, escaped.
zmlx.fuse.page calls it. (sympy's own printer writes what HTML has dropped, depending on its
version, and has no layout for cases.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

import sympy as sp
from sympy.core.mul import _keep_coeff  # 2*(x + y) stays a product
from sympy.printing.precedence import PRECEDENCE, precedence_traditional
from sympy.printing.printer import Printer

_STYLE = ' displaystyle="true"'
TIMES, DOT, MINUS = "&#8290;", "&#8901;", "&#8722;"
SHORT_EXPONENT = 4  # operations; a longer one is written exp(...)


def mathml(expression: sp.Expr) -> str:
    """`expression` as a <math> element."""
    return f"<math{_STYLE}>{_Presentation().doprint(expression)}</math>"


def symbol(name: str, gradient: bool = False) -> str:
    """A name, or the name of the gradient that flows to it, as a <math> element."""
    return f"<math{_STYLE}>{_row('<mo>∂</mo>' if gradient else '', _named(name))}</math>"


def _row(*parts: str) -> str:
    return f"<mrow>{''.join(parts)}</mrow>"


def _named(name: str) -> str:
    letters, digits = re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    if not letters or not digits:
        return f"<mi>{escape(name)}</mi>"
    return f"<msub><mi>{escape(letters)}</mi><mn>{digits}</mn></msub>"


def _parenthesized(*parts: str) -> str:
    return _row("<mo>(</mo>", *parts, "<mo>)</mo>")


class _Presentation(Printer):
    """sympy calls _print_<class> for each node."""

    printmethod = "_zmlx_mathml"
    _default_settings = {"order": None}
    emptyPrinter = staticmethod(lambda e: f"<mtext>{escape(str(e))}</mtext>")

    def _inside(self, expression: sp.Basic, level: int) -> str:
        """`expression` as a part of one that binds like `level`."""
        weak = precedence_traditional(expression) < level and not expression.is_Piecewise
        text = self._print(expression)
        return _parenthesized(text) if weak else text

    def _list(self, parts: Iterable[sp.Basic]) -> str:
        return "<mo>,</mo>".join(map(self._print, parts))

    def _print_Symbol(self, e: sp.Symbol) -> str:
        return _named(e.name)

    def _print_Integer(self, e: sp.Integer) -> str:
        number = f"<mn>{abs(int(e))}</mn>"
        return _row(f"<mo>{MINUS}</mo>", number) if e < 0 else number

    def _print_Rational(self, e: sp.Rational) -> str:
        fraction = f"<mfrac><mn>{abs(int(e.p))}</mn><mn>{int(e.q)}</mn></mfrac>"
        return _row(f"<mo>{MINUS}</mo>", fraction) if e < 0 else fraction

    def _print_Float(self, e: sp.Float) -> str:
        mantissa, _, exponent = sp.sstr(abs(e), full_prec=False).partition("e")
        number = f"<mn>{mantissa}</mn>"
        if exponent:
            power = f"<msup><mn>10</mn><mn>{int(exponent)}</mn></msup>"
            number = _row(number, f"<mo>{DOT}</mo>", power)
        return _row(f"<mo>{MINUS}</mo>", number) if e < 0 else number

    def _print_Pi(self, e: sp.Expr) -> str:
        return "<mi>π</mi>"

    def _print_Add(self, e: sp.Add) -> str:
        text = ""
        for term in self._as_ordered_terms(e):
            coefficient, rest = term.as_coeff_Mul()
            negative = coefficient.is_negative
            part = _keep_coeff(-coefficient, rest) if negative else term
            shown = self._inside(part, PRECEDENCE["Add"] + negative)
            sign = f"<mo>{MINUS}</mo>" if negative else ("<mo>+</mo>" if text else "")
            text += sign + shown
        return _row(text)

    def _print_Mul(self, e: sp.Mul) -> str:
        coefficient, rest = e.as_coeff_Mul()
        if coefficient.is_negative:
            return _row(
                f"<mo>{MINUS}</mo>",
                self._inside(_keep_coeff(-coefficient, rest), PRECEDENCE["Mul"]),
            )
        above, below = [], []
        for factor in sp.Mul.make_args(e):
            power = factor.is_Pow and factor.exp.is_Rational and factor.exp < 0
            if factor.is_Rational and factor.q != 1:
                above += [sp.Integer(factor.p)] if factor.p != 1 else []
                below.append(sp.Integer(factor.q))
            elif power:
                below.append(factor.base ** (-factor.exp))
            else:
                above.append(factor)
        top = self._product(above) if above else "<mn>1</mn>"
        return f"<mfrac>{top}{self._product(below)}</mfrac>" if below else top

    def _product(self, factors: Sequence[sp.Expr]) -> str:
        if len(factors) == 1:
            return self._print(factors[0])
        text = ""
        for factor in factors:
            numeric = factor.is_Number or (factor.is_Pow and factor.base.is_Number)
            sign = f"<mo>{DOT if numeric else TIMES}</mo>" if text else ""
            text += sign + self._inside(factor, PRECEDENCE["Mul"])
        return _row(text)

    def _print_Pow(self, e: sp.Pow) -> str:
        if e.exp.is_Rational and e.exp < 0:
            return f"<mfrac><mn>1</mn>{self._print(e.base ** (-e.exp))}</mfrac>"
        if e.exp == sp.Rational(1, 2):
            return f"<msqrt>{self._print(e.base)}</msqrt>"
        base = self._inside(e.base, PRECEDENCE["Pow"] + 1)
        return f"<msup>{base}{self._print(e.exp)}</msup>"

    def _print_exp(self, e: sp.Expr) -> str:
        if sp.count_ops(e.args[0]) > SHORT_EXPONENT or e.has(sp.Piecewise):
            return self._print_Function(e)
        return f"<msup><mi>e</mi>{self._print(e.args[0])}</msup>"

    def _print_Abs(self, e: sp.Expr) -> str:
        return _row("<mo>|</mo>", self._print(e.args[0]), "<mo>|</mo>")

    def _print_Function(self, e: sp.Expr) -> str:
        name = f"<mi>{escape(e.func.__name__)}</mi>"
        return _row(name, "<mo>&#8289;</mo>", _parenthesized(self._list(e.args)))

    def _print_Tuple(self, e: sp.Tuple) -> str:
        return _parenthesized(self._list(e.args))

    def _print_Relational(self, e: sp.Rel) -> str:
        signs = {"==": "=", "!=": "≠", "<=": "≤", ">=": "≥"}
        sign = escape(signs.get(e.rel_op, e.rel_op))
        return _row(self._print(e.lhs), f"<mo>{sign}</mo>", self._print(e.rhs))

    def _print_Piecewise(self, e: sp.Piecewise) -> str:
        rows = ""
        for value, condition in e.args:
            when = "<mtext>otherwise</mtext>"
            if condition != sp.true:
                when = _row("<mtext>if&#160;</mtext>", self._print(condition))
            rows += f"<mtr><mtd>{self._print(value)}</mtd><mtd>{when}</mtd></mtr>"
        return f'<mtable class="cases">{rows}</mtable>'  # the page brackets it
