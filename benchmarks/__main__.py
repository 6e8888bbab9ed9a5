"""The command line: `python -m benchmarks [SUITE ...] [--quick] [--device cpu|gpu] ...`.

Exit status: 0 where every row ran, whatever the speed; 1 where one failed, or with --strict where a
bar was missed or could not be told; 2 for wrong usage.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import mlx.core as mx
import typer
from rich.console import Console

from benchmarks import (
    catalog,
    elementwise,
    gradients,
    latency,
    report,
    rowwise,
    training,
    users,
    whole,
)
from benchmarks.harness import Result, Row, Settings, run_rows

SUITES = {
    "elementwise": elementwise.rows,
    "gradients": gradients.rows,
    "rowwise": rowwise.rows,
    "catalog": catalog.rows,
    "latency": latency.rows,
    "training": training.rows,
    "users": users.rows,
    "whole": whole.rows,
}
RESULTS = Path(__file__).parent / "results"
WIDTH = 150  # columns of the table where no terminal says how many

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Suite(str, Enum):
    """What can be asked for by name."""

    all = "all"
    elementwise = "elementwise"
    gradients = "gradients"
    rowwise = "rowwise"
    catalog = "catalog"
    latency = "latency"
    training = "training"
    users = "users"
    whole = "whole"


class DeviceName(str, Enum):
    """MLX's two kinds of device."""

    cpu = "cpu"
    gpu = "gpu"


@app.command()
def run(
    suites: Annotated[list[Suite] | None, typer.Argument(help="Which suites; all if none.")] = None,
    device: Annotated[DeviceName | None, typer.Option(help="MLX's default one if absent.")] = None,
    match: Annotated[str, typer.Option(help="Only rows whose name contains this.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Samples of each contestant.")] = 9,
    quick: Annotated[bool, typer.Option(help="Tiny sizes: that every row runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    strict: Annotated[bool, typer.Option(help="Exit with 1 where a bar is missed.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for benchmarks.json, .png and .txt.")] = RESULTS,
) -> None:
    """Measure ZMLX beside its peers and say which bars were met."""
    name, card = chosen_device(device)
    settings = Settings(name, card, quick, min(rounds, 2) if quick else rounds)
    rows = chosen_rows(suites or [Suite.all], match, settings)
    where = report.environment(settings)
    errors = Console(stderr=True)
    results = run_rows(rows, settings, lambda row: errors.print(f"{row.suite}: {row.name} ..."))
    results += elementwise.summary(results, settings) + users.summary(results, settings)
    write(results, where, settings, out)
    if as_json:
        typer.echo(report.as_json(results, where, settings), nl=False)
    else:
        terminal = Console()
        wide = terminal if terminal.is_terminal else Console(width=WIDTH)
        report.show(wide, results, where, settings)
    raise typer.Exit(status(results, strict))


def chosen_device(asked: DeviceName | None) -> tuple[str, str]:
    """Make the device MLX's default one; its kind and its own name."""
    if asked is not None:
        kind = mx.DeviceType.cpu if asked is DeviceName.cpu else mx.DeviceType.gpu
        wanted = mx.Device(kind, 0)
        if not mx.is_available(wanted):
            raise typer.BadParameter(
                f"got {asked.value!r}, wanted a device that this build of MLX has; for a GPU on "
                'Linux: pip install -e ".[cuda]"',
                param_hint="--device",
            )
        if mx.default_device() != wanted:
            mx.set_default_device(wanted)
    used = mx.default_device()
    name = "cpu" if used.type == mx.DeviceType.cpu else "gpu"
    return name, str(mx.device_info(used).get("device_name", ""))


def chosen_rows(suites: Sequence[Suite], match: str, settings: Settings) -> list[Row]:
    """The rows of the suites asked for, in the order of SUITES."""
    wanted = set(SUITES) if Suite.all in suites else {suite.value for suite in suites}
    rows = [row for name, make in SUITES.items() if name in wanted for row in make(settings)]
    found = [row for row in rows if match in row.name]
    if not found:
        names = "; ".join(row.name for row in rows)
        raise typer.BadParameter(f"got {match!r}, wanted a part of: {names}", param_hint="--match")
    return found


def write(
    results: Sequence[Result], where: dict[str, object], settings: Settings, out: Path
) -> None:
    """The three files; those of an earlier run are replaced."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "benchmarks.json").write_text(report.as_json(results, where, settings), "utf-8")
    report.plot(results, where, out / "benchmarks.png")
    with (out / "benchmarks.txt").open("w", encoding="utf-8") as file:
        report.show(Console(file=file, width=WIDTH), results, where, settings)


def status(results: Sequence[Result], strict: bool) -> int:
    failed = any(result.error for result in results)
    missed = any(verdict.met is not True for result in results for verdict in result.verdicts)
    return 1 if failed or (strict and missed) else 0


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
