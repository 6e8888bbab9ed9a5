"""Writes docs/patterns.md's table from zmlx.fuse.patterns: `python docs/generate_patterns.py`.

A test compares the page with `page()`, so that the two cannot part.
"""

from __future__ import annotations

from pathlib import Path

from zmlx.fuse.patterns import DEVICES, table

PAGE = Path(__file__).with_name("patterns.md")
BEGIN, END = "<!-- table -->\n", "<!-- end -->\n"


def rows() -> str:
    """The table: a row a pattern."""
    lines = ["| pattern | becomes | where it fires, and why | proof |", "|---|---|---|---|"]
    for known in table():
        if not known.proof:  # a reader's own
            continue
        where = "; ".join(f"{d}: {known.devices[d]}" for d in DEVICES if d in known.devices)
        proof = f"`{known.proof}`"
        lines.append(f"| {known.name} | {known.doc} | {where or 'nowhere by itself'} | {proof} |")
    return "\n".join([*lines, ""])


def page() -> str:
    """The text of docs/patterns.md with its table as it is now."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return before + BEGIN + rows() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
