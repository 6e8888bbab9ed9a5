"""`zmlx.profile`: which kernels ran in a block of code, how often, and how well.

Comes in: the launches that zmlx.device.watch tells of. Goes out: a KernelRecord for each kernel, a
table, JSON. Bytes are those of every input read once and every output written once.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import mlx.core as mx

from zmlx.device import watch
from zmlx.tuning import timing
from zmlx.tuning.notebook import table_html

__all__ = ["KernelRecord", "Profile", "profile"]

MOST_OPS = 6  # that the table names
TEXT_WIDTH = 140  # of the table as a str
COLUMNS = ("kernel", "compile ms", "launches", "ms each", "GB/s", "of a copy")
_clock = threading.Lock()  # one launch is timed at a time


@dataclass
class KernelRecord:
    """What one kernel did during a profile, on one device.

    `launches` counts the launches that were built: a graph that mx.compile keeps is built once and
    may run many times. `measured` of them were timed, `time_ms` in all, over `bytes` bytes.
    `compile_ms` is None where it is unknown. On a GPU, MLX compiles when it first runs a kernel:
    that counts as compiling only where the first run was measured.
    """

    name: str
    device: str
    fused: bool  # made by zmlx.fuse; False for one written by hand
    ops: tuple[str, ...] = ()
    function: str = ""  # of which fused function, and which region; of the first that ran it
    compile_ms: float | None = None
    launches: int = 0
    measured: int = 0
    time_ms: float = 0.0
    bytes: int = 0
    copy_gb_per_s: float | None = None  # what a copy reaches on this device

    @property
    def gb_per_s(self) -> float | None:
        return self.bytes / self.time_ms / 1e6 if self.time_ms else None

    @property
    def of_copy(self) -> float | None:
        """Its speed as a share of a copy's; above 1 where the data lay in a cache."""
        speed, copy = self.gb_per_s, self.copy_gb_per_s
        return None if speed is None or copy is None else speed / copy

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.__dict__, "ops": list(self.ops), "gb_per_s": self.gb_per_s,
            "of_copy": self.of_copy,
        }  # fmt: skip


@dataclass(eq=False, repr=False)
class Profile:
    """A context manager that records launches, of all threads, while it is open."""

    measure: bool = False
    show: bool = True
    _records: dict[tuple[str, str], KernelRecord] = field(default_factory=dict)
    _stats: dict[tuple[str, str], tuple[Any, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: bool = False

    def __enter__(self) -> Profile:
        if self._open:
            raise RuntimeError("[zmlx.profile] this profile is open; make another to nest.")
        self._open = True
        if self.measure:
            timing.copy_gb_per_s()  # before, so that it does not disturb
        watch.start(self)
        return self

    def __exit__(self, *exception: object) -> None:
        watch.stop(self)
        self._open = False
        if self.show and exception[0] is None:
            self._print()

    @property
    def kernels(self) -> list[KernelRecord]:
        """One record for each kernel and device, those that took longest first."""
        with self._lock:
            records = list(self._records.values())
        return sorted(records, key=lambda r: (-r.time_ms, -r.launches))

    def launched(self, event: watch.Event) -> None:
        """Count a launch (zmlx.device.watch.Watcher)."""
        key = (event.device, event.digest)
        with self._lock:
            record = self._records.get(key)
            first = record is None
            if record is None:
                record = KernelRecord(
                    event.name, event.device, event.fused, event.ops, event.function
                )
                self._records[key] = record
            record.launches += 1
            if first:
                record.compile_ms = watch.compile_ms.get(key)
        if self.measure:
            self._measure(event, record, first)

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()  # which a notebook would not get, but show
        Console(file=text, width=TEXT_WIDTH, force_jupyter=False).print(self.table())
        return text.getvalue()

    def __repr__(self) -> str:
        return f"<zmlx.profile: {len(self._records)} kernels>"

    def _repr_html_(self) -> str:
        return table_html("zmlx.profile", COLUMNS, list(map(_cells, self.kernels)))

    def table(self) -> Any:
        """The records as a rich table."""
        from rich.box import SIMPLE
        from rich.table import Table

        table = Table(title="zmlx.profile", box=SIMPLE)
        table.add_column(COLUMNS[0], overflow="fold")
        for name in COLUMNS[1:]:
            table.add_column(name, justify="right")
        for record in self.kernels:
            table.add_row(*_cells(record))
        return table

    def _print(self) -> None:
        from rich.console import Console

        console = Console()
        if console.is_jupyter:
            display = import_module("IPython.display").display
            display(self)
        else:
            console.print(self.table())

    def save(self, path: str | Path) -> None:
        """Write the records as JSON."""
        found = {
            "mlx": mx.__version__,
            "measured": self.measure,
            "kernels": [record.as_dict() for record in self.kernels],
        }
        Path(path).write_text(json.dumps(found, indent=1) + "\n", "utf-8")

    def _measure(self, event: watch.Event, record: KernelRecord, first: bool) -> None:
        """Run the launch once more, by itself; the caller's own stays lazy."""
        try:
            mx.eval(event.inputs)
        except (RuntimeError, ValueError):
            return  # placeholders of mx.compile or mx.vmap: there are no values to run with
        with _clock:
            opening = timing.run_ms(event.again) if first else 0.0
            spent = timing.run_ms(event.again)
        copy = timing.copy_gb_per_s()
        with self._lock:
            if first and event.device != "host":
                record.compile_ms = (record.compile_ms or 0.0) + max(0.0, opening - spent)
            record.measured += 1
            record.time_ms += spent
            record.bytes += _bytes(event)
            record.copy_gb_per_s = copy


def profile(*, measure: bool = False, show: bool = True) -> Profile:
    """Record the kernels that a `with` block launches, in all threads.

    Args:
        measure: also run each launch once more by itself and time it. The block takes longer.
        show: print the table when the block ends without an error.

    Returns:
        A Profile: `with zmlx.profile() as p: ...`, then `p.kernels`, `p.table()`, `p.save(path)`.
        Profiles may be nested; each records every launch.
    """
    return Profile(measure, show)


def _bytes(event: watch.Event) -> int:
    read = {id(array): array.nbytes for array in event.inputs}
    return sum(read.values()) + sum(array.nbytes for array in event.outputs)


def _cells(r: KernelRecord) -> tuple[str, ...]:
    each = r.time_ms / r.measured if r.measured else None
    share = None if r.of_copy is None else 100 * r.of_copy
    return (
        f"{_named(r)}\n  {r.device}: {_ops(r)}", _number(r.compile_ms), str(r.launches),
        _number(each, 3), _number(r.gb_per_s), _number(share, 0, " %"),
    )  # fmt: skip


def _named(record: KernelRecord) -> str:
    return f"{record.function}\n  {record.name}" if record.function else record.name


def _ops(record: KernelRecord) -> str:
    if not record.fused:
        return "written by hand"
    more = len(record.ops) - MOST_OPS
    return ", ".join(record.ops[:MOST_OPS]) + (f" and {more} more" if more > 0 else "")


def _number(value: float | None, digits: int = 1, unit: str = "") -> str:
    return "–" if value is None else f"{value:.{digits}f}{unit}"
