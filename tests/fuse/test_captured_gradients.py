"""Gradients of what a fused function captures, where MLX transforms it: closures over weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import zmlx


def data(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.gain = nn.Linear(4, 6), nn.Linear(6, 4), mx.ones((4,))

    def __call__(self, x: mx.array) -> mx.array:
        return self.last(nn.silu(self.first(x))) * self.gain


def close(got: Any, want: Any) -> None:
    flat, plain = nn.utils.tree_flatten(got), nn.utils.tree_flatten(want)
    assert [k for k, _ in flat] == [k for k, _ in plain]
    for (name, a), (_, b) in zip(flat, plain, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, name
        assert np.allclose(np.array(a), np.array(b), rtol=1e-5, atol=1e-5), name


TABLE = mx.cumprod(1 - mx.linspace(1e-4, 0.02, 20))
LOSSES: dict[str, Callable[..., mx.array]] = {
    "a net": lambda net, f, x: (net(x) ** 2).mean(),
    "a fused net": lambda net, f, x: (f(x) ** 2).mean(),
    "beside random numbers": lambda net, f, x: ((f(x) - mx.random.normal(x.shape)) ** 2).mean(),
    "beside a size": lambda net, f, x: (net(x) * x.shape[0]).sum(),
    "beside a captured table": lambda net, f, x: (f(x) * TABLE[mx.array([1, 3])].sum()).sum(),
    "one weight": lambda net, f, x: (x * net.gain).sum(),
    "one weight twice": lambda net, f, x: ((x * net.gain) @ net.first.weight.T + 1).sum(),
    "elementwise": lambda net, f, x: mx.tanh(x * net.gain) * net.gain,
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_fused_loss_that_closes_over_a_net(case: str) -> None:
    loss, results = LOSSES[case], []
    for wrap in (lambda f: f, zmlx.fuse):
        mx.random.seed(3)
        net = Net()
        inner = wrap(net)
        step = nn.value_and_grad(net, wrap(lambda x, n=net, f=inner: loss(n, f, x).sum()))
        mx.random.seed(4)
        made = [step(data(3, 4))]
        net.gain = net.gain * 2  # the next call sees other weights
        made += [step(data(5, 4, seed=1))]
        results.append(made)
    close(results[1], results[0])


def weights(wrap: Callable[..., Any], rate: float) -> dict[str, Callable[..., Any]]:
    """Functions of (w, x) whose fused part gets x and closes over w."""

    def inner(w: mx.array, x: mx.array) -> mx.array:
        return wrap(lambda x, r: mx.sin(x @ w) * r + (w * w).sum())(x, rate)

    return {
        "grad": mx.grad(lambda w, x: inner(w, x).sum()),
        "both": mx.grad(lambda w, x: inner(w, x).sum(), argnums=(0, 1)),
        "second": mx.grad(lambda w, x: mx.grad(lambda w: inner(w, x).sum())(w).sum()),
        "vjp": lambda w, x: mx.vjp(inner, [w, x], [mx.ones((3, 4))]),
        "jvp": lambda w, x: mx.jvp(inner, [w, x], [mx.ones_like(w), x]),
        "vmap": lambda w, x: mx.vmap(inner, (0, None))(mx.stack([w, w * 2]), x),
        "checkpoint": mx.grad(lambda w, x: mx.checkpoint(inner)(w, x).sum()),
        "compile": mx.compile(mx.grad(lambda w, x: inner(w, x).sum())),
    }


@pytest.mark.parametrize("case", list(weights(lambda f: f, 1.0)))
def test_transformations_of_what_is_captured(case: str) -> None:
    rate = 2 if case == "both" else 0.5
    fused, plain = (weights(wrap, rate)[case] for wrap in (zmlx.fuse, lambda f: f))
    w, x = data(4, 4), data(3, 4, seed=1)
    close(fused(w, x), plain(w, x))
    close(fused(w * 0.5, x), plain(w * 0.5, x))


WEIGHT = data(4, 4)


class Holder:
    def __init__(self, w: mx.array) -> None:
        self.w = w


def held(kind: str) -> tuple[Callable[[mx.array], mx.array], Callable[[mx.array], None]]:
    """A function that closes over a weight, and what puts another one in its place."""
    w = data(4, 4)
    if kind == "module":
        net = Net()
        wide = mx.ones((6, 4))
        return lambda x: net(x).sum(), lambda new: net.first.update({"weight": new[:1] + wide})
    if kind == "module as default":
        net = Net()
        return lambda x, n=net: n(x).sum(), lambda new: net.update({"gain": new[0]})
    if kind == "dict":
        params = {"layers": [{"w": w}]}
        inner = params["layers"][0]
        return lambda x: (x @ params["layers"][0]["w"]).sum(), lambda new: inner.update(w=new)
    if kind == "list":
        weights = [w]
        return lambda x: mx.tanh(x * weights[0][0]).sum(), lambda new: weights.__setitem__(0, new)
    if kind == "variable":

        def put(new: mx.array) -> None:
            nonlocal w
            w = new

        return lambda x: mx.sin(x @ w).sum(), put
    if kind == "global":
        globals()["WEIGHT"] = w
        return lambda x: mx.cos(x @ WEIGHT).sum(), lambda new: globals().update(WEIGHT=new)
    holder = Holder(w)
    return lambda x: (x @ holder.w).square().sum(), lambda new: setattr(holder, "w", new)


KINDS = ["module", "module as default", "dict", "list", "object", "variable", "global"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_made_before_does_not_hide_what_is_transformed(kind: str) -> None:
    """A loss that was evaluated once, then differentiated in weights that it closes over."""

    def found(wrap: Callable[..., Any]) -> list[Any]:
        mx.random.seed(3)
        function, put = held(kind)
        loss, x = wrap(function), data(3, 4)
        mx.eval(loss(x), loss(x))

        def of(w: mx.array) -> mx.array:
            put(w)
            return loss(x)

        steps = [mx.value_and_grad(of)(data(4, 4, seed=s)) for s in (5, 6)]
        return [*steps, mx.vmap(of)(data(2, 4, 4, seed=7))]

    plain, fused = found(lambda f: f), found(zmlx.fuse)
    close(fused, plain)
    assert mx.abs(fused[0][1]).max() > 0
