"""What Metal's vectors can and clang's cannot.

Comes in: a text on its way to clang, or a complaint of clang's with its line. Goes out: the text
with constructors that clang knows, or whether Metal takes what clang complains of: `&&` and `++` of
vectors, vectors of bool, three packed numbers without room for a fourth, parts of constants.
front_end.py calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBERS = r"(?:bool|half|float|u?char|u?short|u?int|u?long)"
_NAMED = rf"(?:packed_)?{_NUMBERS}[234]"
_VEC = re.compile(r"(?<![\w:])(?:metal::)?vec<([^<>;(){}]*)>(?=\s*\()")
_DECLARED = re.compile(
    rf"(?<![\w:<])({_NAMED}|(?:metal::)?vec<[^<>;(){{}}]*>)(\s+)(\w+)\s*\((?!\s*\))"
)
_PARAMETER = re.compile(
    r"\s*(?:const\s+)?[A-Za-z_][\w:]*(?:<[^<>]*>)?\s*(?:[*&]|\s)\s*[A-Za-z_]\w*\s*$"
)
_SCALAR = re.compile(rf"\b{_NUMBERS}\b(?:\s+\w+)?\s*$")
# A vector of bool, or what clang makes of a comparison of vectors.
_COMPARISON = r"(?:char|short|int|long) __attribute__\(\(ext_vector_type\([234]\)\)\)"
_BOOLS = (
    r"(?:[^']*\(aka '(?:const )?(?:metal::)?vec<bool, [234]>'\)|'(?:const )?bool[234]'"
    r"|[^()]*\(+ext_vector_type\([234]\)\)+'? \(vector of [234] '(?:bool|char|short|int|long)'"
    r" values\))"
)
_LOGICAL = re.compile(r"invalid operands to binary expression")
_COMPARED = re.compile(
    r"(?:cannot initialize .*|assigning to )'?[^']*(?:bool[234]|vec<bool, [234]>|bool __attr).*"
    rf"(?:rvalue of type|from incompatible type) '{_COMPARISON}'"
)
_STEPPED = re.compile(
    r"cannot (?:in|de)crement value of type '(?!bool)[^']*'(?: \(aka|.*\bvector of)"
)
_COMPONENT = re.compile(r"illegal vector component name ''(?:[xyzw]{1,4}|[rgba]{1,4})''")
_EXCESS = "excess elements in scalar initializer"
_PACKED = re.compile(rf"\bpacked_{_NUMBERS}3\b")
_UNKNOWN = re.compile(
    r"static assertion expression is not an integral constant"
    r"|variable length arrays in C\+\+ are a Clang extension"
    r"|non-type template argument is not a constant expression"
)
_PART = re.compile(r"\w\.(?:[xyzw]{1,4}|[rgba]{1,4})\b")  # of a constant
_ARGUMENT = re.compile(
    rf".* no known conversion from '{_COMPARISON}' \(vector of ([234]) .*\) to "
    r"'(?:const )?(?:bool\1'|vec<bool, \1>|bool __attr)"
)


_OTHER_SIZE = re.compile(r".*from vector .* to vector .* of different size")
_COUNTED = re.compile(r"vec<[\w ]+, ([234])>|ext_vector_type\(([234])\)|(?<=[a-z])([234])'")


def written(text: str) -> str:
    """`text` with `float4 v = float4(1, 2, 3, 4)` for `float4 v(1, 2, 3, 4)`, and so on."""
    made, done = [], 0
    for found in _DECLARED.finditer(text):
        end = _closing(text, found.end())
        if end < 0 or found.start() < done or not _is_variable(text, found.end(), end):
            continue
        kind, space, name = found.groups()
        made += [text[done : found.start()], f"{kind}{space}{name} = {kind}("]
        done = found.end()
    text = "".join([*made, text[done:]])
    return _VEC.sub(r"vector_of<metal::vec<\1>>", text)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis closes that has been opened before `start`; -1 for nowhere."""
    depth = 1
    for place in range(start, min(len(text), start + 2000)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return -1


def _is_variable(text: str, start: int, end: int) -> bool:
    """Whether parentheses behind a name hold values, not the parameters of a function."""
    given = re.split(r",(?![^(<]*[)>])", text[start:end])
    after = text[end + 1 :].lstrip()[:1]
    return after in (";", ",") and not any(map(_PARAMETER.match, given))


def taken(message: str, notes: Iterable[str], line: str, column: int, text: str) -> bool:
    """Whether Metal takes what clang says of `column` (from 1) in `line` of `text`."""
    here = line[column - 1 :]
    if _LOGICAL.match(message):
        return here.startswith(("&&", "||")) and re.search(_BOOLS, message) is not None
    if message.startswith(_EXCESS):
        word = re.match(r"\w*", here)
        return _SCALAR.search(line[: column - 1] + (word[0] if word else "")) is None
    if "static assertion failed" in message:
        return "sizeof" in message and _PACKED.search(text) is not None
    if _UNKNOWN.match(message):
        end = "]" if message.startswith("variable") else ";"
        return _PART.search(here.partition(end)[0]) is not None
    if _OTHER_SIZE.match(message):  # T4(v) of an alias converts
        return _same_count(message)
    if message.startswith("no matching function"):
        return any(map(_ARGUMENT.match, notes))
    return any(p.match(message) for p in (_COMPARED, _STEPPED, _COMPONENT))


def _same_count(message: str) -> bool:
    """Whether the two vectors of a cast have as many elements as each other."""
    before, _, after = message.partition(" to vector ")
    counts = [next(filter(None, _COUNTED.findall(part)[-1])) for part in (before, after)]
    return counts[0] == counts[1]
