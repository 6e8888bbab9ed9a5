"""What the sanitizer found, in words: findings with their lines, and the error that carries them.

Comes in: raw findings of the native module (native/sanitizer.h), whose places are addresses in a
library. Goes out: Finding objects and SanitizeError, and `watched`, the count of what has run.
Called by the native module, which raises the error where an array is evaluated, and by
`python -m zmlx check`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zmlx.device.base import device_named
from zmlx.errors import SanitizeError

Triple = tuple[int, int, int]


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


def error(kernel: str, library: str, raw: Sequence[tuple[Any, ...]]) -> SanitizeError:
    """The error for raw findings of `kernel`, which was loaded from `library`."""
    lines = _lines(library, kernel, raw)
    findings = tuple(_finding(kernel, one, lines) for one in raw)
    listed = "\n".join(f"  {n}. {finding}" for n, finding in enumerate(findings, start=1))
    return SanitizeError(
        f"[zmlx.sanitize] kernel {kernel!r} breaks Metal's rules:\n{listed}\n"
        "Mend the lines named; docs/sanitizer.md says what each finding means.",
        findings,
    )


def _finding(kernel: str, raw: tuple[Any, ...], lines: dict[int, Line]) -> Finding:
    kind, buffer, index, size, count, site, other_site, group, thread, *other = raw
    line, other_line = _line(kernel, site, lines), _line(kernel, other_site, lines)
    words = _words(kind, buffer, index, size, count, other_line, other)
    where = f" at {line}" if line else ""
    running = site[0] >= 0 or site[1] > 0
    who = f", thread {_place(thread)} of group {_place(group)}" if running else ""
    again = f" ({count} times)" if count > 1 and kind != "never written" else ""
    return Finding(
        kind, kernel, f"{words}{where}{who}{again}", buffer, index, line, other_line,
        group, thread, count,
    )  # fmt: skip


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
    if kind == "stack used up":
        return "stack used up, as by a function that calls itself, which Metal does not have,"
    if kind == "too much threadgroup memory":
        return f"{size} bytes of threadgroup memory up to {buffer}; Metal has 32768"
    return f"{kind}: {element}"


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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[int, Line] = {}
    offset = -1
    for text in done.stdout.splitlines():
        if text.startswith("0x"):
            offset = int(text, 16)
        elif offset not in found and (line := _part(kernel, text)):
            found[offset] = line
    return found
