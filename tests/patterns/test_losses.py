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
def test_logits_that_are_returned_and_half_types_stay() -> None:
    def both(x: Any, weight: Any, targets: Any) -> Any:
        logits = x @ weight.T
        return nn.losses.cross_entropy(logits, targets), logits

    args = normal(6, 8), normal(20, 8, seed=1), mx.arange(6)
    assert "used elsewhere" in near(both, *args)[NAME]
    halves = [a.astype(mx.bfloat16) for a in args[:2]]
    assert not zmlx.explain(loss, *halves, args[2]).fired
