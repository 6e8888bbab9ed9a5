"""Conditionals `a ? b : c` of a half and a number of another type, which C++ refuses for classes.

Comes in: Metal text. Goes out: text with as many lines in which both arms are told the other's
type: `a ? (zm_arm<decltype(c)>(), b) : (zm_arm<decltype(b)>(), c)`; headers/parts/msl_arms.h does
the rest. The host and the CUDA device call it for kernels that people wrote.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/|\\\n)
    |(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    |(?P<number>\.?\d(?:'?[\w.]|(?<=[eEpP])[+-])*)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<sign>\[\[|::|->|.)""",
    re.VERBOSE | re.DOTALL,
)
_OURS = re.compile(r"\bzmlx_|\bZMLX_")  # the generator's texts, which convert by themselves
_OPENS, _CLOSES = "([{", ")]}"
_ALIKE = re.compile(r"\s*-?\s*[\d.]+(?:f|u|)\s*")  # literals, of which no half is one
MOST = 200  # conditionals of a text; more are a generated table


def told(text: str) -> str:
    """`text` with the arms of its conditionals told of one another."""
    if "?" not in text or _OURS.search(text) or text.count("?") > MOST:
        return text
    tokens = [m.group() for m in _TOKEN.finditer(text)]
    kinds = [str(m.lastgroup) for m in _TOKEN.finditer(text)]
    for place in reversed([i for i, token in enumerate(tokens) if token == "?"]):
        if not _in_macro(tokens, place):
            _tell(tokens, kinds, place)
    return "".join(tokens)


def _tell(tokens: list[str], kinds: list[str], place: int) -> None:
    """Rewrite the conditional whose `?` stands at `place`; those behind it are done."""
    colon = _end(tokens, kinds, place + 1, ":")
    if colon is None or tokens[colon] != ":":
        return
    end = _end(tokens, kinds, colon + 1, ",;:")
    if end is None:
        return
    first, second = "".join(tokens[place + 1 : colon]), "".join(tokens[colon + 1 : end])
    plain = _plain(tokens[place + 1 : colon], kinds[place + 1 : colon])
    other = _plain(tokens[colon + 1 : end], kinds[colon + 1 : end])
    if "{" in plain + other or (_ALIKE.fullmatch(plain) and _ALIKE.fullmatch(other)):
        return
    if plain == other or len(plain) + len(other) > 2000:
        return
    made = [
        f" (zm_arm<decltype({other})>(),{first})",
        ":",
        f" (zm_arm<decltype({plain})>(),{second})",
    ]
    tokens[place + 1 : end] = made
    kinds[place + 1 : end] = ["word", "sign", "word"]


def _end(tokens: list[str], kinds: list[str], start: int, stops: str) -> int | None:
    """Where the expression from `start` ends: at one of `stops`, or a bracket not opened in it."""
    depth = pending = 0
    place = start
    while place < len(tokens):
        token = tokens[place]
        if kinds[place] == "sign":
            if token in _OPENS or token == "[[":
                depth += 1
            elif token in _CLOSES:
                depth -= 1
                if depth < 0:
                    return place
            elif depth == 0 and token == "?":
                pending += 1
            elif depth == 0 and token == ":" and pending:
                pending -= 1
            elif depth == 0 and token in stops:
                return place
            elif token == "<":
                place = _after_types(tokens, kinds, place)
                continue
        place += 1
    return None


def _after_types(tokens: list[str], kinds: list[str], place: int) -> int:
    """Behind `<...>` where that is a template's arguments; behind `<` where it compares."""
    depth = 0
    for i in range(place, min(place + 60, len(tokens))):
        token = tokens[i]
        depth += (token == "<") - (token == ">")
        if depth == 0:
            after = next((t for t in tokens[i + 1 : i + 3] if not t.isspace()), "")
            return i + 1 if after in ("(", "::", "{") else place + 1
        if kinds[i] == "sign" and token not in "<>,*&:" and token != "::":
            break
    return place + 1


def _in_macro(tokens: list[str], place: int) -> bool:
    """Whether the line, or those that it goes on from, is the preprocessor's."""
    before = "".join(tokens[:place])
    start = before.rfind("\n") + 1
    while start > 1 and before[: start - 1].endswith("\\"):
        start = before.rfind("\n", 0, start - 1) + 1
    return before[start:].lstrip().startswith("#")


def _plain(tokens: list[str], kinds: list[str]) -> str:
    """On one line, without comments."""
    return "".join(" " if k == "space" else t for t, k in zip(tokens, kinds, strict=True)).replace(
        "\n", " "
    )
