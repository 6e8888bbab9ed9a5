"""Autotuning of row-wise ops: rows of a threadgroup, on the CPU that plays a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zmlx
from tests.rowwise_cases import SOFTMAX, drawn, op
from zmlx.device import tuning
from zmlx.device.base import Device
from zmlx.rows import layout
from zmlx.rows.layout import Setting
from zmlx.tuning import timing

D = 30  # eight packs of four floats: a row gets eight threads
BEST = (8, 4)


@pytest.fixture
def a_gpu(
    host_device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[dict[Any, Callable[[], Any]]]:
    """Rows share groups here, and BEST is fastest; gives the contests that were held."""
    contests: list[dict[Any, Callable[[], Any]]] = []

    def medians(builds: Mapping[Any, Any], rounds: int, what: str) -> dict[Any, float]:
        contests.append(dict(builds))
        return {how: 0.1 if how == BEST else 1.0 for how in builds}

    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)
    monkeypatch.setattr(type(host_device), "takes_turns", False)
    monkeypatch.setattr(tuning, "STORE", tuning.TuningStore(lambda: tmp_path))
    monkeypatch.setattr(timing, "medians", medians)
    return contests


def test_the_best_setting_wins_and_is_kept(a_gpu: list[dict[Any, Any]]) -> None:
    f, x = op(SOFTMAX, D), drawn((100, D))
    (before,) = f(x)
    (found,) = zmlx.autotune(f, x).kernels
    assert (found.name, found.before, found.after) == ("row_op", (8, 32), BEST)
    assert "threads of a row 8, rows of a threadgroup 4" in str(found)
    assert f.setting(x) == op(SOFTMAX, D).setting(x) == Setting(*BEST)  # this op, and later ones
    np.testing.assert_array_equal(np.array(f(x)[0]), np.array(before))
    again = zmlx.autotune(op(SOFTMAX, D), x)
    assert again.kernels[0].timings_ms == {} and len(a_gpu) == 1
    assert len(zmlx.autotune(f, x, again=True).kernels[0].timings_ms) > 1


def test_no_bit_of_a_result_changes(a_gpu: list[dict[Any, Any]]) -> None:
    """Other numbers of threads add up rows in another order: their settings are rejected."""
    f, x = op(SOFTMAX, D), drawn((100, D)) * 3
    (found,) = zmlx.autotune(f, x).kernels
    wanted = np.array(f.launch([x], Setting(*found.before))[0])
    for how, build in a_gpu[0].items():
        np.testing.assert_array_equal(np.array(build()[0]), wanted, err_msg=str(how))
    assert {rows for threads, rows in found.timings_ms if threads == 8} == {4, 8, 16, 32, 64, 128}
    tried = {(how.threads, how.rows) for how in layout.settings(D, 4)}
    assert set(found.timings_ms) | set(found.rejected) == tried
    assert all("output 0" in why for why in found.rejected.values()) and found.rejected


def test_the_cpu_has_nothing_to_tune(host_device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)
    assert zmlx.autotune(op(SOFTMAX, D), drawn((4, D))).kernels == []
