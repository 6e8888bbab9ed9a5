"""What a text has once for each address space, and is one elsewhere: functions, special structs.

Comes in: a header without address spaces. Goes out: the same with as many lines, in which a
definition that is written twice, word for word, stands once in its namespace. The host and the
CUDA device call it.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|.", re.DOTALL)
_SKIPPED = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_LINE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*$", re.MULTILINE)
_NAMESPACE = re.compile(r"(?:inline )?namespace [\w: ]*\{.*\}$")
_DEFINED = re.compile(r"\(|^template ?<.*\bstruct\b")


def once(text: str) -> str:
    """`text` without the later ones of equal definitions."""
    seen: set[str] = set()
    made: list[str] = []
    for piece in _pieces(text):
        code = " ".join(_SKIPPED.sub(" ", _LINE.sub(" ", piece)).split())
        if _NAMESPACE.match(code):
            opened = _opened(piece)
            made.append(piece[:opened] + once(piece[opened:-1]) + "}")
        elif code.endswith("}") and _DEFINED.search(code) and code in seen:
            kept = "".join(f"{line}\n" for line in _LINE.findall(piece))
            made.append(kept + "\n" * (piece.count("\n") - kept.count("\n")))
        else:
            seen.add(code)
            made.append(piece)
    return "".join(made)


def _opened(piece: str) -> int:
    """Where the first brace of a piece of code has been opened."""
    return next(
        m.end()
        for m in _TOKEN.finditer(_LINE.sub(lambda m: " " * len(m[0]), piece))
        if m.group() == "{"
    )


def _pieces(text: str) -> list[str]:
    """What stands one after another at the outermost level: up to each `;` or closing brace."""
    pieces, start, depth = [], 0, 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        depth += (token == "{") - (token == "}")
        if depth == 0 and token in ("}", ";"):
            pieces.append(text[start : match.end()])
            start = match.end()
    return [*pieces, text[start:]]
