"""Tables for notebooks.

Comes in: a title, columns, rows of texts. Goes out: HTML whose styles stand at its own tags:
nothing leaks into the page, and colours are the page's, dark or light. zmlx.profiling and
zmlx.tuning.report call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_CELL = "padding: 3px 14px 3px 0; border: none; background: none; vertical-align: top"
_MONO = 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace'


def table_html(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column holds words, the others numbers. Lines of a cell stay lines."""
    head = "".join(_cell("th", i, name) for i, name in enumerate(columns))
    cells = ("".join(_cell("td", i, text) for i, text in enumerate(row)) for row in rows)
    body = "".join(f'<tr style="background: none">{row}</tr>' for row in cells)
    return (
        f'<div style="overflow-x: auto"><p style="margin: 4px 0"><b>{escape(title)}</b></p>'
        f'<table style="border-collapse: collapse; margin: 0; font-size: 13px">'
        f'<tr style="background: none">{head}</tr>{body}</table></div>'
    )


def _cell(tag: str, column: int, text: str) -> str:
    side = "left" if column == 0 else "right"
    face = f"; font-family: {escape(_MONO)}" if column == 0 and tag == "td" else ""
    words = escape(text).replace("\n", "<br>")
    return f'<{tag} style="{_CELL}; text-align: {side}{face}">{words}</{tag}>'
