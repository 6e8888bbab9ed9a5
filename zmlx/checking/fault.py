"""One fault of a kernel file, and how faults are told: as text, JSON or GitHub's annotations.

Comes in: faults, the file's name and text. Goes out: lines to print, for `python -m zmlx check`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """What is wrong, and the line of the file, 0 where none is to blame.

    `severity` is "error", "warning" or "note".
    """

    text: str
    line: int = 0
    column: int = 0
    severity: str = "error"


def as_text(name: str, text: str, faults: Sequence[Fault]) -> list[str]:
    """Place and words, the line of the file, a caret below it; at the end how many."""
    lines, out = text.splitlines(), []
    for fault in faults:
        if not 0 < fault.line <= len(lines):
            out.append(f"{name}: {fault.severity}: {fault.text}")
            continue
        source = lines[fault.line - 1]
        indent = len(source) - len(source.lstrip())
        column = fault.column or indent + 1
        out.append(f"{name}:{fault.line}:{column}: {fault.severity}: {fault.text}")
        width = 1 if fault.column else max(1, len(source.strip()))
        out.append(f"{fault.line:5d} | {source}")
        out.append("      | " + " " * (column - 1) + "^" + "~" * (width - 1))
    wrong = sum(fault.severity == "error" for fault in faults)
    return [*out, f"{name}: {wrong or 'no'} fault{'s' * (wrong != 1)} found"]


def as_json(name: str, text: str, faults: Sequence[Fault]) -> list[str]:
    """One object a line: file, line, column (0 where there is none), severity, message, source."""
    lines = text.splitlines()
    return [
        json.dumps(
            {
                "file": name, "line": fault.line, "column": fault.column,
                "severity": fault.severity, "message": fault.text,
                "source": lines[fault.line - 1] if 0 < fault.line <= len(lines) else "",
            }
        )
        for fault in faults
    ]  # fmt: skip


def as_github(name: str, text: str, faults: Sequence[Fault]) -> list[str]:
    """Workflow commands, which GitHub shows beside the lines of a pull request."""
    out = []
    for fault in faults:
        kind = "notice" if fault.severity == "note" else fault.severity
        place = f"file={_escaped(name)}" + f",line={fault.line}" * (fault.line > 0)
        place += f",col={fault.column}" * (fault.column > 0)
        message = fault.text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        out.append(f"::{kind} {place}::{message}")
    return out


def _escaped(name: str) -> str:
    for letter, code in (("%", "%25"), (":", "%3A"), (",", "%2C")):
        name = name.replace(letter, code)
    return name


Format = Callable[[str, str, Sequence[Fault]], list[str]]
FORMATS: dict[str, Format] = {"text": as_text, "json": as_json, "github": as_github}
