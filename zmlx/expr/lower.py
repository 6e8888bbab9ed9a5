"""Lowering: syntax trees become nodes of a graph, with C's meaning.

Comes in: expressions, statements before them, names and their types. Goes out: a Graph with one
input for each name and one output for each expression. The helper layer calls `parse_all`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zmlx import dtypes
from zmlx.expr.build import Rows, Value, cast, common, promoted
from zmlx.expr.errors import ExpressionError, Source, Unparsed, nearest
from zmlx.expr.functions import CONSTANTS, FUNCTIONS, METAL_ONLY, quotient, rest
from zmlx.expr.grammar import TYPES, tree_of
from zmlx.trace.graph import Graph

if TYPE_CHECKING:
    from lark import Token, Tree

_EXAMPLE = (2,)  # shape of every input; a region takes those of the arrays it is called with

_ARITHMETIC: dict[str, Callable[[Rows, Value, Value], Value]] = {
    "+": lambda F, a, b: F.add(a, b),
    "-": lambda F, a, b: F.subtract(a, b),
    "*": lambda F, a, b: F.multiply(a, b),
    "/": quotient,
    "%": rest,
    "&": lambda F, a, b: F.bitwise_and(a, b),
    "|": lambda F, a, b: F.bitwise_or(a, b),
    "^": lambda F, a, b: F.bitwise_xor(a, b),
    "==": lambda F, a, b: F.equal(a, b),
    "!=": lambda F, a, b: F.not_equal(a, b),
    "<": lambda F, a, b: F.less(a, b),
    "<=": lambda F, a, b: F.less_equal(a, b),
    ">": lambda F, a, b: F.greater(a, b),
    ">=": lambda F, a, b: F.greater_equal(a, b),
}
_INTEGERS_ONLY = ("%", "&", "|", "^", "<<", ">>", "~")
_WAY_OUT = {"%": " fmod(a, b) is the remainder of floats.", "^": " Powers are pow(a, b)."}


@dataclass(frozen=True)
class Names:
    """What an expression may say beside the names of its inputs.

    `compute` is the type T, in which inputs arrive (half types as float); `output` is the type O.
    `raw` are names of the kernel around the expression that have no form here (buffers, indices);
    `header` are names that a header defines, whatever they mean; `aliases` are pairs of a second
    name and the input that it stands for.
    """

    compute: str = "float32"
    output: str = "float32"
    raw: frozenset[str] = frozenset()
    header: frozenset[str] = frozenset()
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def held(self) -> str:
        """The type in which values of type T are held: half types compute as float."""
        return "float32" if self.compute in dtypes.HALVES else self.compute


@dataclass
class Lowering:
    """One graph in the making; `scope` maps the names known so far to their values."""

    names: Names
    graph: Graph = field(default_factory=Graph)
    scope: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.F = Rows(self.graph)

    def input(self, name: str, kind: str) -> None:
        """A new input, known as `name` in the type T."""
        node = self.graph.add("input", shape=_EXAMPLE, dtype=kind)
        self.scope[name] = cast(self.F, Value(node, kind), self.names.held)

    def expression(self, source: Source) -> Value:
        return Reader(self, source).value(tree_of(source))

    def statements(self, source: Source) -> None:
        """Statements in front of an expression; what they declare joins the scope."""
        reader = Reader(self, source)
        for statement in tree_of(source, "statements").children:
            reader.statement(statement)


@dataclass
class Reader:
    """Walks the trees of one source text."""

    to: Lowering
    source: Source

    def __post_init__(self) -> None:
        self.F, self.scope = self.to.F, self.to.scope

    # -- statements -------------------------------------------------------------------------------
    def statement(self, tree: Tree[Any]) -> None:
        kind: str = tree.data
        parts: list[Any] = tree.children
        if kind == "declare":
            for declared in parts[1:]:
                name, body = declared.children
                value = self.value(body)
                if parts[0].type != "AUTO":
                    value = cast(self.F, value, self.type_of(parts[0]))
                self.scope[str(name)] = value
        elif kind == "assign":
            self._assign(*parts)
        elif kind == "store":
            raise self.unparsed(parts[0], f"it writes to {str(parts[0])!r}")

    def _assign(self, name: Token, sign: Token, body: Tree[Any]) -> None:
        old, value = self.name(name), self.value(body)
        if sign != "=":
            value = self.binary(name, str(sign)[:-1], old, value)
        self.scope[str(name)] = cast(self.F, value, old.kind)

    # -- expressions ------------------------------------------------------------------------------
    def value(self, tree: Tree[Any]) -> Value:
        read: Callable[..., Value] = getattr(self, f"_{tree.data}")
        return read(*tree.children)

    def _number(self, token: Token) -> Value:
        text = str(token)
        hexadecimal = text[:2].lower() == "0x"
        digits = text.rstrip("uUlL" if hexadecimal else "fFhHuUlL")
        suffix = text[len(digits) :].lower()
        if hexadecimal or (digits.isdigit() and not set(suffix) & {"f", "h"}):
            octal = digits[0] == "0" and len(digits) > 1
            return self._integer(int(digits, 16 if hexadecimal else 8 if octal else 10), suffix)
        kind = "float16" if suffix == "h" else "float32"
        if suffix not in ("", "f", "h"):
            raise self.wrong(token, f"the number {text} has no such suffix.")
        return self.F.astype(self.F.const(float(digits), "float32"), kind)

    def _integer(self, number: int, suffix: str) -> Value:
        wide = "l" in suffix or number >= 2**32 or ("u" not in suffix and number >= 2**31)
        bits = 64 if wide else 32
        return self.F.const(number, f"{'u' * ('u' in suffix)}int{bits}")

    def _name(self, token: Token) -> Value:
        return self.name(token)

    def name(self, token: Token) -> Value:
        """The value that a name has here."""
        text = str(token)
        if text in self.scope:
            return self.scope[text]
        if text in CONSTANTS:
            number = CONSTANTS[text]
            kinds = {bool: "bool", int: "int32", float: "float32"}
            return self.F.const(number, kinds[type(number)])
        if text in self.to.names.raw:
            raise self.unparsed(token, f"{text!r} is the kernel's, not a value")
        if text in self.to.names.header or "::" in text:
            raise self.unparsed(token, f"{text!r} is not known here")
        if text in FUNCTIONS or text in METAL_ONLY:
            raise self.wrong(token, f"the function {text!r} is not called; write {text}(...).")
        known = [*self.scope, *CONSTANTS, *self.to.names.raw, *TYPES]
        have = ", ".join(sorted(self.scope))
        raise self.wrong(
            token, f"unknown name {text!r}.{nearest(text, known)} Values here: {have}."
        )

    def _index(self, name: Token, body: Tree[Any]) -> Value:
        if str(name) in self.to.names.raw or str(name) in self.to.names.header:
            raise self.unparsed(name, f"it reads the buffer {str(name)!r} by index")
        self.name(name)
        raise self.wrong(name, f"{str(name)!r} is a value, not an array.")

    def _call(self, token: Token, *arguments: Tree[Any]) -> Value:
        name = plain(str(token))
        if name in self.to.names.header:
            raise self.unparsed(token, f"the function {name!r} of the header cannot be read")
        function = FUNCTIONS.get(name)
        if function is None:
            if name in METAL_ONLY or "::" in str(token):
                raise self.unparsed(token, f"the function {name!r} has no derivative here")
            known = [*FUNCTIONS, *METAL_ONLY]
            raise self.wrong(token, f"unknown function {name!r}.{nearest(name, known)}")
        if len(arguments) != function.arity:
            plural = "s" if function.arity > 1 else ""
            wanted = f"takes {function.arity} argument{plural}, got {len(arguments)}."
            raise self.wrong(token, f"{name} {wanted}")
        return function(self.F, [self.value(a) for a in arguments])

    def _cast(self, kind: Token, body: Tree[Any]) -> Value:
        return cast(self.F, self.value(body), self.type_of(kind))

    def type_of(self, token: Token) -> str:
        """The type that a name of a type means; T and O follow the arrays."""
        if token == "T":
            return self.to.names.held
        kind = self.to.names.output if token == "O" else TYPES[str(token)]
        wide = self.to.names.compute == "float64" and dtypes.is_float(kind)
        return "float64" if wide else kind

    def _prefix(self, sign: Token, body: Tree[Any]) -> Value:
        F, value = self.F, self.value(body)
        if sign == "!":
            return F.logical_not(cast(F, value, "bool"))
        value = cast(F, value, promoted(value.kind))
        if sign == "~":
            self._integers(sign, value)
            return F.bitwise_invert(value)
        number = F.number(value)
        if sign == "+":
            return value
        return F.negative(value) if number is None else F.const(-number, value.kind)

    def _binary(self, left: Tree[Any], sign: Token, right: Tree[Any]) -> Value:
        return self.binary(sign, str(sign), self.value(left), self.value(right))

    def binary(self, token: Token, sign: str, a: Value, b: Value) -> Value:
        """`a sign b` after C's conversions."""
        F = self.F
        if sign in ("&&", "||"):
            row = F.logical_and if sign == "&&" else F.logical_or
            return row(cast(F, a, "bool"), cast(F, b, "bool"))
        kind = promoted(a.kind) if sign in ("<<", ">>") else common(a.kind, b.kind)
        if sign in _INTEGERS_ONLY:
            self._integers(token, a, b, sign=sign)
        a, b = cast(F, a, kind), cast(F, b, kind)
        if sign in ("<<", ">>"):
            return F.left_shift(a, b) if sign == "<<" else F.right_shift(a, b)
        return _ARITHMETIC[sign](F, a, b)

    def _integers(self, token: Token, *values: Value, sign: str = "~") -> None:
        if any(dtypes.is_float(v.kind) for v in values):
            kinds = " and ".join(v.kind for v in values)
            way_out = _WAY_OUT.get(sign, "")
            raise self.wrong(token, f"{sign!r} takes integers, got {kinds}.{way_out}")

    def _choice(self, condition: Tree[Any], yes: Tree[Any], no: Tree[Any]) -> Value:
        F, which = self.F, cast(self.F, self.value(condition), "bool")
        a, b = self.value(yes), self.value(no)
        kind = a.kind if a.kind == b.kind else common(a.kind, b.kind)
        return F.where(which, cast(F, a, kind), cast(F, b, kind))

    # -- errors -----------------------------------------------------------------------------------
    def wrong(self, token: Token, problem: str) -> ExpressionError:
        return ExpressionError(self.source, token.line or 1, token.column or 1, problem)

    def unparsed(self, token: Token, reason: str) -> Unparsed:
        return Unparsed(self.source, token.line or 1, token.column or 1, reason)


def plain(name: str) -> str:
    """A function's name without Metal's namespaces, whose functions are the same to ZMLX."""
    for prefix in ("::", "metal::", "precise::", "fast::"):
        name = name.removeprefix(prefix)
    return name


def parse_all(
    expressions: Sequence[Source],
    inputs: Mapping[str, str],
    names: Names,
    *,
    prelude: Source | None = None,
    result: str | None = None,
    cover: Collection[str] | None = None,
) -> Graph:
    """A graph of inputs `inputs` (name -> dtype) and one output for each expression.

    An output is converted to the type `result`, where that is given, and has the shape that the
    inputs `cover` (None: all) broadcast to, whether it depends on them or not. With T float64, for
    references, all floats are. Raises ExpressionError and Unparsed.
    """
    lowering = Lowering(names)
    nodes = []
    for name, kind in inputs.items():
        if cover is None or name in cover:
            nodes.append(len(lowering.graph))
        lowering.input(name, kind)
    for alias, name in names.aliases:
        lowering.scope.setdefault(alias, lowering.scope[name])
    if prelude is not None and prelude.text.strip():
        lowering.statements(prelude)
    for source in expressions:
        value = lowering.expression(source)
        if result is not None:
            value = cast(lowering.F, value, result)
        lowering.graph.outputs.append(_covering(lowering.F, value, nodes).node)
    return lowering.graph


def parse(
    expr: str,
    names: Mapping[str, str] | Sequence[str],
    *,
    compute: str = "float32",
    result: str | None = None,
    prelude: str = "",
    what: str = "expr",
    raw: Sequence[str] = (),
) -> Graph:
    """The graph of one C expression over `names`: name -> dtype, or names of float32 values.

    Inputs stand in the order of `names`; each is converted to `compute` (half types to float32)
    where the expression names it, and the value to `result` where that is given. `prelude` holds
    statements such as `float s = kk_sigmoid(x);`, `what` is how messages call the expression, and
    `raw` are names that mean something to the kernel around it but have no value here.

    Raises:
        ExpressionError: for wrong syntax, unknown names, wrong argument counts; with the column.
        Unparsed: for C that may be right but has no form in rows of the op table.
    """
    inputs = names if isinstance(names, Mapping) else dict.fromkeys(names, "float32")
    around = Names(compute, result or compute, frozenset(raw))
    before = Source(prelude, f"the prelude of {what}") if prelude else None
    return parse_all([Source(expr, what)], inputs, around, prelude=before, result=result)


def _covering(F: Rows, value: Value, inputs: Sequence[int]) -> Value:
    """`value` in the shape of all inputs: where nothing of it depends on one, a choice does."""
    reached, todo = set(), [value.node]
    while todo:
        node = todo.pop()
        if node not in reached:
            reached.add(node)
            todo.extend(F.graph.operands(node))
    for node in inputs:
        if node not in reached:
            one = F.ones_like(Value(node, F.graph[node]["dtype"]))
            value = F.where(one, value, value)
    return value
