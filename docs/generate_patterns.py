"""Writes docs/patterns.md's table from zmlx.fuse.patterns: `python docs/generate_patterns.py`.

A test compares the page with `page()`, so that the two cannot part.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from zmlx.fuse.patterns import DEVICES, Pattern, table

PAGE = Path(__file__).with_name("patterns.md")
BEGIN, END = "<!-- table -->\n", "<!-- end -->\n"


def rows() -> str:
    """The table: a row for patterns that stand together and have all in common."""
    lines = ["| pattern | becomes | where it fires, and why | proof |", "|---|---|---|---|"]
    for (doc, where, proof), found in groupby((k for k in table() if k.proof), _told):
        names = "<br>".join(known.name for known in found)
        lines.append(f"| {names} | {doc} | {where or 'nowhere by itself'} | `{proof}` |")
    return "\n".join([*lines, ""])


def _told(known: Pattern) -> tuple[str, str, str]:
    """What the table says of a pattern; a reader's own has no proof."""
    where = "; ".join(f"{d}: {known.devices[d]}" for d in DEVICES if d in known.devices)
    return known.doc, where, known.proof


def page() -> str:
    """The text of docs/patterns.md with its table as it is now."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return before + BEGIN + rows() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
