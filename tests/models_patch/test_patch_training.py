"""Patched models of mlx-lm in training: gradients, its own trainer, LoRA, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from architectures import NAMES, build, tokens
from comparing import assert_near, batch
from mlx.utils import tree_map
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, train
from mlx_lm.tuner.utils import linear_to_lora_layers
from running import adapted, trained

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")
GRADIENTS = 2e-5
FEW = [pytest.param(n, marks=() if n == "llama" else pytest.mark.exhaustive) for n in NAMES]


@pytest.mark.parametrize("name", FEW)
def test_forward_and_gradients(name: str) -> None:
    """And with the loss fused around the patched model."""
    model, x = build(name), tokens(6)
    weights = {k: mx.array(w) for k, w in nn.utils.tree_flatten(model.parameters())}
    expected = model(x), nn.value_and_grad(model, default_loss)(model, *batch())
    report = zmlx.patch(model, measure=False)
    assert_near(model(x), expected[0], 1e-5)
    for loss in (default_loss, zmlx.fuse(default_loss)):
        (value, _), gradients = nn.value_and_grad(model, loss)(model, *batch())
        assert_near(value, expected[1][0][0], 1e-5)
        assert_near(gradients, expected[1][1], GRADIENTS)
    ways = {(k.mode, d.way) for place in report.replaced for k, d in place.decisions.items()}
    assert {("call", "whole"), ("gradient", "whole")} <= ways
    zmlx.unpatch(model)
    after = dict(nn.utils.tree_flatten(model.parameters()))
    assert after.keys() == weights.keys()
    assert all(mx.array_equal(weights[k], after[k]).item() for k in weights)
    assert_near(model(x), expected[0], 1e-6)  # MLX's products depend on where arrays lie


@pytest.mark.parametrize("name", FEW)
def test_the_trainers_step_with_lora(name: str) -> None:
    """Patched after the conversion, and before it."""
    plain = trained(adapted(name), lambda step, state: step)
    model = adapted(name)
    zmlx.patch(model, measure=False)
    assert_near(trained(model, lambda step, state: step), plain, GRADIENTS)
    model = build(name)
    zmlx.patch(model, measure=False)
    model.freeze()
    mx.random.seed(7)
    linear_to_lora_layers(model, 2, {"rank": 4, "scale": 10.0, "dropout": 0.25})
    assert any("lora_a" in key for key in dict(nn.utils.tree_flatten(model.parameters())))
    zmlx.unpatch(model)
    assert type(model) is type(build(name))


@pytest.mark.exhaustive  # MLX compiles its own kernels anew in every process
@pytest.mark.parametrize("checkpointed", [False, True])
def test_mlx_lms_own_trainer(checkpointed: bool, tmp_path: Path) -> None:
    """mx.compile around the step, LoRA, checkpoints of each layer."""
    plain = fitted(build("llama"), tmp_path, False)
    model = build("llama")
    zmlx.patch(model, measure=False)
    patched = fitted(model, tmp_path, checkpointed)
    assert_near(patched, plain, 1e-4)
    zmlx.unpatch(model)
    assert_near(fitted(model, tmp_path, False, lora=False), patched, 1.0)


def fitted(model: nn.Module, folder: Path, checkpointed: bool, lora: bool = True) -> Any:
    """The adapters after three steps."""
    if lora:
        model.freeze()
        mx.random.seed(7)
        linear_to_lora_layers(model, 2, {"rank": 4, "scale": 10.0, "dropout": 0.0})
        model.update(tree_map(lambda w: w + 0.01, model.trainable_parameters()))
    args = TrainingArgs(
        batch_size=2,
        iters=3,
        steps_per_report=100,
        steps_per_save=100,
        adapter_file=str(folder / "adapters.safetensors"),
        grad_checkpoint=checkpointed,
    )
    train(model, optim.SGD(1e-2), [None], args=args, iterate_batches=batches)
    return model.trainable_parameters()


def batches(**_: Any) -> Iterator[tuple[mx.array, mx.array]]:
    for seed in range(10):
        yield batch(seed=seed)
