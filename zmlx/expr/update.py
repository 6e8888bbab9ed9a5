"""Updates: an accumulator's next value taken apart into a reduction and what is reduced.

Comes in: an expression such as `acc + x * x`. Goes out: ("add", "x * x"). Row-wise helpers call it
to learn which reduction a loop computes, and what its derivative is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmlx.expr.errors import Source
from zmlx.expr.grammar import tree_of
from zmlx.expr.lower import plain

if TYPE_CHECKING:
    from lark import Tree

_SIGNS = {"+": "add", "*": "multiply"}
_CALLS = {"max": "maximum", "fmax": "maximum", "min": "minimum", "fmin": "minimum"}


def split_update(expr: str, acc: str, what: str = "expr") -> tuple[str, str] | None:
    """(row, rest) where `expr` is `acc` combined with `rest` by that row; None where it is not.

    The row is "add", "multiply", "maximum" or "minimum"; `rest` does not name `acc`. Recognised are
    `acc + f`, `f + acc`, `acc - f`, `acc * f`, `max(acc, f)`, `min(acc, f)`, `fma(a, b, acc)`,
    and sums such as `acc + f + g`.
    """
    source = Source(expr, what)
    found = _split(source, tree_of(source), acc)
    if found is None or _names(tree_of(Source(found[1], what)), acc):
        return None
    return found


def _split(source: Source, tree: Any, acc: str) -> tuple[str, str] | None:
    if tree.data == "binary":
        return _split_binary(source, tree, acc)
    if tree.data != "call":
        return None
    name, arguments = plain(str(tree.children[0])), tree.children[1:]
    texts = [_text(source, a) for a in arguments]
    if name == "fma" and len(arguments) == 3 and _is(arguments[2], acc):
        return "add", f"{texts[0]} * {texts[1]}"
    if name in _CALLS and len(arguments) == 2:
        for mine, other in ((0, 1), (1, 0)):
            if _is(arguments[mine], acc):
                return _CALLS[name], texts[other]
    return None


def _split_binary(source: Source, tree: Any, acc: str) -> tuple[str, str] | None:
    left, right = tree.children[0], tree.children[2]
    sign = str(tree.children[1])
    one, other = _text(source, left), _text(source, right)
    if sign in _SIGNS and _is(left, acc):
        return _SIGNS[sign], other
    if sign in _SIGNS and _is(right, acc):
        return _SIGNS[sign], one
    if sign == "-" and _is(left, acc):
        return "add", f"-{other}"
    inner = _split(source, left, acc) if sign in ("+", "-") and left.data == "binary" else None
    if inner is not None and inner[0] == "add":
        return "add", f"{inner[1]} {sign} {other}"
    return None


def _text(source: Source, tree: Tree[Any]) -> str:
    """The text of a subtree, in parentheses unless it is one token or a call."""
    start, end = tree.meta.start_pos, tree.meta.end_pos
    text = source.text[start:end]
    return text if tree.data in ("name", "number", "call") else f"({text})"


def _is(tree: Tree[Any], acc: str) -> bool:
    return bool(tree.data == "name" and tree.children[0] == acc)


def _names(tree: Tree[Any], name: str) -> bool:
    return any(_is(part, name) for part in tree.iter_subtrees())
