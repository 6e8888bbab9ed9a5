"""Sizes: the shape of a traced array in numbers known only at call time.

A dimension that is 1 is the int 1, as the key of a trace says which inputs' are; any other is a
ScalarProxy, so that a trace holds for every length. What an op or a call makes of its operands'
sizes is worked out here (zmlx.trace.size_rules), or else read from the array when it is there.
Where the function reads the value of a size, the trace is for that value: a Decision says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from zmlx.trace import exprs, intercept, locate
from zmlx.trace.exprs import Expr, Numbering, described, evaluate, leaves, positions
from zmlx.trace.graph import NUMBERS, Ref, folded_shape
from zmlx.trace.operands import is_whole, mapped
from zmlx.trace.scalars import SIZES, ScalarProxy, Token, combined, example, expr_of
from zmlx.trace.size_rules import (
    AXES,
    AXIS_NAMES,
    BY_VALUE,
    RULES,
    TAKES_SIZES,
    Shaped,
    counts,
)

if TYPE_CHECKING:
    from zmlx.trace.paths import Names
    from zmlx.trace.tracer import Tracer

Size = Any  # an int, or a ScalarProxy of one
Dims = tuple[Size, ...]


@dataclass(frozen=True)
class Decision:
    """A trace holds where `expr`, over its inputs' sizes and numbers, has this value."""

    expr: Expr
    value: Any
    loc: str  # the line that asked

    def told(self, called: Names) -> str:
        """In words, with the names of what a call passes."""
        return f"{described(self.expr, called)} is {self.value!r} at {self.loc}"


@dataclass
class Sizes:
    """The sizes of one running trace's arrays, and what was decided by their values."""

    tracer: Tracer
    static: frozenset[Token] = frozenset()  # sizes that stand for their example, or SIZES
    given: Sequence[Any] = ()  # the call's numbers
    decisions: list[Decision] = field(default_factory=list)
    _numbering: Numbering = field(default_factory=Numbering)
    _decided: set[int] = field(default_factory=set)
    _known: dict[int, Dims] = field(default_factory=dict)  # by node
    _items: dict[int, Sequence[Dims] | None] = field(default_factory=dict)  # by opaque node
    names: dict[int, str] = field(default_factory=dict)  # of the MLX function, by opaque node
    _nodes: dict[tuple[int, str], int] = field(default_factory=dict)
    numbers: dict[int, ScalarProxy] = field(default_factory=dict)  # by "scalar" or "size" node
    made: bool = False  # whether the function got a size that is no int

    def forget(self) -> None:
        """The trace has ended: let go of its numbers."""
        self._known, self._items, self.numbers = {}, {}, {}

    # -- what the function reads ------------------------------------------------------------------
    def shape(self, node: int) -> Dims:
        """The shape of `node` as the function gets it."""
        if intercept.current() is not self.tracer:  # MLX runs a function that has the array
            if intercept.paused() is self.tracer:
                self.decide_inputs(node)
            return self.tracer.graph[node]["shape"]
        dims = self.dims(node)
        if SIZES in self.static:
            return tuple([d.read() if type(d) is ScalarProxy else d for d in dims])
        self.made = self.made or any(type(d) is ScalarProxy for d in dims)
        return dims

    def decide(self, expr: Expr, value: Any) -> Any:
        """`value`, which `expr` has in this trace."""
        inner = self._inner(expr)
        for leaf in inner:
            self.decide_inputs(leaf[1])
        if not inner and self._numbering.of(expr) not in self._decided:
            self._decided.add(self._numbering.of(expr))
            self.decisions.append(Decision(expr, value, locate.here()))
        return value

    def decide_inputs(self, node: int | None = None) -> None:
        """Hold for the very sizes of the inputs that `node` is computed from (None: of all)."""
        import networkx

        graph = self.tracer.graph
        found = range(len(graph)) if node is None else {node, *networkx.ancestors(graph.nx, node)}
        for source in sorted(found):
            shape = graph[source]["shape"] if graph.kind(source) == "input" else ()
            read = [("size", source, axis) for axis, size in enumerate(shape) if size != 1]
            if graph.kind(source) == "scalar":  # it has the sizes that it reads in its expression
                read = leaves(graph[source]["expr"])
            for leaf in read:
                if leaf[0] == "size":
                    self.decide(leaf, graph[leaf[1]]["shape"][leaf[2]])

    def known(self, compare: Callable[[Any, Any], bool], expr: Expr, other: Any) -> bool | None:
        """The comparison's result where it is the same for all sizes of the trace's key."""
        if expr[0] != "size" or self._inner(expr) or type(other) is ScalarProxy or other != other:
            return None
        near = int(min(max(other, -1), 2**62))
        sizes = [s for s in (0, 2, near - 1, near, near + 1, 2**63) if s >= 0 and s != 1]
        found = {bool(compare(size, other)) for size in sizes}
        return found.pop() if len(found) == 1 else None

    def tokens(self, tokens: frozenset[Token]) -> frozenset[Token]:
        """`tokens` in the form that another run of the function understands."""
        return frozenset([SIZES if type(t) is tuple and self._inner(t) else t for t in tokens])

    def settled(self, name: str, args: Any) -> Any:
        """`args` of a call, with the sizes read that the kind of its results may depend on."""
        positional, named = args
        args = mapped(args, _wide if name in BY_VALUE else _python)
        if name not in TAKES_SIZES or any(map(_is_size, counts(name, positional, named))):
            return mapped(args, _read)
        axes = AXES.get(name, ())
        listed = [_read(v) if i in axes else v for i, v in enumerate(positional)]
        return tuple(listed), {k: _read(v) if k in AXIS_NAMES else v for k, v in named.items()}

    # -- numbers in the graph ---------------------------------------------------------------------
    def node(self, number: ScalarProxy, dtype: str) -> int:
        """The node of a number given at call time, adopted as `dtype`."""
        key = (self._numbering.of(number.expr), dtype)
        if key not in self._nodes:
            self._nodes[key] = made = self._number_node(number, dtype)
            self.numbers[made] = number
        return self._nodes[key]

    def _number_node(self, number: ScalarProxy, dtype: str) -> int:
        graph, expr, loc = self.tracer.graph, number.expr, locate.here()
        if not self._inner(expr):
            return graph.add("scalar", dtype=dtype, expr=expr, loc=loc)
        operands: list[int] = []
        places: dict[Expr, Expr] = {}
        for leaf in leaves(expr):
            if leaf not in places:
                places[leaf] = (leaf[0], len(operands), *leaf[2:])
                arg = ScalarProxy(leaf, 0.0, self.tracer)
                operands.append(leaf[1] if leaf[0] == "size" else self.node(arg, "float32"))
        return graph.add("size", operands, dtype=dtype, expr=exprs.replaced(expr, places), loc=loc)

    def _inner(self, expr: Expr) -> list[Expr]:
        """The sizes in `expr` of arrays that are no inputs."""
        found = [leaf for leaf in leaves(expr) if leaf[0] == "size"]
        return [leaf for leaf in found if self.tracer.graph.kind(leaf[1]) != "input"]

    # -- the sizes of nodes -----------------------------------------------------------------------
    def dims(self, node: int) -> Dims:
        """The sizes of an array, by whatever says most about them."""
        if node not in self._known:
            self._known[node] = self._dims(node)
        return self._known[node]

    def _dims(self, node: int) -> Dims:
        graph = self.tracer.graph
        data = graph[node]
        shape = data["shape"]
        if data["kind"] in ("array", "const", *NUMBERS):
            return shape
        if data["kind"] == "input":
            return tuple([1 if n == 1 else self._leaf(node, i, n) for i, n in enumerate(shape)])
        if data["kind"] == "op":
            return self.broadcast([self.dims(o) for o in graph.operands(node)])
        if data["kind"] == "reduce":
            return folded_shape(self.dims(graph.operands(node)[0]), data["axes"])
        if data["kind"] == "item":
            found = self._called(graph.operands(node)[0])
            dims = None if found is None or len(found) <= data["index"] else found[data["index"]]
        else:
            found = self._called(node)
            dims = None if found is None else found[0]
        if dims is None or tuple(map(example, dims)) != shape:
            return tuple([self._leaf(node, axis, size) for axis, size in enumerate(shape)])
        return tuple(dims)

    def _leaf(self, node: int, axis: int, size: int) -> Size:
        leaf = ("size", node, axis)
        if leaf in self.static:
            return self.decide(leaf, size)
        return ScalarProxy(leaf, size, self.tracer)

    def _called(self, node: int) -> Sequence[Dims] | None:
        """The sizes of each result of a call, where a rule tells them."""
        if node not in self._items:
            self._items[node] = self._by_rule(node)
        return self._items[node]

    def _by_rule(self, node: int) -> Sequence[Dims] | None:
        call = self.tracer.graph[node]["call"]
        rule = getattr(call.fn, "traced_sizes", None) or RULES.get(self.names.get(node, ""))
        if rule is None:
            return None
        operands = self.tracer.graph.operands(node)

        def leaf(value: Any) -> Any:
            return self._operand(operands[value.position]) if type(value) is Ref else value

        args, kwargs = mapped(mapped((call.args, call.kwargs), leaf), _python)
        kwargs.pop("stream", None)
        try:
            found = rule(self, *args, **kwargs)
        except (TypeError, ValueError, IndexError, AttributeError, KeyError):
            return None  # arguments in a form that the rule does not know
        if found is None:
            return None
        return found if call.outputs else [found]

    def _operand(self, node: int) -> Any:
        """An operand as a rule gets it: the sizes of an array, or a number."""
        if node in self.numbers:
            return self.numbers[node]
        return Shaped(self.dims(node), self.tracer.graph[node]["dtype"])

    def common(self, function: Callable[..., Any], shapes: Sequence[Dims]) -> Dims:
        """mx.broadcast_shapes, which raises at any call where the sizes do not fit."""
        function(*[tuple(map(example, dims)) for dims in shapes])
        rank = max(map(len, shapes), default=0)
        full = [(1,) * (rank - len(dims)) + tuple(dims) for dims in shapes]
        return tuple([reduce(self._fitting, sizes) for sizes in zip(*full, strict=True)])

    def _fitting(self, a: Size, b: Size) -> Size:
        """The common size; where it is not known before the call, it is checked there."""
        if self.same(a, b) or (type(b) is int and b == 1):
            return a
        return b if type(a) is int and a == 1 else combined("wider", a, b)

    def same(self, a: Size, b: Size) -> bool:
        """Whether two numbers are computed alike."""
        return self._numbering.of(expr_of(a)) == self._numbering.of(expr_of(b))

    def broadcast(self, shapes: Sequence[Dims]) -> Dims:
        """The sizes that these have in common."""
        rank = max(map(len, shapes), default=0)
        result: list[Size] = [1] * rank
        for dims in shapes:
            for i, size in enumerate(dims, rank - len(dims)):
                result[i] = self._wider(result[i], size)
        return tuple(result)

    def number(self, expr: Expr) -> Size:
        """A part of a size's expression as a size."""
        if expr[0] == "value":
            return expr[1]
        graph = self.tracer.graph
        nodes = [leaf[1] for leaf in leaves(expr) if leaf[0] == "size"]
        arrays = {node: SimpleNamespace(**graph[node]) for node in nodes}
        return ScalarProxy(expr, evaluate(expr, self.given, arrays), self.tracer)

    def span(self, size: Size, start: Any, stop: Any, step: Any) -> Size:
        """The length of a slice of `size` elements."""
        parts = (size, start, stop, step)
        if type(start) in (int, type(None)) and not start and stop is None and step in (None, 1):
            return size
        if any(type(part) is ScalarProxy for part in parts):
            return combined("span", *parts)
        return exprs.span(*parts)

    def _wider(self, a: Size, b: Size) -> Size:
        if type(a) is int:
            return b if a == 1 else a
        if type(b) is int:
            return a if b == 1 else b
        if self.same(a, b) or self._never_one(a):
            return a
        return b if self._never_one(b) else combined("wider", a, b)

    def _never_one(self, size: ScalarProxy) -> bool:
        return size.expr[0] == "size" and not self._inner(size.expr)


def _is_size(value: Any) -> bool:
    return type(value) is ScalarProxy and value.sized


def _read(value: Any) -> Any:
    return value.read() if _is_size(value) else value


def _python(value: Any) -> Any:
    """An integer of NumPy as MLX takes it where it wants an int."""
    if not isinstance(value, int) and is_whole(value):
        return combined("index", value) if type(value) is ScalarProxy else int(value)
    return value


def _wide(value: Any) -> Any:
    """Ask whether MLX makes int64 of an int that the caller gave, as it does of large ones."""
    if _is_size(value) and type(value.value) is int and positions(value.expr):
        bool(value < 2**31 and value >= -(2**31))
    return value
