"""Scalars: Python numbers that the caller passes, traced so that a new value makes no new kernel.

A ScalarProxy stands for one such number, or for arithmetic over some. It computes in Python's own
numbers at call time. Reading its value (a branch, `math.sqrt`, a shape) cannot be traced: then the
number becomes a static value of the trace, through Specialize, and tracing starts again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

Number = bool | int | float
Expr = tuple[Any, ...]  # ("arg", i) | ("value", v) | (operator name, Expr, ...)


class Specialize(Exception):
    """Unwinds a trace: the numbers at `positions` must be static values."""

    def __init__(self, positions: frozenset[int]) -> None:
        super().__init__(sorted(positions))
        self.positions = positions


def evaluate(expr: Expr, numbers: Sequence[Number]) -> Number:
    """The value of `expr` for the caller's numbers."""
    head = expr[0]
    if head == "arg":
        return numbers[expr[1]]
    if head == "value":
        return expr[1]
    return getattr(operator, head)(*[evaluate(part, numbers) for part in expr[1:]])


def positions(expr: Expr) -> frozenset[int]:
    """Which of the caller's numbers `expr` reads."""
    if expr[0] == "arg":
        return frozenset((expr[1],))
    if expr[0] == "value":
        return frozenset()
    return frozenset().union(*[positions(part) for part in expr[1:]])


class ScalarProxy:
    """A Python number known only at call time; `value` is the example of the running trace."""

    __slots__ = ("expr", "value")
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expr: Expr, value: Number) -> None:
        self.expr, self.value = expr, value

    def specialize(self) -> Specialize:
        return Specialize(positions(self.expr))

    def __repr__(self) -> str:
        return f"ScalarProxy({self.expr}, {self.value!r})"

    def _read(self, *_: Any) -> Any:
        raise self.specialize()

    __bool__ = __int__ = __float__ = __index__ = __complex__ = _read
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _read  # type: ignore[assignment]
    __round__ = __trunc__ = __floor__ = __ceil__ = __format__ = __str__ = _read  # type: ignore[assignment]
    __divmod__ = __rdivmod__ = _read


def expr_of(value: Any) -> Expr:
    return value.expr if isinstance(value, ScalarProxy) else ("value", value)


def _binary(name: str, reflected: bool) -> Callable[[ScalarProxy, Any], Any]:
    function = getattr(operator, name)

    def method(self: ScalarProxy, other: Any) -> Any:
        if not isinstance(other, (ScalarProxy, int, float)):
            return NotImplemented
        pair = (other, self) if reflected else (self, other)
        example = [p.value if isinstance(p, ScalarProxy) else p for p in pair]
        return ScalarProxy((name, *map(expr_of, pair)), function(*example))

    return method


def _unary(name: str) -> Callable[[ScalarProxy], ScalarProxy]:
    def method(self: ScalarProxy) -> ScalarProxy:
        return ScalarProxy((name, self.expr), getattr(operator, name)(self.value))

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(ScalarProxy, f"__{_name}__", _binary(_name, reflected=False))
    setattr(ScalarProxy, f"__r{_name}__", _binary(_name, reflected=True))
for _name in ("neg", "pos", "abs"):
    setattr(ScalarProxy, f"__{_name}__", _unary(_name))
