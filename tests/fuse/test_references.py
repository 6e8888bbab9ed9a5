"""Functions of MLX that a function reaches by reference: fused where a wrapper can be put there."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache, partial
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest
from fuse_cases import array, close
from mlx.core import exp, ones_like
from mlx.core import fast as fast_ops
from mlx.core import zeros as imported_zeros
from mlx.core.fast import rms_norm
from test_threads import at_once

import zmlx

pytestmark = pytest.mark.usefixtures("default_device")

x = array(0, 4, 6)


class Acting:
    act = mx.tanh
    table = {"sin": (mx.sin, [mx.cos])}

    def __init__(self) -> None:
        self.f = mx.exp


class Slotted:
    __slots__ = ("f",)


acting, slotted = Acting(), Slotted()
slotted.f = mx.exp
named, clipped = mx.array.exp, partial(mx.maximum, 0.5)
nested = partial(mx.sum, axis=-1, keepdims=True)
ACTS = OrderedDict(tanh=mx.tanh)
space = SimpleNamespace(inner=[(mx.sin,)])
layers = nn.Sequential(nn.Linear(6, 6), mx.tanh, lambda v: v * 2)
rope = mx.fast.rope


def default(x, act=mx.tanh, *, last=mx.sin):
    return act(x) * 2 + last(x)


def closure():
    act = mx.exp
    return lambda x: act(x) * 2 + 1


FORMS = {
    "an imported name": lambda x: exp(x) * 2 + 1,
    "an imported submodule": lambda x: fast_ops.rms_norm(x, None, 1e-5) * 2 + 1,
    "a name of a submodule": lambda x: rms_norm(x, None, 1e-5) * 2 + 1,
    "a default": default,
    "a closure": closure(),
    "attributes": lambda x: acting.f(x) * 2 + acting.act(x),
    "a slot": lambda x: slotted.f(x) * 2 + 1,
    "a table": lambda x: acting.table["sin"][0](x) * 2 + acting.table["sin"][1][0](x),
    "an ordered table": lambda x: ACTS["tanh"](x) * 2 + space.inner[0][0](x),
    "a partial": lambda x: clipped(x) * 2 + 1,
    "a partial with words": lambda x: nested(x) * 2 + x,
    "map": lambda x: sum(map(mx.exp, [x, x * 2])) * 2 + 1,
    "a method by name": lambda x: mx.array.__add__(x, x) * 2 + mx.array.exp(x),
    "a reflected method": lambda x: mx.array.__radd__(x, 1.0) * mx.array.__mul__(mx.ones((6,)), x),
    "a method kept": lambda x: named(x) * 2 + 1,
    "layers": lambda x: mx.sin(layers(x)) + 1,
    "rope": lambda x: rope(x[None], 6, traditional=False, base=1e4, scale=1.0, offset=0) * 2 + 1,
    "a key of a table": lambda x: {mx.tanh: mx.sin}[mx.tanh](x) * 2 + 1,
    "identity": lambda x: (x * 2 if acting.act == mx.tanh else x) + 1,
}


@pytest.mark.parametrize("name", FORMS)
def test_seen_and_fused(name):
    fn = FORMS[name]
    fused = zmlx.fuse(fn)
    for rows in (4, 5):
        close(fused(array(rows, rows, 6)), fn(array(rows, rows, 6)))
    if name in ("a table", "a default"):
        close(mx.grad(lambda v: fused(v).sum())(x), mx.grad(lambda v: fn(v).sum())(x))
    assert fused.cache_info().misses == 1
    report = zmlx.explain(fused, x)
    assert report.regions and not any("plain MLX" in item.reason for item in report.unfused)


def test_everything_refers_to_mlx_again():
    zmlx.fuse(FORMS["a table"]).entry(x)
    assert acting.f is mx.exp and Acting.act is mx.tanh and slotted.f is mx.exp
    assert Acting.table == {"sin": (mx.sin, [mx.cos])} and clipped.func is mx.maximum
    assert type(Acting.table["sin"][0]) is type(mx.sin) is type(exp) is type(ACTS["tanh"])
    assert default.__defaults__ == (mx.tanh,) and layers.layers[1] is mx.tanh
    assert type(default.__defaults__[0]) is type(default.__kwdefaults__["last"]) is type(mx.sin)
    assert mx.array.exp is named


def test_arguments():
    fused = zmlx.fuse(
        lambda x, f, g=None, table=(): f(x) * 2 + g["a"](x) + sum(t(x) for t in table)
    )
    for f, g in ((mx.sin, mx.cos), (mx.cos, mx.exp)):
        want = f(x) * 2 + g(x) + mx.tanh(x)
        close(fused(x, f, g={"a": g}, table=[mx.tanh]), want)
    layer = zmlx.fuse(layers)
    close(layer(x), layers(x))
    close(layer(x[:2]), layers(x[:2]))


def test_sizes_of_an_imported_name_are_not_frozen():
    fused = zmlx.fuse(lambda v: v.sum() / ones_like(v).sum() + v)
    for rows in (4, 8, 3):
        v = array(rows, rows, 6)
        close(fused(v), v.mean() + v)


hidden_exp = lru_cache(maxsize=0)(mx.exp)  # in C: nothing can be put in its place


def test_two_names_of_one_function():
    """mx.empty is mx.zeros: the wrapper that stands before both knows its first name."""
    for make in (imported_zeros, mx.zeros, mx.empty):
        fused = zmlx.fuse(lambda x: make(x.shape) + x * 2)  # noqa: B023
        for n in (2, 3, 4):
            close(fused(mx.ones((n, 3))), mx.full((n, 3), 2.0))
        assert fused.cache_info().misses == 1


def test_what_cannot_be_seen_is_traced_by_export():
    fn = lambda v, s=1.0: {"a": hidden_exp(v) * 2 + s}  # noqa: E731
    fused = zmlx.fuse(fn)
    for rows in (4, 5):
        v = array(rows, rows, 6)
        close(fused(v), fn(v))
        close(fused(v, s=2.0), fn(v, 2.0))
        close(mx.grad(lambda v: fused(v)["a"].sum())(v), mx.grad(lambda v: fn(v)["a"].sum())(v))
        close(mx.vmap(fused)(v), fn(v))
    report = zmlx.explain(fused, x)
    assert report.exported.startswith("traced by mx.export_function: ")
    assert "could not see it" in report.exported and "test_references.py" in report.exported
    assert [region.ops for region in report.regions] == [("exp", "multiply", "add")]
    assert not report.unfused
    outer = zmlx.fuse(lambda v: mx.sin(fused(v)["a"]) + 1)
    close(outer(x), mx.sin(fn(x)["a"]) + 1)


def test_state_of_what_is_traced_by_export():
    state = {"n": mx.array(0.0)}

    @zmlx.fuse(inputs=state, outputs=state)
    def count(v):
        state["n"] = state["n"] + 1
        return hidden_exp(v) * state["n"]

    for n in (1, 2, 3):
        close(count(x), mx.exp(x) * n)
        assert state["n"].item() == n
    net = nn.Sequential(nn.Linear(6, 6), hidden_exp)
    fused = zmlx.fuse(net)
    for _ in range(2):
        close(fused(x), net(x))
        net.layers[0].weight = net.layers[0].weight * 0.5


def test_values_are_still_needed_where_they_are():
    fused = zmlx.fuse(lambda v: v * hidden_exp(v).sum().item())
    with pytest.raises(zmlx.errors.TraceError, match="needs a value"):
        fused(x)


def test_threads():
    names = ("a table", "a partial", "a default")
    functions = [zmlx.fuse(FORMS[name]) for name in names]

    def work(i):
        for fused, name in zip(functions, names, strict=True):
            close(fused(array(i, 4 + i % 2, 6)), FORMS[name](array(i, 4 + i % 2, 6)))

    at_once(4, work)
    assert acting.f is mx.exp and clipped.func is mx.maximum


def test_what_an_object_holds_is_mlx_s_own_function_afterwards():
    """Also what the function put there, and what it returns."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.acts, self.w = mx.tanh, [mx.exp], mx.ones((3,))

        def __call__(self, x):
            self.w = self.w + 1
            return self.acts[0](self.act(x)) * self.w

    def put(layer, x):
        layer.act, layer.acts = mx.sin, [mx.exp, mx.cos]
        return {"f": mx.exp, "y": layer(x)}

    x = mx.array([0.1, 0.2, 0.3])
    layer, plain, space = Layer(), Layer(), SimpleNamespace(act=mx.tanh)
    fused, kept = zmlx.fuse(layer), zmlx.fuse(lambda space, x: space.act(x) * 2)
    for _ in range(2):
        close(fused(x), plain(x))
        close(kept(space, x), mx.tanh(x) * 2)
        assert layer.act is mx.tanh and layer.acts[0] is mx.exp and space.act is mx.tanh
    putting = zmlx.fuse(put)
    for _ in range(2):
        found = putting(layer, x)
        close(found["y"], put(plain, x)["y"])
        assert found["f"] is mx.exp and layer.act is mx.sin
        assert layer.acts[0] is mx.exp and layer.acts[1] is mx.cos
