"""Every environment variable ZMLX reads: name, default and meaning stand here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Switch:
    """One environment variable."""

    name: str
    default: str
    meaning: str

    def text(self) -> str:
        return os.environ.get(self.name, self.default)

    def on(self) -> bool:
        return self.text().strip().lower() not in ("", "0", "false", "off", "no")

    @contextmanager
    def set_to(self, text: str) -> Iterator[None]:
        """Within the block the variable holds `text`, for all threads."""
        before = os.environ.get(self.name)
        os.environ[self.name] = text
        try:
            yield
        finally:
            if before is None:
                del os.environ[self.name]
            else:
                os.environ[self.name] = before


FUSE = Switch("ZMLX_FUSE", "1", "0 turns fusion off everywhere: functions run as plain MLX")
CHECK = Switch(
    "ZMLX_CHECK", "0", "1 also runs each region as MLX ops and raises where the two part"
)
LOG = Switch(
    "ZMLX_LOG",
    "",
    "level of the 'zmlx' logger on stderr: info (retraces, compiles), debug (kernels too)",
)
DEVICE = Switch("ZMLX_DEVICE", "", "host or replay: forces the way kernels run on the CPU")
CACHE = Switch(
    "ZMLX_CACHE_DIR", "", "directory of compiled kernels; default: the user's cache directory"
)
COMPILER = Switch(
    "ZMLX_CXX", "", "C++ compiler of the host device; default: $CXX, c++, g++, clang++"
)
PATIENCE = Switch(
    "ZMLX_CXX_TIMEOUT",
    "300",
    "seconds that a run of the C++ compiler may take; then it is stopped and MLX ops run instead",
)
THREADS = Switch(
    "ZMLX_THREADS", "", "threads of the host device; default: all cores this process may use"
)
SANITIZE = Switch(
    "ZMLX_SANITIZE",
    "0",
    "1 watches every access of every kernel on the CPU and raises where one breaks Metal's rules",
)

SWITCHES = (FUSE, CHECK, LOG, DEVICE, CACHE, COMPILER, PATIENCE, THREADS, SANITIZE)

# The mapping under os.environ, where there is one: a name costs 0.05 us there instead of 0.8, and
# every call of a fused function asks for four.
_RAW: Any = getattr(os.environ, "_data", os.environ)


def _raw(name: str) -> Any:
    return os.fsencode(name) if isinstance(next(iter(_RAW), b""), bytes) else name


_KEYS = tuple(_raw(s.name) for s in (FUSE, CHECK, DEVICE, SANITIZE))
_COMPILER_KEYS = tuple(_raw(name) for name in (COMPILER.name, "CXX", "PATH"))

watched = False  # whether launches are told to anyone: set by zmlx.device.watch


def mode() -> tuple[Any, ...]:
    """What decides how a fused function runs: a dictionary key.

    The raw texts of the switches, and whether launches are watched.
    """
    get = _RAW.get
    return get(_KEYS[0]), get(_KEYS[1]), get(_KEYS[2]), get(_KEYS[3]), watched


def compiler() -> tuple[Any, ...]:
    """What decides which C++ compiler is used, as raw texts: a dictionary key."""
    get = _RAW.get
    return get(_COMPILER_KEYS[0]), get(_COMPILER_KEYS[1]), get(_COMPILER_KEYS[2])
