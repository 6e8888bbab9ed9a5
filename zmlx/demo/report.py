"""What the demo shows and writes: tables, a derived formula, a kernel, a PNG and an HTML page.

In: the finished runs and the explanation of the fused loss. Out: text on a rich console and two
files. Called by zmlx.demo; decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from zmlx.demo.train import Run


@dataclass(frozen=True)
class Check:
    """One promise of the demo and whether this run kept it."""

    kept: bool
    text: str


def show_runs(console: Console, runs: Sequence[Run], accuracies: Sequence[float]) -> None:
    """One row per way: loss, accuracy, first step, median step, ratio to the first way."""
    table = Table(title="The same functions, the same seed, three ways")
    table.add_column("way")
    for column in ("last loss", "test accuracy", "first step", "median step", "speed"):
        table.add_column(column, justify="right")
    for run, share in zip(runs, accuracies, strict=True):
        table.add_row(
            run.way.name,
            f"{run.losses[-1]:.6f}",
            f"{100 * share:.1f} %",
            f"{1e3 * run.seconds[0]:.0f} ms",
            f"{run.median_ms:.1f} ms",
            f"{runs[0].median_ms / run.median_ms:.2f} x",
        )
    console.print(table)
    console.print("The first step traces and compiles; the median leaves the first three out.")


def show_regions(console: Console, regions: Sequence[Any]) -> None:
    """The regions found in the loss, one row each."""
    table = Table(title="Regions that zmlx.fuse found in the loss")
    table.add_column("region")
    table.add_column("ops", justify="right")
    table.add_column("which")
    for region in regions:
        names = list(region.ops)
        shown = " ".join(names[:14]) + (" ..." if len(names) > 14 else "")
        table.add_row(region.name, str(len(names)), shown)
    console.print(table)


def show_kernel(console: Console, region: Any, max_lines: int = 60) -> None:
    """One region's formulas, its derived derivatives (g: cotangents), and its kernel."""
    lines = [f"{name} = {_shorten(str(text))}" for name, text in region.formula_lines.items()]
    console.print(Panel(escape("\n".join(lines)), title=f"what {region.name} computes"))
    lines = [
        f"{f'd/d{name}' if name in region.vjp else name} = {_shorten(str(text))}"
        for name, text in region.vjp_lines.items()
    ]
    title = f"derived derivatives of {region.name}, for the cotangent g0"
    console.print(Panel(escape("\n".join(lines)), title=title))
    msl = region.msl.splitlines()
    left = len(msl) - max_lines
    text = "\n".join(msl[:max_lines]) + (f"\n// ... {left} more lines" if left > 0 else "")
    panel = Panel(Syntax(text, "cpp", word_wrap=True), title=f"MSL of {region.name}")
    console.print(panel)


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """Each promise with its outcome."""
    for check in checks:
        mark = "[green]yes[/green]" if check.kept else "[red]NO[/red] "
        console.print(f"{mark}  {check.text}")


def save_curves(runs: Sequence[Run], path: Path) -> None:
    """The loss curves, and how far each departs from the first, as a PNG."""
    import matplotlib.figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = matplotlib.figure.Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    curves, gaps = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    reference = np.array(runs[0].losses)
    styles = ("-", "--", ":")
    for run, style, width in zip(runs, styles, (4, 2.5, 1.5), strict=True):
        losses = np.array(run.losses)
        label = f"{run.way.name} ({run.median_ms:.1f} ms a step)"
        curves.plot(losses, style, linewidth=width, label=label)
        gaps.semilogy(np.maximum(np.abs(losses - reference) / reference, 1e-9), style, linewidth=2)
    curves.set_ylabel("training loss")
    curves.legend()
    gaps.axhline(1e-4, color="grey", linewidth=1)
    gaps.set_ylabel("relative difference\nto plain MLX")
    gaps.set_xlabel("step")
    figure.savefig(path, dpi=120)


def _shorten(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text)} characters)"
