"""Building: values of C inside a graph, and C's conversions between them.

Comes in: rows of the op table by name (`Rows`, the namespace that composites are written over),
conversions. Goes out: nodes. zmlx.expr.lower and zmlx.expr.functions use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.dtypes import rounded
from zmlx.ops.infer import infer
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph, broadcast

WORD = 32  # bits of int: what narrower integers compute in


@dataclass(frozen=True)
class Value:
    """A node and its type; `dtype` is MLX's, which composites ask for."""

    node: int
    kind: str

    @property
    def dtype(self) -> mx.Dtype:
        return getattr(mx, dtypes.attribute(self.kind))


class Rows:
    """One method for each row of the table: `F.add(a, b)` appends a node; numbers stay weak."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __getattr__(self, op: str) -> Callable[..., Value]:
        if op not in OPS:
            raise AttributeError(op)
        return lambda *operands: self.row(op, operands)

    def astype(self, value: Value, dtype: mx.Dtype | str) -> Value:
        """The row `astype`; a constant is converted here and now."""
        kind = str(dtype).removeprefix("mlx.core.")
        number = self.number(value)
        if kind == value.kind:
            return value
        if number is not None and (dtypes.is_float(kind) or kind == "bool"):
            exact = rounded(number, kind) if kind in dtypes.HALVES else float(number)
            return self.const(bool(number) if kind == "bool" else exact, kind)
        if number is not None and number == number and abs(number) < 2**31:
            return self.const(int(number), kind)
        return self.row("astype", (value,), kind)

    def row(self, op: str, operands: Sequence[Any], param: str | None = None) -> Value:
        """The node of row `op`; Python numbers adopt the type of the values beside them."""
        strong = [o.kind for o in operands if isinstance(o, Value)]
        values = [
            o if isinstance(o, Value) else self.const(o, dtypes.weak(o, strong)) for o in operands
        ]
        at, kind = infer(op, [v.kind for v in values], param)
        nodes = [v.node for v in values]
        shape = broadcast([self.graph[n]["shape"] for n in nodes])
        return Value(self.graph.add("op", nodes, shape=shape, dtype=kind, op=op, at=at), kind)

    def const(self, value: bool | int | float, kind: str) -> Value:
        """A number as a value of that type; integers wrap around, as the compiler's do."""
        if dtypes.is_float(kind):
            value = float(value)
        elif dtypes.is_integer(kind):
            low, high = dtypes.integer_range(kind)
            value = (int(value) - low) % (high - low) + low
        return Value(self.graph.add("const", dtype=kind, value=value), kind)

    def number(self, value: Value) -> Any:
        """The number that a constant holds; None for other values."""
        data = self.graph[value.node]
        return data["value"] if data["kind"] == "const" else None


def promoted(kind: str) -> str:
    """The type that C computes in for one operand: integers narrower than int become int."""
    narrow = kind == "bool" or (dtypes.is_integer(kind) and 8 * dtypes.itemsize(kind) < WORD)
    return "int32" if narrow else kind


def common(a: str, b: str) -> str:
    """The type that C converts two operands to; half with bfloat is float."""
    a, b = promoted(a), promoted(b)
    if a == b:
        return a
    if dtypes.is_float(a) or dtypes.is_float(b):
        return dtypes.promote(a, b)
    wide = [k for k in (a, b) if dtypes.itemsize(k) == 8]
    if len(wide) == 1:
        return wide[0]
    return a if a in dtypes.UNSIGNED else b


def cast(F: Rows, value: Value, kind: str) -> Value:
    """`(kind)value`. What cuts a fraction off is locally constant, so no gradient passes."""
    if kind == value.kind:
        return value
    if kind == "bool":
        number = F.number(value)
        return F.const(bool(number), "bool") if number is not None else F.not_equal(value, 0)
    if dtypes.is_float(value.kind) and dtypes.is_integer(kind) and F.number(value) is None:
        value = F.stop_gradient(value)
    return F.astype(value, kind)


def floating(F: Rows, value: Value) -> Value:
    """`value` as the floating-point type that a mathematical function takes it in."""
    return value if dtypes.is_float(value.kind) else cast(F, value, "float32")
