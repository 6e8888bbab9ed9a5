"""Scalars: Python numbers known only at call time, traced so that a new value makes no new trace.

A ScalarProxy stands for a number that the caller passes, for a size of an array, or for arithmetic
over some. It computes in Python's own numbers at call time. Where the function reads the value of a
size or of an int (a branch, `range`), the trace goes on with the example's, and holds only where
that is the value (zmlx.trace.sizes). Where it reads the value of another argument, that becomes a
static value of the trace, through Specialize, and tracing starts again.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.trace import intercept, type_name
from zmlx.trace.exprs import WRAPPED, Expr, Number, apply, leaves, positions
from zmlx.trace.operands import is_number, is_numpy, is_whole, name_of

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

Token = int | str | Expr  # a number's position, a size's leaf, or SIZES
SIZES = "sizes"  # all sizes of all arrays


class Specialize(BaseException):
    """Unwinds a trace: the numbers and sizes that `tokens` name must be static values.

    No Exception, so that a user's `except Exception` does not stop it.
    """

    def __init__(
        self, tokens: frozenset[Token], tracer: Tracer | None = None, loc: str = ""
    ) -> None:
        super().__init__(sorted(map(str, tokens)))
        self.tokens, self.tracer, self.loc = tokens, tracer, loc  # `loc`: the line that reads


class ScalarProxy:
    """A Python number known only at call time; `value` is the example of the running trace."""

    __slots__ = ("__weakref__", "expr", "sized", "tracer", "value")

    def __init__(
        self,
        expr: Expr,
        value: Number,
        tracer: Tracer | None = None,
        sized: bool | None = None,  # whether it is made of sizes and the caller's ints alone
    ) -> None:
        self.expr, self.value, self.tracer = expr, value, tracer
        self.sized = not positions(expr) if sized is None else sized
        if tracer is not None:
            tracer.living.note(self)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.value)  # so that isinstance(rate, float) holds, as it will when called

    def wrapped(self) -> ScalarProxy:
        """The number as MLX cuts it to 32 bits."""
        return ScalarProxy((WRAPPED, self.expr), apply(WRAPPED, (self.value,)), self.tracer)

    def specialize(self) -> BaseException:
        """What to raise where the value is read, and the trace cannot go on."""
        given = positions(self.expr)
        tokens: frozenset[Token] = frozenset(given or leaves(self.expr))
        return Specialize(tokens) if self.tracer is None else self.tracer.specialize(tokens)

    def read(self) -> Any:
        """The value, where the trace may go on with it: that of a size, which is then decided."""
        if not self.sized or self.tracer is None or intercept.current() is not self.tracer:
            raise self.specialize()
        return self.tracer.sizes.decide(self.expr, self.value)

    def _refuse(self, *_: Any) -> Any:
        raise self.specialize()  # C code: MLX takes what has a __float__ for a complex number

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise self.specialize()

    def __getattr__(self, name: str) -> Any:
        if hasattr(self.value, name):  # is_integer, real, ...
            if name == "item" and self.sized:  # of NumPy's: a Python number
                return lambda: combined("item", self)
            return getattr(self.read(), name)
        raise AttributeError(f"{type(self.value).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        if self.tracer is not None and intercept.current() is self.tracer:
            return repr(self.read())
        return f"ScalarProxy({self.value!r})"

    def __copy__(self) -> ScalarProxy:
        return self

    def __deepcopy__(self, memo: Any) -> ScalarProxy:
        return self

    __float__ = __complex__ = __mlx_array__ = _refuse

    def __bool__(self) -> bool:
        return bool(_compared("ne", self, 0))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """A NumPy function of this number; NumPy's own numbers leave arithmetic with it here."""
        row = ufunc.__name__ if method == "__call__" and not kwargs else ""
        name = next((n for n, r in {**_ARITHMETIC, **_COMPARISONS}.items() if r == row), None)
        inputs = tuple([v[()] if is_numpy(v) else v for v in inputs])  # NumPy compares arrays
        if name is None or not all(map(is_number, inputs)):
            return getattr(ufunc, method)(*map(plain, inputs), **kwargs)
        first, second = inputs
        if name in _ARITHMETIC:
            return _of_two(name, (first, second))
        if type(first) is ScalarProxy:
            return _compared(name, first, second)
        return _compared(_TURNED.get(name, name), second, first)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """NumPy, which asks, holds values: an array of such a number is made of its value."""
        return sys.modules["numpy"].array(plain(self), dtype)

    def beside(self, op: str, operands: Sequence[Any]) -> Any:
        """Record row `op` on operands that include this number and an array."""
        tracer = intercept.current()
        if tracer is None or tracer is not self.tracer:
            raise self.specialize()
        return tracer.elementwise(op, operands)


def given_number(position: int, value: Number, tracer: Tracer) -> ScalarProxy:
    """Number `position` of a call: an int cuts slices and makes shapes, as sizes do."""
    return ScalarProxy(("arg", position), value, tracer, sized=is_whole(value))


def expr_of(value: Any) -> Expr:
    return value.expr if type(value) is ScalarProxy else ("value", value)


def plain(value: Any) -> Any:
    """`value`, read if it is known only at call time."""
    return value.read() if type(value) is ScalarProxy else value


def example(value: Any) -> Any:
    return value.value if type(value) is ScalarProxy else value


def combined(name: str, *operands: Any) -> Any:
    """The number `name(*operands)`, at least one of them a ScalarProxy."""
    kept = _idle(name, operands)
    if kept is not None:
        return kept
    proxies = [o for o in operands if type(o) is ScalarProxy]
    value = apply(name, [example(o) for o in operands])
    sized = all(o.sized for o in proxies)
    return ScalarProxy((name, *map(expr_of, operands)), value, proxies[0].tracer, sized)


def adopted(operand: Any, strong: Sequence[mx.Dtype]) -> Any:
    """`operand`; a NumPy number (no Python number) as MLX casts it to the type beside it."""
    if type(operand) is not ScalarProxy or isinstance(operand.value, (int, float)):
        return operand
    if not strong:
        raise operand.specialize()
    return combined(f"numpy_{name_of(strong[0])}", operand)


def _idle(name: str, pair: Sequence[Any]) -> Any:
    """The operand that sizes' arithmetic passes on unchanged, if it does."""
    unit = {"add": 0, "sub": 0, "mul": 1, "floordiv": 1}.get(name)
    if unit is None:
        return None
    places = (0, 1) if name in ("add", "mul") else (1,)
    for place in places:
        other = pair[1 - place]
        whole = type(pair[place]) is int and type(other) is ScalarProxy and other.sized
        if whole and pair[place] == unit and type(other.value) is int:
            return other
    return None


def _keeps_its_type(name: str, pair: Sequence[Any]) -> bool:
    """Whether the type of the result is the same for all values of these types."""
    if name != "pow":
        return True
    base, exponent = pair
    if not all(isinstance(part, (int, float)) for part in pair):
        return True  # NumPy refuses what its type cannot hold
    if type(exponent) is ScalarProxy:
        if type(base) is int and exponent.sized and type(exponent.value) is int:
            return bool(_compared("ge", exponent, 0))
        return type(base) is float and base > 0
    if base.sized and type(base.value) is int:
        return type(exponent) is int or (type(exponent) is float and bool(_compared("ge", base, 0)))
    return isinstance(base, float) and isinstance(exponent, int)


def _binary(name: str, row: str, reflected: bool) -> Callable[[ScalarProxy, Any], Any]:
    def method(self: ScalarProxy, other: Any) -> Any:
        pair = (other, self) if reflected else (self, other)
        return self.beside(row, pair) if isinstance(other, mx.array) else _of_two(name, pair)

    return method


def _of_two(name: str, pair: Sequence[Any]) -> Any:
    """Arithmetic of two values, one of them a ScalarProxy."""
    function = getattr(operator, name)
    if not all(map(is_number, pair)) or not _keeps_its_type(name, pair):
        return function(*map(plain, pair))
    result = combined(name, *pair)
    return result if is_number(result) else function(*map(plain, pair))


def _bits(name: str, reflected: bool) -> Callable[[ScalarProxy, Any], Any]:
    function = getattr(operator, name)

    def method(self: ScalarProxy, other: Any) -> Any:
        pair = (other, self) if reflected else (self, other)
        if self.sized and all(is_whole(example(part)) for part in pair):
            return combined(name, *pair)
        return function(*map(plain, pair))

    return method


def _compare(name: str, row: str) -> Callable[[ScalarProxy, Any], Any]:
    def method(self: ScalarProxy, other: Any) -> Any:
        if isinstance(other, mx.array):
            return self.beside(row, (self, other))
        if type(other) is not ScalarProxy and not is_number(other):
            return NotImplemented if self.sized else self._refuse()
        return _compared(name, self, other)

    return method


def _compared(name: str, number: ScalarProxy, other: Any) -> Any:
    """The comparison's result: known for all sizes, or decided by the example's."""
    function = getattr(operator, name)
    if number.sized and number.tracer is not None and intercept.current() is number.tracer:
        if number.tracer.sizes.same(number, other):
            return function(0, 0)
        known = number.tracer.sizes.known(function, number.expr, other)
        if known is not None:
            return known
    answer = combined(name, number, other)
    if type(answer.value) is bool:
        return answer.read()
    return type(answer.value)(combined("truth", answer).read())  # NumPy's


def _unary(name: str, sized: bool = False) -> Callable[..., Any]:
    """A function of one number; with `sized`, only sizes keep it for the time of the call."""

    def method(self: ScalarProxy, *more: Any) -> Any:
        if more or (sized and not self.sized) or not is_number(self.value):
            return getattr(self.read(), f"__{name.strip('_')}__")(*more)
        return combined(name, self)

    return method


def _reading(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *rest: function(self.read(), *rest)


def _divmod(self: ScalarProxy, other: Any) -> Any:
    return (self // other, self % other) if self.sized else self._refuse()


def _rdivmod(self: ScalarProxy, other: Any) -> Any:
    return (other // self, other % self) if self.sized else self._refuse()


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
_TURNED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}  # with the operands swapped


def _install() -> None:
    made: dict[str, Any] = {"divmod": _divmod, "rdivmod": _rdivmod}
    for name, row in _ARITHMETIC.items():
        made[name] = _binary(name, row, reflected=False)
        made[f"r{name}"] = _binary(name, row, reflected=True)
    for name in ("and_", "or_", "xor", "lshift", "rshift"):
        made[name.strip("_")] = _bits(name, reflected=False)
        made["r" + name.strip("_")] = _bits(name, reflected=True)
    for name, row in _COMPARISONS.items():
        made[name] = _compare(name, row)
    for name in ("neg", "pos", "abs"):
        made[name] = _unary(name)
    for name in ("floor", "ceil", "round", "invert"):
        made[name] = _unary(name, sized=True)
    for function in (int, operator.index, math.trunc, format, str):
        made[function.__name__] = _reading(function)
    made["hash"] = ScalarProxy._refuse  # a table (lru_cache) would keep its key for longer
    for name, method in made.items():
        setattr(ScalarProxy, f"__{name}__", method)


_install()
type_name.NUMBERS.add(ScalarProxy)
