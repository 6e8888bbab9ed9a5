"""Numbers of a call, as expressions: what the caller's numbers and the arrays' sizes make of it.

An Expr is a nested tuple; the tracer builds them, a fused function computes them at every call.
Pure functions, for zmlx.trace.scalars, zmlx.trace.sizes and zmlx.fuse.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.trace.operands import from_numpy

if TYPE_CHECKING:
    from zmlx.trace.paths import Names

Number = bool | int | float
# ("arg", i): number i of the call; ("size", k, axis): a size of array k; ("value", v);
# or (name, Expr, ...) with a name of FUNCTIONS.
Expr = tuple[Any, ...]
Compute = Callable[[Any, Sequence[Any]], tuple[Any, ...]]  # (arrays, numbers)


def wider(a: int, b: int) -> int:
    """The size of a dimension in which `a` and `b` broadcast."""
    if 1 not in (a, b) and a != b:
        raise ValueError(f"[zmlx.trace] Sizes {a} and {b} cannot be broadcast.")
    return b if a == 1 else a


def span(size: int, start: int | None, stop: int | None, step: int | None) -> int:
    """The length of a slice of `size` elements."""
    return len(range(*slice(start, stop, step).indices(size)))


def adopt(dtype: str, value: Any) -> Any:
    """A NumPy number as MLX casts it to the type of the array beside it."""
    return from_numpy(value, [getattr(mx, dtypes.attribute(dtype))])


_ARITHMETIC = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "pos", "abs", "lshift",
    "rshift", "and_", "or_", "xor", "invert", "eq", "ne", "lt", "le", "gt", "ge", "index",
)  # fmt: skip
WRAPPED = "int32"  # an integer that MLX cuts to 32 bits
LEAVES = ("arg", "size", "value")
LONGEST = 40  # parts of an expression that is written out
_SIGNS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in _ARITHMETIC},
    **{f"numpy_{dtype}": partial(adopt, dtype) for dtype in dtypes.ALL},
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "max": max,
    "item": lambda number: number.item(),  # of NumPy's
    "truth": bool,
    "wider": wider,
    "span": span,
    WRAPPED: partial(dtypes.adopted, dtype="int32"),
}


def evaluate(
    expr: Expr, numbers: Sequence[Number], arrays: Sequence[Any] | dict[int, Any] = ()
) -> Any:
    """The value of `expr` for these numbers and arrays."""
    return computed((expr,))(arrays, numbers)[0]


def apply(name: str, values: Sequence[Any]) -> Any:
    """What an expression's function makes of values."""
    return FUNCTIONS[name](*values)


def parts(expr: Expr) -> list[Expr]:
    """`expr` and all that it is made of, each once and operands first: a loop makes it deep, and
    what it uses twice in every round would be read 2^rounds times.
    """
    if expr[0] in LEAVES:
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
            if top[0] not in LEAVES:
                stack += [(part, False) for part in top[1:]]
    return order


def leaves(expr: Expr) -> list[Expr]:
    """The ("arg", ...) and ("size", ...) parts of `expr`, each once."""
    return list(dict.fromkeys(part for part in parts(expr) if part[0] in ("arg", "size")))


def positions(expr: Expr) -> frozenset[int]:
    """Which of the caller's numbers `expr` reads."""
    return frozenset(leaf[1] for leaf in leaves(expr) if leaf[0] == "arg")


def replaced(expr: Expr, by: dict[Expr, Expr]) -> Expr:
    """`expr` with other leaves."""
    made: dict[int, Expr] = {}
    for part in parts(expr):
        if part[0] in LEAVES:
            made[id(part)] = part if part[0] == "value" else by[part]
        else:
            made[id(part)] = (part[0], *[made[id(p)] for p in part[1:]])
    return made[id(expr)]


class Numbering:
    """Equal expressions get equal numbers; 1, 1.0, True and -0.0 are not equal."""

    def __init__(self) -> None:
        self._keys: dict[Any, int] = {}
        self._known: dict[int, tuple[Expr, int]] = {}  # by id; the expression stays alive

    def of(self, expr: Expr) -> int:
        """The number of `expr`."""
        if id(expr) not in self._known:
            for part in parts(expr):
                if id(part) not in self._known:
                    leaf = part[0] in LEAVES
                    own = map(repr, part[1:]) if leaf else [self._known[id(p)][1] for p in part[1:]]
                    number = self._keys.setdefault((part[0], *own), len(self._keys))
                    self._known[id(part)] = part, number
        return self._known[id(expr)][1]


def computed(exprs: Sequence[Expr]) -> Compute:
    """A function of (arrays, numbers) that returns the values of `exprs`."""
    lines: dict[str, str] = {}  # the text of a local variable, by its name
    values: dict[str, Any] = {f"zmlx_{name}": function for name, function in FUNCTIONS.items()}
    numbering = Numbering()

    def name(expr: Expr) -> str:
        return f"t{numbering.of(expr)}"

    for expr in exprs:
        for part in parts(expr):
            own = name(part)
            if part[0] == "arg":
                lines.setdefault(own, f"numbers[{part[1]}]")
            elif part[0] == "size":
                shape = f"shape{part[1]}"
                lines.setdefault(shape, f"arrays[{part[1]}].shape")
                lines.setdefault(own, f"{shape}[{part[2]}]")
            elif part[0] == "value":
                values.setdefault(f"v{own}", part[1])
                lines.setdefault(own, f"v{own}")
            else:
                lines.setdefault(own, f"zmlx_{part[0]}({', '.join(map(name, part[1:]))})")
    text = "".join(f"    {own} = {line}\n" for own, line in lines.items())
    results = "".join(f"{name(expr)}, " for expr in exprs)
    exec(f"def compute(arrays, numbers):\n{text}    return ({results})\n", values)
    return values["compute"]


def described(expr: Expr, called: Names) -> str:
    """`expr` as Python, with the names of what a call passes, for logs and reports."""
    head, *rest = expr
    if len(parts(expr)) > LONGEST:
        return "a long computation"
    if head == "arg":
        return called.number(rest[0])
    if head == "size":
        return f"{called.array(rest[0])}.shape[{rest[1]}]"
    if head == "value":
        return repr(rest[0])
    inner = [described(part, called) for part in rest]
    return f" {_SIGNS[head]} ".join(inner) if head in _SIGNS else f"{head}({', '.join(inner)})"
