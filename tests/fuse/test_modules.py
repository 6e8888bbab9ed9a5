"""Modules and captured state: weights as inputs, settings, training steps, random state."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from fuse_cases import array, close

import zmlx

pytestmark = pytest.mark.usefixtures("default_device")

x, y = array(0, 4, 6), array(1, 4, 6)


# -- modules --------------------------------------------------------------------------------------
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(6, 8), nn.Linear(8, 6)]
        self.scale = mx.ones((6,))
        self.gain = 0.5

    def __call__(self, x):
        h = nn.gelu_approx(self.layers[0](x) + self.gain)
        return mx.tanh(self.layers[1](h) * self.scale) + x

    def twice(self, x):
        return self(self(x)) * 2


def squared(model, x):
    return (model(x) ** 2).mean()


def test_a_module_instance_and_its_gradients():
    model = Block()
    fused = zmlx.fuse(model)
    close(fused(x), model(x))
    pull = nn.value_and_grad(model, lambda a: (fused(a) ** 2).mean())
    want = nn.value_and_grad(model, lambda a: squared(model, a))(x)
    got = pull(x)
    close(got[0], want[0])
    close(got[1]["layers"][0], want[1]["layers"][0], rtol=1e-4, atol=1e-5)
    close(got[1]["scale"], want[1]["scale"], rtol=1e-4, atol=1e-5)


def test_a_loss_that_takes_the_module():
    model = Block()
    got = nn.value_and_grad(model, zmlx.fuse(squared))(model, x)
    want = nn.value_and_grad(model, squared)(model, x)
    close(got[0], want[0])
    close(got[1]["layers"][1], want[1]["layers"][1], rtol=1e-4, atol=1e-5)


def test_updated_weights_are_seen_without_a_new_trace():
    model = Block()
    fused = zmlx.fuse(model)
    fused(x)
    optimizer = optim.SGD(0.5)
    for _ in range(3):
        _, gradients = nn.value_and_grad(model, lambda a: (fused(a) ** 2).mean())(x)
        optimizer.update(model, gradients)
        close(fused(x), model(x))
    assert fused.cache_info().misses == 1


def test_methods():
    model = Block()
    close(zmlx.fuse(model.twice)(x), model.twice(x))

    class Decorated(Block):
        @zmlx.fuse
        def __call__(self, x):
            return Block.__call__(self, x)

        @zmlx.fuse(numerics="mlx")
        def other(self, x, k=2.0):
            return self.scale * x * k + 1

    model = Decorated()
    close(model(x), Block.__call__(model, x))
    close(model.other(x, k=3.0), model.scale * x * 3.0 + 1)
    model.update({"scale": mx.full((6,), 2.0)})
    close(model(x), Block.__call__(model, x))
    got = nn.value_and_grad(model, squared)(model, x)[1]["scale"]
    want = mx.grad(lambda s: ((mx.tanh(
        model.layers[1](nn.gelu_approx(model.layers[0](x) + 0.5)) * s) + x) ** 2).mean())(
        model.scale)  # fmt: skip
    close(got, want, rtol=1e-4, atol=1e-5)


class Plain:
    """No nn.Module: its arrays are captured, its methods are functions."""

    def __init__(self):
        self.k = 3.0

    @zmlx.fuse
    def scaled(self, x):
        return x * self.k + 1

    @staticmethod
    @zmlx.fuse
    def static(x):
        return mx.exp(x) + 1


def test_methods_of_other_classes():
    thing = Plain()
    close(thing.scaled(x), x * 3 + 1)
    close(zmlx.fuse(thing.scaled)(x), x * 3 + 1)
    close(Plain.static(x), mx.exp(x) + 1)
    assert Plain.scaled is Plain.scaled and "scaled" in repr(Plain.scaled)


def test_training_mode_is_a_static_value():
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.GELU())
    fused = zmlx.fuse(model)
    model.train()
    mx.random.seed(1)
    first = fused(x)
    mx.random.seed(1)
    close(first, model(x))
    assert not np.allclose(np.array(fused(x)), np.array(first)), "dropout draws anew"
    model.eval()
    close(fused(x), model(x))
    close(fused(x), fused(x))
    model.train()
    assert fused.cache_info().misses == 2


def test_attributes_are_read_through_the_wrapper():
    model = Block()
    fused = zmlx.fuse(model)
    assert fused.gain == 0.5 and fused.layers is model.layers
    assert set(fused.parameters()) == {"layers", "scale"}
    assert fused.__wrapped__ is model and "Block" in repr(fused)

    @zmlx.fuse
    def named(x):
        """What it does."""
        return x

    assert (named.__name__, named.__doc__) == ("named", "What it does.")
    with pytest.raises(AttributeError):
        named.no_such_thing  # noqa: B018


def test_a_changed_setting_of_a_module_retraces():
    model = Block()
    fused = zmlx.fuse(model)
    close(fused(x), model(x))
    model.gain = 2.0
    close(fused(x), model(x))
    model.layers.append(nn.Linear(6, 6))
    close(fused(x), model(x))


def test_freezing_leaves_out_what_is_frozen():
    model = Block()
    fused = zmlx.fuse(model)
    model.layers[0].freeze()
    got = nn.value_and_grad(model, lambda a: (fused(a) ** 2).mean())(x)[1]
    want = nn.value_and_grad(model, lambda a: squared(model, a))(x)[1]
    assert not got["layers"][0] and not want["layers"][0]
    close(got["layers"][1], want["layers"][1], rtol=1e-4, atol=1e-5)


# -- captured state -------------------------------------------------------------------------------
def train(make: Any, pass_model: bool, steps: int = 5) -> tuple[list[float], Any]:
    """The training step of mx.compile's documentation, with dropout."""
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 1))
    optimizer = optim.Adam(0.05)
    mx.eval(model.parameters())
    state = [model.state, optimizer.state, mx.random.state]

    def step(x, y):
        def error(x, y, net=model):
            return nn.losses.mse_loss(net(x), y)

        arguments = (x, y, model) if pass_model else (x, y)
        value, gradients = nn.value_and_grad(model, error)(*arguments)
        optimizer.update(model, gradients)
        return value

    step = make(step, state)
    losses = []
    for _ in range(steps):
        losses.append(step(x, y[:, :1]).item())
    return losses, model.parameters()


def check_training(pass_model: bool) -> None:
    losses, weights = train(lambda step, state: step, pass_model)
    fused = lambda step, state: zmlx.fuse(step, inputs=state, outputs=state)  # noqa: E731
    got, mine = train(fused, pass_model)
    np.testing.assert_allclose(got, losses, rtol=1e-4)
    close(mine["layers"][0], weights["layers"][0], rtol=1e-3, atol=1e-4)
    assert len(set(got)) == len(got)


def test_a_whole_training_step_with_state():
    check_training(pass_model=False)


def test_a_whole_training_step_that_passes_the_model():
    check_training(pass_model=True)


def test_inputs_are_read_and_outputs_written_at_every_call():
    state: dict[str, Any] = {"k": mx.array(1.0), "inner": [mx.array(0.0)]}

    @zmlx.fuse(inputs=state, outputs=state)
    def count(x):
        state["k"] = state["k"] * 2
        state["inner"][0] = state["inner"][0] + x.sum()
        state["new"] = state["k"] + 1
        return x * state["k"]

    inner = state["inner"]
    for power in (1, 2, 3):
        close(count(x), x * 2.0**power)
    assert state["inner"] is inner and state["k"].item() == 8 and state["new"].item() == 9
    close(inner[0], x.sum() * 3, rtol=1e-4)
    state["k"] = mx.array(100.0)
    close(count(x), x * 200)
    assert count.cache_info().misses <= 2  # "new" was not there at first


def test_arrays_beside_the_random_state_are_updated():
    state: list[Any] = [mx.array(1.0), mx.random.state]

    @zmlx.fuse(inputs=state, outputs=state)
    def count(x):
        state[0] = state[0] + 1
        return x * state[0] + mx.random.uniform(shape=(6,)) * 0

    for n in (2, 3, 4):
        close(count(x), x * n)


def test_inputs_alone_and_their_gradient():
    state = [mx.array([1.0, 2.0])]
    fused = zmlx.fuse(lambda v: mx.exp(v * state[0]), inputs=state)
    v = mx.array([0.5, 0.25])
    close(fused(v), mx.exp(v * state[0]))
    state[0] = mx.array([3.0, 4.0])
    close(fused(v), mx.exp(v * state[0]))

    def through_state(w):
        state[0] = w
        return fused(v).sum()

    w = mx.array([1.0, 2.0])
    close(mx.grad(through_state)(w), mx.exp(v * w) * v)


def test_random_numbers_are_drawn_anew():
    plain = lambda x: x + mx.random.uniform(shape=x.shape)  # noqa: E731
    for options in ({}, {"inputs": [mx.random.state], "outputs": [mx.random.state]}):
        fused = zmlx.fuse(plain, **options)
        mx.random.seed(3)
        got = [fused(x) for _ in range(3)]
        mx.random.seed(3)
        close(got, [plain(x) for _ in range(3)])
    key = mx.random.key(5)
    keyed = lambda k: mx.random.normal((4,), key=k) * 2 + 1  # noqa: E731
    close(zmlx.fuse(keyed)(key), keyed(key))
