"""Autotuning of kernels that fold rows: what is tried, kept and launched, on a pretended GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from tests.autotuning import private_store  # noqa: F401
from tests.rowwise_cases import SOFTMAX, drawn, op, softmax, wide
from zmlx.device import tuning
from zmlx.device.base import Device
from zmlx.fuse import walked
from zmlx.kernels import norms
from zmlx.tuning import timing

D = 32  # eight packs of four floats: a row gets eight threads
BEST = (8, 4)
Builds = dict[Any, Callable[[], Any]]


def shares(x: mx.array) -> mx.array:
    e = mx.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Gpu:
    """The CPU as a GPU, on which BEST is fastest: contests that were held, geometries launched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.contests: list[Builds] = []
        self.launched: list[tuple[int, int]] = []
        real = walked.Made.launch.func

        def launch(made: walked.Made) -> Any:
            self.launched.append((made.geometry.threads, made.geometry.lines))
            return real(made)

        monkeypatch.setattr(walked.Made, "launch", property(launch))
        monkeypatch.setattr(timing, "medians", self.medians)

    def medians(self, builds: Mapping[Any, Any], rounds: int, what: str) -> dict[Any, float]:
        self.contests.append(dict(builds))
        return {how: 0.1 if how == BEST else 1.0 for how in builds}

    def launches(self, f: Callable[..., Any], *arrays: mx.array) -> set[tuple[int, int]]:
        """How `f` launches kernels over rows that it has not met."""
        self.launched.clear()
        mx.eval(f(*arrays))
        return set(self.launched)


@pytest.fixture
def gpu(host_device: Device, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)
    monkeypatch.setattr(type(host_device), "takes_turns", False)
    return Gpu(monkeypatch)


def test_the_best_setting_wins_and_is_kept(gpu: Gpu) -> None:
    f, x = zmlx.fuse(shares), drawn((100, D))
    before = f(x)
    (found,) = zmlx.autotune(f, x).kernels
    assert (found.before, found.after) == ((8, 32), BEST)
    assert "threads of a row 8, rows of a group 4" in str(found)
    assert gpu.launches(f, x) == {BEST}  # the very shape that had a launch of its own
    np.testing.assert_array_equal(np.array(f(x)), np.array(before))
    assert gpu.launches(f, drawn((120, D))) == {BEST}  # about as many rows
    assert gpu.launches(f, drawn((200, D))) == {(8, 32)}
    assert gpu.launches(zmlx.fuse(shares), x) == {BEST}  # a later function, by what was kept
    again = zmlx.autotune(zmlx.fuse(shares), x)
    assert again.kernels[0].timings_ms == {} and len(gpu.contests) == 1
    assert len(zmlx.autotune(f, x, again=True).kernels[0].timings_ms) > 1


def test_a_later_process_launches_the_winner(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    f, x = zmlx.fuse(shares), drawn((100, D))
    zmlx.autotune(f, x)
    folder = tuning.STORE._directory()
    monkeypatch.setattr(tuning, "STORE", tuning.TuningStore(lambda: folder))
    assert gpu.launches(zmlx.fuse(shares), x) == {BEST}


def test_no_bit_of_a_result_changes(gpu: Gpu) -> None:
    """Other numbers of threads add up rows in another order: their settings are rejected."""
    f, x = zmlx.fuse(shares), drawn((100, D)) * 3
    wanted = np.array(f(x))
    (found,) = zmlx.autotune(f, x).kernels
    for how, build in gpu.contests[0].items():
        np.testing.assert_array_equal(np.array(build()[0]), wanted, err_msg=str(how))
    assert {rows for threads, rows in found.timings_ms if threads == 8} == {4, 8, 16, 32, 64, 128}
    tried = {*found.timings_ms, *found.rejected}
    assert {threads for threads, _ in tried} == {1, 2, 4, 8}  # no thread without a pack
    assert found.rejected and all("output 0" in why for why in found.rejected.values())


def test_row_wise_ops_the_catalog_and_gradients_are_tuned(gpu: Gpu) -> None:
    x, row = drawn((100, D)), drawn((D,), seed=1)
    f = op(SOFTMAX, D)
    assert [k.after for k in zmlx.autotune(f, x).kernels] == [BEST]
    np.testing.assert_allclose(wide(f(x)[0]), softmax(wide(x)), 4e-6, 1e-8)
    assert [k.after for k in zmlx.autotune(norms.rmsnorm, x, row).kernels] == [BEST]
    slope = mx.grad(lambda x, row: (norms.rmsnorm(x, row) ** 2).sum(), (0, 1))
    wanted = slope(x, row)
    report = zmlx.autotune(slope, x, row)
    assert len(report.kernels) >= 2
    for got, true in zip(slope(x, row), wanted, strict=True):
        np.testing.assert_array_equal(np.array(got), np.array(true))


def test_settings_that_no_launch_takes_are_not_read(gpu: Gpu) -> None:
    f, x = zmlx.fuse(shares), drawn((100, D))
    (found,) = zmlx.autotune(f, x).kernels
    (key,) = tuning.STORE._here
    for kept in ((64, 4), (8, 256), (3, 4), (8,), (8, 4, 2)):
        tuning.STORE.keep(*key, tuning.size_class(x.size), kept)
        assert gpu.launches(zmlx.fuse(shares), x) == {found.before}


def test_the_cpu_has_nothing_to_tune(host_device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)
    assert zmlx.autotune(op(SOFTMAX, D), drawn((4, D))).kernels == []


@pytest.mark.parametrize("threads", [4, 64, 1024])
def test_threads_that_were_asked_for_are_launched(gpu: Gpu, threads: int) -> None:
    """By the catalog and by row-wise ops, in gradients too; no search changes that."""
    x, row = drawn((100, D)), drawn((D,), seed=1)
    f = op(SOFTMAX, D, threadgroup=threads)
    wanted = {(min(8, threads), max(1, threads // 8))}
    assert gpu.launches(lambda x: f(x)[0], x) == wanted
    np.testing.assert_allclose(wide(f(x)[0]), softmax(wide(x)), 4e-6, 1e-8)
    norm = partial(norms.rmsnorm, threadgroup=threads)
    assert gpu.launches(norm, x, row) == wanted
    slope = mx.grad(lambda x: norm(x, row).sum())
    assert {x * y for x, y in gpu.launches(slope, x)} == {min(8, threads) * max(1, threads // 8)}
    plain = mx.grad(lambda x: mx.fast.rms_norm(x, row, 1e-6).sum())
    np.testing.assert_allclose(wide(slope(x)), wide(plain(x)), 1e-4, 1e-5)
    assert zmlx.autotune(f, x).kernels == [] and gpu.launches(norm, x + 1, row) <= wanted
