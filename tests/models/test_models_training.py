"""Models of mlx-lm in training: gradients, the trainer's step, LoRA, beside plain MLX."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from architectures import build
from comparing import EVERY, assert_near, batch
from mlx.utils import tree_map
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.tuner.utils import linear_to_lora_layers

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")
GRADIENTS = 2e-5


@pytest.mark.parametrize("name", EVERY)
def test_gradients(name: str) -> None:
    """Of a loss of the fused model, and of the fused loss, which gets the model as an argument."""
    model = build(name)
    fused = zmlx.fuse(model)
    (loss, count), expected = nn.value_and_grad(model, default_loss)(model, *batch())
    for gradient in (
        nn.value_and_grad(model, lambda _, *data: default_loss(fused, *data)),
        nn.value_and_grad(model, zmlx.fuse(default_loss)),
    ):
        (got, counted), gradients = gradient(model, *batch())
        assert_near([got, counted], [loss, count])
        assert_near(gradients, expected, GRADIENTS)


@pytest.mark.parametrize("name", EVERY)
def test_the_trainers_step(name: str) -> None:
    """Accumulated gradients, AdamW, all state named: as mlx_lm.tuner.trainer compiles it."""
    plain = trained(build(name), lambda step, state: step)
    fused = trained(build(name), lambda step, state: zmlx.fuse(step, inputs=state, outputs=state))
    assert_near(fused, plain, GRADIENTS)


@pytest.mark.exhaustive  # MLX compiles its own kernels anew in every process
@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_the_compiled_step_of_the_trainer_around_a_fused_loss(name: str) -> None:
    plain = trained(build(name), lambda step, state: step)
    compiled = trained(
        build(name),
        lambda step, state: mx.compile(step, inputs=state, outputs=state),
        zmlx.fuse(default_loss),
    )
    assert_near(compiled, plain, GRADIENTS)


@pytest.mark.parametrize("name", EVERY)
def test_lora(name: str) -> None:
    """Adapters with dropout: the weights below are frozen, and the draws are MLX's."""
    plain = trained(adapted(name), lambda step, state: step)
    fused = trained(adapted(name), lambda step, state: zmlx.fuse(step, inputs=state, outputs=state))
    assert_near(fused, plain, GRADIENTS)


def adapted(name: str) -> nn.Module:
    model = build(name)
    model.freeze()
    linear_to_lora_layers(model, 2, {"rank": 4, "scale": 10.0, "dropout": 0.25})
    model.update(tree_map(lambda w: w + 0.01, model.trainable_parameters()))
    return model


def trained(
    model: nn.Module,
    fuse: Callable[[Callable[..., Any], list[Any]], Callable[..., Any]],
    loss: Callable[..., Any] = default_loss,
) -> Any:
    """Losses, weights and the optimizer's state after four batches, an update every second one.

    AdamW's `eps` is large: with a small one the sign of a gradient near 0 decides a whole step.
    """
    optimizer = optim.AdamW(1e-2, eps=1e-2)
    loss_value_and_grad = nn.value_and_grad(model, loss)
    model.train()
    optimizer.init(model.trainable_parameters())
    mx.random.seed(3)
    state = [model.state, optimizer.state, mx.random.state]

    @partial(fuse, state=state)
    def step(batch: tuple[mx.array, mx.array], prev_grad: Any, do_update: bool) -> Any:
        (value, count), grad = loss_value_and_grad(model, *batch)
        if prev_grad is not None:
            grad = tree_map(lambda x, y: x + y, grad, prev_grad)
        if do_update:
            grad = tree_map(lambda x: x / 2, grad)
            optimizer.update(model, grad)
            grad = None
        return value, count, grad

    losses, grad = [], None
    for number in range(4):
        value, _, grad = step(batch(seed=number), grad, number % 2 == 1)
        losses.append(value)
        mx.eval(state, losses, grad)
    return {"losses": losses, "weights": model.parameters(), "optimizer": optimizer.state}
