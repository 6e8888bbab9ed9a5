"""Errors of expressions: what is wrong with one, or why it cannot be read, with the column.

Raised by this package; the helper layer turns Unparsed into a kernel that runs as it is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

_WIDTH = 120  # of a line that is shown


@dataclass(frozen=True)
class Source:
    """A piece of C and how messages call it, such as "vjp_expr of kernel 'mish'"."""

    text: str
    what: str = "expr"

    def at(self, line: int, column: int) -> str:
        """Where that is, as "expr, line 1, column 5", for the middle of a sentence."""
        place = f"column {column}" if "\n" not in self.text else f"line {line}, column {column}"
        return f"{self.what}, {place}"

    def shown(self, line: int, column: int) -> str:
        """The source line with a caret under the column, for the end of a message."""
        lines = self.text.split("\n")
        text, before = lines[min(line, len(lines)) - 1], column - 1
        if len(text) > _WIDTH:  # the part around the column
            start = max(0, before - _WIDTH // 2)
            text, before = text[start : start + _WIDTH], before - start
        return f"\n  {text}\n  {' ' * before}^"


class ExpressionError(ValueError):
    """An expression that is wrong: its syntax, a name that nothing has, an argument count."""

    def __init__(self, source: Source, line: int, column: int, problem: str) -> None:
        super().__init__(
            f"[zmlx.expr] {source.at(line, column)}: {problem}{source.shown(line, column)}"
        )
        self.line, self.column, self.problem = line, column, problem


class Unparsed(Exception):
    """An expression that may be right C, but that has no form in rows of the op table."""

    def __init__(self, source: Source, line: int, column: int, reason: str) -> None:
        super().__init__(f"{source.at(line, column)}: {reason}{source.shown(line, column)}")
        self.line, self.column, self.reason = line, column, reason


def nearest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?", or nothing where no known name is near."""
    found = get_close_matches(name, sorted(set(known)), 1, 0.5)
    return f" Did you mean {found[0]!r}?" if found else ""
