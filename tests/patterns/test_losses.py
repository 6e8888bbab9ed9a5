"""Cross-entropy of a linear layer goes chunk by chunk where its logits are many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import zmlx
from tests.patterns.proof import near, normal
from zmlx.catalog import patterns as catalog
from zmlx.fuse import patterns

NAME = "a linear layer and cross-entropy"


def loss(x: Any, weight: Any, targets: Any) -> Any:
    return nn.losses.cross_entropy(x @ weight.T, targets, reduction="mean")


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(catalog, "MANY_LOGITS", 8)
    patterns.allow(NAME, "cpu")
    yield
    patterns.allow(NAME)


@pytest.mark.usefixtures("few_are_many", "host_device")
@pytest.mark.parametrize("lead", [(6,), (2, 3)])
def test_values_and_gradients(lead: tuple[int, ...]) -> None:
    x, weight = normal(*lead, 8), normal(20, 8, seed=1)
    targets = mx.random.randint(-20, 20, lead, key=mx.random.key(2))
    assert [one.name for one in zmlx.explain(loss, x, weight, targets).fired] == [NAME]
    got, plain = (mx.value_and_grad(f, argnums=(0, 1))(x, weight, targets)
                  for f in (zmlx.fuse(loss), loss))  # fmt: skip
    for a, b in zip((got[0], *got[1]), (plain[0], *plain[1]), strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-5, atol=1e-6)


def test_it_fires_only_where_it_is_allowed_and_logits_are_many() -> None:
    args = normal(6, 8), normal(20, 8, seed=1), mx.arange(6)
    assert "does not pay on this device" in near(loss, *args)[NAME]
    patterns.allow(NAME, "cpu", "metal", "cuda")
    try:
        assert "120 logits" in near(loss, *args)[NAME]
    finally:
        patterns.allow(NAME)
    with pytest.raises(ValueError, match="no pattern is called 'none'"):
        patterns.allow("none")


@pytest.mark.usefixtures("few_are_many", "host_device")
def test_logits_that_are_returned_stay() -> None:
    def both(x: Any, weight: Any, targets: Any) -> Any:
        logits = x @ weight.T
        return nn.losses.cross_entropy(logits, targets), logits

    args = normal(6, 8), normal(20, 8, seed=1), mx.arange(6)
    assert "used elsewhere" in near(both, *args)[NAME]


@pytest.mark.usefixtures("few_are_many", "host_device")
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("wide", [False, True])
def test_half_types(kind: str, wide: bool) -> None:
    """Products are of the arrays' type, all else in float32; logits may be cast to it."""

    def loss(x: Any, weight: Any, targets: Any) -> Any:
        logits = x @ weight.T
        logits = logits.astype(mx.float32) if wide else logits
        return nn.losses.cross_entropy(logits, targets, reduction="mean")

    half = getattr(mx, kind)
    x, weight = normal(6, 8).astype(half), normal(20, 8, seed=1).astype(half)
    with patterns.allowing(NAME, f"{NAME} in float32"):
        (fired,) = zmlx.explain(loss, x, weight, mx.arange(6)).fired
        got = mx.value_and_grad(zmlx.fuse(loss), argnums=(0, 1))(x, weight, mx.arange(6))
    assert fired.name == (f"{NAME} in float32" if wide else NAME)
    exact = mx.value_and_grad(loss, argnums=(0, 1))(*(a.astype(mx.float32) for a in (x, weight)),
                                                   mx.arange(6))  # fmt: skip
    assert got[0].dtype == (mx.float32 if wide else half)
    for a, b in zip((got[0], *got[1]), (exact[0], *exact[1]), strict=True):
        assert mx.abs(a.astype(mx.float32) - b).max() <= 0.02 * mx.abs(b).max()
