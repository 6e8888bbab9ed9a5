"""Scalars: Python numbers that the caller passes, traced so that a new value makes no new kernel.

A ScalarProxy stands for one such number, or for arithmetic over some. It computes in Python's own
numbers at call time. Reading its value (a branch, `math.sqrt`, a shape) cannot be traced: then the
number becomes a static value of the trace, through Specialize, and tracing starts again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.trace import intercept

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

Number = bool | int | float
Expr = tuple[Any, ...]  # ("arg", i) | ("value", v) | (operator name, Expr, ...)
_LEAVES = ("arg", "value")


class Specialize(BaseException):
    """Unwinds a trace: the numbers at `positions` must be static values.

    No Exception, so that a user's `except Exception` does not stop it.
    """

    def __init__(self, positions: frozenset[int], tracer: Tracer | None = None) -> None:
        super().__init__(sorted(positions))
        self.positions, self.tracer = positions, tracer


def evaluate(expr: Expr, numbers: Sequence[Number]) -> Number:
    """The value of `expr` for the caller's numbers."""
    head = expr[0]
    if head == "arg":
        return numbers[expr[1]]
    if head == "value":
        return expr[1]
    known: dict[int, Number] = {}
    for part in _parts(expr):
        head = part[0]
        if head == "arg":
            known[id(part)] = numbers[part[1]]
        elif head == "value":
            known[id(part)] = part[1]
        else:
            known[id(part)] = getattr(operator, head)(*[known[id(p)] for p in part[1:]])
    return known[id(expr)]


def positions(expr: Expr) -> frozenset[int]:
    """Which of the caller's numbers `expr` reads."""
    return frozenset(part[1] for part in _parts(expr) if part[0] == "arg")


def _parts(expr: Expr) -> list[Expr]:
    """`expr` and all that it is made of, each once and operands first: a loop makes it deep, and
    what it uses twice in every round would be read 2^rounds times.
    """
    if expr[0] in _LEAVES:
        return [expr]
    order: list[Expr] = []
    seen: set[int] = set()
    stack = [(expr, False)]
    while stack:
        top, ready = stack.pop()
        if ready:
            order.append(top)
        elif id(top) not in seen:
            seen.add(id(top))
            stack.append((top, True))
            if top[0] not in _LEAVES:
                stack += [(part, False) for part in top[1:]]
    return order


class Numbering:
    """Equal expressions get equal numbers; 1, 1.0, True and -0.0 are not equal."""

    def __init__(self) -> None:
        self._keys: dict[Any, int] = {}
        self._known: dict[int, tuple[Expr, int]] = {}  # by id; the expression stays alive

    def of(self, expr: Expr) -> int:
        """The number of `expr`."""
        if id(expr) not in self._known:
            for part in _parts(expr):
                if id(part) not in self._known:
                    leaf = part[0] in _LEAVES
                    own = (repr(part[1]),) if leaf else [self._known[id(p)][1] for p in part[1:]]
                    number = self._keys.setdefault((part[0], *own), len(self._keys))
                    self._known[id(part)] = part, number
        return self._known[id(expr)][1]


class ScalarProxy:
    """A Python number known only at call time; `value` is the example of the running trace."""

    __slots__ = ("expr", "tracer", "value")
    __array_ufunc__ = None

    def __init__(self, expr: Expr, value: Number, tracer: Tracer | None = None) -> None:
        self.expr, self.value, self.tracer = expr, value, tracer

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.value)  # so that isinstance(rate, float) holds, as it will when called

    def specialize(self) -> BaseException:
        """What to raise where the value is read."""
        if self.tracer is None:
            return Specialize(positions(self.expr))
        return self.tracer.specialize(positions(self.expr))

    def _read(self, *_: Any) -> Any:
        raise self.specialize()

    def __getattr__(self, name: str) -> Any:
        if hasattr(self.value, name):  # is_integer, real, ...
            raise self.specialize()
        raise AttributeError(f"{type(self.value).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        if self.tracer is not None and intercept.current() is self.tracer:
            raise self.specialize()
        return f"ScalarProxy({self.value!r})"

    __bool__ = __int__ = __float__ = __index__ = __complex__ = _read
    __round__ = __trunc__ = __floor__ = __ceil__ = __format__ = __str__ = _read
    __divmod__ = __rdivmod__ = __hash__ = __mlx_array__ = _read

    __and__ = __or__ = __xor__ = __lshift__ = __rshift__ = __invert__ = _read
    __rand__ = __ror__ = __rxor__ = __rlshift__ = __rrshift__ = _read

    def beside(self, op: str, operands: Sequence[Any]) -> Any:
        """Record row `op` on operands that include this number and an array."""
        tracer = intercept.current()
        if tracer is None or tracer is not self.tracer:
            raise self.specialize()
        return tracer.elementwise(op, operands)


def expr_of(value: Any) -> Expr:
    return value.expr if type(value) is ScalarProxy else ("value", value)


def _keeps_its_type(name: str, pair: Sequence[Any]) -> bool:
    """Whether the type of the result is the same for all values of these types."""
    if name != "pow":
        return True
    base, exponent = pair
    if type(exponent) is ScalarProxy:
        return type(base) is float and base > 0
    return isinstance(base, float) and isinstance(exponent, int)


def _binary(name: str, row: str, reflected: bool) -> Callable[[ScalarProxy, Any], Any]:
    function = getattr(operator, name)

    def method(self: ScalarProxy, other: Any) -> Any:
        pair = (other, self) if reflected else (self, other)
        if isinstance(other, mx.array):
            return self.beside(row, pair)
        number = type(other) is ScalarProxy or isinstance(other, (int, float))
        if not number or not _keeps_its_type(name, pair):
            raise self.specialize()
        example = [p.value if type(p) is ScalarProxy else p for p in pair]
        return ScalarProxy((name, *map(expr_of, pair)), function(*example), self.tracer)

    return method


def _compare(row: str) -> Callable[[ScalarProxy, Any], Any]:
    def method(self: ScalarProxy, other: Any) -> Any:
        if isinstance(other, mx.array):
            return self.beside(row, (self, other))
        raise self.specialize()

    return method


def _unary(name: str) -> Callable[[ScalarProxy], ScalarProxy]:
    def method(self: ScalarProxy) -> ScalarProxy:
        value = getattr(operator, name)(self.value)
        return ScalarProxy((name, self.expr), value, self.tracer)

    return method


_ARITHMETIC = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
}
_COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
for _name, _row in _ARITHMETIC.items():
    setattr(ScalarProxy, f"__{_name}__", _binary(_name, _row, reflected=False))
    setattr(ScalarProxy, f"__r{_name}__", _binary(_name, _row, reflected=True))
for _name, _row in _COMPARISONS.items():
    setattr(ScalarProxy, f"__{_name}__", _compare(_row))
for _name in ("neg", "pos", "abs"):
    setattr(ScalarProxy, f"__{_name}__", _unary(_name))
