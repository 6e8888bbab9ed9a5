"""Fresh processes with private kernel caches, for what happens once in a process.

Comes in: the arguments of benchmarks.child, or any command that prints JSON. Goes out: what it
printed. benchmarks.latency and benchmarks.changing call this.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Settings
from zmlx.device import native_module
from zmlx.device.base import device_named
from zmlx.device.cache import ENTRY_SUFFIX

ROOT = Path(__file__).parents[1]


def processes(settings: Settings) -> int:
    return 1 if settings.quick else max(3, min(5, settings.rounds))


def child(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """What `python -m benchmarks.child` printed."""
    return json_of([sys.executable, "-m", "benchmarks.child", *arguments], environment)


def json_of(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """The last line that the command printed."""
    path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    # Byte code is kept, as in any process of a user.
    environment = {k: v for k, v in environment.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command,
        env={**environment, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def private_caches() -> Iterator[dict[str, str]]:
    """An environment with kernel caches that are empty but for ZMLX's native module."""
    with tempfile.TemporaryDirectory(prefix="zmlx-benchmark-") as name:
        folder = Path(name)
        kernels, scratch = folder / "kernels", folder / "scratch"
        for path in (kernels, scratch):
            path.mkdir(mode=0o700)
        copy_native_module(kernels)
        others = {k: v for k, v in os.environ.items() if k != "MLX_PTX_CACHE_DIR"}
        yield {**others, "ZMLX_CACHE_DIR": str(kernels), "TMPDIR": str(scratch)}


def copy_native_module(target: Path) -> None:
    """Put the built native module of the cache in use into `target`, where there is one."""
    device: Any = device_named("host")  # GPUs use its native module as well
    if device.unavailable() is not None:
        return
    built = native_module.built_path(device.cache)
    if built is None:
        return
    shutil.copy(built, target)
    for entry in device.cache.directory().glob(f"*{ENTRY_SUFFIX}"):
        if entry.read_text("ascii").startswith(built.name):
            shutil.copy(entry, target)
