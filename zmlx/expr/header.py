"""Header functions: definitions in a header that an expression may call, found by their shape.

Comes in: the text of a header. Goes out: HeaderFunction objects, whose bodies zmlx.expr.lower reads
as it reads an expression: declarations and assignments, then one return. Others stay unread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from zmlx.expr.grammar import GENERIC, TYPES
from zmlx.msl.default_header import DEFAULT_HEADER
from zmlx.ops.table import OPS

_FUNCTION = re.compile(
    r"(?:template\s*<\s*(?:typename|class)\s+(?P<generic>\w+)\s*>\s*)?"
    r"(?:\b(?:inline|static|constexpr|METAL_FUNC)\s+)*"
    r"\b(?P<result>\w+)\s+(?P<name>[A-Za-z_]\w*)\s*\((?P<parameters>[^(){};]*)\)\s*\{"
)
_PARAMETER = re.compile(r"(?:const\s+)?(\w+)\s+(?:const\s+)?([A-Za-z_]\w*)")


@dataclass(frozen=True)
class HeaderFunction:
    """One function: types and names of its parameters; `generic` is a template's parameter, "T"."""

    result: str
    parameters: tuple[tuple[str, str], ...]
    body: str
    generic: bool


@lru_cache(maxsize=256)
def header_functions(header: str) -> dict[str, HeaderFunction]:
    """Functions of values that `header` defines once, whatever their bodies hold.

    Conditions of the preprocessor may choose between definitions, and macros may stand in them, so
    functions that they touch are left out.
    """
    text = uncommented(header)
    if re.search(r"^\s*#\s*(?:if|ifdef|ifndef)\b", text, re.MULTILINE):
        return {}
    macros = set(re.findall(r"#\s*define\s+(\w+)", text))
    found: dict[str, HeaderFunction | None] = {}
    at = 0
    while match := _FUNCTION.search(text, at):
        at = _closing(text, match.end())
        body, name = text[match.end() : at - 1], match["name"]
        own = None if macros & set(re.findall(r"\w+", body)) else _function(match, body)
        found[name] = None if name in found else own
    return {name: function for name, function in found.items() if function is not None}


@lru_cache(maxsize=1)
def default_functions() -> dict[str, HeaderFunction]:
    """Those of the default header, whose conditions only tell where a device has its own."""
    return header_functions(re.sub(r"^\s*#.*$", "", DEFAULT_HEADER, flags=re.MULTILINE))


@lru_cache(maxsize=1)
def helper_rows() -> dict[str, str]:
    """zmlx_<helper> -> the row of the op table that it computes."""
    rows = {}
    for spec in OPS.values():
        if call := re.fullmatch(r"(zmlx_\w+)\(\{x\}(?:, \{y\})?\)", spec.msl or ""):
            rows[call[1]] = spec.name
    return rows


def uncommented(text: str) -> str:
    """C text without its comments."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)


def _closing(text: str, at: int) -> int:
    """The place behind the brace that closes the one before `at`."""
    depth = 1
    while depth and at < len(text):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return at


def _function(match: re.Match[str], body: str) -> HeaderFunction | None:
    """The function that was matched; None where a type of it is none that can be read."""
    generic = match["generic"]

    def own(kind: str) -> str:
        return "T" if kind == generic else kind

    known = {*TYPES, *(("T",) if generic else ())}
    parameters = []
    listed = match["parameters"].strip()
    for text in listed.split(",") if listed else ():
        parameter = _PARAMETER.fullmatch(text.strip())
        if parameter is None or own(parameter[1]) not in known:
            return None
        parameters.append((own(parameter[1]), parameter[2]))
    if own(match["result"]) not in known:
        return None
    if generic is None and re.search(rf"\b(?:{'|'.join(GENERIC)})\b", body):
        return None
    if generic is not None and generic != "T":
        body = re.sub(rf"\b{generic}\b", "T", body)
    return HeaderFunction(own(match["result"]), tuple(parameters), body, generic is not None)
