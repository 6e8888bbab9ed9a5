"""Tuned settings on disk: what zmlx.autotune found, for the launches of later processes.

Comes in: a device's identity, a kernel's key, a class of sizes, and the setting that won, as whole
numbers. One JSON file lies beside the compiled kernels; it is read again when it changes, and
written whole under a lock. A file that cannot be read counts as empty, after one warning.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from zmlx.device import owned
from zmlx.device.base import device_named
from zmlx.errors import DeviceError
from zmlx.msl.kernel import KernelSource
from zmlx.warned import warn

FILE = "tuning.json"
ELEMENTS = (1, 2, 4, 8, 16)  # output elements of a thread: what zmlx.autotune tries
THREADGROUPS = (64, 128, 256, 512, 1024)
Setting = tuple[int, ...]
_Settings = dict[str, dict[str, dict[str, list[int]]]]  # device -> kernel -> size class -> setting


class TuningStore:
    """Settings by device, kernel and size class; safe under threads and processes."""

    def __init__(self, directory: Callable[[], Path]) -> None:
        self._directory = directory
        self._lock = threading.RLock()
        self._read: tuple[Path, tuple[int, int], _Settings] | None = None
        self._here: dict[tuple[str, str], dict[int, Setting]] = {}  # of this process
        self._warned: set[str] = set()

    def find(self, device: str, kernel: str) -> dict[int, Setting]:
        """The settings kept for a kernel, by size class."""
        here = self._here.get((device, kernel), {})
        try:
            path = self._directory() / FILE
        except DeviceError:  # no folder can be had: nothing is kept
            return dict(here)
        with self._lock:
            found = self._load(path).get(device, {}).get(kernel, {})
        return {int(size): tuple(setting) for size, setting in found.items()} | here

    def keep(self, device: str, kernel: str, size: int, setting: Sequence[int]) -> None:
        """Keep a setting; where the disk refuses, after one warning, for this process only."""
        self._here.setdefault((device, kernel), {})[size] = tuple(setting)
        path = Path(FILE)
        try:
            directory = self._directory()
            path = directory / FILE
            with self._lock, owned.turn(directory / f"{FILE}.lock", 10.0):
                everything = self._load(path)
                kernels = everything.setdefault(device, {})
                kernels.setdefault(kernel, {})[str(size)] = list(setting)
                draft = directory / f"{FILE}.{os.getpid()}.{threading.get_ident()}.draft"
                draft.write_text(json.dumps(everything, indent=1, sort_keys=True), "utf-8")
                owned.replace(draft, path)
                self._read = None
        except (OSError, DeviceError) as error:
            self._warn(f"tuned settings cannot be kept in {path}: {error}")

    def _load(self, path: Path) -> _Settings:
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if self._read is None or self._read[:2] != (path, stamp):
                self._read = (path, stamp, _checked(json.loads(owned.read(path))))
            return self._read[2]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._warn(f"tuned settings in {path} cannot be read and count as none: {error}")
            return {}

    def _warn(self, problem: str) -> None:
        if problem not in self._warned:
            self._warned.add(problem)
            warn(
                f"[zmlx.autotune] {problem}. Delete the file, or set ZMLX_CACHE_DIR to a private, "
                "writable directory."
            )


class Dependent(Protocol):
    """What launches as was found when it was made."""

    def forget(self) -> None:
        """Make it anew at the next call."""


_dependents: weakref.WeakSet[Dependent] = weakref.WeakSet()


def depends(made: Dependent) -> None:
    """Have `made` forget what it holds whenever a search has found settings."""
    _dependents.add(made)


def changed() -> None:
    """Settings were found: whatever holds launches made before makes them anew."""
    for made in list(_dependents):
        made.forget()


def size_class(size: int) -> int:
    """Sizes that one setting serves: those with the same number of binary digits."""
    return size.bit_length()


def identity(device: str) -> str:
    """The current device as its settings depend on it: its hardware, and the MLX that launches."""
    hardware = mx.device_info(mx.default_device()).get("device_name", "unknown")
    return f"{device}, {hardware}, MLX {mx.__version__}"


def kernel_key(name: str, digest: str, template: object = ()) -> str:
    """A kernel by content and template; readable."""
    return f"{name} {hashlib.sha256(f'{digest} {template!r}'.encode()).hexdigest()[:24]}"


def settings(device: str, kernel: KernelSource) -> dict[int, Setting]:
    """(elements, threadgroup) of a generated kernel, by size class; none that no launch takes."""
    found = STORE.find(identity(device), kernel_key(kernel.name, kernel.digest))
    return {size: s for size, s in found.items() if valid(s)}


def valid(setting: Setting) -> bool:
    """Whether it is (elements, threadgroup) as zmlx.autotune tries them."""
    return len(setting) == 2 and setting[0] in ELEMENTS and setting[1] in THREADGROUPS


def _checked(found: Any) -> _Settings:
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    for kernels in found.values():
        for sizes in _dictionary(kernels).values():
            for size, setting in _dictionary(sizes).items():
                whole = isinstance(setting, list) and all(
                    type(n) is int and 1 <= n < 2**31 for n in setting
                )
                if not (size.isdigit() and whole):
                    raise ValueError(f"{size!r}: {setting!r} is no setting")
    return found


def _dictionary(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"{found!r} is no JSON object")
    return found


def _beside_the_kernels() -> Path:
    host: Any = device_named("host")
    directory: Path = host.cache.directory()
    return directory


STORE = TuningStore(_beside_the_kernels)
