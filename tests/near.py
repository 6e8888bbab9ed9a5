"""What the tests of expression ops share: random arrays, closeness, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np


def normal(*shape: int, dtype: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def close(got: mx.array, wanted: mx.array, limit: float = 2e-6) -> None:
    assert got.shape == wanted.shape
    a, b = (np.array(v.astype(mx.float32), dtype=np.float64) for v in (got, wanted))
    np.testing.assert_allclose(a, b, rtol=limit, atol=limit)


def first(f: Callable[..., mx.array]) -> Any:
    """The gradient of the sum of a function of one array."""
    return mx.grad(lambda v: f(v).sum())
