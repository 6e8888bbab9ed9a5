"""Models of mlx-lm in training: gradients, the trainer's step, LoRA, beside plain MLX."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from architectures import build
from comparing import EVERY, assert_near, batch
from mlx_lm.tuner.trainer import default_loss
from running import adapted, trained

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
