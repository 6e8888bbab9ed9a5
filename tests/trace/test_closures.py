"""Traced values where they do not belong: in closures, objects, and after their trace has ended."""

from __future__ import annotations

import contextlib
import contextvars
import functools

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from refusing import X, refused
from tracing import replayed, same, traced

import zmlx
from zmlx.errors import TraceError


class _Loss:
    def __init__(self, w):
        self.w = w

    def __call__(self, y):
        return (y * self.w).sum()

    def scaled(self, y, by=1.0):
        return self(y) * by


def _product(w, y, by=1.0):
    return (y * w).sum() * by


def _default(x):
    def loss(y, w=x * 2):
        return (y * w).sum()

    return loss


def _named_default(x):
    def loss(y, *, w=x * 2, by=3.0):
        return (y * w).sum() * by

    return loss


def _attribute(x):
    def loss(y):
        return (y * loss.w).sum()

    loss.w = x * 2
    return loss


HOLDING = {  # functions that hold an array which is traced where they are made
    "partial": lambda x: functools.partial(_product, x * 2),
    "partial, by name": lambda x: functools.partial(_product, x * 2, by=x.sum()),
    "partial of a tree": lambda x: functools.partial(lambda t, y: (t[0] * y).sum(), [x]),
    "partial of a partial": lambda x: functools.partial(functools.partial(_product, x * 2), by=3.0),
    "partial of a method": lambda x: functools.partial(_Loss(x * 2).scaled, by=x.sum()),
    "partial in a closure": lambda x: (lambda p: lambda y: p(y))(functools.partial(_product, x)),
    "default": _default,
    "default, by name": _named_default,
    "attribute": _attribute,
    "method": lambda x: _Loss(x * 2).scaled,
    "callable object": lambda x: _Loss(x * 2),
    "table": lambda x: (lambda table: lambda y: table["f"](y))({"f": _Loss(x * 2).scaled}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*run as MLX ops")
@pytest.mark.parametrize("name", HOLDING)
def test_functions_that_hold_traced_arrays(name, monkeypatch):
    monkeypatch.setenv("ZMLX_DEVICE", "replay")  # nothing here depends on kernels
    make = HOLDING[name]

    def fn(x):
        value, slope = mx.value_and_grad(make(x))(x)
        _, (product,) = mx.vjp(make(x), [x], [x.sum()])
        return value, slope, mx.vmap(make(x))(mx.stack([x, x * 3])), product

    fused = zmlx.fuse(fn)
    for x in (X, X * 2, X + 1):
        same(fused(x), fn(x))
    squared = lambda f: lambda x: sum((part * part).sum() for part in f(x))  # noqa: E731
    same(mx.grad(squared(fused))(X), mx.grad(squared(fn))(X))


@pytest.mark.filterwarnings("ignore:.*run as MLX ops")
def test_rules_of_a_custom_function_over_traced_arrays(monkeypatch):
    """MLX calls them when the call has ended, and what they close over is not there any more."""
    monkeypatch.setenv("ZMLX_DEVICE", "replay")

    def fn(x):
        results = []
        for power in (1.0, 2.0):
            w = x * power

            @mx.custom_function
            def scaled(y, w=w):
                return y * w

            made = _ruled(scaled, w)
            results.append(made(x) * made(x + 1))
        return mx.stack(results)

    fused = zmlx.fuse(fn)
    slope = lambda f: mx.grad(lambda x: f(x).square().sum())  # noqa: E731
    push = lambda f: lambda x: mx.jvp(f, [x], [x])[1][0]  # noqa: E731
    for x in (X, X * 2):
        for transform in (lambda f: f, slope, push):
            same(transform(fused)(x), transform(fn)(x))


def _ruled(function, w):
    function.vjp(lambda primals, cotangent, output: cotangent * w * 10)
    function.jvp(lambda primals, tangents: tangents * w * 7)
    return function


def test_closures_over_traced_arrays():
    def operator(x):
        return mx.grad(lambda w: (w * x).sum())(x)

    def function(x):
        return mx.grad(lambda w: mx.sum(mx.exp(x)) * w.sum())(x)

    def index(x):
        at = x.astype(mx.int32)
        return mx.grad(lambda w: X[at].sum() * w.sum())(x)

    def in_place(x):
        def inner(w):
            w = w * 1
            w += x
            return w.sum()

        return mx.grad(inner)(x)

    def activation(x):
        return mx.grad(lambda w: (nn.gelu(x) * w).sum())(x)

    def untraced(x):
        return mx.grad(lambda w: (w * x).sum())(X)

    def product(x):
        return mx.vjp(lambda w: w * x, [X], [X])

    def mapped(x):
        y = x * 2
        return mx.vmap(lambda a: a * y + x.sum())(x)

    def tree(x):
        held = {"a": [x * 3], "b": (x, 2)}

        def inner(w):
            return (w * held["a"][0] * held["b"][0]).sum()

        return mx.value_and_grad(inner)(x)

    for fn in (operator, function, index, in_place, activation, untraced, product, mapped, tree):
        for at in (X, X * 2):
            same(replayed(traced(fn, X), [at]), fn(at))


KEPT = contextvars.ContextVar("KEPT")  # nothing that a trace could put back


def kept_from_a_trace():
    kept = []
    for fn, args in ((lambda x: KEPT.set(x) and x * 2, (X,)),
                     (lambda x, rate: KEPT.set(rate) and x * rate, (X, 0.5))):  # fmt: skip
        with pytest.raises(TraceError, match="test_closures.py.*is kept in a"):
            traced(fn, *args)
        kept.append(KEPT.get())
    KEPT.set(None)
    return kept


USES = {
    "operator": lambda k, x: k + 1, "reflected": lambda k, x: x * k, "method": lambda k, x: k.sum(),
    "item": lambda k, x: k.tolist(), "function": lambda k, x: mx.exp(k) + x,
    "opaque": lambda k, x: mx.matmul(x, k), "returned": lambda k, x: (k, x),
    "index": lambda k, x: k[0], "activation": lambda k, x: nn.silu(k), "copy": lambda k, x: +k,
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_a_proxy_of_a_finished_trace(use):
    kept, _ = kept_from_a_trace()
    with pytest.raises(TraceError, match="a trace that has ended|needs a value"):
        traced(lambda x: USES[use](kept, x), X)
    if use not in ("function", "opaque", "returned", "activation"):  # outside, MLX alone sees them
        with pytest.raises(TraceError, match="a trace that has ended|needs a value"):
            USES[use](kept, X)


def test_mlx_itself_refuses_a_proxy_of_a_finished_trace():
    kept, _ = kept_from_a_trace()
    for use in (mx.exp, nn.silu, lambda k: mx.matmul(X, k), np.array):
        with pytest.raises((RuntimeError, TraceError)):
            mx.eval(use(kept))
    with pytest.raises(RuntimeError):
        mx.eval(kept)
    assert "Proxy" in repr(kept) and kept.shape == (3,)


def test_a_number_of_a_finished_trace():
    _, kept = kept_from_a_trace()
    assert "ScalarProxy" in repr(kept)
    for fn in (lambda x: x * kept, lambda x: x * (kept + 1), lambda x: (x, kept)):
        with pytest.raises(TraceError, match="number of a trace that has ended"):
            traced(fn, X)
    for use in (float, bool, str, lambda k: k > 0):
        with pytest.raises(TraceError, match="number of a trace that has ended"):
            use(kept)


def test_an_outer_traces_array_in_an_inner_trace():
    def fn(x):
        return traced(lambda y: x * y, X)  # here

    refused(fn, X, words="closure")


def test_results_that_cannot_be_made_anew():
    def closure(x):
        y = x * 2
        return lambda: y

    for fn, words in (
        (lambda x: {x * 2}, "a set of traced arrays"),
        (lambda x: zip([x], [x], strict=True), "a zip that can be read only once"),
        (lambda x: (y for y in [x]), "a generator that can be read only once"),
        (lambda x: iter([1, 2]), "a list_iterator that can be read only once"),
        (lambda x: functools.partial(mx.add, x * 2), "is kept in a tuple"),
        (closure, "is kept in a cell"),
    ):
        with pytest.raises(TraceError, match=f"test_closures.py:[0-9]+: .*{words}"):
            traced(fn, X)


def test_a_refusal_of_a_kept_array_that_is_caught_still_counts():
    kept, number = kept_from_a_trace()

    def fn(x):
        with contextlib.suppress(Exception):
            x = x * kept
        with contextlib.suppress(Exception):
            x = x * number
        return x

    with pytest.raises(TraceError, match="a trace that has ended"):
        traced(fn, X)
