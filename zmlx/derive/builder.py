"""Building: graphs of rows of the op table, a node at a time.

Comes in: rows, operands, and trees of rows (zmlx.derive.lower). Goes out: nodes in a Graph, equal
ones made once. zmlx.derive.accumulate and zmlx.fuse.inline build with it; it needs no sympy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zmlx.ops.infer import infer
from zmlx.ops.reductions import REDUCTIONS
from zmlx.trace.graph import Graph, broadcast, folded_shape

# ("op", row, *subtrees), ("reduce", row, subtree), ("value", number), or the name of a value: "x",
# "y", "z", "out", "g".
Tree = tuple[Any, ...] | str


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
