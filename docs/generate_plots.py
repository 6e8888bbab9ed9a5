"""Draws the tables of benchmarks.md as bars: `python docs/generate_plots.py`.

The page is where the figures stand; a test compares each picture with what `plots()` makes of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

PAGE = Path(__file__).with_name("benchmarks.md")
PICTURES = Path(__file__).with_name("pictures")
LABELS, BARS, NUMBER, BAR, GAP, TOP = 290, 430, 70, 15, 10, 64  # pixels
_FIGURE = re.compile(r"^[\d.]+")
_STYLE = (
    "svg { --ink: #1d2430; --soft: #5c6675; --line: #d9dee6; --back: #fff; --a: #3f51b5; "
    "--b: #e08a3c; --c: #5aa469; background: var(--back) } "
    "@media (prefers-color-scheme: dark) { svg { --ink: #e3e7ee; --soft: #98a2b3; --line: #333a46; "
    "--back: #14171c; --a: #7c8cf0; --b: #e09a55; --c: #6fbf80 } } "
    "text { font: 13px system-ui, -apple-system, Roboto, sans-serif; fill: var(--ink) } "
    ".soft { fill: var(--soft) } .title { font-weight: 600; font-size: 15px } "
    "path { stroke: var(--line) } .a { fill: var(--a) } .b { fill: var(--b) } .c { fill: var(--c) }"
)


@dataclass(frozen=True)
class Plot:
    """Which columns of which table are drawn, and how; `half` takes "float32 / bfloat16" apart."""

    name: str
    heading: str  # above the table
    table: int  # which one below it
    title: str
    columns: tuple[str, ...]
    logarithmic: bool = False
    half: int | None = None
    rows: str = ""  # a pattern of the rows that are drawn


PLOTS = (
    Plot(
        "cpu", "## Measured", 0, "CPU: times as fast as mx.compile (logarithmic)",
        ("times mx.compile",), True, rows="float(32|16)$",
    ),
    Plot(
        "cpu_rows", "### Rows on a CPU", 0,
        "CPU, float32: milliseconds, less is better (logarithmic)",
        ("zmlx.fuse", "mx.compile", "torch.compile"), True, 0,
    ),
    Plot(
        "h200", "### On an NVIDIA H200", 0, "H200, forward: GB/s, more is better",
        ("zmlx.fuse", "mx.compile", "torch.compile"),
    ),
    Plot(
        "h200_gradients", "### On an NVIDIA H200", 1, "H200, gradients: GB/s, more is better",
        ("zmlx.fuse", "mx.compile", "torch.compile"),
    ),
)  # fmt: skip


def plots() -> dict[str, str]:
    """The pictures by name."""
    text = PAGE.read_text("utf-8")
    return {plot.name: _drawn(plot, *_rows(plot, text)) for plot in PLOTS}


def _rows(plot: Plot, text: str) -> tuple[list[str], list[list[float | None]]]:
    """The labels of a table's rows, and the figures; rows without any are left out."""
    below = text[text.index(plot.heading) :]
    tables = re.findall(r"(?:^\|.*\n)+", below, re.MULTILINE)
    head, _, *lines = (_cells(line) for line in tables[plot.table].strip().splitlines())
    places = [head.index(column) for column in plot.columns]
    labels, figures = [], []
    for cells in lines:
        found = [_figure(cells[place], plot.half) for place in places]
        if re.search(plot.rows, cells[0]) and found != [None] * len(found):
            labels.append(cells[0].replace("\\", ""))
            figures.append(found)
    return labels, figures


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def _figure(cell: str, half: int | None) -> float | None:
    found = _FIGURE.match(cell.split(" / ")[half] if half is not None and cell else cell)
    return float(found[0]) if found else None


def _drawn(plot: Plot, labels: Sequence[str], figures: Sequence[Sequence[float | None]]) -> str:
    """Horizontal bars, one for each column in each row, over an axis with round numbers."""
    series, given = len(plot.columns), [v for row in figures for v in row if v is not None]
    row_height = series * BAR + GAP
    bottom = TOP + len(labels) * row_height
    ticks = _ticks(min(given), max(given), plot.logarithmic)

    def at(value: float) -> float:
        share = value / ticks[-1]
        if plot.logarithmic:
            share = math.log(value / ticks[0]) / math.log(ticks[-1] / ticks[0])
        return LABELS + share * BARS

    parts = [f'<text class="title" x="12" y="22">{escape(plot.title)}</text>']
    if series > 1:
        for i, column in enumerate(plot.columns):
            x = 12 + 130 * i
            parts.append(f'<rect class="{"abc"[i]}" x="{x}" y="36" width="12" height="12" rx="3"/>')
            parts.append(f'<text class="soft" x="{x + 18}" y="46">{escape(column)}</text>')
    for tick in ticks:
        x = at(tick)
        parts.append(f'<path d="M{x:.1f} {TOP - 6}V{bottom}"/>')
        parts.append(
            f'<text class="soft" text-anchor="middle" x="{x:.1f}" y="{bottom + 18}">{tick:g}</text>'
        )
    for i, (label, row) in enumerate(zip(labels, figures, strict=True)):
        top = TOP + i * row_height
        middle = top + series * BAR / 2 + 5
        parts.append(
            f'<text text-anchor="end" x="{LABELS - 10}" y="{middle:.0f}">{escape(label)}</text>'
        )
        for k, value in enumerate(row):
            if value is not None:
                parts += _bar(at(value), top + k * BAR, "abc"[k], f"{value:g}")
    width, height = LABELS + BARS + NUMBER, bottom + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img"><style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _bar(end: float, top: float, kind: str, text: str) -> list[str]:
    width = max(1.5, end - LABELS)
    size = f'width="{width:.1f}" height="{BAR - 3}"'
    return [
        f'<rect class="{kind}" x="{LABELS}" y="{top}" {size} rx="2"/>',
        f'<text class="soft" x="{LABELS + width + 6:.1f}" y="{top + 11}">{text}</text>',
    ]


def _ticks(least: float, most: float, logarithmic: bool) -> list[float]:
    """Round numbers from the axis' beginning to the first that is not below `most`."""
    if not logarithmic:
        step = next(s for n in range(9) for s in (10**n, 2 * 10**n, 5 * 10**n) if most / s <= 6)
        return [float(step * i) for i in range(math.ceil(most / step) + 1)]
    round_ones = [float(f"{m}e{e}") for e in range(-6, 7) for m in (1, 2, 5)]
    first = max(tick for tick in round_ones if tick <= min(least, 1))
    last = min(tick for tick in round_ones if tick >= most)
    return [tick for tick in round_ones if first <= tick <= last]


if __name__ == "__main__":
    for name, text in plots().items():
        (PICTURES / f"{name}.svg").write_text(text, "utf-8")
