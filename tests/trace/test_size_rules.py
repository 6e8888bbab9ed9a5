"""Sizes of results: what a function learns about a shape inside a trace holds for every length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from tests.trace.tracing import traced

SIZES = (4, 6, 3, 9, 8)
IDS = mx.array([[0, 2], [1, 1]])
W = mx.ones((8, 5))

# Each takes x of shape (2, n, 8) and y of shape (n, 8); n is known only at call time.
DERIVED: dict[str, Callable[[Any, Any], Any]] = {
    "elementwise": lambda x, y: mx.exp(x) * y,
    "broadcast": lambda x, y: x[:, :1] + y[None],
    "reshape": lambda x, y: x.reshape(x.shape[0], x.shape[1], 4, -1),
    "reshape infers": lambda x, y: mx.reshape(x, (-1, x.shape[-1])),
    "reshape infers a quotient": lambda x, y: x.reshape(-1, 16),
    "reshape merged": lambda x, y: x.reshape(x.shape[0] * x.shape[1], -1).reshape(x.shape),
    "flatten": lambda x, y: x.flatten(0, 1),
    "flatten all": lambda x, y: mx.flatten(x),
    "unflatten": lambda x, y: mx.unflatten(x, -1, (2, -1)),
    "transpose": lambda x, y: x.transpose(0, 2, 1),
    "transpose all": lambda x, y: x.transpose(),
    "T": lambda x, y: y.T,
    "swapaxes": lambda x, y: x.swapaxes(-1, -2),
    "moveaxis": lambda x, y: mx.moveaxis(x, 1, -1),
    "expand_dims": lambda x, y: mx.expand_dims(x, (0, 2)),
    "squeeze": lambda x, y: mx.squeeze(x[:, None], 1),
    "broadcast_to": lambda x, y: mx.broadcast_to(y, (3, *y.shape)),
    "concatenate": lambda x, y: mx.concatenate([x, x * 2, x], axis=1),
    "stack": lambda x, y: mx.stack([y, y], axis=1),
    "split": lambda x, y: mx.split(x, 2, axis=2)[1],
    "split at a size": lambda x, y: mx.split(x, [x.shape[1] // 2], axis=1)[1],
    "repeat": lambda x, y: mx.repeat(x, 3, axis=1),
    "repeat flat": lambda x, y: mx.repeat(y, 2),
    "tile": lambda x, y: mx.tile(y, (2, 1, 3)),
    "pad": lambda x, y: mx.pad(y, [(1, 2), (0, 1)]),
    "pad all": lambda x, y: mx.pad(y, 2),
    "slice": lambda x, y: x[:, 1:, ::2],
    "slice by a size": lambda x, y: x[:, : x.shape[1] - 1],
    "slice in half": lambda x, y: x[..., x.shape[-1] // 2 :],
    "slice backwards": lambda x, y: x[:, ::-2],
    "index": lambda x, y: x[0, None, 1:],
    "last": lambda x, y: x[:, -1],
    "gather": lambda x, y: x[:, IDS],
    "take": lambda x, y: mx.take(y, IDS, axis=1),
    "embedding": lambda x, y: W[mx.zeros(y.shape, mx.int32)],
    "matmul": lambda x, y: x @ W,
    "matmul of both": lambda x, y: x @ y.T,
    "matmul of a vector": lambda x, y: y[0] @ y.T,
    "addmm": lambda x, y: mx.addmm(mx.ones((5,)), x, W),
    "attention": lambda x, y: mx.fast.scaled_dot_product_attention(
        x[None], x[None], x[None, ..., :4], scale=1.0
    ),
    "sum": lambda x, y: x.sum(-1),
    "mean": lambda x, y: mx.mean(x, axis=(0, 2), keepdims=True),
    "max of all": lambda x, y: mx.max(x),
    "argmax": lambda x, y: mx.argmax(x, axis=1),
    "softmax": lambda x, y: mx.softmax(x, axis=-1),
    "cumsum": lambda x, y: mx.cumsum(x, axis=1),
    "rms_norm": lambda x, y: mx.fast.rms_norm(x, None, 1e-5),
    "rope": lambda x, y: mx.fast.rope(
        x, 8, traditional=False, base=1e4, scale=1.0, offset=x.shape[1]
    ),
    "zeros": lambda x, y: mx.zeros((y.shape[0], 3)),
    "full": lambda x, y: mx.full(x.shape, 0.5),
    "zeros_like": lambda x, y: mx.zeros_like(x),
    "arange": lambda x, y: mx.arange(x.shape[1]),
    "arange less": lambda x, y: mx.arange(x.shape[1] - 2),
    "linspace": lambda x, y: mx.linspace(0, 1, x.shape[1]),
    "eye": lambda x, y: mx.eye(x.shape[1]),
    "tril": lambda x, y: mx.tril(mx.ones((x.shape[1], x.shape[1]))),
    "random": lambda x, y: mx.random.uniform(shape=x.shape[:2]),
    "setitem": lambda x, y: _set(x),
    "at": lambda x, y: x.at[:, 0].add(1.0),
    "broadcast_shapes": lambda x, y: mx.zeros(mx.broadcast_shapes(x.shape, y.shape)),
}
# MLX says what these return only when they run; the function may use the size, not branch on it.
READ: dict[str, Callable[[Any, Any], Any]] = {
    "conv1d": lambda x, y: mx.conv1d(x, mx.ones((4, 2, 8))),
    "einsum": lambda x, y: mx.einsum("bld,ld->bl", x, y),
    "as_strided": lambda x, y: mx.as_strided(y, (y.shape[0] - 1, 2), (8, 1)),
    "arange by two": lambda x, y: mx.arange(1, x.shape[1], 2),
    "tri": lambda x, y: mx.tri(x.shape[1]) @ y,
    "compiled": lambda x, y: mx.compile(lambda v: v[:, 1:])(x),
    "gradient": lambda x, y: mx.grad(lambda v: (v * v).sum())(x),
}


def _set(x: Any) -> Any:
    copy = x * 1.5
    copy[:, 0] = 0.0
    return copy


def _args(n: int) -> tuple[mx.array, mx.array]:
    return mx.ones((2, n, 8)), mx.ones((n, 8))


@pytest.mark.parametrize("name", DERIVED)
def test_a_shape_follows_from_the_arguments_shapes(name: str):
    case = DERIVED[name]
    found = traced(lambda x, y: case(x, y).shape, *_args(SIZES[0]))
    assert not found.decisions
    assert not any(found.graph.kind(node) == "size" for node in found.graph)
    _for_all_sizes(lambda x, y: (case(x, y).shape, case(x, y)))


@pytest.mark.parametrize("name", READ)
def test_a_shape_is_read_from_the_array(name: str):
    case = READ[name]
    _for_all_sizes(lambda x, y: (case(x, y).shape, case(x, y), mx.exp(y) / case(x, y).shape[0]))


def _for_all_sizes(fn: Callable[..., Any]) -> None:
    fused = zmlx.fuse(fn)
    for n in SIZES:
        (shape, array, *rest), (wanted, expected, *others) = fused(*_args(n)), fn(*_args(n))
        assert shape == wanted and all(type(size) is int for size in shape)
        assert array.shape == expected.shape and array.dtype == expected.dtype
        assert all(mx.allclose(a, b).item() for a, b in zip(rest, others, strict=True))
    assert fused.cache_info().misses == 1


@pytest.mark.parametrize("name", [*DERIVED, *READ])
def test_a_branch_on_a_shape_is_traced_for_each_answer(name: str):
    case = {**DERIVED, **READ}[name]

    def fn(x: Any, y: Any) -> Any:
        shape = case(x, y).shape
        return x * 2 if sum(shape) > 20 else x + 1

    fused = zmlx.fuse(fn)
    for n in (*SIZES, *SIZES):
        assert mx.array_equal(fused(*_args(n)), fn(*_args(n))).item()
    assert fused.cache_info().misses <= (2 if name in DERIVED else len(SIZES))
