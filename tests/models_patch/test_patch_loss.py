"""zmlx.models.loss: a training loss around a patched model, beside the same loss in plain MLX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from architectures import NAMES, build, tokens
from comparing import assert_near, assert_same, batch
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, train

import zmlx
from zmlx import models
from zmlx.catalog import patterns as catalog

pytestmark = pytest.mark.usefixtures("host_device")
FEW = [
    pytest.param(n, marks=() if n in ("llama", "gpt2") else pytest.mark.exhaustive) for n in NAMES
]
Gradient = Any


def gradient(model: nn.Module, loss: Any) -> Gradient:
    return nn.value_and_grad(model, loss)(model, *batch())


def own(model: nn.Module, x: mx.array, _: mx.array) -> mx.array:
    """As users write it: in float32, smoothed, with a penalty of their own."""
    logits = model(x[:, :-1]).astype(mx.float32)
    loss = nn.losses.cross_entropy(logits, x[:, 1:], reduction="mean", label_smoothing=0.1)
    return loss + 1e-3 * mx.logsumexp(logits, axis=-1).square().mean()


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Any number of logits is many; notes the shapes of what goes chunk by chunk."""
    seen: list[tuple[int, ...]] = []
    run = catalog.in_chunks

    def noted(x: mx.array, *others: Any) -> mx.array:
        seen.append(x.shape)
        return run(x, *others)

    monkeypatch.setattr(catalog, "MANY_LOGITS", 1)
    monkeypatch.setattr(catalog, "in_chunks", noted)
    return seen


@pytest.mark.parametrize("name", FEW)
def test_mlx_lms_loss(name: str, chunks: list[Any]) -> None:
    model = build(name)
    (value, count), expected = gradient(model, default_loss)
    zmlx.patch(model, measure=False)
    for loss in (models.loss(default_loss), models.loss(default_loss, chunks=True)):
        (got, number), gradients = gradient(model, loss)
        assert number.item() == count.item() and loss.__name__ == "default_loss"
        assert_near(got, value, 1e-5)
        assert_near(gradients, expected, 2e-5)
    assert bool(chunks) == (name not in ("gemma2", "recurrent_gemma"))  # which cap the logits
    if name == "gpt2":
        zmlx.unpatch(model)
        assert_same(gradient(model, loss), gradient(model, default_loss))


def test_fewer_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers' are what they were."""
    from zmlx.models.command import kernels

    model = build("llama")
    zmlx.patch(model, measure=False)
    plain, fused = (
        kernels(lambda loss=loss: gradient(model, loss))
        for loss in (default_loss, models.loss(default_loss))
    )
    assert fused < plain - 8


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_ones_own_loss(dtype: mx.Dtype) -> None:
    model = build("llama")
    exact = gradient(model, own)
    model.set_dtype(dtype)
    plain = gradient(model, own)
    zmlx.patch(model, measure=False)
    value, found = gradient(model, models.loss(own))
    near = 1e-5 if dtype == mx.float32 else 0.03
    assert_near(value, exact[0], near)
    assert_near(found, plain[1], 2e-5 if dtype == mx.float32 else 0.06)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("wide", [False, True])
def test_half_types_chunk_by_chunk(dtype: mx.Dtype, wide: bool, chunks: list[Any]) -> None:
    """As near to float32 as plain MLX is."""

    def loss(model: nn.Module, x: mx.array, _: mx.array) -> mx.array:
        logits = model(x[:, :-1])
        logits = logits.astype(mx.float32) if wide else logits
        return nn.losses.cross_entropy(logits, x[:, 1:]).astype(mx.float32).mean()

    model = build("llama")
    model.set_dtype(dtype)
    plain = gradient(model, loss)
    model.set_dtype(mx.float32)
    exact = gradient(model, loss)
    model.set_dtype(dtype)
    zmlx.patch(model, measure=False)
    value, found = gradient(model, models.loss(loss, chunks=True))
    assert chunks and value.dtype == mx.float32
    off = abs(value.item() - exact[0].item())
    assert off <= 2 * abs(plain[0].item() - exact[0].item()) + 1e-3
    assert found["model"]["embed_tokens"]["weight"].dtype == dtype
    for tree in (plain[1], found):
        assert_near(nn.utils.tree_map(lambda a: a.astype(mx.float32), tree), exact[1], 0.05)


def test_what_calls_a_model_twice() -> None:
    """Two calls of one model, then of another: preferences, say."""

    def loss(model: nn.Module, x: mx.array, other: nn.Module) -> mx.array:
        ours = model(x[:, :4]).sum(axis=-1) - model(x[:, 1:5]).sum(axis=-1)
        return -nn.log_sigmoid(0.1 * (ours - other(x[:, :4]).sum(axis=-1))).mean()

    model, other = build("llama"), build("gpt2")
    x = tokens(6)
    expected = nn.value_and_grad(model, loss)(model, x, other)
    zmlx.patch(model, measure=False)
    found = nn.value_and_grad(model, models.loss(loss))(model, x, other)
    assert_near(found, expected, 2e-5)


def test_what_draws_before_the_layers_runs_as_it_is() -> None:
    """It would draw again after them."""

    def loss(model: nn.Module, x: mx.array) -> mx.array:
        noise = mx.random.uniform(shape=(4,))
        x = mx.where(noise[:, None] > 0.5, x, 0)
        return (model(x) * noise.sum()).square().mean()

    model, x = build("llama"), tokens(6, rows=4)
    mx.random.seed(3)
    expected = loss(model, x), mx.random.uniform(shape=(2,))
    zmlx.patch(model, measure=False)
    fused = models.loss(loss)
    for _ in range(2):
        mx.random.seed(3)
        assert_near((fused(model, x), mx.random.uniform(shape=(2,))), expected, 1e-5)


def test_a_model_without_a_list_of_layers() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    x, y = mx.random.normal((6, 8)), mx.array([0, 3, 1, 2, 0, 1])

    def loss(model: nn.Module, x: mx.array, y: mx.array) -> mx.array:
        return nn.losses.cross_entropy(model(x), y, reduction="mean")

    expected = nn.value_and_grad(model, loss)(model, x, y)
    zmlx.patch(model, measure=False)
    assert_near(nn.value_and_grad(model, models.loss(loss))(model, x, y), expected, 1e-5)


def test_faults_are_the_callers() -> None:
    model = build("llama")
    zmlx.patch(model, measure=False)
    with pytest.raises(TypeError, match="wanted a plain function fn\\(model, \\*batch\\)"):
        models.loss(model)

    def broken(model: nn.Module, x: mx.array) -> mx.array:
        return model(x) @ mx.ones((3, 3))

    for _ in range(2):
        with pytest.raises(ValueError, match="matmul"):
            models.loss(broken)(model, tokens(6))

    def steered(model: nn.Module, x: mx.array) -> mx.array:
        logits = model(x)
        return logits.mean() if logits.sum() < 1e9 else -logits.mean()

    expected = steered(model, tokens(6))
    fused = models.loss(steered)
    assert_near([fused(model, tokens(6)), fused(model, tokens(6))], [expected] * 2, 1e-5)


@pytest.mark.exhaustive  # MLX compiles its own kernels anew in every process
@pytest.mark.parametrize("checkpointed", [False, True])
def test_mlx_lms_trainer(checkpointed: bool, tmp_path: Path) -> None:
    def fitted(loss: Any) -> Any:
        model = build("llama")
        if loss is not default_loss:
            zmlx.patch(model, measure=False)
        args = TrainingArgs(
            batch_size=2, iters=3, steps_per_report=100, steps_per_save=100,
            adapter_file=str(tmp_path / "a.safetensors"), grad_checkpoint=checkpointed,
        )  # fmt: skip
        data = lambda **_: (batch(seed=seed) for seed in range(10))  # noqa: E731
        train(model, optim.SGD(1e-2), [None], args=args, loss=loss, iterate_batches=data)
        return model.trainable_parameters()

    assert_near(fitted(models.loss(default_loss)), fitted(default_loss), 1e-4)
