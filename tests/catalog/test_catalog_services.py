"""What holds of fused functions holds of every function of the catalog: one road to a kernel."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from tests.catalog.cases import CASES, Case, close
from zmlx.device.host_grid import HostGridLauncher
from zmlx.errors import CheckError
from zmlx.fuse import check
from zmlx.msl.spec import Launch

EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SHAPE = (3, 40)


def calls(run: Callable[[], Any]) -> int:
    """How many Python functions `run` calls, once all is made."""
    run(), run()
    count = 0

    def called(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(called)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count - 1


@pytest.mark.usefixtures("on_cpu")  # MLX's custom kernels, which GPUs run, have shapes built in
@EACH
def test_shapeless_compile(case: Case) -> None:
    compiled = mx.compile(case.run, shapeless=True)
    for shape in (SHAPE, (7, 72), (2, 40)):
        arrays = case.arrays(shape, mx.float32)
        for found, wanted in zip(compiled(*arrays), case.exact(arrays), strict=True):
            close(found, wanted, "float32", 2, f"{case.name} {shape}")


@EACH
def test_check_compares(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is off by one half from MLX's ops, and they from it, is told."""
    arrays, right = case.arrays(SHAPE, mx.float32), check.replay_fp32
    with zmlx.config(check=True):
        mx.eval(case.run(*arrays))
        monkeypatch.setattr(check, "replay_fp32", lambda *a: [o + 0.5 for o in right(*a)])
        with pytest.raises(CheckError, match="kernel and MLX ops part"):
            case.run(*arrays)


@EACH
def test_the_log_shows_the_text(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    zmlx.registry.clear_cache()
    with caplog.at_level(logging.DEBUG, "zmlx"):
        mx.eval(case.run(*case.arrays(SHAPE, mx.float32)))
    assert any("kernel zmlx_" in text and "out0[" in text for text in caplog.messages)


@EACH
def test_the_sanitizer_watches_many_threads(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU would launch them, and not a thread for a row or for all elements."""
    seen: list[Launch] = []
    run = HostGridLauncher.__call__

    def noted(self: Any, arrays: Any, launch: Launch) -> Any:
        seen.append(launch)
        return run(self, arrays, launch)

    monkeypatch.setattr(HostGridLauncher, "__call__", noted)
    with mx.stream(mx.cpu), zmlx.config(sanitize=True, device="host"):
        arrays = case.arrays(SHAPE, mx.float32)
        for found, wanted in zip(case.run(*arrays), case.exact(arrays), strict=True):
            close(found, wanted, "float32", 2, case.name)
    assert seen and all(launch.threadgroup[0] > 1 for launch in seen)


@EACH
def test_joins_what_stands_around_it(case: Case) -> None:
    def around(*arrays: mx.array) -> mx.array:
        first, *_ = case.run(mx.tanh(arrays[0]), *arrays[1:])
        return mx.exp(first) * 2

    arrays = case.arrays((4, 80), mx.float32)
    report = zmlx.explain(around, *arrays)
    fused = [region for region in report.regions if len(region.ops) > 1]  # not a seed's product
    assert len(fused) == 1, case.name
    assert {"tanh", "exp"} <= {*fused[0].ops}


@EACH
def test_a_profile_counts_it(case: Case) -> None:
    arrays = case.arrays(SHAPE, mx.float32)
    with zmlx.profile(show=False) as found:
        mx.eval(case.run(*arrays))
    assert [(k.fused, k.launches) for k in found.kernels] == [(True, 1)]


@EACH
def test_a_call_costs_at_most_three_fused_calls(case: Case) -> None:
    @zmlx.fuse
    def gate(a: mx.array, b: mx.array) -> mx.array:
        return mx.exp(a) * b

    arrays, (a, b) = case.arrays(SHAPE, mx.float32), (mx.ones(SHAPE), mx.zeros(SHAPE))
    assert calls(lambda: case.call(*arrays)) <= 3 * calls(lambda: gate(a, b))


@pytest.mark.parametrize("name", ["rmsnorm", "layernorm_residual", "bias_swiglu"])
def test_calls_are_mapped_again_and_again(name: str) -> None:
    """What MLX changes when it maps a call is not used for the next one."""
    case = CASES[name]
    arrays = case.arrays((2, *SHAPE), mx.float32)
    axes = tuple([0 if a.ndim == 3 else None for a in arrays])
    for _ in range(4):
        found = mx.vmap(lambda *a: case.run(*a), in_axes=axes)(*arrays)
        for one, wanted in zip(found, case.exact(arrays), strict=True):
            close(one, wanted, "float32", 2, name)
