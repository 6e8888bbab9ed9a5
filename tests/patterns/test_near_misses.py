"""Attention with one thing or another changed: it fires where that does not count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zmlx
from tests.patterns.proof import alike, normal


@dataclass(frozen=True)
class Attention:
    """How it is written; the fields of the first block do not matter, those of the second do."""

    place: str  # where it is scaled
    mask: str
    turn: str
    written: bool
    rank: int

    axis: int
    fold: int  # the axis of the largest, where softmax is written out
    kept: bool  # the weights are returned
    low: float
    inside: str  # what stands between scores and softmax

    @property
    def fires(self) -> bool:
        folds = self.axis == -1 and (self.fold == -1 or not self.written)
        low = self.mask != "where" or self.low <= -1e4
        factor = self.inside == "late" and self.mask == "none"  # which is a scale, if the only one
        idle = not self.inside or (factor and self.place in ("queries", "none"))
        return folds and not self.kept and idle and low

    def __call__(self, q: Any, k: Any, v: Any, mask: Any) -> Any:
        scores = (q * 0.3 if self.place == "queries" else q) @ self._turned(k)
        scores = scores * 0.3 if self.place == "scores" else scores
        scores = scores / 3.0 if self.place == "over" else scores
        if self.inside == "early":
            scores = mx.tanh(scores)
        if self.mask == "where":
            scores = mx.where(mask > 0, scores, self.low)
        elif self.mask == "added":
            scores = mask + scores
        if self.inside == "late":
            scores = scores * 1.5
        weights = self._weights(scores)
        return (weights @ v, weights) if self.kept else weights @ v

    def _turned(self, k: Any) -> Any:
        if self.turn == "swap":
            return mx.swapaxes(k, -1, -2)
        if self.turn == "move":
            return mx.moveaxis(k, -2, -1)
        return k.transpose(*range(k.ndim - 2), k.ndim - 1, k.ndim - 2)

    def _weights(self, scores: Any) -> Any:
        if not self.written:
            return mx.softmax(scores, axis=self.axis)
        powers = mx.exp(scores - scores.max(self.fold, keepdims=True))
        return powers / powers.sum(self.axis, keepdims=True)


CASES = st.builds(
    Attention,
    st.sampled_from(["queries", "scores", "over", "none"]),
    st.sampled_from(["none", "where", "added"]),
    st.sampled_from(["swap", "move", "transpose"]),
    st.booleans(),
    st.sampled_from([3, 4]),
    st.sampled_from([-1, -1, -1, -2]),
    st.sampled_from([-1, -1, -1, -2]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([-1e9, float("-inf"), -1e4, -10.0]),
    st.sampled_from(["", "", "", "early", "late"]),
)


def holds(case: Attention) -> None:
    lead = (2, 3)[: case.rank - 2]
    places = 64  # enough scores to pay on a CPU
    q, k, v = (normal(*lead, places, 4, seed=i) for i in range(3))
    mask = normal(places, places, seed=4) + 3 * mx.eye(places)  # no row without a key
    report = zmlx.explain(case, q, k, v, mask)
    found = [one.name for one in report.fired if one.name.startswith("attention")]
    assert bool(found) == case.fires, (case, report.fired, report.nearly)
    if not found:
        assert any(one.name.startswith("attention") for one in report.nearly), case
    alike(zmlx.fuse(case), case, q, k, v, mask)


def _settings(examples: int) -> Callable[[Any], Any]:
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, suppress_health_check=slow,
                    derandomize=True, database=None)  # fmt: skip


@_settings(12)
@given(CASES)
def test_attention_changed_here_and_there(case: Attention) -> None:
    holds(case)


@pytest.mark.exhaustive
@_settings(300)
@given(CASES)
def test_attention_changed_in_many_ways(case: Attention) -> None:
    holds(case)
