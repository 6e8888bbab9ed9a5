"""Two processes train as one does on the whole batch, and fill one empty kernel cache at once."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from tests.near import close
from zmlx.device import native_module
from zmlx.device.base import device_named
from zmlx.device.cache import KernelCache

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "data_parallel.py"


def free_port() -> int:
    """One below which another is free too, as each rank listens on one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def cold_cache(folder: Path) -> Path:
    """A kernel cache without a kernel; the module that launches them takes seconds to build."""
    host = device_named("host")
    library = native_module.built_path(host.cache) if host.native_or_none() else None  # type: ignore[attr-defined]
    folder.mkdir(mode=0o700)
    if library is not None:
        entry = library.parent / f"{native_module._key()}.entry"
        for file in (library, entry):
            shutil.copy2(file, folder)
    return folder


def run(command: list[str], cache: Path) -> str:
    environment = {**os.environ, "ZMLX_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, text=True, capture_output=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_ranks_are_one_process_and_share_a_cold_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Watched kernels run a hundred times slower, and are compiled one by one.
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)
    cache = cold_cache(tmp_path / "cache")
    launch = str(Path(sys.executable).with_name("mlx.launch"))
    own = [sys.executable, str(EXAMPLE), "--steps", "3", "--save"]
    ranks = [launch, "-n", "2", "-p", str(free_port()), "--backend", "ring"]
    said = run([*ranks, *own, str(tmp_path / "two.npz")], cache)
    assert "2 ranks, 3 steps" in said and "differ by 0" in said
    files = {file.name for file in cache.iterdir()}
    assert "1 ranks, 3 steps" in run([*own, str(tmp_path / "one.npz")], cache)
    assert {file.name for file in cache.iterdir()} == files  # nothing was left to compile

    one, two = (mx.load(str(tmp_path / name)) for name in ("one.npz", "two.npz"))
    assert set(one) == set(two)
    for name, wanted in one.items():
        close(two[name], wanted, 1e-4)
    assert one["losses"][-1] < one["losses"][0]

    monkeypatch.setenv("ZMLX_CACHE_DIR", str(cache))
    kept = KernelCache()
    assert kept.faults() == []
    names = [file.name for file in cache.iterdir()]
    assert not [name for name in names if name.startswith("build-") or name.endswith(".draft")]
    entries = [name for name in names if name.endswith(".entry")]
    assert len(entries) > 3
    assert all(kept.find(name.removesuffix(".entry")) for name in entries)
