"""Rows divided by their own sum: one division a row, right wherever the quotient is."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from fuse_cases import close, kernels, numpy

import zmlx

pytestmark = pytest.mark.usefixtures("default_device")

DTYPES = {"float32": 2e-7, "float16": 5e-4, "bfloat16": 4e-3}  # and the error allowed
# Sums below 2^-126 have no inverse, those beyond 2^126 a denormal one.
SIZES = (1e-40, 2e-38, 1e-20, 1.0, 1e20, 2e37)


def share(x: mx.array) -> mx.array:
    return x / x.sum(-1, keepdims=True)


def shares_of_exponentials(x: mx.array) -> mx.array:
    e = mx.exp(x)
    return e / e.sum(-1, keepdims=True)


def other_by_exponentials(x: mx.array) -> mx.array:
    return x / mx.exp(x).sum(-1, keepdims=True)


def softmax(x: mx.array) -> mx.array:
    e = mx.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.usefixtures("on_cpu")  # GPUs may take denormal numbers for 0
def test_sizes_of_the_sum(size: float, sign: int) -> None:
    x = np.linspace(0.5, 1.5, 40).reshape(4, 10) * size * sign
    given = mx.array(x.astype(np.float32))
    right = numpy(given).astype(np.float64)
    got = zmlx.fuse(share)(given)
    assert len(kernels(got)) == 1
    np.testing.assert_allclose(numpy(got), right / right.sum(-1, keepdims=True), rtol=4e-7)


@pytest.mark.parametrize("value", [0.0, -0.0, float("inf"), float("nan")])
@pytest.mark.parametrize("fn", [share, shares_of_exponentials, other_by_exponentials, softmax])
def test_ends_of_the_range(fn: Callable[[mx.array], mx.array], value: float) -> None:
    rows = [[1.0, 2.0, value], [value, value, value], [-1.0, value, 1.0], [3.0, -3.0, 0.0]]
    x = mx.array(rows)
    close(zmlx.fuse(fn)(x), fn(x), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [-80.0, 0.0, 60.0])
@pytest.mark.parametrize("fn", [shares_of_exponentials, other_by_exponentials, softmax])
def test_exponentials(fn: Callable[[mx.array], mx.array], shift: float, dtype: str) -> None:
    if dtype == "float16" and shift != 0.0:
        shift /= 8  # plain MLX stores the exponentials in the type
    x = (mx.random.normal((5, 33), key=mx.random.key(3)) + shift).astype(getattr(mx, dtype))
    exact = np.asarray(x.astype(mx.float32)).astype(np.float64)
    e = np.exp(exact)
    above = exact if fn is other_by_exponentials else e
    got = zmlx.fuse(fn)(x)
    limit = DTYPES[dtype] * 40  # an exponential is as wrong as its argument is long
    np.testing.assert_allclose(
        numpy(got.astype(mx.float32)), above / e.sum(-1, keepdims=True), rtol=limit, atol=1e-7
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("on_cpu")
def test_an_exponential_by_a_number_of_the_row(size: float) -> None:
    """As a gradient has it, which reads the sum that the forward pass saved."""

    def fn(x: mx.array, total: mx.array) -> mx.array:
        e = mx.exp(x - x.max(-1, keepdims=True))
        return (e / total) * (1 - e / total).sum(-1, keepdims=True)

    x = np.linspace(-2, 2, 44).reshape(4, 11).astype(np.float32)
    total = np.full((4, 1), max(size, 1e-20), np.float32)
    got = numpy(zmlx.fuse(fn)(mx.array(x), mx.array(total)))
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True)) / total.astype(np.float64)
    right = e * (1 - e).sum(-1, keepdims=True)
    fits = np.abs(right) < 3e38
    np.testing.assert_allclose(got[fits], right[fits], rtol=2e-5, atol=1e-45)
