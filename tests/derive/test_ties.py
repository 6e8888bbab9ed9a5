"""Second derivatives at ties: where a rule states a value for a point, its neighbours go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import zmlx
from tests.near import close

pytestmark = pytest.mark.usefixtures("on_cpu")

X = mx.array([0.0, -0.0, 1.0, -3.0])


def hessian(fn: Callable[..., Any], *args: mx.array) -> list[mx.array]:
    """The derivatives of the sum of all first derivatives."""
    wrt = list(range(len(args)))

    def slopes(*values: mx.array) -> mx.array:
        found = mx.grad(lambda *v: (fn(*v) * mx.array([1.0, 2.0, 3.0, 4.0])).sum(), wrt)(*values)
        return sum((i + 1) * g for i, g in enumerate(found)).sum()

    return list(mx.grad(slopes, wrt)(*args))


def both(*values: mx.array) -> mx.array:
    x, y = values
    return nn.softplus(x) + nn.log_sigmoid(y) + mx.logaddexp(x, y) * 3


def test_second_derivatives_of_sums_of_exponentials() -> None:
    for other in (X, X + 1):
        for got, wanted in zip(
            hessian(zmlx.fuse(both), X, other), hessian(both, X, other), strict=True
        ):
            close(got, wanted, 1e-6)


def test_infinite_ties_share_by_halves() -> None:
    ties = mx.array([np.inf, -np.inf, 3e38, 5.0])
    found = mx.grad(lambda x, y: zmlx.fuse(mx.logaddexp)(x, y).sum(), [0, 1])(ties, ties)
    for gradient in found:
        assert gradient.tolist() == [0.5] * 4
