"""Metal text without what only Metal's compiler understands: a pass over tokens, nothing else.

Comes in: MSL text. Goes out: text with as many lines in which
- `threadgroup T name[dims], other;` reads `ZMLX_THREADGROUP(T, name, [dims]); ...`, a macro of
  each device's header (CUDA: `__shared__ T name dims`); a type with a comma stands in ZMLX_TYPE();
- a variable in `constant` memory reads `ZMLX_CONSTANT T name` (a macro too: `const`);
- pointers and references lose their address space, `constant` ones keep `const`;
- literals such as 1.0, 1.0h and 1.0bf, float, half and bfloat in Metal, read 1.0f, half(1.0f), …
Comments, strings and `[[attributes]]` stay. The host and the CUDA device call it.
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
_DECIMAL = re.compile(r"((?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)([hH]|bf|BF|)")
_SPACES = ("device", "thread", "threadgroup")


def without_address_spaces(text: str) -> str:
    """`text` as plain C++; see the module's description."""
    tokens = [(str(m.lastgroup), m.group()) for m in _TOKEN.finditer(text)]
    return _Pass(tokens).run()


class _Pass:
    """One walk over the tokens; `_words` skips space and comments."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._solid = [i for i, (kind, _) in enumerate(tokens) if kind != "space"]
        self._rank = {place: n for n, place in enumerate(self._solid)}
        self._out: list[str] = []

    def run(self) -> str:
        place = 0
        while place < len(self._tokens):
            kind, text = self._tokens[place]
            if kind == "word" and text in (*_SPACES, "constant") and not self._attribute(place):
                place = self._qualifier(place, text)
                continue
            self._out.append(_number(text) if kind == "number" else text)
            place += 1
        return "".join(self._out)

    def _attribute(self, place: int) -> bool:
        return self._near(place, -1) == "[[" or self._near(place, 1) in ("(", "::")

    def _near(self, place: int, step: int) -> str:
        n = self._rank[place] + step
        return self._tokens[self._solid[n]][1] if 0 <= n < len(self._solid) else ""

    def _qualifier(self, place: int, text: str) -> int:
        """Write what stands for an address space; returns where to go on."""
        if text == "threadgroup" and (found := self._declaration(place)):
            words, end = found
            lines = "".join(t for _, t in self._tokens[place:end]).count("\n")
            self._out.append(words + "\n" * lines)
            return end
        if text == "constant":
            self._out.append(self._constant(place))
        return place + 1

    def _constant(self, place: int) -> str:
        first = self._rank[place] + 1
        for n in range(first, len(self._solid)):
            sign = self._tokens[self._solid[n]][1]
            if sign in ("=", "{"):
                return "ZMLX_CONSTANT"
            if sign in ("*", "&", ")", ";", ","):
                break
        return "" if "const" in (self._near(place, -1), self._near(place, 1)) else "const"

    def _declaration(self, place: int) -> tuple[str, int] | None:
        """Macro calls for `threadgroup T a[1], b;` and where it ends; None for anything else."""
        n = self._rank[place] + 1
        kind_end = self._type_end(n)
        if kind_end is None:
            return None
        declared = self._slice(n, kind_end)
        declared = f"ZMLX_TYPE({declared})" if "," in declared else declared
        calls, n = [], kind_end
        while True:
            if self._kind(n) != "word":
                return None
            name, n = self._text(n), n + 1
            start = n
            while self._text(n) == "[":
                n = self._closing(n, "[", "]")
            calls.append(f"ZMLX_THREADGROUP({declared}, {name}, {self._slice(start, n)});")
            if self._text(n) == ";":
                return " ".join(calls), self._solid[n] + 1
            if self._text(n) != ",":
                return None
            n += 1

    def _type_end(self, n: int) -> int | None:
        """Where the name begins that a type stands in front of."""
        last = n
        while self._kind(n) == "word" or self._text(n) in ("::", "<"):
            last = n
            n = self._closing(n, "<", ">") if self._text(n) == "<" else n + 1
        follows = self._text(n) in ("[", ",", ";")
        return last if follows and self._kind(last) == "word" else None

    def _closing(self, n: int, opens: str, closes: str) -> int:
        depth = 0
        while n < len(self._solid):
            depth += (self._text(n) == opens) - (self._text(n) == closes)
            n += 1
            if depth == 0:
                break
        return n

    def _kind(self, n: int) -> str:
        return self._tokens[self._solid[n]][0] if n < len(self._solid) else ""

    def _text(self, n: int) -> str:
        return self._tokens[self._solid[n]][1] if n < len(self._solid) else ""

    def _slice(self, first: int, end: int) -> str:
        if first == end:
            return ""
        tokens = self._tokens[self._solid[first] : self._solid[end - 1] + 1]
        return "".join(" " if kind == "space" else text for kind, text in tokens)


def _number(text: str) -> str:
    found = _DECIMAL.fullmatch(text)
    if found is None:
        return text
    kind = {"h": "half", "bf": "bfloat16_t"}.get(found[2].lower())
    return f"{kind}({found[1]}f)" if kind else f"{found[1]}f"
