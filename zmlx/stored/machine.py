"""Machine code: the libraries of a function's kernels, and whether they fit the machine at hand.

Comes in: which kernels ran. Goes out: their libraries with what they need; and, where a file brings
some, an offer of them to the host device. A GPU's kernels are compiled where they run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zmlx.device import native_module, stock, toolchain
from zmlx.device.base import device_named
from zmlx.errors import DeviceError, StoredError
from zmlx.stored.archive import Archive

NATIVE = "native.so"


def packed(kernels: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What libraries need and hold, and the libraries, for kernels by content."""
    host: Any = device_named("host")
    native = native_module.built_path(host.cache)
    if not kernels or native is None:
        return {}, {}
    libraries, held = {NATIVE: native.read_bytes()}, dict[str, list[str]]()
    paths = sorted(set(kernels.values()))
    for number, path in enumerate(paths):
        name = f"kernels{number}.so"
        libraries[name] = path.read_bytes()
        held[name] = sorted(content for content, where in kernels.items() if where == path)
    return {**_here(), "kernels": held}, libraries


def _here() -> dict[str, Any]:
    return {
        "system": sys.platform,
        "architecture": toolchain.MACHINE,
        "libc": toolchain.libc(),
        "features": sorted(toolchain.cpu_features().split()),
        "native": native_module.fits(),
    }


def offered(archive: Archive, path: Path) -> str:
    """Offer the libraries of a file to the host device; why they are not, or ""."""
    if not archive.libraries:
        return "it holds no machine code"
    why = _own(path) or _misfit(archive.machine)
    if why:
        return why
    host: Any = device_named("host")
    try:
        kept = {n: host.cache.keep(c, ".so") for n, c in archive.libraries.items()}
    except (OSError, DeviceError) as error:
        return f"its libraries cannot be kept: {error}"
    stock.offer({stock.NATIVE: kept[NATIVE]})
    for name, contents in archive.machine["kernels"].items():
        stock.offer(dict.fromkeys(contents, kept[name]))
    host.renew()
    return ""


def _own(path: Path) -> str:
    """Why the code of a file is not run, that others may have written, or ""."""
    status = os.stat(path)
    if status.st_uid not in (os.getuid(), 0):
        return "it belongs to another user, whose code is not run"
    if status.st_mode & 0o022:
        return f"others may write to it, and code is not run from there (chmod go-w {path})"
    return ""


def _misfit(machine: dict[str, Any]) -> str:
    """How the machine that wrote it differs from this one, or ""."""
    here = _here()
    for key, word in (("system", "system"), ("architecture", "kind of CPU")):
        if machine[key] != here[key]:
            return f"it is for the {word} {machine[key]}, and this is {here[key]}"
    missing = sorted(set(machine["features"]) - set(here["features"]))
    if missing:
        return f"this CPU has no {', '.join(missing[:6])}"
    if _version(machine["libc"]) > _version(here["libc"]):
        return f"it needs {machine['libc'] or 'another C library'}, and here is {here['libc']}"
    for key, word in (("mlx", "MLX"), ("python", "Python"), ("sources", "ZMLX's native module")):
        if machine["native"][key] != here["native"][key]:
            return f"it was made for another {word} ({machine['native'][key][:24]})"
    return ""


def _version(libc: str) -> tuple[str, tuple[int, ...]]:
    name, _, number = libc.partition(" ")
    return name, tuple([int(part) for part in number.split(".") if part.isdigit()])


def refuse(path: Path, why: str) -> None:
    """The error of who asked for stored machine code and nothing else."""
    raise StoredError(
        f"[zmlx.load] the machine code of {path} is not used: {why}. Export it again on such a "
        'machine, or load it with kernels="any" and have a C++ compiler here.'
    )
