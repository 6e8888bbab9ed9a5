"""zmlx.validate: what it compares, what it leaves as it was, and how it names a faulty module."""

from __future__ import annotations

import json
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from architectures import build, tokens
from comparing import assert_same
from mlx.utils import tree_flatten

import zmlx
from zmlx.errors import ValidationError
from zmlx.models.part import Part, part_of

pytestmark = pytest.mark.usefixtures("host_device")


def rows(validation: Any) -> dict[tuple[str, str], Any]:
    return {(c.what, c.dtype): c for c in validation.compared}


def test_all_that_is_compared() -> None:
    """In the model's own type and in float32; weights, classes and draws stay."""
    model, x = build("llama"), tokens(6)
    model.set_dtype(mx.bfloat16)
    zmlx.patch(model, measure=False)
    before, state = dict(tree_flatten(model.state)), mx.random.state[0].tolist()
    classes = [type(m) for m in model.modules()]
    validation = zmlx.validate(model, x, tokens=4)
    found = rows(validation)
    assert validation.passed and set(found) == {
        (what, dtype)
        for what in ("results", "gradients", "greedy tokens")
        for dtype in ("float32", "bfloat16")
    }
    assert 0 < found["results", "float32"].error < 1e-5
    plain = found["results", "bfloat16"].plain
    assert plain > 1e-4 and found["results", "bfloat16"].error <= 2 * plain + 1e-5
    now = dict(tree_flatten(model.state))
    assert now.keys() == before.keys() and all(now[name] is before[name] for name in now)
    assert mx.random.state[0].tolist() == state
    assert [type(m) for m in model.modules()] == classes
    told = json.loads(json.dumps(validation.as_dict()))
    assert told["passed"] and len(told["compared"]) == 6


def test_at_once() -> None:
    model = build("llama")
    report = zmlx.patch(model, measure=False, validate=tokens(6))
    assert report.validation is not None and report.validation.passed
    assert "zmlx.validate" in str(report) and report.as_dict()["validation"]["passed"]


def test_a_model_that_makes_no_tokens() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.LayerNorm(8))
    x = mx.random.normal((3, 8), key=mx.random.key(0))
    zmlx.patch(model, measure=False)
    for inputs in (x, (x,), {"x": x}):
        found = rows(zmlx.validate(model, inputs))
        assert set(found) == {("results", "float32"), ("gradients", "float32")}
    model.freeze()
    validation = zmlx.validate(model, x)
    assert rows(validation)["gradients", "float32"].note == "nothing is trainable"


@pytest.mark.parametrize("path", ["model.layers.1", "model.layers.0"])
def test_a_fault_is_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module whose kernels are wrong, not those that get its results."""
    model, x = build("llama"), tokens(6)
    zmlx.patch(model, measure=False)
    zmlx.validate(model, x, tokens=0)
    faulty = dict(model.named_modules())[path]
    run = Part.run

    def wrong(self: Part, decision: Any, module: Any, *given: Any) -> Any:
        result = run(self, decision, module, *given)
        wrongly = module is faulty and decision.way != "plain"
        return result + 0.05 * mx.abs(result) if wrongly else result

    monkeypatch.setattr(Part, "run", wrong)
    with pytest.raises(ValidationError) as caught:
        zmlx.validate(model, x)
    assert f"the two part first in {path} (TransformerBlock), by 0.05" in str(caught.value)
    assert "results in float32" in str(caught.value) and "zmlx.unpatch" in str(caught.value)
    assert not caught.value.validation.passed  # type: ignore[attr-defined]


def test_a_fault_in_a_gradient_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("llama"), tokens(6)
    zmlx.patch(model, measure=False)
    zmlx.validate(model, x, tokens=0)
    faulty, run = model.layers[1], Part.run

    def wrong(self: Part, decision: Any, module: Any, *given: Any) -> Any:
        result = run(self, decision, module, *given)
        if module is not faulty or decision.way == "plain":
            return result
        return mx.stop_gradient(0.5 * result) + 0.5 * result  # the value is right

    monkeypatch.setattr(Part, "run", wrong)
    with pytest.raises(ValidationError, match="gradients in float32") as caught:
        zmlx.validate(model, x, tokens=0)
    assert "the two part first in model.layers.1 (TransformerBlock)" in str(caught.value)


def test_a_fault_with_a_cache_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right without a cache; the tokens tell."""
    model, x = build("llama"), tokens(6)
    zmlx.patch(model, measure=False)
    run = Part.run

    def wrong(self: Part, decision: Any, module: Any, *given: Any) -> Any:
        result = run(self, decision, module, *given)
        return mx.roll(result, 3, axis=-1) if decision.way == "in pieces" else result

    monkeypatch.setattr(Part, "run", wrong)
    with pytest.raises(ValidationError, match="greedy tokens in float32") as caught:
        zmlx.validate(model, x)
    assert "the two part first in model.layers.0 (TransformerBlock)" in str(caught.value)


def test_a_model_that_fails_is_plain_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("llama"), tokens(6)
    expected, run = model(x), Part.run

    def wrong(self: Part, decision: Any, *given: Any) -> Any:
        result = run(self, decision, *given)
        return result if decision.way == "plain" else mx.abs(result)

    monkeypatch.setattr(Part, "run", wrong)
    with pytest.raises(ValidationError, match="model.layers.0"):
        zmlx.patch(model, measure=False, validate=x)
    assert not any(part_of(m) for m in model.modules())
    assert_same(model(x), expected)


def test_what_cannot_be_validated() -> None:
    model = build("llama")
    with pytest.raises(ValueError, match="nothing in this Model is patched"):
        zmlx.validate(model, tokens(6))
    zmlx.patch(model, measure=False)
    zmlx.unpatch(model)
    with pytest.raises(ValueError, match=r"Call zmlx.patch\(model\) first"):
        zmlx.validate(model, tokens(6))
