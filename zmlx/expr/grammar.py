"""Grammar: the C expressions and statements that can be read, and their syntax trees.

Comes in: text. Goes out: a lark Tree whose nodes know line and column. zmlx.expr.lower turns it
into nodes of a graph, zmlx.expr.update takes it apart.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from zmlx.expr.errors import ExpressionError, Source, Unparsed

if TYPE_CHECKING:
    from lark import Lark, Tree

# C's binary operators from the loosest level to the tightest; every level binds to the left.
LEVELS = (
    ("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<=", ">=", "<", ">"),
    ("<<", ">>"), ("+", "-"), ("*", "/", "%"),
)  # fmt: skip

TYPES = {
    "bool": "bool", "char": "int8", "uchar": "uint8", "short": "int16", "ushort": "uint16",
    "int": "int32", "uint": "uint32", "long": "int64", "ulong": "uint64", "int8_t": "int8",
    "uint8_t": "uint8", "int16_t": "int16", "uint16_t": "uint16", "int32_t": "int32",
    "uint32_t": "uint32", "int64_t": "int64", "uint64_t": "uint64", "size_t": "uint64",
    "half": "float16", "bfloat": "bfloat16", "bfloat16_t": "bfloat16", "float": "float32",
}  # fmt: skip
GENERIC = ("T", "O")  # the compute type and the output's type

_HINTS = {"**": " Powers are pow(a, b).", "and": " Write &&.", "or": " Write ||."}
_NO_C = '"@$`#\\'
_LOOKALIKES = {
    "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u00d7": "*", "\u22c5": "*", "\u00b7": "*",
    "\u00f7": "/", "\u2264": "<=", "\u2265": ">=", "\u2260": "!=", "\u00a0": " ",
    "\u03c0": "M_PI_F", "\u221e": "INFINITY",
}  # fmt: skip

_GRAMMAR = r"""
statements: statement*
function: (statement | early)* "return" expression ";"
early: "if" "(" expression ")" "return" expression ";"
?statement: "const"? (TYPE | AUTO) declared ("," declared)* ";"  -> declare
    | NAME ASSIGN expression ";"                                 -> assign
    | NAME "[" expression "]" "=" expression ";"                 -> store
    | "if" "(" expression ")" ("return" ";" | "{" "return" ";" "}") -> guard
    | ";"                                                        -> nothing
declared: NAME "=" expression

?expression: level0
    | level0 "?" expression ":" expression                       -> choice
LEVELS
?unary: postfix
    | UNARY unary                                                -> prefix
    | ADDITIVE unary                                             -> prefix
    | "(" TYPE ")" unary                                         -> cast
?postfix: atom
    | TYPE "(" expression ")"                                    -> cast
    | "static_cast" "<" TYPE ">" "(" expression ")"              -> cast
    | NAME "(" (expression ("," expression)*)? ")"               -> call
    | NAME "[" expression "]"                                    -> index
?atom: NUMBER                                                    -> number
    | PLACE                                                      -> place
    | NAME                                                       -> name
    | "(" expression ")"

TYPE.2: /(TYPES)\b/
PLACE.2: /thread_position_in_grid\s*\.\s*x\b/
AUTO.2: /auto\b/
UNARY: "!" | "~"
ASSIGN: "=" | "+=" | "-=" | "*=" | "/=" | "%="
NUMBER: /0[xX][0-9a-fA-F]+[uUlL]*|([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][+-]?[0-9]+)?[fFhHuUlL]*/
NAME: /(::)?([A-Za-z_]\w*::)*[A-Za-z_]\w*/
COMMENT: /\/\/[^\n]*/ | /\/\*(.|\n)*?\*\//
%import common.WS
%ignore WS
%ignore COMMENT
"""


def tree_of(source: Source, start: str = "expression") -> Tree[Any]:
    """The syntax tree; ExpressionError where the syntax is wrong, Unparsed where it may be C."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedInput

    _check_text(source, start)
    try:
        return _parser().parse(source.text, start=start)
    except UnexpectedCharacters as error:
        raise _bad_character(source, error.pos_in_stream or 0, start) from None
    except UnexpectedInput as error:
        line, column, found = _place(source, error)
        problem = f"{found} is not expected here"
        if found == "the end" and source.text.count("(") > source.text.count(")"):
            problem = "a closing parenthesis is missing"
        if _other_c(source.text, start):
            raise Unparsed(source, line, column, problem) from None
        problem += f".{_hint(source, line, column)}"
        raise ExpressionError(source, line, column, problem) from None


def _check_text(source: Source, start: str) -> None:
    """What must be seen before the parser sees the text: it would take it for something else."""
    text = re.sub(
        r"//[^\n]*|/\*.*?\*/", lambda c: re.sub(r"[^\n]", " ", c[0]), source.text, flags=re.S
    )
    if (opened := text.find("/*")) >= 0:
        raise ExpressionError(
            source, *_position(text, opened), "the comment that begins here is not closed."
        )
    if step := re.search(r"\+\+|--", text):  # not two signs, as the grammar would have it
        raise Unparsed(source, *_position(text, step.start()), f"{step[0]!r} cannot be read")
    word = re.search(r"\b(?:return|if|else|for|while|do|switch)\b", text)
    if start == "expression" and word and "{" not in text:
        hint = " A choice is written condition ? a : b." if word[0] in ("if", "else") else ""
        problem = f"{word[0]!r} belongs to a statement; give an expression.{hint}"
        raise ExpressionError(source, *_position(text, word.start()), problem)


def _bad_character(source: Source, at: int, start: str) -> ExpressionError | Unparsed:
    """The error for a character that no token of the grammar begins with."""
    found, place = source.text[at : at + 1], _position(source.text, at)
    module = re.search(r"\b(?:math|np|numpy|mx|nn|torch)$", source.text[:at])
    if found == "." and module:
        problem = f"{module[0]!r} is Python's; C calls functions by their names alone."
        return ExpressionError(source, *place, problem)
    if found.isascii() and found.isprintable() and (found not in _NO_C or start != "expression"):
        return Unparsed(source, *place, f"{found!r} cannot be read")
    hint = f" Write {_LOOKALIKES[found]!r}." if found in _LOOKALIKES else ""
    return ExpressionError(source, *place, f"{found!r} is no part of an expression in C.{hint}")


def _position(text: str, at: int) -> tuple[int, int]:
    """Line and column of a place in a text, from 1 on."""
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _hint(source: Source, line: int, column: int) -> str:
    """What to write for a sign of Python at a place; "" for others."""
    text = source.text.split("\n")[line - 1]
    word = re.match(r"\w+", text[column - 1 :])
    return _HINTS.get(word[0] if word else text[max(0, column - 2) : column], "")


@cache
def _parser() -> Lark:
    from lark import Lark

    levels, signs = [], []
    for i, operators in enumerate(LEVELS):
        name = "ADDITIVE" if operators == ("+", "-") else f"SIGN{i}"
        first = ".1" if "<<" in operators else ""  # or else "<" would be read
        below = f"level{i + 1}" if i + 1 < len(LEVELS) else "unary"
        levels.append(f"?level{i}: {below} | level{i} {name} {below} -> binary")
        signs.append(f"{name}{first}: {' | '.join(f'{chr(34)}{o}{chr(34)}' for o in operators)}")
    names = "|".join(sorted([*TYPES, *GENERIC], key=len, reverse=True))
    text = _GRAMMAR.replace("LEVELS", "\n".join([*levels, *signs])).replace("TYPES", names)
    return Lark(
        text, parser="lalr", lexer="contextual", start=["expression", "statements", "function"],
        propagate_positions=True, maybe_placeholders=False,
    )  # fmt: skip


def _place(source: Source, error: Any) -> tuple[int, int, str]:
    """Line and column of a syntax error, and what stands there."""
    token = getattr(error, "token", None)
    if token is None or token.type == "$END":
        lines = source.text.split("\n")
        return len(lines), len(lines[-1]) + 1, "the end"
    return int(error.line), int(error.column), repr(str(token))


def _other_c(text: str, start: str) -> bool:
    """Whether the text has marks of C that the grammar leaves out, rather than a slip."""
    marks = r"\w\s*<[\w\s,]*>\s*\(|[{}\[\]&.]\s*[A-Za-z_]"
    statement = r"\b(if|for|while|return|thread|device|threadgroup|constant|unsigned)\b"
    assigned = r"(?<![=!<>])=(?!=)" if start == "expression" else r"(?!)"
    return re.search(f"{marks}|{statement}|{assigned}", text) is not None
