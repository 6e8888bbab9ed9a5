"""What a run gives: a table with ratios first, a JSON file, a plot, and where it was measured.

Comes in: Results. Goes out: text on a rich console and files. Called by benchmarks.__main__.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import zmlx
from benchmarks.harness import SUBJECT, Result, Settings, Verdict
from zmlx.device.base import device_for_current_stream

PACKAGES = ("mlx", "numpy", "numexpr", "torch", "triton", "liger-kernel", "networkx", "sympy")
MARKS = {True: "[green]yes[/]", False: "[bold red]NO[/]", None: "[yellow]not told[/]"}
ROOT = Path(__file__).parents[1]
TEXT = 10  # points, in the plot
MOST = 1000.0  # times better than a bar that the plot shows
MANY = 2000.0  # from the least to the most: powers of ten are ticks enough


def environment(settings: Settings) -> dict[str, Any]:
    """Everything that a figure depends on, as far as it can be read here."""
    device = device_for_current_stream()
    found = device.report()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": settings.device,
        "card": settings.card,
        "kernels": device.unavailable() or f"run on the {device.name} device",
        "threads": found.threads,
        "compiler": f"{found.compiler} {found.compiler_version}".strip(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "zmlx": zmlx.__version__,
        "revision": revision(),
        **{name: installed(name) for name in PACKAGES},
        "switches": {k: v for k, v in os.environ.items() if k.startswith("ZMLX_")},
    }


def processor() -> str:
    """The CPU's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def revision() -> str:
    """The commit that is checked out, with a + where files differ from it."""
    try:
        words = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


# -- table ----------------------------------------------------------------------------------------
def table(results: Sequence[Result], settings: Settings) -> Table:
    """A row per result: ratios, medians, bars and whether they were met."""
    title = f"ZMLX on the {settings.device}: medians of interleaved rounds"
    if settings.quick:
        title += " (quick: sizes too small to say anything of speed)"
    made = Table(title=title, show_lines=True)
    for heading in ("row", "times faster than", "median", "bar: measured"):
        made.add_column(heading, overflow="fold")
    made.add_column("met")
    for result in results:
        made.add_row(*cells(result))
    return made


def cells(result: Result) -> tuple[str, str, str, str, str]:
    """A result's row of the table."""
    name = escape(f"{result.suite}: {result.name}")
    if result.error:
        return name, "", escape(result.error.strip().splitlines()[-1]), "", "[bold red]ERROR[/]"
    judged = result.verdicts
    return (
        name,
        "\n".join(f"{escape(who)} {ratio:.2f}x" for who, ratio in result.ratios.items()),
        "\n".join(medians(result)),
        "\n".join(escape(in_words(verdict, result.unit)) for verdict in judged) or "none",
        "\n".join(MARKS[verdict.met] for verdict in judged),
    )


def medians(result: Result) -> list[str]:
    """The contestants' medians, their bandwidths, how they were taken, and who was not there."""
    lines = []
    for who, median in result.medians.items():
        width = result.bandwidths.get(who)
        lines.append(escape(f"{who} {median:.4g} {result.unit}"))
        if width is not None:
            lines[-1] += f" ({width:.4g} GB/s)"
    lines += [f"[dim]{escape(result.note)}[/]"] if result.note else []
    return lines + [f"[yellow]{s.name} skipped: {escape(s.reason)}[/]" for s in result.skipped]


def in_words(verdict: Verdict, unit: str) -> str:
    text = verdict.bar.text(unit)
    return text if verdict.measured is None else f"{text}: {verdict.measured:.4g}"


def show(
    console: Console, results: Sequence[Result], where: dict[str, Any], settings: Settings
) -> None:
    """The table, what it was measured on, and the whole text of every error."""
    console.print(table(results, settings))
    for key, value in where.items():
        console.print(f"{key}: {value}", markup=False, highlight=False, soft_wrap=True)
    for result in results:
        if result.error:
            console.print(f"{result.suite}: {result.name}\n{result.error}", markup=False)
    console.print(summary(results), markup=False)


def summary(results: Sequence[Result]) -> str:
    """The counts in one line."""
    met = [verdict.met for result in results for verdict in result.verdicts]
    failed = sum(bool(result.error) for result in results)
    return (
        f"{len(results)} rows, {failed} failed; {met.count(True)} bars met, {met.count(False)} "
        f"missed, {met.count(None)} not told"
    )


# -- files ----------------------------------------------------------------------------------------
def as_json(results: Sequence[Result], where: dict[str, Any], settings: Settings) -> str:
    """Everything, samples included."""
    document = {
        "environment": where,
        "settings": {
            "quick": settings.quick,
            "rounds": settings.rounds,
            "elements": settings.elements,
            "most launches of a sample": settings.most_launches,
        },
        "results": [as_dict(result) for result in results],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def as_dict(result: Result) -> dict[str, Any]:
    """A result for the JSON file, ratios first."""
    judged = [
        {"bar": v.bar.text(result.unit), "measured": v.measured, "met": v.met}
        for v in result.verdicts
    ]
    return {
        "suite": result.suite,
        "row": result.name,
        "ratios": result.ratios,
        "bars": judged,
        "unit": result.unit,
        "medians": result.medians,
        "gb_per_s": result.bandwidths,
        "skipped": {s.name: s.reason for s in result.skipped},
        "note": result.note,
        "error": result.error,
        "samples": result.samples,
    }


def plot(results: Sequence[Result], where: dict[str, Any], path: Path) -> None:
    """Left: times faster than each peer; right: how far each other bar is passed. Bars in red."""
    faster = [(r, peer, x) for r in results for peer, x in r.ratios.items()]
    shares = [(r, v) for r in results for v in r.verdicts if v.bar.kind != "times"]
    figure = Figure(figsize=(17, 2 + 0.42 * max(len(faster), len(shares), 1)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    _ratios(left, faster)
    _limits(right, [(r, v) for r, v in shares if v.measured is not None and v.bar.limit > 0])
    figure.suptitle(f"{where['date']}, {where['card'] or where['processor']}, mlx {where['mlx']}")
    figure.savefig(path, dpi=100)


def _ratios(axes: Axes, faster: Sequence[tuple[Result, str, float]]) -> None:
    names = [f"{result.name}\nvs {peer}" for result, peer, _ in faster]
    # From 1, so that what is faster points right and what is slower points left.
    drawn = axes.barh(range(len(names)), [ratio - 1 for _, _, ratio in faster], left=1)
    axes.bar_label(drawn, [f" {ratio:.2f}x " for _, _, ratio in faster], fontsize=TEXT)
    for place, (result, peer, _) in enumerate(faster):
        limits = [b.limit for b in result.bars if b.kind == "times" and b.peer == peer]
        axes.vlines(limits, place - 0.45, place + 0.45, color="red", linewidth=2)
    axes.set_title(f"{SUBJECT}: times faster than the peer (red: the bar)")
    axes.axvline(1, color="black", linewidth=0.8)
    _labelled(axes, names, [ratio for _, _, ratio in faster])


def _limits(axes: Axes, judged: Sequence[tuple[Result, Verdict]]) -> None:
    names = [f"{result.name}\n{in_words(v, result.unit)}" for result, v in judged]
    passed = [_passed(verdict) for _, verdict in judged]
    drawn = axes.barh(range(len(names)), [times - 1 for times in passed], left=1)
    axes.bar_label(drawn, [f" {times:.2f}x " for times in passed], fontsize=TEXT)
    axes.set_title("times better than its bar (met: right of 1)")
    axes.axvline(1, color="red", linewidth=2)
    _labelled(axes, names, passed)


def _passed(verdict: Verdict) -> float:
    """How many times better than its bar: of what may be at most so much, the other way round."""
    share = max(verdict.measured or 0.0, MOST**-1 * verdict.bar.limit) / verdict.bar.limit
    return 1 / share if verdict.bar.kind == "at most" else share


def _labelled(axes: Axes, names: Sequence[str], values: Sequence[float]) -> None:
    """A logarithmic axis with round numbers, and room for the words at the ends of bars."""
    axes.set_yticks(range(len(names)), names, fontsize=TEXT)
    axes.set_xscale("log")
    low = min([1.0, *values])
    high = max([10 * low, *values])
    span = high / low
    axes.set_xlim(low / (span**0.25 if low < 1 else 1.05), high * span**0.25)
    begin, end = axes.get_xlim()
    round_ones = [float(f"{m}e{e}") for e in range(-4, 7) for m in (1, 2, 5)]
    if span > MANY:
        round_ones = round_ones[::3]
    ticks = [tick for tick in round_ones if begin <= tick <= end]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.invert_yaxis()
