"""Files of MLX's own: a Mac's kernels inside, whose texts no one needs a Mac to write."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

import zmlx
from tests.near import close, normal
from tests.stand_in import current
from zmlx.device.metal import MetalDevice
from zmlx.errors import StoredError


class Mac(MetalDevice):
    def unavailable(self) -> None:
        return None


def layer(x: mx.array, w: mx.array) -> mx.array:
    y = (mx.sin(x) * 2 + x) @ w
    return y / (1 + mx.abs(y).sum(-1, keepdims=True))


def test_a_macs_kernels_are_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f.mlxfn"
    with current(Mac()):
        zmlx.export(zmlx.fuse(layer), path, normal(64, 64), normal(64, 64))
    held = path.read_bytes()
    assert held.count(b"CustomKernel") == 2 and b"Matmul" in held
    assert b"zmlx_region" in held  # the text of a kernel


@pytest.mark.filterwarnings("ignore:.*ZMLX_DEVICE=replay")
def test_a_cpus_kernels_are_none_of_mlxs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, path = normal(4, 3), normal(3, 2), tmp_path / "f.mlxfn"
    with pytest.raises(StoredError, match=r"Name the file \*\.zmlx"):
        zmlx.export(layer, path, x, w)
    monkeypatch.setenv("ZMLX_DEVICE", "replay")
    zmlx.export(layer, path, x, w)
    close(zmlx.load(path)(x, w)[0], layer(x, w))
    with pytest.raises(StoredError, match="take arrays alone"):
        zmlx.export(lambda x, by: x * by, path, x, 2.0)
