"""Whole training steps with captured state: gradients that MLX takes inside a fused function."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_map

import zmlx

pytestmark = pytest.mark.usefixtures("on_cpu")  # of the host device, or exact


class Net(nn.Module):
    """Trainable arrays, running statistics, and a constant that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        mx.random.seed(3)
        # What the norm takes away again has a gradient of nothing but rounding.
        self.first, self.norm = nn.Linear(6, 5, bias=False), nn.BatchNorm(5)
        self.last = nn.Linear(5, 1)
        self._scale = mx.array(1.5)

    def __call__(self, x: mx.array) -> mx.array:
        return self.last(nn.silu(self.norm(self.first(x)) * self._scale))


def trained(fuse, steps: int = 4):
    """Losses and final weights of a training run; `fuse` wraps the step with its state."""
    model, optimizer = Net(), optim.Adam(1e-2)
    x = mx.random.normal((16, 6), key=mx.random.key(1))
    state = [model.state, optimizer.state]
    gradient = nn.value_and_grad(model, lambda x: ((model(x) - 1) ** 2).mean())

    def step(x: mx.array) -> mx.array:
        loss, gradients = gradient(x)
        optimizer.update(model, gradients)
        return loss

    run = fuse(step, state)
    losses = []
    for _ in range(steps):
        losses.append(run(x))
        mx.eval(losses[-1], state)
    return losses, model


@pytest.mark.smoke
def test_a_step_with_state_trains_as_plain_mlx(host_device) -> None:
    plain, expected = trained(lambda step, state: step)
    fused, got = trained(lambda step, state: zmlx.fuse(step, inputs=state, outputs=state))
    for a, b in zip(fused, plain, strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-5)
    for (name, a), (_, b) in zip(
        nn.utils.tree_flatten(got.state), nn.utils.tree_flatten(expected.state), strict=True
    ):
        assert mx.allclose(a, b, rtol=1e-4, atol=1e-6), name


def test_running_statistics_follow(host_device) -> None:
    """BatchNorm updates them inside the gradient, where only MLX sees it."""
    _, model = trained(lambda step, state: zmlx.fuse(step, inputs=state, outputs=state))
    assert not mx.allclose(model.norm.running_mean, mx.zeros(5))
    mx.eval(model.norm.running_mean)


def test_a_gradient_reads_state_that_was_updated_before(host_device) -> None:
    def values(fuse):
        model = Net()
        gradient = nn.value_and_grad(model, lambda x: model(x).sum())

        def step(x: mx.array) -> mx.array:
            model._scale = model._scale * 2  # no parameter: it does not travel as an argument
            loss, gradients = gradient(x)
            return loss, gradients["first"]["weight"], model.norm.running_mean * 1

        run = fuse(step, [model.state])
        found = [run(mx.ones((2, 6)) * i) for i in range(3)]
        return [*found, model._scale, model.norm.running_mean]

    plain = values(lambda step, state: step)
    fused = values(lambda step, state: zmlx.fuse(step, inputs=state, outputs=state))
    pairs = zip(nn.utils.tree_flatten(fused), nn.utils.tree_flatten(plain), strict=True)
    for (_, a), (_, b) in pairs:
        assert mx.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_tree_of_gradients_goes_in_and_out(host_device) -> None:
    """The tree is an argument beside the state, as where gradients are accumulated."""

    def accumulated(fuse) -> list[mx.array]:
        model, kept = Net(), None
        x = mx.random.normal((16, 6), key=mx.random.key(1))
        gradient = nn.value_and_grad(model, lambda x: model(x).square().mean())

        def step(x: mx.array, kept: Any) -> Any:
            _, gradients = gradient(x)
            if kept is not None:
                gradients = tree_map(lambda a, b: a + b, gradients, kept)
            return gradients

        run = fuse(step, [model.state])
        for _ in range(3):
            kept = run(x, kept)
        return [value for _, value in nn.utils.tree_flatten(kept)]

    plain = accumulated(lambda step, state: step)
    fused = accumulated(lambda step, state: zmlx.fuse(step, inputs=state, outputs=state))
    for got, expected in zip(fused, plain, strict=True):
        assert mx.allclose(got, expected, rtol=1e-4, atol=1e-6)
