"""Lowering: syntax trees become nodes of a graph, with C's meaning.

Comes in: syntax trees, and Names that say what is around them. Goes out: values in the graph of a
Lowering. zmlx.expr.graphs and zmlx.expr.body call it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from zmlx import dtypes
from zmlx.expr.build import Rows, Value, cast, common, promoted
from zmlx.expr.errors import ExpressionError, Source, Unparsed, nearest
from zmlx.expr.functions import CONSTANTS, FUNCTIONS, METAL_ONLY, SPELLED, in_metal, quotient, rest
from zmlx.expr.grammar import TYPES, tree_of
from zmlx.expr.header import HeaderFunction, default_functions, helper_rows
from zmlx.trace.graph import Graph

if TYPE_CHECKING:
    from lark import Token, Tree

EXAMPLE = (2,)  # shape of every input; a region takes those of the arrays it is called with

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
    `header` are names that a header defines, whatever they mean, and `functions` those of them
    that can be read; `aliases` are pairs of a second name and the input that it stands for.
    """

    compute: str = "float32"
    output: str = "float32"
    raw: frozenset[str] = frozenset()
    header: frozenset[str] = frozenset()
    aliases: tuple[tuple[str, str], ...] = ()
    functions: Mapping[str, HeaderFunction] = field(default_factory=dict)

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
        node = self.graph.add("input", shape=EXAMPLE, dtype=kind)
        self.scope[name] = cast(self.F, Value(node, kind), self.names.held)

    def expression(self, source: Source) -> Value:
        try:
            return Reader(self, source).value(tree_of(source))
        except RecursionError:
            raise Unparsed(source, 1, 1, "it nests too deeply to be read") from None

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
                if str(name) in self.scope:
                    raise self.wrong(name, f"{str(name)!r} is declared already.")
                value = self.value(body)
                if parts[0].type != "AUTO":
                    value = cast(self.F, value, self.kind_of(str(parts[0])))
                self.scope[str(name)] = value
        elif kind == "assign":
            self._assign(*parts)
        elif kind == "guard":
            raise Unparsed(self.source, tree.meta.line, tree.meta.column, "it may end early")
        elif kind == "store":
            raise self.unparsed(parts[0], f"it writes to {str(parts[0])!r}")

    def returned(self) -> Value:
        """What a function's body returns, its parameters being in the scope."""
        *statements, last = tree_of(self.source, "function").children
        early: list[tuple[Value, Value]] = []
        for statement in statements:
            if statement.data == "early":
                condition, value = map(self.value, statement.children)
                early.append((cast(self.F, condition, "bool"), value))
            else:
                self.statement(statement)
        found = self.value(last)
        for condition, value in reversed(early):
            found = self._either(condition, value, found)
        return found

    def _assign(self, name: Token, sign: Token, body: Tree[Any]) -> None:
        if str(name) not in self.scope and str(name) not in self.to.names.raw:
            raise self.wrong(name, f"{str(name)!r} is not declared; write T {name} = ...;")
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
            if octal and set(digits) & {"8", "9"}:
                raise self.wrong(
                    token, f"{digits} begins with 0, so it is octal and has no 8 or 9."
                )
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
        if text in FUNCTIONS or text in METAL_ONLY or text in default_functions():
            raise self.wrong(token, f"the function {text!r} is not called; write {text}(...).")
        known = [*self.scope, *CONSTANTS]
        have = ", ".join(sorted(self.scope))
        hint = nearest(SPELLED.get(text, text), known)
        raise self.wrong(token, f"unknown name {text!r}.{hint} Values here: {have}.")

    def _index(self, name: Token, body: Tree[Any]) -> Value:
        text, names = str(name), self.to.names
        if text in names.raw or text in names.header:
            raise self.unparsed(name, f"it reads the buffer {text!r} by index")
        if text not in self.scope:
            raise self.wrong(name, f"unknown buffer {text!r}.{nearest(text, names.raw)}")
        raise self.wrong(name, f"{str(name)!r} is a value, not an array.")

    def _place(self, token: Token) -> Value:
        raise self.unparsed(token, "the element's place is the kernel's, not a value")

    def _call(self, token: Token, *arguments: Tree[Any]) -> Value:
        name, names = plain(str(token)), self.to.names
        qualified = name != str(token).removeprefix("::")  # metal::exp is never the header's exp
        if (own := names.functions.get(name)) and not qualified:
            return self._own(token, own, arguments)
        if name in names.header and not qualified:
            raise self.unparsed(token, f"{name!r} of the header cannot be read")
        if function := FUNCTIONS.get(name):
            self._count(token, function.arity, arguments)
            return function(self.F, [self.value(a) for a in arguments])
        if own := default_functions().get(name):
            return self._own(token, own, arguments)
        if name in helper_rows():
            return self.F.row(helper_rows()[name], [self.value(a) for a in arguments])
        if in_metal(name) or "::" in str(token):
            raise self.unparsed(token, f"the function {name!r} has no derivative here")
        known = [*FUNCTIONS, *default_functions(), *names.functions, *METAL_ONLY]
        hint = nearest(SPELLED.get(name, name), known)
        raise self.wrong(token, f"unknown function {name!r}.{hint}")

    def _own(self, token: Token, own: HeaderFunction, arguments: Sequence[Tree[Any]]) -> Value:
        """A call of a function that a header defines; its body sees its parameters only."""
        name = plain(str(token))
        self._count(token, len(own.parameters), arguments)
        values = [self.value(a) for a in arguments]
        others = {n: f for n, f in self.to.names.functions.items() if f is not own}
        names = replace(self.to.names, functions=others, raw=frozenset(), aliases=())
        kinds = [kind for kind, _ in own.parameters]
        if "T" in kinds and names.compute != "float64":
            names = replace(names, compute=values[kinds.index("T")].kind)
        inner = Reader(Lowering(names, self.to.graph), Source(own.body, f"the function {name!r}"))
        try:
            for (kind, parameter), value in zip(own.parameters, values, strict=True):
                inner.scope[parameter] = cast(self.F, value, inner.kind_of(kind))
            return cast(self.F, inner.returned(), inner.kind_of(own.result))
        except (ExpressionError, Unparsed) as problem:
            if own is default_functions().get(name):
                raise self.unparsed(
                    token, f"the function {name!r} has no derivative here"
                ) from None
            why = str(problem).removeprefix("[zmlx.expr] ")
            raise self.unparsed(token, f"{name!r} of the header cannot be read: {why}") from None

    def _count(self, token: Token, arity: int, arguments: Sequence[Tree[Any]]) -> None:
        if len(arguments) != arity:
            plural = "" if arity == 1 else "s"
            wanted = f"takes {arity} argument{plural}, got {len(arguments)}."
            raise self.wrong(token, f"{plain(str(token))} {wanted}")

    def _cast(self, kind: Token, body: Tree[Any]) -> Value:
        return cast(self.F, self.value(body), self.kind_of(str(kind)))

    def kind_of(self, name: str) -> str:
        """The type that a name of a type means; T and O follow the arrays."""
        if name == "T":
            return self.to.names.held
        kind = self.to.names.output if name == "O" else TYPES[name]
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
        steps: list[Any] = [(sign, right)]  # a long sum leans to the left: no recursion along it
        while left.data == "binary":
            left, *step = left.children
            steps.append(step)
        value = self.value(left)
        for token, other in reversed(steps):
            value = self.binary(token, str(token), value, self.value(other))
        return value

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
        which = cast(self.F, self.value(condition), "bool")
        return self._either(which, self.value(yes), self.value(no))

    def _either(self, which: Value, a: Value, b: Value) -> Value:
        F, kind = self.F, a.kind if a.kind == b.kind else common(a.kind, b.kind)
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
