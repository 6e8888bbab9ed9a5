"""Patterns and files: one for all devices holds what is written, MLX's own what takes its place."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from tests.near import close, normal
from tests.stand_in import current
from tests.stored.test_mlxfn import Mac
from zmlx.fuse import pattern, patterns


def written(x: Any, w: Any) -> Any:
    return mx.logaddexp(x, w) * 3.0 + x


def sevens(x: Any, w: Any) -> Any:
    """What no plain function gives, so that a result tells who computed it."""
    return mx.zeros_like(x) + 7.0


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    made = pattern("sevens", written, by=sevens, arrays={"x": "*D", "w": "*D"}, inline=False)
    yield
    patterns.remove(made)


X, W = normal(2, 3), normal(2, 3, seed=1)


def test_a_file_computes_what_is_written_and_the_log_tells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fused = zmlx.fuse(written)
    close(fused(X, W), sevens(X, W))
    with caplog.at_level(logging.INFO, "zmlx.export"):
        zmlx.export(fused, tmp_path / "f.zmlx", X, W)
    assert any(
        "sevens at test_patterns.py" in line and "stored as it is written" in line
        for line in caplog.messages
    )
    close(zmlx.load(tmp_path / "f.zmlx")(X, W), written(X, W))
    close(fused(X, W), sevens(X, W))


@pytest.mark.parametrize("off", [{"numerics": "mlx"}, {}])
def test_where_nothing_would_be_replaced_nothing_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, off: dict[str, str]
) -> None:
    with caplog.at_level(logging.INFO, "zmlx.export"), zmlx.config(patterns=bool(off)):
        zmlx.export(zmlx.fuse(written, **off), tmp_path / "f.zmlx", X, W)
    assert not any("as it is written" in line for line in caplog.messages)


def test_a_file_of_mlx_s_own_holds_the_replacement(tmp_path: Path) -> None:
    with current(Mac()):
        zmlx.export(zmlx.fuse(written), tmp_path / "f.mlxfn", X, W)
    (found,) = zmlx.load(tmp_path / "f.mlxfn")(X, W)
    close(found, sevens(X, W))
