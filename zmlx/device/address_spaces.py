"""Metal text without what only Metal's compiler understands: a pass over tokens, nothing else.

Comes in: MSL text. Goes out: text with as many lines in which
- `threadgroup T name[dims], other;` reads `ZMLX_THREADGROUP(T, name, [dims]); ...`, a macro of
  each device's header (CUDA: `__shared__ T name dims`); a type with a comma stands in ZMLX_TYPE();
- a variable in `constant` memory reads `ZMLX_STATIC const T name`, a static one `ZMLX_HELD const T
  name` (CUDA: `static __device__`, `__device__`; else nothing), a member `const T name`;
- pointers and references lose their address space, `constant` ones keep `const`;
- `auto p = v.xz` of a text with swizzles reads `auto p = zm_plain{} = v.xz`: a vector, no view of
  one; chains of swizzles are one (zmlx/device/metal_words.py);
- literals such as 1.0, 1.0h and 1.0bf, float, half and bfloat in Metal, read 1.0f, half(1.0f), …
Comments and strings stay, `[[attributes]]` that say what a parameter is get other names. The host
and the CUDA device call it.
"""

from __future__ import annotations

import re
from bisect import bisect_left

from zmlx.device.metal_words import composed, swizzles

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
# Attributes whose words are macros where they stand alone.
_PLACES = re.compile(r"thread|simdgroup|quadgroup|dispatch|device$|constant$")
_HEADS = (";", "{", "}", ")", "struct", "class", "union")  # where a brace's own words begin
_DECLARING = ("const", "constexpr", "static", "inline", "volatile", "extern")
_AUTO = re.compile(r"\bauto\s+\w+\s*=(?!=)")


def without_address_spaces(text: str) -> str:
    """`text` as plain C++; see the module's description."""
    if swizzles(text):
        text = _AUTO.sub(lambda m: f"{m[0]} zm_plain{{}} =", composed(text))
    tokens = [(str(m.lastgroup), m.group()) for m in _TOKEN.finditer(text)]
    return _Pass(tokens).run()


class _Pass:
    """One walk over the tokens; `_words` skips space and comments."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._solid = [i for i, (kind, _) in enumerate(tokens) if kind != "space"]
        self._rank = {place: n for n, place in enumerate(self._solid)}
        self._out: list[str] = []
        self._inside: list[bool] = []  # for each open brace, whether members of a type follow

    def run(self) -> str:
        place = 0
        while place < len(self._tokens):
            kind, text = self._tokens[place]
            self._brace(place, text)
            if kind == "word" and self._near(place, -1) == "[[":
                text = f"zm_{text}" if _PLACES.match(text) else text
            elif kind == "word" and self._is_space(place, text):
                place = self._qualifier(place, text)
                continue
            self._out.append(_number(text) if kind == "number" else text)
            place += 1
        return "".join(self._out)

    def _is_space(self, place: int, text: str) -> bool:
        return text in (*_SPACES, "constant") and self._near(place, 1) not in ("(", "::")

    def _brace(self, place: int, text: str) -> None:
        if text == "{":
            n = self._rank[place]
            while n > 0 and self._text(n - 1) not in _HEADS:
                n -= 1
            self._inside.append(n > 0 and self._text(n - 1) in ("struct", "class", "union"))
        elif text == "}" and self._inside:
            self._inside.pop()

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
        words = self._qualifiers(place)
        const = "" if "const" in words else "const"
        if not self._is_variable(place) or (self._inside and self._inside[-1]):
            return const
        where = "ZMLX_HELD" if "static" in words else "ZMLX_STATIC"
        return f"{where} {const}".rstrip()

    def _is_variable(self, place: int) -> bool:
        """Whether a variable is declared here, with a value: no parameter and no pointer."""
        first, end = self._rank[place] + 1, self._macro_end(place)
        for n in range(first, len(self._solid)):
            sign = self._text(n)
            if sign in ("=", "{"):
                return self._solid[n] < end
            if sign in ("*", "&", ")", ";", ","):
                return False
        return False

    def _macro_end(self, place: int) -> int:
        """Where the line of the preprocessor ends that holds `place`; far away for other lines."""
        lines = [n for n, (kind, t) in enumerate(self._tokens) if kind == "space" and "\n" in t]
        ends = [n for n in lines if not self._tokens[n][1].startswith("\\")]
        at = bisect_left(ends, place)
        start = ends[at - 1] + 1 if at else 0
        if self._tokens[start][1] != "#":
            return len(self._tokens)
        return ends[at] if at < len(ends) else len(self._tokens)

    def _qualifiers(self, place: int) -> set[str]:
        """The words around an address space that say how a thing is declared."""
        found: set[str] = set()
        for step in (-1, 1):
            n = step
            while (word := self._near(place, n)) in _DECLARING:
                found.add(word)
                n += step
        return found

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
