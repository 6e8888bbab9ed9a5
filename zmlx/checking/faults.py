"""Checks one kernel file: Metal's rules by a front end, its accesses by the sanitizer.

Comes in: a KernelFile and the text of its file. Goes out: Fault objects with lines of that file,
printed with the line and a caret. `python -m zmlx check` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from zmlx import metal_check
from zmlx.checking.file import Array, KernelFile
from zmlx.device.base import Device, device_named
from zmlx.device.host_grid import HostGridLauncher
from zmlx.device.metal import MetalDevice
from zmlx.dtypes import attribute
from zmlx.errors import DeviceError, SanitizeError


@dataclass(frozen=True)
class Fault:
    """What is wrong, and the line of the file, 0 where none is to blame."""

    text: str
    line: int = 0
    column: int = 0
    severity: str = "error"


def random_input(array: Array) -> mx.array:
    """Its value; else normal numbers, or 0 and 1 for bool, or 0 to 9 for integers."""
    kind: Any = getattr(mx, attribute(array.dtype))
    if array.value is not None:
        return mx.full(array.shape, array.value).astype(kind)
    if "int" in array.dtype:
        return mx.random.randint(0, 10, array.shape).astype(kind)
    normal = mx.random.normal(array.shape)
    return normal > 0 if array.dtype == "bool" else normal.astype(kind)


def front_end_faults(file: KernelFile, text: str) -> list[Fault]:
    """What Metal would say, by zmlx.metal_check; DeviceError where it cannot be asked."""
    if problem := metal_check.unavailable():
        raise DeviceError(f"[zmlx.check] Metal's front end {problem}")
    launcher = MetalDevice().grid_launcher(file.spec)
    arrays = [random_input(a) for a in file.inputs]
    found = metal_check.check_function(lambda xs: launcher(xs, file.launch), arrays)
    return [_located(diagnostic, text.splitlines()) for diagnostic in found]


def sanitizer_faults(file: KernelFile) -> list[Fault]:
    """What the sanitizer sees in a launch on random inputs; DeviceError where none can be made."""
    host: Any = device_named("host")
    _require(host)
    with mx.stream(mx.cpu):
        arrays = [random_input(a) for a in file.inputs]
        try:
            mx.eval(HostGridLauncher(host, file.spec, sanitize=True)(arrays, file.launch))
        except SanitizeError as error:
            return [
                Fault(str(f), f.line.number if f.line else 0)  # type: ignore[attr-defined]
                for f in error.findings
            ]
    return []


def shown(name: str, text: str, faults: Sequence[Fault]) -> list[str]:
    """Lines for the terminal: place and words, the line of the file, a caret below it."""
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
    return out


def _require(device: Device) -> None:
    if problem := device.unavailable():
        raise DeviceError(f"[zmlx.check] the sanitizer cannot run here: {problem}")


def _located(diagnostic: metal_check.Diagnostic, lines: Sequence[str]) -> Fault:
    """In the file: the line with the same words, if there is just one."""
    same = [n for n, line in enumerate(lines, start=1) if line.strip() == diagnostic.source]
    severity = "warning" if diagnostic.severity == "warning" else "error"
    text = f"Metal: {diagnostic.message}"
    if len(same) != 1 or not diagnostic.source:
        told = f" (in: {diagnostic.source})" if diagnostic.source else ""
        return Fault(text + told, 0, 0, severity)
    return Fault(text, same[0], 0, severity)
