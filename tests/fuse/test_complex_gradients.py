"""Gradients and tangents through complex numbers: MLX's own, conjugates where MLX has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx

X = mx.array([0.5, 1.0, 2.0])
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "absolute": lambda x: mx.abs(mx.exp(1j * x) * 2 + x) ** 2,
    "imaginary": lambda x: mx.imag(mx.exp(1j * x)) * 3 + x,
    "product": lambda x: mx.imag((1j * x + 1) * (x + 2j)),
    "quotient": lambda x: mx.imag((x + 1j) / (2 + 1j * x)) + mx.real(x / (x + 1j)),
    "conjugate": lambda x: mx.imag(mx.conj(x * 1j + 1) * (x + 1j)),
    "powers": lambda x: mx.imag((x + 1j) ** 2 + mx.square(x - 2j) + mx.sqrt(x + 1j)),
    "difference": lambda x: mx.imag(1j * x - x) * mx.imag(-(2j * x)),
    "functions": lambda x: mx.imag(mx.sin(1j * x + 1) + mx.log(1j * x + 1) + mx.tanh(x * 1j + 0.5)),
    "cast": lambda x: mx.imag(x.astype(mx.complex64) * 2j) * x,
    "where": lambda x: mx.imag(mx.where(x > 0.7, 1j * x, x)) * 2,
    "sums": lambda x: mx.imag((1j * x).sum() * x + (x * (x + 1j)).mean() * 1j * x),
    "matmul": lambda x: mx.imag((1j * x[None]) @ (x[:, None] + 1j)) * 2,
    "transform": lambda x: mx.abs(mx.fft.fft(x * 2 + 1)) * x,
    "after a kernel": lambda x: mx.imag(mx.exp(1j * mx.tanh(x * 2 + 1))) * mx.sigmoid(x),
}
WAYS: dict[str, Callable[[Callable[[Any], Any]], Any]] = {
    "gradient": lambda f: mx.grad(lambda x: f(x).sum())(X),
    "tangent": lambda f: mx.jvp(f, [X], [X + 1]),
    "mapped": lambda f: mx.vmap(mx.grad(lambda x: f(x).sum()))(mx.stack([X, X * 0.5])),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_as_plain_mlx(name: str, way: str) -> None:
    function = FUNCTIONS[name]
    wanted = WAYS[way](function)
    found = WAYS[way](zmlx.fuse(function))
    for a, b in zip(_flat(found), _flat(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-5, atol=1e-5)


def test_of_complex_arguments() -> None:
    z = mx.array([1 + 2j, 0.5j, -1.0])

    def function(z: Any, x: Any) -> Any:
        return mx.abs(z * mx.exp(1j * x) + 1) + mx.real(mx.conj(z) * z)

    def gradients(f: Callable[..., Any]) -> Any:
        return mx.grad(lambda z, x: f(z, x).sum(), argnums=(0, 1))(z, X)

    for a, b in zip(gradients(zmlx.fuse(function)), gradients(function), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-5, atol=1e-5)


def _flat(tree: Any) -> list[mx.array]:
    return [tree] if isinstance(tree, mx.array) else [a for item in tree for a in _flat(item)]
