"""Another process, which has no compiler and an empty cache, runs what a file brings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

import zmlx
from tests.near import close, normal
from zmlx.errors import StoredError

CHILD = """
import sys, warnings
import mlx.core as mx
warnings.simplefilter("error")
import zmlx
from zmlx.trace import run
run.trace = None  # nothing is traced
folder = sys.argv[1]
loaded = zmlx.load(f"{folder}/f.zmlx", kernels="stored")
x = mx.load(f"{folder}/x.npy")
y = loaded(x)
gradient = mx.grad(lambda x: loaded(x).square().sum())(x)
mx.savez(f"{folder}/out.npz", y=y, gradient=gradient)
"""


@pytest.fixture(autouse=True)
def no_sanitizer(monkeypatch: pytest.MonkeyPatch) -> None:
    # Watched kernels are compiled where they run: a file holds those that are not.
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)


def without_compiler(folder: Path) -> dict[str, str]:
    cache = folder / "cache"
    return {**os.environ, "ZMLX_CXX": str(folder / "no-compiler"), "ZMLX_CACHE_DIR": str(cache)}


def child(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=without_compiler(folder), text=True,
        capture_output=True, timeout=300, cwd=Path(zmlx.__file__).parents[1],
    )  # fmt: skip


def test_no_compiler_no_trace_and_no_warning(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.SiLU())
    x = normal(5, 6)
    with zmlx.exporter(model, tmp_path / "f.zmlx", gradients=True) as write:
        write(x)
    mx.save(f"{tmp_path}/x.npy", x)
    done = child(CHILD, tmp_path)
    assert done.returncode == 0, done.stderr
    out = mx.load(f"{tmp_path}/out.npz")
    close(out["y"], model(x))
    close(out["gradient"], mx.grad(lambda x: model(x).square().sum())(x), 1e-5)


def test_others_code_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "f.zmlx"
    zmlx.export(lambda x: mx.sin(x) + x, path, normal(3))
    path.chmod(0o666)
    with pytest.raises(StoredError, match="others may write to it"):
        zmlx.load(path, kernels="stored")
    loaded = zmlx.load(path)
    assert "others may write to it" in loaded.machine_code
    close(loaded(normal(3)), mx.sin(normal(3)) + normal(3))
    path.chmod(0o644)
    assert zmlx.load(path).machine_code == ""
    assert "asks for none" in zmlx.load(path, kernels="compile").machine_code


NO_CODE = """
import sys, warnings
import mlx.core as mx, zmlx
loaded = zmlx.load(f"{sys.argv[1]}/f.zmlx", kernels="compile")
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    y = loaded(mx.array([1.0, 2.0, 3.0]))
print([round(v, 4) for v in y.tolist()], len(told), "no C++ compiler" in str(told[0].message))
"""


def test_without_code_and_compiler_mlx_runs_it_and_says_so(tmp_path: Path) -> None:
    zmlx.export(lambda x: mx.sin(x) + x, tmp_path / "f.zmlx", normal(3))
    done = child(NO_CODE, tmp_path)
    assert done.stdout.strip() == "[1.8415, 2.9093, 3.1411] 1 True", done.stderr
