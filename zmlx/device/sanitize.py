"""What the sanitizer found, in words: findings with their lines, and the error that carries them.

Comes in: raw findings of the native module (native/sanitizer.h), whose places are addresses in a
library. Goes out: Finding objects and SanitizeError, and `watched`, the count of what has run.
Called by the native module, which raises the error where an array is evaluated, and by
`python -m zmlx check`.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zmlx.device.address_spaces import without_address_spaces
from zmlx.device.base import device_named
from zmlx.errors import SanitizeError

Triple = tuple[int, int, int]
NOTES = ("same value", "neighbour absent")  # kinds that break no rule; findings.h knows them
BUDGET = 20_000_000  # accesses of one thread; a kernel that makes more is taken to have no end
_texts: dict[str, dict[str, str]] = {}  # header and body of watched kernels, by their library


@dataclass(frozen=True)
class Line:
    """A line of the kernel's text: part is "body" or "header", number counts from 1."""

    part: str
    number: int

    def __str__(self) -> str:
        return f"{self.part} line {self.number}"


@dataclass(frozen=True)
class Finding:
    """One fault; `count` says how often it happened at the same lines."""

    kind: str
    kernel: str
    text: str
    buffer: str = ""
    index: int = 0
    line: Line | None = None
    other_line: Line | None = None
    group: Triple = (0, 0, 0)
    thread: Triple = (0, 0, 0)
    count: int = 1

    def __str__(self) -> str:
        return self.text

    @property
    def is_note(self) -> bool:
        """Whether it breaks no rule of Metal."""
        return self.kind in NOTES


@dataclass(frozen=True)
class Watched:
    """How often a kernel's library ran watched, and how many accesses were looked at."""

    launches: int
    accesses: int


def watched() -> dict[str, Watched]:
    """What the sanitizer has run in this process, by the path of the kernel's library."""
    host: Any = device_named("host")
    report = ctypes.CDLL(host.native.__file__).zmlx_watched
    report.restype = ctypes.c_char_p
    lines = [line.split("\t") for line in report().decode().splitlines()]
    return {path: Watched(int(launches), int(accesses)) for path, launches, accesses in lines}


@contextlib.contextmanager
def watching(
    budget: int = BUDGET, seconds: float = 0.0, reverse: bool = False, fill: int = -1
) -> Iterator[None]:
    """Inside, watched launches end after `budget` accesses of a thread, or some seconds (0: never).

    `reverse` runs groups and lanes from the last to the first; `fill` is the byte that a thread's
    stack holds at first, negative for what is left there.
    """
    host: Any = device_named("host")
    told = ctypes.CDLL(host.native.__file__).zmlx_watching
    told.argtypes = [ctypes.c_int64, ctypes.c_double, ctypes.c_int, ctypes.c_int]
    told(budget, seconds, reverse, fill)
    try:
        yield
    finally:
        told(BUDGET, 0.0, False, -1)


def notes() -> list[Finding]:
    """What watched launches since the last call showed that breaks no rule."""
    host: Any = device_named("host")
    return [f for one in host.native.notes() for f in findings(*one)]


def keep_text(library: str, header: str, body: str) -> None:
    """Remember what a watched kernel was compiled from: findings name its variables."""
    _texts[library] = {"header": header, "body": body}


def error(kernel: str, library: str, raw: Sequence[tuple[Any, ...]]) -> SanitizeError:
    """The error for raw findings of `kernel`, which was loaded from `library`."""
    found = tuple(findings(kernel, library, raw))
    listed = "\n".join(f"  {n}. {finding}" for n, finding in enumerate(found, start=1))
    return SanitizeError(
        f"[zmlx.sanitize] kernel {kernel!r} breaks Metal's rules:\n{listed}\n"
        "Mend the lines named; docs/sanitizer.md says what each finding means.",
        found,
        (kernel, library, raw),
    )


def findings(kernel: str, library: str, raw: Sequence[tuple[Any, ...]]) -> list[Finding]:
    """Raw findings with lines and words; of two that say one thing the plainer one stays."""
    lines = _lines(library, kernel, raw)
    found = [_finding(kernel, one, lines, _texts.get(library, {})) for one in raw]
    told = {f.line for f in found if f.kind in ("read outside", "write outside")}
    return [f for f in found if f.kind != "index outside" or f.line not in told]


def _finding(
    kernel: str, raw: tuple[Any, ...], lines: dict[int, Line], texts: dict[str, str]
) -> Finding:
    kind, buffer, index, size, count, site, other_site, group, thread, *other, column = raw
    line, other_line = _line(kernel, site, lines), _line(kernel, other_site, lines)
    if column:
        buffer = _variable(texts, other_line, column)
        other_line = None
    words = _words(kind, buffer, index, size, count, other_line, other)
    where = f" at {line}" if line else ""
    running = site[0] >= 0 or site[1] > 0
    who = f", thread {_place(thread)} of group {_place(group)}" if running else ""
    again = f" ({count} times)" if count > 1 and kind != "never written" else ""
    return Finding(
        kind, kernel, f"{words}{where}{who}{again}", buffer, index, line, other_line,
        group, thread, count,
    )  # fmt: skip


def _variable(texts: dict[str, str], line: Line | None, column: int) -> str:
    """The array whose index ends at `column` of the text that was compiled; "" where unclear."""
    if line is None or line.part not in texts:
        return ""
    written = without_address_spaces(texts[line.part]).split("\n")
    before = written[line.number - 1][:column] if line.number <= len(written) else ""
    end, depth = before.rfind("]"), 0
    for place in range(end, -1, -1):
        depth += (before[place] == "]") - (before[place] == "[")
        if depth == 0:
            named = re.search(r"(\w+)\s*$", before[:place])
            return named[1] if named else ""
    return ""


def _words(
    kind: str,
    buffer: str,
    index: int,
    size: int,
    count: int,
    other_line: Line | None,
    other: Sequence[Triple],
) -> str:
    element = f"{buffer}[{index}]"
    there = f"{f' at {other_line}' if other_line else ''}"
    if kind in ("read outside", "write outside"):
        return f"{kind} a buffer: {element}, which has {size} elements,"
    if kind == "never written":
        return f"output element never written: {element} ({count} of {size} elements)"
    if kind == "race":
        return (
            f"race on {element} with thread {_place(other[1])} of group {_place(other[0])}{there}, "
            "no barrier between:"
        )
    if kind == "written twice":
        return (
            f"output element {element} written twice, first by thread {_place(other[1])} of "
            f"group {_place(other[0])}{there}:"
        )
    if kind == "barrier not reached":
        return f"barrier not reached by {size} threads of the group, which had returned:"
    if kind == "different barriers":
        return f"threads of one group wait at different barriers, another{there}:"
    if kind == "too much threadgroup memory":
        return f"{size} bytes of threadgroup memory up to {buffer}; Metal has 32768"
    if kind == "same value":
        return (
            f"{element} gets the same value from thread {_place(other[1])} of group "
            f"{_place(other[0])}{there}, no barrier between:"
        )
    return _of_the_thread(kind, buffer, index, size) or f"{kind}: {element}"


def _of_the_thread(kind: str, buffer: str, index: int, size: int) -> str:
    """Words for what a thread does by itself, or a lane with its simdgroup."""
    if kind == "stack used up":
        return "stack used up, as by a function that calls itself, which Metal does not have,"
    if kind == "index outside":
        return f"index outside an array: {buffer or 'array'}[{index}], which has {size} elements,"
    if kind in ("read past a variable", "write past a variable"):
        return f"{kind.split()[0]} outside a variable: {buffer or 'a local array'} ends before,"
    if kind == "misaligned":
        named = f" at {buffer}[{index}]" if buffer else ""
        return f"misaligned: an address{named} that is no multiple of {size} bytes,"
    if kind == "division by zero":
        return "integer division by zero, which gives an unspecified value,"
    if kind == "division overflows":
        return "integer division of the least number by -1, which gives an unspecified value,"
    if kind == "shuffle":
        why = "does not take part" if size else "no simdgroup has"
        return f"shuffle from lane {index}, which {why},"
    if kind == "neighbour absent":
        return (
            f"shuffle up or down from lane {index}, which this simdgroup has not: "
            "the value is unspecified, so let nothing depend on it,"
        )
    if kind == "simdgroup barrier not reached":
        return f"simdgroup barrier not reached by {size} lanes of the simdgroup:"
    if kind == "no end":
        limit = f"{size} accesses of one thread" if size else "the time limit"
        return f"no end: the kernel was stopped at {limit},"
    if kind == "crash":
        return f"crash ({signal.Signals(size).name}): memory that belongs to nothing,"
    return ""


def _place(place: Triple) -> str:
    return "({}, {}, {})".format(*place)


def _line(kernel: str, site: tuple[int, int, str], lines: dict[int, Line]) -> Line | None:
    offset, number, file = site
    return lines.get(offset) if offset >= 0 else _part(kernel, f"{file}:{number}")


def _part(kernel: str, place: str) -> Line | None:
    """The line that `<folder>/<kernel>.<part>:<number>` names."""
    path, _, number = place.partition(" ")[0].rpartition(":")
    name, _, part = path.rpartition("/")[2].rpartition(".")
    if name != kernel or part not in ("body", "header") or not number.isdigit():
        return None
    return Line(part, int(number))


def _lines(library: str, kernel: str, raw: Sequence[tuple[Any, ...]]) -> dict[int, Line]:
    """The line of each address in the library, told by binutils' addr2line."""
    import shutil
    import subprocess

    offsets = sorted({site[0] for one in raw for site in one[5:7] if site[0] >= 0})
    tool = shutil.which("addr2line") or shutil.which("llvm-addr2line")
    if not offsets or tool is None:
        return {}
    command = [tool, "-e", library, "-i", "-a", *map(hex, offsets)]
    said = ""
    with contextlib.suppress(OSError):  # a process with limits starts no other
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found: dict[int, Line] = {}
    offset = -1
    for text in said.splitlines():
        if text.startswith("0x"):
            offset = int(text, 16)
        elif offset not in found and (line := _part(kernel, text)):
            found[offset] = line
    return found
