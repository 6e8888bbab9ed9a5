"""Captured state: whatever way a function updates it, the next call and the caller see it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zmlx

pytestmark = pytest.mark.usefixtures("on_cpu")


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.inner = mx.array([1.0, 2.0]), nn.Linear(2, 2, bias=False)
        self.inner.weight = mx.array([[1.0, 2.0], [3.0, 4.0]])
        self.count, self.calls = mx.zeros(()), 0


def fresh() -> dict[str, Any]:
    return {"c": mx.array(0.0), "v": mx.zeros(3), "list": [mx.ones(2), 2.0], "m": Cell(), "n": 0}


def through_a_name(s: Any, x: mx.array) -> None:
    v = s["v"]
    v += x
    v[1] = 5.0


def helper(buffer: mx.array, x: mx.array) -> None:
    buffer *= 2
    buffer += x


WAYS = {
    "add": lambda s, x: s.__setitem__("c", s["c"] + x),
    "in place": lambda s, x: s["c"].__iadd__(x),
    "in place, operator": lambda s, x: exec("s['c'] += x", {}, {"s": s, "x": x}),
    "item": lambda s, x: s["v"].__setitem__(0, x),
    "item, in place": lambda s, x: exec("s['v'][1] -= x", {}, {"s": s, "x": x}),
    "slice": lambda s, x: s["v"].__setitem__(slice(1, None), x * 3),
    "a name": through_a_name,
    "a helper": lambda s, x: helper(s["v"], x),
    "in a list": lambda s, x: s["list"].__setitem__(0, s["list"][0] + x),
    "in a list, in place": lambda s, x: exec("s['list'][0] *= x + 1", {}, {"s": s, "x": x}),
    "list grows": lambda s, x: s["list"].append(x * 2),
    "list turns": lambda s, x: s["list"].insert(0, s["list"].pop()),
    "a number": lambda s, x: exec("s['n'] += 1", {}, {"s": s}),
    "a number in a list": lambda s, x: exec("s['list'][1] *= 2", {}, {"s": s}),
    "module, in place": lambda s, x: exec("s['m'].w -= 0.1 * x", {}, {"s": s, "x": x}),
    "module, assigned": lambda s, x: setattr(s["m"], "w", s["m"].w * x),
    "module, counter": lambda s, x: exec("s['m'].count += 1; s['m'].calls += 1", {}, {"s": s}),
    "nested module": lambda s, x: exec("s['m'].inner.weight *= x", {}, {"s": s, "x": x}),
    "new key": lambda s, x: s.__setitem__("new", x * 2),
    "key goes": lambda s, x: s.pop("new", None),
    "reset": lambda s, x: s.__setitem__("c", mx.zeros(())),
    "moved": lambda s, x: s.update(c=s["v"].sum(), v=s["v"] + s["c"]),
    "a gradient reads it": lambda s, x: s.__setitem__(
        "c", s["c"] + mx.grad(lambda y: y * y * s["c"])(x)
    ),
    "a mapped call reads it": lambda s, x: s.__setitem__(
        "v", s["v"] + mx.vmap(lambda y: y * s["c"])(mx.stack([x, x, x]))
    ),
    "checkpoint": lambda s, x: s.__setitem__("c", mx.checkpoint(lambda y: y + s["c"])(x)),
}


def same(got: Any, want: Any) -> None:
    got, want = (
        nn.utils.tree_flatten([tree["m"].state, {k: v for k, v in tree.items() if k != "m"}])
        for tree in (got, want)
    )
    assert [k for k, _ in got] == [k for k, _ in want]
    for (key, a), (_, b) in zip(got, want, strict=True):
        if isinstance(b, mx.array):
            assert a.dtype == b.dtype and np.allclose(a, b, rtol=1e-5), (key, a, b)
        else:
            assert a == b and type(a) is type(b), key


def run_both(ways: list[str], calls: int = 3, **named: Any) -> None:
    def run(s: Any, x: mx.array) -> Any:
        for way in ways:
            WAYS[way](s, x)
        return x * s["c"] + s["v"].sum() + s["m"].w.sum() + s["n"]

    want, got = fresh(), fresh()
    fused = zmlx.fuse(lambda x: run(got, x), **{name: got for name in named})
    for i in range(calls):
        x = mx.array(float(i) + 0.5)
        assert np.allclose(fused(x), run(want, x), rtol=1e-5), (ways, i)
        same(got, want)
    assert got["m"].calls == want["m"].calls


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_update_state(way):
    run_both([way], inputs=True, outputs=True)


@pytest.mark.parametrize("named", [{"inputs": True}, {"outputs": True}])
def test_state_named_on_one_side_only(named):
    run_both(["in place", "item", "module, in place", "add"], **named)


@given(st.lists(st.sampled_from(sorted(WAYS)), min_size=2, max_size=4))
def test_ways_one_after_another(ways):
    run_both(ways, calls=2, inputs=True, outputs=True)


class Statistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm(3), nn.Linear(3, 3)
        self.seen, self.history = mx.zeros((), mx.int32), []

    def __call__(self, x: mx.array) -> mx.array:
        self.seen = self.seen + x.shape[0]
        return mx.tanh(self.drop(self.norm(x)))


def trained(wrap: Any, step_wrap: Any, steps: int = 4) -> tuple[list[Any], nn.Module]:
    mx.random.seed(1)
    net = Statistics()
    adam = optim.Adam(1e-2)
    call = wrap(net)
    gradient = nn.value_and_grad(net, lambda x: (call(x) ** 2).mean())
    state = [net.state, adam.state]

    def step(x: mx.array) -> mx.array:
        loss, grads = gradient(x)
        adam.update(net, grads)
        return loss

    run = step_wrap(step, state)
    losses = []
    for i in range(steps):
        losses.append(run(mx.random.normal((8, 3), key=mx.random.key(i)) + 2))
        mx.eval(losses[-1], state)
    return losses, net


def plain(net: Any) -> Any:
    return net


STEPS = {
    "plain": lambda step, state: step,
    "fused": lambda step, state: zmlx.fuse(step, inputs=state, outputs=state),
    "compiled": lambda step, state: mx.compile(step, inputs=state, outputs=state),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_fused_module_keeps_its_running_statistics(step):
    want, expected = trained(plain, STEPS["plain"])
    got, net = trained(zmlx.fuse, STEPS[step])
    assert np.allclose(got, want, rtol=1e-4)
    assert net.seen.item() == expected.seen.item() == 32
    assert np.allclose(net.norm.running_mean, expected.norm.running_mean, rtol=1e-4)
    assert np.allclose(net.norm.running_var, expected.norm.running_var, rtol=1e-4)
    net.eval(), expected.eval()
    x = mx.ones((2, 3))
    assert np.allclose(net(x), expected(x), rtol=1e-3, atol=1e-5)


class Colliding(str):
    """Words whose set is in the order in which it was filled."""

    def __hash__(self) -> int:
        return 7


def test_sets_may_change_their_order():
    """A set is put back as it was by filling it again: its members then follow another order."""
    words = [Colliding(word) for word in "abc"]
    net = nn.BatchNorm(3)
    net._no_grad.update(words)
    net._no_grad.discard(words[0])
    net._no_grad.add(words[0])
    assert list(net._no_grad) != list(set(list(net._no_grad)))
    call = zmlx.fuse(net)
    gradient = nn.value_and_grad(net, lambda x: (call(x) ** 2).mean())
    run = zmlx.fuse(lambda x: gradient(x)[0], inputs=net.state, outputs=net.state)
    for _ in range(3):
        run(mx.random.normal((8, 3)) + 2)
    assert net._no_grad.issuperset(words) and net.running_mean.min().item() > 0.3


def test_a_hand_written_step_trains():
    def weights(fuse: Any) -> mx.array:
        model = Cell()

        def step(x: mx.array) -> mx.array:
            loss, grad = mx.value_and_grad(lambda w: ((w * x - 1) ** 2).sum())(model.w)
            model.w -= 0.05 * grad
            return loss

        run = fuse(step, model)
        for _ in range(5):
            run(mx.array([1.0, 2.0]))
        return model.w

    want = weights(lambda step, model: step)
    got = weights(lambda step, model: zmlx.fuse(step, inputs=[model.state], outputs=[model.state]))
    assert np.allclose(got, want, rtol=1e-6) and not np.allclose(want, [1.0, 2.0])


def test_random_state_as_mlx_documents_it():
    @zmlx.fuse(inputs=mx.random.state, outputs=mx.random.state)
    def noisy(x):
        return x + mx.random.normal(x.shape)

    x = mx.zeros(4)
    mx.random.seed(7)
    got = [noisy(x), noisy(x)]
    mx.random.seed(7)
    want = [x + mx.random.normal(x.shape) for _ in range(2)]
    for g, w in zip(got, want, strict=True):
        assert mx.array_equal(g, w)


def test_tuples_of_arrays_in_state():
    state = {"pair": (mx.array([1.0]), mx.array([2.0]))}
    fused = zmlx.fuse(lambda x: x * state["pair"][0] + state["pair"][1], inputs=state)
    assert fused(mx.array([3.0])).item() == 5.0
    state["pair"] = (mx.array([10.0]), mx.array([20.0]))
    assert fused(mx.array([3.0])).item() == 50.0
    assert fused.cache_info().misses == 1
