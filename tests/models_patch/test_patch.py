"""zmlx.patch and unpatch: one model, in place, everything that users do with it, and back."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from architectures import build, tokens
from comparing import assert_near, assert_same
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")


class Gated(nn.Module):
    """One's own model, without a list of layers: it is fused whole."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 64), nn.Linear(64, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.5)
        self.calls = 0

    def __call__(self, x: mx.array) -> mx.array:
        self.calls += 1
        return x + self.dropout(self.down(nn.gelu(self.up(self.norm(x)))))


def inputs(rows: int = 4) -> mx.array:
    return mx.random.normal((rows, 32), key=mx.random.key(1))


def classes(model: nn.Module) -> list[type]:
    return [type(m) for m in model.modules()]


def whole(report: Any, path: str = "") -> bool:
    return {d.way for d in report[path].decisions.values()} == {"whole"}


def test_only_this_object_is_patched() -> None:
    model, other = build("llama"), build("llama")
    x = tokens(6)
    expected = other(x)
    report = zmlx.patch(model, measure=False)
    assert_near(model(x), expected, 1e-5)
    assert report["model.layers.0"].status == "fused"
    assert all(c is p for c, p in zip(classes(other), classes(zmlx.unpatch(model)), strict=True))
    assert_same(other(x), expected)


@pytest.mark.smoke
def test_unpatch_gives_the_old_model_back() -> None:
    """Classes, state and bits; twice is once."""
    model, x = build("llama"), tokens(6)
    before, expected, shown = classes(model), model(x), repr(model)
    state = dict(tree_flatten(model.state))
    first = zmlx.patch(model, measure=False)
    assert [c.__name__ for c in classes(model)] == [c.__name__ for c in before]
    patched = classes(model)
    assert patched != before and repr(model) == shown and isinstance(model, before[0])
    again = zmlx.patch(model, measure=False)
    assert classes(model) == patched
    assert [p.paths for p in again.places] == [p.paths for p in first.places]
    model(x)
    assert zmlx.unpatch(model) is model and zmlx.unpatch(model) is model
    assert classes(model) == before and repr(model) == shown
    now = dict(tree_flatten(model.state))
    assert now.keys() == state.keys() and all(now[name] is state[name] for name in state)
    assert_same(model(x), expected)


def test_ones_own_model() -> None:
    model = Gated()
    model.eval()
    expected = model(inputs())
    report = zmlx.patch(model, measure=False)
    assert_near(model(inputs()), expected, 1e-5)
    assert whole(report) and model.calls == 2
    assert report.explain("").kernels_after < report.explain("").kernels_before


def test_training_switches_and_dropout() -> None:
    """train, eval, freeze; the draws are those of the plain model."""
    model, plain = Gated(), Gated()
    plain.update(model.parameters())
    zmlx.patch(model, measure=False)
    for run in (model, plain):
        run.train()
        run.down.freeze()

    def gradients(run: nn.Module) -> Any:
        mx.random.seed(5)
        return nn.value_and_grad(run, lambda m, x: m(x).square().sum())(run, inputs())

    assert_near(gradients(model), gradients(plain), 2e-5)
    assert "down" not in dict(tree_flatten(model.trainable_parameters()))
    for run in (model, plain):
        run.eval()
    assert_near(model(inputs()), plain(inputs()), 1e-5)
    assert not mx.allclose(model(inputs()), inputs())


def test_mx_compile_around_a_patched_model() -> None:
    model = Gated()
    model.eval()
    expected = model(inputs())
    zmlx.patch(model, measure=False)
    assert_near(mx.compile(lambda x: model(x))(inputs()), expected, 1e-5)


def test_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    model, other = build("llama"), build("llama", rope_theta=10000.0)
    names = [name for name, _ in tree_flatten(model.parameters())]
    zmlx.patch(model, measure=False)
    assert [name for name, _ in tree_flatten(model.parameters())] == names
    other.update(nn.utils.tree_map(lambda w: w * 0.5, other.parameters()))
    other.save_weights(str(tmp_path / "other.safetensors"))
    model(tokens(6))
    model.load_weights(str(tmp_path / "other.safetensors"))
    assert_near(model(tokens(6)), other(tokens(6)), 1e-5)
    model.save_weights(str(tmp_path / "patched.safetensors"))
    saved = mx.load(str(tmp_path / "patched.safetensors"))
    assert_same(saved, dict(tree_flatten(other.parameters())))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_patched_too(copied: Any) -> None:
    model, x = build("llama"), tokens(6)
    expected = model(x)
    zmlx.patch(model, measure=False)
    twin = copied(model)
    assert classes(twin) == classes(model)
    assert_near(twin(x), expected, 1e-5)
    zmlx.unpatch(twin)
    assert_same(twin(x), expected)
    assert classes(twin) != classes(model) and classes(twin) == classes(build("llama"))


def test_quantising_a_patched_model() -> None:
    model, x = build("llama"), tokens(6)
    zmlx.patch(model, measure=False)
    model(x)
    nn.quantize(model, group_size=32, bits=4)
    assert isinstance(model.model.layers[0].mlp.up_proj, nn.QuantizedLinear)
    got = model(x)
    assert_near(got, zmlx.unpatch(model)(x), 1e-5)


def test_a_call_that_cannot_be_fused_runs_plainly() -> None:
    """And says why; what the caller does wrong is raised as without a patch."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Gated()

        def __call__(self, x: mx.array) -> mx.array:
            return self.inner(x) if x.sum() > 0 else -x

    model = Branching()
    model.eval()
    expected = model(mx.abs(inputs())), model(-mx.abs(inputs()))
    report = zmlx.patch(model, measure=False)
    assert_near([model(mx.abs(inputs())), model(-mx.abs(inputs()))], list(expected), 1e-5)
    assert report[""].status == "plain" and report["inner"].status == "fused"
    assert "cannot be fused" in report[""].lines()[0] and "test_patch.py" in report[""].lines()[0]
    with pytest.raises(ValueError, match="last dimension|matmul|rms_norm|layer_norm"):
        model(mx.ones((4, 31)))
    assert_near(model(mx.abs(inputs())), expected[0], 1e-5)


def test_what_is_no_module_is_refused() -> None:
    for call in (zmlx.patch, zmlx.unpatch, lambda f: zmlx.validate(f, inputs())):
        with pytest.raises(TypeError, match="is a function; wanted an mlx.nn.Module"):
            call(lambda x: x)
    with pytest.raises(ValueError, match="numerics is 'half'"):
        zmlx.patch(Gated(), numerics="half")


def test_the_report() -> None:
    model = build("llama")
    report = zmlx.patch(model, measure=False)
    assert report["model.layers.1"].lines() == ["patched; decided at its first call"]
    assert "loop" in report["model"].why and report["model"].status == "skipped"
    model(tokens(6))
    model(tokens(6), cache=make_prompt_cache(model))
    lines = "\n".join(report["model.layers.1"].lines())
    assert "fused whole" in lines and "with a cache" in lines and "fused in pieces" in lines
    assert "'offset' of a KVCache" in "\n".join(report["model.layers.0.self_attn"].lines())
    told = json.loads(report.json())
    layers = next(p for p in told["places"] if "model.layers.0" in p["paths"])
    assert layers["status"] == "fused" and layers["class"] == "TransformerBlock"
    assert "TransformerBlock" in str(report) and "<pre>" in report._repr_html_()
    assert report.explain("model.layers.0").regions
    assert report.explain("model.layers.0", "cache").regions
    with pytest.raises(KeyError, match="no module is at 'layers'"):
        report["layers"]
    with pytest.raises(ValueError, match="has no fused calls of kind 'gradient'"):
        report.explain("model.layers.0", "gradient")
    with pytest.raises(ValueError, match="a layer of MLX's"):
        report.explain("model.norm")


def test_numerics_of_plain_mlx() -> None:
    model, x = build("llama"), tokens(6)
    expected = model(x)
    zmlx.patch(model, measure=False, numerics="mlx")
    assert_same(model(x), expected)
