"""Watched kernels are launched as on a GPU: groups of threads, not one thread after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from tests.sanitized.watching import Watch
from zmlx.device.host_grid import HostGridLauncher
from zmlx.kernels import softmax, transformer

KERNELS: dict[str, Callable[[mx.array], Any]] = {
    "elements": lambda x: mx.exp(x) * 2 + 1,
    "column sums": lambda x: mx.exp(x).sum(0),
    "row sums": lambda x: mx.exp(x).sum(-1),
    "softmax": lambda x: mx.softmax(x * 2, axis=-1) + 1,
    "whole sum": lambda x: (mx.exp(x) * x).sum(),
}
CATALOG: dict[str, Callable[[mx.array], Any]] = {
    "swiglu": transformer.swiglu,
    "geglu": transformer.geglu,
    "softmax_lastdim": softmax.softmax_lastdim,
}


@pytest.fixture
def groups(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Grid and threadgroup of each launch."""
    told: list[tuple[Any, Any]] = []
    plain = HostGridLauncher.__call__

    def call(self: HostGridLauncher, arrays: Any, launch: Any) -> list[mx.array]:
        told.append((launch.grid, launch.threadgroup))
        return plain(self, arrays, launch)

    monkeypatch.setattr(HostGridLauncher, "__call__", call)
    return told


@pytest.mark.parametrize("name", [*KERNELS, *CATALOG])
def test_groups_have_a_gpus_size(name: str, groups: list[tuple[Any, Any]]) -> None:
    x = mx.random.normal((96, 128))
    run = CATALOG.get(name) or zmlx.fuse(KERNELS[name])
    mx.eval(run(x))
    assert groups, "nothing was launched"
    for grid, group in groups:
        threads = grid[0] * grid[1] * grid[2]
        assert threads >= 32, (grid, group)
        assert group[0] * group[1] * group[2] >= 32, (grid, group)
