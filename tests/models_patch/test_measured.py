"""What zmlx.patch measures, keeps, and runs because of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from architectures import build, tokens
from comparing import assert_near
from mlx_lm.models.cache import make_prompt_cache

import zmlx
from zmlx.device import tuning
from zmlx.tuning import timing

pytestmark = pytest.mark.usefixtures("host_device")


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Settings of this test alone."""
    # Under the sanitizer a launch's time says nothing, and nothing is measured.
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)
    monkeypatch.setattr(tuning, "STORE", tuning.TuningStore(lambda: tmp_path))
    return tmp_path / tuning.FILE


def timed(monkeypatch: pytest.MonkeyPatch, fused: float) -> list[str]:
    """From now on plain MLX takes 1 ms, and what is fused `fused`; notes what was measured."""
    asked: list[str] = []

    def medians(builds: Mapping[str, Any], rounds: int, what: str) -> dict[str, float]:
        asked.append(what)
        mx.eval([build() for build in builds.values()])
        return {way: 1.0 if way == "plain" else fused for way in builds}

    monkeypatch.setattr(timing, "medians", medians)
    return asked


def used(model: nn.Module) -> tuple[mx.array, mx.array, Any]:
    x = tokens(6)
    gradient = nn.value_and_grad(model, lambda m: m(x).square().mean())(model)[1]
    return model(x), model(x, cache=make_prompt_cache(model)), gradient


def ways(report: Any, path: str = "model.layers.0") -> dict[str, str]:
    return {key.mode: d.way for key, d in report[path].decisions.items()}


def test_what_pays_runs_fused_and_is_kept(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    model = build("llama")
    expected, asked = used(model), timed(monkeypatch, 0.5)
    report = zmlx.patch(model)
    assert_near(used(model), expected, 2e-5)
    assert ways(report) == {"call": "whole", "cache": "in pieces", "gradient": "whole"}
    assert "measured: 2.00 x, 0.5 ms" in report["model.layers.0"].lines()[0]
    assert len(asked) == 3  # each kind of calls once, for both layers
    (kernels,) = json.loads(store.read_text()).values()
    assert len(kernels) == 3 and all(
        name.startswith("patch mlx_lm.models.llama") for name in kernels
    )
    again = build("llama")
    kept = zmlx.patch(again)
    assert_near(used(again), expected, 2e-5)
    assert ways(kept) == ways(report) and len(asked) == 3
    assert kept["model.layers.0"].lines() == report["model.layers.0"].lines()


def test_what_does_not_pay_runs_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a layer are then asked for themselves."""
    model = build("llama")
    expected, asked = used(model), timed(monkeypatch, 1.5)
    report = zmlx.patch(model)
    assert_near(used(model), expected, 2e-5)
    assert (
        set(ways(report).values()) == set(ways(report, "model.layers.0.mlp").values()) == {"plain"}
    )
    assert "does not pay: 0.67 x" in report["model.layers.0"].lines()[0]
    assert report["model.layers.0"].status == "plain" and len(asked) == 5
    before = list(asked)
    again = build("llama")
    kept = zmlx.patch(again)
    used(again)
    assert asked == before and ways(kept) == ways(report)


def test_without_measuring(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    model = build("llama")
    asked = timed(monkeypatch, 2.0)
    report = zmlx.patch(model, measure=False)
    used(model)
    assert not asked and not store.exists()
    assert ways(report) == {"call": "whole", "cache": "in pieces", "gradient": "whole"}


def test_measuring_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches, counters, weights and the random state are as after one plain call."""
    model, twin = build("llama"), build("llama")
    asked = timed(monkeypatch, 0.5)
    zmlx.patch(model)
    cache, plain = make_prompt_cache(model), make_prompt_cache(twin)
    mx.random.seed(11)
    model(tokens(6), cache=cache)
    twin(tokens(6), cache=plain)
    drawn = mx.random.uniform(shape=(4,))
    mx.random.seed(11)
    assert asked and mx.array_equal(drawn, mx.random.uniform(shape=(4,)))
    assert [c.offset for c in cache] == [c.offset for c in plain] == [6, 6]
    assert_near([c.state for c in cache], [c.state for c in plain], 1e-5)
    assert_near(model.parameters(), twin.parameters(), 0.0)


def test_times_that_are_real() -> None:
    """Two real measurements: some way is chosen, and the times say why."""
    model = build("llama")
    report = zmlx.patch(model)
    model(tokens(6))
    (decision,) = report["model.layers.0"].decisions.values()
    assert decision.plain_ms > 0 and decision.fused_ms > 0
    assert (decision.way == "whole") == (decision.fused_ms <= decision.plain_ms)


def test_inside_mx_compile() -> None:
    """There arrays have no values: stand-ins are measured."""
    model = build("llama")
    expected = model(tokens(6))
    report = zmlx.patch(model)
    assert_near(mx.compile(model)(tokens(6)), expected, 1e-5)
    assert report["model.layers.0"].decisions
