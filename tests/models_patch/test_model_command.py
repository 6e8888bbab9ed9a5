"""`python -m zmlx model`: models of random weights, the table, the page, wrong words."""

from __future__ import annotations

import html.parser
from pathlib import Path

import mlx.core as mx
import pytest
from architectures import CONFIGURATIONS, NAMES, tokens
from typer.testing import CliRunner

from zmlx.cli import app
from zmlx.models import built, command
from zmlx.tuning import timing

pytestmark = pytest.mark.usefixtures("host_device")
SMALL = ("--layers", "1", "--dim", "64", "--vocabulary", "64", "--tokens", "1x8", "--rounds", "1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One launch of each, no matter how short: times are not looked at here."""
    monkeypatch.setattr(timing, "MOST_AT_ONCE", 1)
    monkeypatch.setattr(command, "CHECKED", (1, 4))


def test_llama_from_the_shell(tmp_path: Path) -> None:
    page = tmp_path / "llama.html"
    run = CliRunner().invoke(
        app, ["model", "mlx_lm.models.llama", *SMALL, "--dtype", "float", "--out", str(page)]
    )
    assert run.exit_code == 0, run.output
    for words in ("prompt, 1 x 8", "decoding, one", "patched", "zmlx.validate", "TransformerBlock"):
        assert words in run.output
    text = page.read_text("utf-8")
    html.parser.HTMLParser().feed(text)
    assert "float32" in text and "http://www.w3.org" in text and "https://" not in text
    assert text.count("<table>") >= 3 and "model.layers.0" in text


@pytest.mark.exhaustive  # MLX compiles its own kernels anew in every process
def test_a_training_step_beside_mx_compile() -> None:
    model = built.built("mlx_lm.models.llama", 64, 1, 64, {})
    found = command.compared("llama", model, mx.float32, (1, 8), train=True, rounds=1)
    case = found.cases[-1]
    assert list(case.ways) == ["plain MLX", "patched", "mx.compile"] and case.times > 0
    assert all(m.ms > 0 and m.peak > 0 for m in case.ways.values())
    assert found.validation.passed


def test_kernels_are_counted() -> None:
    x = mx.ones((4, 4))
    mx.eval(x)
    assert command.kernels(lambda: mx.exp(x @ x.T).reshape(2, 8)[:, :4]) == 2


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_is_built(name: str) -> None:
    """By width and depth alone, but for what is a pattern of layers or a low rank."""
    fields = ("block_types", "rope_scaling", "layer_types", "attention_window_size", "conv1d_width")
    fields += ("logits_soft_cap", "n_group", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    settings = {
        field: value
        for field, value in CONFIGURATIONS[name].items()
        if field in fields or field.startswith("linear_") or field.endswith("low_rank_dim")
    }
    if "partial_rotary_factor" in CONFIGURATIONS[name]:
        settings["partial_rotary_factor"] = 0.5
    model = built.built(f"mlx_lm.models.{name}", 64, 2, 64, settings)
    assert model(tokens(4, rows=1)).shape == (1, 4, 64)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mlx_lm.models.nothing"], "cannot be imported"),
        (["mlx_lm.models.base"], "has no Model with a dataclass ModelArgs"),
        (["mlx_lm.models.llama", "--set", "width=3"], "ModelArgs has no width; it has"),
        (["mlx_lm.models.llama", "--set", "width"], "wanted NAME=VALUE"),
        (["mlx_lm.models.rwkv7"], "which no size says. Give --set"),
        (["mlx_lm.models.llama", "--dtype", "int8"], "float32, float16 or bfloat16"),
        (["mlx_lm.models.llama", "--tokens", "1x1"], "ROWSxLENGTH with a length of 2 or more"),
    ],
)
def test_wrong_words(words: list[str], told: str) -> None:
    run = CliRunner().invoke(app, ["model", *words])
    assert run.exit_code != 0
    assert told in " ".join(run.output.replace("│", " ").split())
