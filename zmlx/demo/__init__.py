"""The demo: trains a digit classifier in plain MLX, under mx.compile and with @zmlx.fuse.

In: number of steps, seed and an output folder. Out: a report on the terminal, loss-curves.png and
fusion.html, and whether every promise was kept. Called by `python -m zmlx demo`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import zmlx
from zmlx.demo import model, report
from zmlx.demo import train as training
from zmlx.demo.report import Check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zmlx.demo.train import Digits, Run

CURVE_TOLERANCE = 1e-4
ACCURACY = 0.95


def run_demo(steps: int, seed: int, out: Path, console: Console, width: int = model.WIDTH) -> bool:
    """Train, compare, explain and write the two files; true if every check holds."""
    out.mkdir(parents=True, exist_ok=True)
    digits = training.load_digits(seed)
    runs = _train(digits, steps, seed, width, console)
    accuracies = [training.accuracy(run, digits) for run in runs]
    report.show_runs(console, runs, accuracies)
    explanation = explain_loss(digits, runs[-1], seed)
    regions = list(explanation.regions)
    report.show_regions(console, regions)
    if regions:
        report.show_kernel(console, shown_region(regions))
    report.save_curves(runs, out / "loss-curves.png")
    explanation.save(out / "fusion.html")
    verdict = checks(runs, accuracies, regions)
    report.show_checks(console, verdict)
    console.print(f"Written: {out / 'loss-curves.png'} and {out / 'fusion.html'}", soft_wrap=True)
    return all(check.kept for check in verdict)


def explain_loss(digits: Digits, run: Run, seed: int) -> Any:
    """What zmlx.fuse made of the loss, on the first batch."""
    batch = training.batches(digits, seed, 1)[0]
    return zmlx.explain(model.loss, run.state.params, *batch)


def shown_region(regions: Sequence[Any]) -> Any:
    """The region that tells most: the largest."""
    return max(regions, key=lambda region: len(region.ops))


def checks(runs: Sequence[Run], accuracies: Sequence[float], regions: Sequence[Any]) -> list[Check]:
    """The promises of the demo, each with whether it was kept. Time is shown, not judged."""
    made = []
    for run in runs[1:]:
        gap = training.parting(run, runs[0])
        text = (
            f"{run.way.name}: loss curve agrees with plain MLX at each of {len(run.losses)} steps "
            f"(largest relative difference {gap:.1e}, allowed {CURVE_TOLERANCE:.0e})"
        )
        made.append(Check(gap <= CURVE_TOLERANCE, text))
    worst = min(accuracies)
    text = f"test accuracy {100 * worst:.1f} % (wanted {100 * ACCURACY:.0f} %)"
    made.append(Check(worst >= ACCURACY, text))
    made.append(Check(bool(regions), f"{len(regions)} fused region(s) in the loss"))
    return made


def _train(digits: Digits, steps: int, seed: int, width: int, console: Console) -> list[Run]:
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    ways = training.ways()
    with Progress(*columns, console=console) as progress:
        tasks = {w.name: progress.add_task(w.name, total=steps, loss=float("nan")) for w in ways}

        def on_step(run: Run) -> None:
            progress.update(tasks[run.way.name], advance=1, loss=run.losses[-1])

        return training.train(digits, ways, steps=steps, seed=seed, width=width, on_step=on_step)
