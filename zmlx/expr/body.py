"""Bodies: a whole kernel's text read as a graph, where each thread computes one element.

Comes in: a body of declarations, assignments and stores such as `out[elem] = x * y;`, with the
names of its buffers. Goes out: a Graph. zmlx.helpers.nary takes derivatives from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zmlx.expr.build import Value, cast
from zmlx.expr.errors import ExpressionError, Source, Unparsed
from zmlx.expr.grammar import tree_of
from zmlx.expr.graphs import covering
from zmlx.expr.lower import EXAMPLE, Lowering, Names, Reader
from zmlx.trace.graph import Graph

if TYPE_CHECKING:
    from lark import Token, Tree

_INDEX = ("auto", "uint", "int", "ulong", "long", "size_t", "uint32_t", "int32_t", "uint64_t",
          "int64_t")  # fmt: skip  # types that hold any element's place


def parse_body(
    source: Source,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    names: Names,
    cover: Sequence[str] | None = None,
) -> Graph:
    """A graph of inputs `inputs` and outputs `outputs` (name -> dtype), in that order.

    An element of a half type is held in float32. An output has the shape that the inputs `cover`
    (None: all) broadcast to. Raises Unparsed for a body that does more than compute each element of
    the outputs from the same element of the inputs, or that is no C.
    """
    lowering = Lowering(names)
    elements = {
        name: Value(lowering.graph.add("input", shape=EXAMPLE, dtype=kind), kind)
        for name, kind in inputs.items()
    }
    reader = _BodyReader(lowering, source, elements, dict(outputs))
    try:
        for statement in tree_of(source, "statements").children:
            reader.statement(statement)
    except ExpressionError as problem:  # it may be C all the same: a body is more than expressions
        raise Unparsed(source, problem.line, problem.column, problem.problem) from None
    missing = [name for name in outputs if name not in reader.stored]
    if missing:
        raise Unparsed(source, 1, 1, f"nothing is stored in {', '.join(missing)}")
    nodes = [e.node for name, e in elements.items() if cover is None or name in cover]
    F = lowering.F
    lowering.graph.outputs = [covering(F, reader.stored[name], nodes).node for name in outputs]
    return lowering.graph


@dataclass
class _BodyReader(Reader):
    """`places` are names for the thread's place in the grid, by which buffers are indexed."""

    elements: dict[str, Value]
    outputs: dict[str, str]
    stored: dict[str, Value] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)

    def statement(self, tree: Tree[Any]) -> None:
        parts: list[Any] = tree.children
        if tree.data == "declare" and parts[0] in _INDEX and self._is_place(parts[1].children[1]):
            self.places.add(str(parts[1].children[0]))
            del parts[1]
        if tree.data == "guard" and self._is_limit(parts[0]):
            return
        if tree.data != "store":
            super().statement(tree)
            return
        name, at, body = parts
        if str(name) not in self.outputs:
            raise self.unparsed(name, f"{str(name)!r} is no output")
        self._check_place(name, at)
        self.stored[str(name)] = cast(self.F, self.value(body), self.outputs[str(name)])

    def name(self, token: Token) -> Value:
        text = str(token)
        if text in self.places:
            raise self.unparsed(token, "it computes with the element's place")
        if text not in self.scope and (text in self.elements or text in self.outputs):
            raise self.unparsed(token, f"the buffer {text!r} is not indexed")
        return super().name(token)

    def _assign(self, name: Token, sign: Token, body: Tree[Any]) -> None:
        if str(name) in self.places:
            raise self.unparsed(name, "it computes with the element's place")
        super()._assign(name, sign, body)

    def _index(self, name: Token, body: Tree[Any]) -> Value:
        text = str(name)
        if text not in self.elements and text not in self.stored:
            raise self.unparsed(name, f"{text!r} is indexed, which is no input")
        self._check_place(name, body)
        value = self.elements[text] if text in self.elements else self.stored[text]
        half = value.kind in ("float16", "bfloat16")
        return cast(self.F, value, "float32") if half else value

    def _check_place(self, name: Token, at: Tree[Any]) -> None:
        if not self._is_place(at):
            raise self.unparsed(name, f"{str(name)!r} is indexed by more than the thread's place")

    def _is_limit(self, tree: Tree[Any]) -> bool:
        """Whether it holds from some place on: where threads end early, outputs have no values."""
        return bool(
            tree.data == "binary"
            and tree.children[1] in (">=", ">")
            and self._is_place(tree.children[0])
        )

    def _is_place(self, tree: Tree[Any]) -> bool:
        """Whether that is thread_position_in_grid.x, or a name for it."""
        if tree.data == "cast":
            return tree.children[0] in _INDEX and self._is_place(tree.children[1])
        named = tree.data == "name" and str(tree.children[0]) in self.places
        return named or tree.data == "place"
