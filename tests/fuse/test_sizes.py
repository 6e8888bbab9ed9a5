"""Sizes: a fused function is traced once for all lengths, and again where a size steers Python."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import zmlx
from tests.near import close as within
from zmlx.device.base import current_name
from zmlx.kernels import norms, softmax, transformer

D, HEADS = 16, 2
LENGTHS = (5, 2, 7, 3, 12)


class Block(nn.Module):
    """A transformer's block, its attention written out, all of its sizes read from x."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D, D, bias=False) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(D, D), nn.Linear(D, 4 * D), nn.Linear(4 * D, D)
        self.norm, self.second = nn.RMSNorm(D), nn.LayerNorm(D)
        self.rope = nn.RoPE(D // HEADS)

    def __call__(self, x: mx.array) -> mx.array:
        rows, length, width = x.shape
        h = self.norm(x)
        q, k, v = (
            part(h).reshape(rows, length, HEADS, -1).transpose(0, 2, 1, 3)
            for part in (self.q, self.k, self.v)
        )
        scores = self.rope(q) @ self.rope(k).swapaxes(-1, -2) * (width // HEADS) ** -0.5
        places = mx.arange(length)
        mask = mx.where(places[:, None] >= places[None], 0.0, -1e9)
        mixed = mx.softmax(scores + mask, axis=-1) @ v
        x = x + self.out(mixed.transpose(0, 2, 1, 3).reshape(rows, length, -1))
        y = self.up(self.second(x))
        return x + self.down(y * mx.sigmoid(1.702 * y)) / x.shape[-1]


@pytest.fixture(scope="module")
def block() -> Block:
    mx.random.seed(3)
    made = Block()
    mx.eval(made.parameters())
    return made


def near(got: mx.array, wanted: mx.array) -> None:
    within(got, wanted, 2e-5)


def sample(length: int, *, rows: int = 2) -> mx.array:
    values = np.random.default_rng(length).normal(size=(rows, length, D))
    return mx.array(values.astype(np.float32))


def check(fn: Callable[..., Any], fused: Any, calls: Iterable[tuple[Any, ...]]) -> int:
    """How many traces the calls took; results are those of `fn`."""
    before = fused.cache_info().misses
    for args in calls:
        got, wanted = _flat(fused(*args)), _flat(fn(*args))
        assert [type(g) for g in got] == [type(w) for w in wanted]
        for a, b in zip(got, wanted, strict=True):
            if isinstance(b, mx.array):
                assert a.shape == b.shape and a.dtype == b.dtype
                near(a, b)
            else:
                assert a == b
    return fused.cache_info().misses - before


def _flat(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [x for item in tree for x in _flat(item)] if isinstance(tree, (list, tuple)) else [tree]


# -- one trace ------------------------------------------------------------------------------------
def test_a_thousand_lengths_of_a_transformer_block_are_three_traces(block: Block):
    fused = zmlx.fuse(block)
    for length in range(1, 1001):
        assert fused(sample(4, rows=1)[:, :1] + mx.zeros((1, length, D))).shape == (1, length, D)
    # A length of one is a key of its own; on a CPU attention of few scores is a trace of its own.
    traces = 3 if current_name() == "host" else 2
    assert fused.cache_info()[:2] == (1000 - traces, traces)
    assert check(block, fused, [(sample(n, rows=1),) for n in (*LENGTHS, 1, 100)]) == 0


def test_gradients_and_transformations_of_all_lengths(block: Block):
    fused = zmlx.fuse(lambda x: block(x))

    def loss(fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: (fn(x) * mx.cos(x)).sum()

    for n in LENGTHS:
        x = sample(n)
        near(mx.grad(loss(fused))(x), mx.grad(loss(block))(x))
        near(mx.vmap(fused)(x[:, None]), mx.vmap(block)(x[:, None]))
        near(mx.compile(fused)(x), block(x))
        near(mx.checkpoint(fused)(x), block(x))
        near(mx.jvp(fused, [x], [x])[1][0], mx.jvp(block, [x], [x])[1][0])
    assert fused.cache_info().misses == 2  # vmap's examples have one row


@pytest.mark.parametrize(
    "layer",
    [
        nn.MultiHeadAttention(D, HEADS),
        nn.TransformerEncoderLayer(D, HEADS),
        nn.GroupNorm(4, D),
        nn.InstanceNorm(D),
        nn.Conv1d(D, 8, 3, padding=1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_of_mlx_are_traced_once(layer: nn.Module):
    def fn(x: mx.array) -> mx.array:
        if isinstance(layer, nn.MultiHeadAttention):
            return mx.exp(layer(x, x, x)) * 2
        if isinstance(layer, nn.TransformerEncoderLayer):
            return layer(x, nn.MultiHeadAttention.create_additive_causal_mask(x.shape[1]))
        return mx.exp(layer(x)) * 2

    assert check(fn, zmlx.fuse(fn), [(sample(n),) for n in LENGTHS]) == 1


def test_calls_of_the_catalog_are_traced_once():
    w = mx.linspace(0.5, 1.5, D)

    def fn(x: mx.array) -> list[mx.array]:
        h = norms.layernorm(norms.rmsnorm(mx.exp(x), w), w, w) * 2
        out, kept = transformer.rmsnorm_residual(transformer.dropout(h, 0.5, 3), x, w)
        return [softmax.softmax_lastdim(out) + kept, transformer.swiglu(out)]

    assert check(fn, zmlx.fuse(fn), [(sample(n),) for n in LENGTHS]) == 1


FORMS: dict[str, Callable[[Any], Any]] = {
    "unpacked": lambda x: _unpacked(*x.shape, mx.exp(x)),
    "a number beside arrays": lambda x: mx.exp(x).sum(1) / x.shape[1] + x.size,
    "arithmetic": lambda x: mx.exp(x) * (-(-x.shape[1] // 4)) - x.shape[1] % 3 + x.shape[1] ** -0.5,
    "bits": lambda x: mx.exp(x) * (x.shape[1] & ~1) + (1 << x.shape[1]) + (x.shape[1] >> 1),
    "rounded": lambda x: mx.exp(x) * math.ceil(x.shape[1] / 4) + math.floor(x.shape[1] / 3),
    "divmod": lambda x: mx.exp(x) * divmod(x.shape[1], 3)[1] + divmod(40, x.shape[1])[0],
    "prod": lambda x: mx.exp(x).reshape(math.prod(x.shape)) + 1,
    "halves": lambda x: mx.exp(x)[:, : x.shape[1] // 2] * x[:, x.shape[1] - x.shape[1] // 2 :],
    "masked": lambda x: mx.tril(mx.exp(x @ x.swapaxes(1, 2)), k=x.shape[1] - 2) * 2,
    "filled": lambda x: mx.exp(x) + mx.full(x.shape, 0.5) * mx.zeros((x.shape[1], 1)),
    "spread": lambda x: mx.broadcast_to(mx.exp(x[:, :1]), x.shape) * 2,
    "negative axis": lambda x: mx.exp(x).reshape(x.shape[:-1] + (4, -1)) * 2,
    "an array of sizes": lambda x: mx.exp(x) * mx.array([x.shape[1], 2.0])[0],
    "written": lambda x: _written(x),
    "returned": lambda x: {"y": mx.exp(x) * 2, "sizes": (x.shape, x.shape[1] / 2, x.ndim)},
    "of a result": lambda x: mx.exp(x) / mx.einsum("bld->bd", x).shape[1],
    "with a stop": lambda x: mx.arange(0, x.shape[1], 2) * mx.arange(x.shape[1] // 2)[:1] + 1,
    "empty": lambda x: mx.exp(x)[:, x.shape[1] :] * 2,
}


def _unpacked(rows: Any, length: Any, width: Any, x: mx.array) -> mx.array:
    return x.reshape(rows * length, width).reshape(rows, 1, length, -1) * 2


def _written(x: mx.array) -> mx.array:
    padded = mx.zeros((x.shape[0], x.shape[1] + 2, D))
    padded[:, 1 : x.shape[1] + 1] = mx.exp(x)
    return padded * 2 + 1


@pytest.mark.parametrize("form", FORMS)
def test_a_size_is_used_without_a_new_trace(form: str):
    fn = FORMS[form]
    fused = zmlx.fuse(fn)
    assert check(fn, fused, [(sample(n),) for n in LENGTHS]) == 1
    assert check(fn, fused, [(sample(1),)]) == 1


def test_a_size_and_a_number_of_the_caller():
    def fn(x: mx.array, rate: float) -> Any:
        pooled = mx.einsum("bld->bd", x)
        return mx.exp(x) * (rate / x.shape[1]), pooled.shape[0] * rate, x.shape[1] * rate

    assert check(fn, zmlx.fuse(fn), [(sample(n), 0.5 * n) for n in LENGTHS]) == 1


def test_lengths_of_none_and_one():
    def fn(x: mx.array) -> mx.array:
        return mx.exp(x.reshape(x.shape[::-1])) + mx.arange(x.shape[0]) * x.shape[1]

    fused = zmlx.fuse(fn)
    calls = [(mx.ones((n, 3)),) for n in (4, 0, 1, 6, 0, 1)]
    assert check(fn, fused, calls) == 2


def test_a_slice_that_was_one_long_in_the_trace():
    def fn(x: mx.array) -> mx.array:
        return (x[:, : x.shape[1] - 1] * 2 + x[:, :1]) * 3

    assert check(fn, zmlx.fuse(fn), [(mx.ones((3, n)),) for n in (2, 5, 3, 0)]) == 1


# -- sizes that steer Python ----------------------------------------------------------------------
STEERED: dict[str, tuple[Callable[[Any], Any], int]] = {
    "a branch": (lambda x: mx.exp(x) if x.shape[1] > 5 else mx.sin(x) * 2, 2),
    "a bool": (lambda x: mx.exp(x) * 2 if x.shape[1] % 2 else x, 2),
    "range": (lambda x: sum(mx.exp(x[:, i]) for i in range(x.shape[1])), 5),
    "a list's index": (lambda x: mx.exp(x) * list(range(20))[x.shape[1]], 5),
    "an f-string": (lambda x: {f"{x.shape[1]}": mx.exp(x) * 2}, 5),
    "a dict's key": (lambda x: mx.exp(x) * {x.shape[1]: 2.0}[x.shape[1]], 5),
    "sqrt": (lambda x: mx.exp(x) / math.sqrt(x.shape[1]), 5),
    "int": (lambda x: mx.exp(x) * int(x.shape[1]), 5),
    "NumPy": (lambda x: mx.exp(x) * float(np.zeros(x.shape).size), 5),
    "a number of parts": (lambda x: [part * 2 for part in mx.split(x, x.shape[1], axis=1)], 5),
    "max": (lambda x: mx.exp(x) * max(x.shape[1], 6), 2),
    "a branch on a result": (lambda x: x * 2 if mx.pad(x, 1).shape[1] == 7 else x + 1, 2),
    "a closure of a gradient": (
        lambda x: mx.grad(lambda v: (mx.sin(v) / x.shape[1]).sum())(x) * 2,
        1,
    ),
}


@pytest.mark.parametrize("name", STEERED)
def test_a_size_that_steers_python_is_traced_for_each_way(name: str):
    fn, ways = STEERED[name]
    fused = zmlx.fuse(fn)
    calls = [(sample(n),) for n in (*LENGTHS, *LENGTHS)]
    assert check(fn, fused, calls) == ways
    assert check(fn, fused, calls) == 0


def test_the_log_names_the_line_that_a_size_steers(caplog: pytest.LogCaptureFixture):
    def fn(x: mx.array) -> mx.array:
        return mx.exp(x) * 2 if x.shape[1] > 5 else x

    with caplog.at_level(logging.INFO, logger="zmlx"):
        zmlx.fuse(fn)(sample(4))
    line = f"test_sizes.py:{fn.__code__.co_firstlineno + 1}"
    assert any(
        f"fn: only where x.shape[1] > 5 is False at {line}" in r.getMessage()
        for r in caplog.records
    )


def test_traces_dropped_by_the_bound_are_made_again():
    def fn(x: mx.array) -> mx.array:
        return x * int(x.shape[1])  # a lone op needs no kernel

    fused = zmlx.fuse(fn, cache_size=2)
    for n in range(2, 100):
        near(fused(mx.ones((1, n))), fn(mx.ones((1, n))))
    assert fused.cache_info().currsize == 2
    assert check(fn, fused, [(mx.ones((1, 99)),)]) == 0
    assert check(fn, fused, [(mx.ones((1, 5)),)]) == 1


def test_a_size_that_cannot_be_taken_raises_as_without_fusing():
    fused = zmlx.fuse(lambda x: mx.exp(x) * (10 // x.shape[1]))
    near(fused(mx.ones((2, 3))), mx.exp(mx.ones((2, 3))) * 3)
    with pytest.raises(ZeroDivisionError):
        fused(mx.ones((2, 0)))
    common = zmlx.fuse(lambda x, y: mx.zeros(mx.broadcast_shapes(x.shape, y.shape)) + 1)
    assert common(mx.ones((2, 3)), mx.ones((3,))).shape == (2, 3)
    with pytest.raises(ValueError, match="broadcast"):
        common(mx.ones((2, 3)), mx.ones((4,)))
