"""The demo: its functions against float64, its checks against broken runs, and one short run."""

from __future__ import annotations

import io
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from rich.console import Console

import zmlx
from zmlx import demo
from zmlx.demo import model
from zmlx.demo import train as training
from zmlx.device.base import Device
from zmlx.device.rules import lazily


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape)


def test_activations_match_float64() -> None:
    x = normal(1000) * 4
    expected = {
        "gelu": 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "mish": x * np.tanh(np.logaddexp(x, 0)),
        "silu": x / (1 + np.exp(-x)),
    }
    for name, activation in model.LAYERS.items():
        got = np.array(activation(mx.array(x.astype(np.float32))))
        np.testing.assert_allclose(got, expected[name], rtol=1e-5, atol=1e-5)


def test_adamw_matches_float64() -> None:
    w, g, m = (normal(3, 50) for _ in range(3))
    v = np.abs(normal(50))
    rate, scale1, scale2 = 0.01, 2.0, 3.0
    arrays = (mx.array(a.astype(np.float32)) for a in (w[0], g[1], m[2], v))
    got = model.adamw(*arrays, rate, scale1, scale2)
    first = model.BETA1 * m[2] + (1 - model.BETA1) * g[1]
    second = model.BETA2 * v + (1 - model.BETA2) * g[1] ** 2
    step = first * scale1 / (np.sqrt(second * scale2) + model.EPSILON) + model.DECAY * w[0]
    for value, wanted in zip(got, (w[0] - rate * step, first, second), strict=True):
        np.testing.assert_allclose(np.array(value), wanted, rtol=1e-5, atol=1e-6)


def test_schedule_warms_up_then_falls_to_zero() -> None:
    rates = [model.schedule(step, 100)[0] for step in range(100)]
    assert rates[9] == pytest.approx(model.RATE)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3 * model.RATE
    assert model.schedule(0, 100)[1] == pytest.approx(10)


def test_the_fused_step_takes_the_plain_step() -> None:
    """Loss and every updated array of three steps, on a narrow network."""
    state = model.init(0, width=32)
    rng = np.random.default_rng(0)
    arrays = (rng.random((16, 64)), np.eye(10)[rng.integers(0, 10, 16)], normal(16, 64))
    batch = tuple(mx.array(a.astype(np.float32)) for a in (*arrays, normal(16, 1)))
    plain = model.make_step(model.loss, model.adamw)
    fused = model.make_step(zmlx.fuse(model.loss), zmlx.fuse(model.adamw))
    mine = theirs = (state.params, state.first, state.second)
    for index in range(3):
        numbers = model.schedule(index, 30)
        value, *mine = fused(*mine, batch, numbers)
        wanted, *theirs = plain(*theirs, batch, numbers)
        assert value.item() == pytest.approx(wanted.item(), rel=1e-5)
    for ours, other in zip(mine, theirs, strict=True):
        model.tree_map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, other
        )


def test_the_loss_runs_as_kernels_of_the_host_device(host_device: Device) -> None:
    """MLX's own picture of the lazy result names kernels, and no op that belongs in one."""
    params = model.init(0, width=32).params
    shapes = ((16, 64), (16, 10), (16, 64), (16, 1))
    batch = [mx.random.normal(shape) for shape in shapes]
    mx.eval(batch)
    with lazily():
        value = zmlx.fuse(model.loss)(params, *batch)
    picture = io.StringIO()
    mx.export_to_dot(picture, value)
    labels = re.findall(r'label ?= ?"([^"]+)"', picture.getvalue())
    assert len([label for label in labels if label.startswith("zmlx_")]) == 3, labels
    fused = {"Tanh", "Sigmoid", "LogAddExp", "Add", "Multiply", "Maximum", "Minimum"}
    assert not fused & set(labels), labels
    assert labels.count("Divide") == 1, labels  # the mean's, of one number by the count
    assert np.isfinite(value.item())


def test_digits_are_split_without_overlap() -> None:
    digits = training.load_digits(0)
    assert digits.train_x.shape == (1438, 64)
    assert digits.test_x.shape == (359, 64)
    assert mx.all(digits.train_y.sum(axis=1) == 1).item()
    assert 0 <= digits.test_x.min().item() <= digits.test_x.max().item() <= 1


def a_run(losses: list[float]) -> training.Run:
    way = training.Way("some way", lambda: None, tuple)
    return training.Run(way, model.State({}, {}, {}), losses, [0.1] * len(losses))


@pytest.mark.parametrize(
    ("losses", "accuracy", "kept"),
    [
        ([2.0, 1.0], 0.96, True),
        ([2.0, 1.00009], 0.96, True),
        ([2.0003, 1.0], 0.96, False),
        ([2.0, float("nan")], 0.96, False),
        ([2.0, 1.0], 0.94, False),
    ],
)
def test_the_checks_see_a_broken_run(losses: list[float], accuracy: float, kept: bool) -> None:
    runs = [a_run([2.0, 1.0]), a_run(losses)]
    verdict = demo.checks(runs, [0.97, accuracy], ["a region"])
    assert all(check.kept for check in verdict) is kept
    assert not all(check.kept for check in demo.checks(runs, [1.0, 1.0], []))


def test_a_short_run_keeps_every_promise(
    tmp_path: Path,
) -> None:
    """The demo on a narrow network: what it prints, writes and returns."""
    console = Console(width=120, record=True, file=io.StringIO())
    kept = demo.run_demo(80, 0, tmp_path, console, width=128)
    text = console.export_text()
    assert kept, text
    assert "zmlx.fuse: loss curve agrees" in text
    assert "d/d" in text
    assert "NO" not in text.split("Written")[0][-600:]
    assert (tmp_path / "loss-curves.png").read_bytes().startswith(b"\x89PNG")
    html = (tmp_path / "fusion.html").read_text()
    assert "<svg" in html
    assert "http-equiv" not in html
    assert 'src="http' not in html


def test_a_run_is_a_function_of_its_seed() -> None:
    digits = training.load_digits(1)
    first, second = training.batches(digits, 1, 2), training.batches(digits, 1, 2)
    for batch, same in zip(first, second, strict=True):
        assert all(mx.array_equal(a, b).item() for a, b in zip(batch, same, strict=True))
    other = training.batches(digits, 2, 1)
    assert not mx.array_equal(first[0][2], other[0][2]).item()
