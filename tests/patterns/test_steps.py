"""Steps of recurrent states whose sums are said as products: both results, the state kept."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

import zmlx
from tests.patterns.proof import alike, near, normal, proved

S, Q, K = normal(2, 3, 4, 8), normal(2, 3, 8, seed=1), normal(2, 3, 8, seed=2) * 0.3
V, DECAY, BETA = normal(2, 3, 4, seed=3), mx.sigmoid(normal(2, 3)), mx.sigmoid(normal(2, 3, seed=4))


def delta(s: Any, q: Any, k: Any, v: Any, decay: Any, beta: Any) -> Any:
    s = decay[..., None, None] * s
    missing = v - (s @ k[..., None])[..., 0]
    s = s + (missing * beta[..., None])[..., None] * k[..., None, :]
    return (s @ q[..., None]).squeeze(-1), s


def other_order(s: Any, q: Any, k: Any, v: Any, decay: Any, beta: Any) -> Any:
    """The output is of the state before: another rule."""
    s = decay[..., None, None] * s
    out = (s @ q[..., None]).squeeze(-1)
    missing = v - (s @ k[..., None])[..., 0]
    return out, s + (missing * beta[..., None])[..., None] * k[..., None, :]


def scan(s: Any, x: Any, dt: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    s = s * mx.exp(dt[..., None] * a) + (x * dt)[..., None] * b[..., None, :]
    return (s @ c[..., None]).squeeze(-1) + d * x, s


def test_a_gated_delta_rule() -> None:
    proved(delta, "a step of a gated delta rule", S, Q, K, V, DECAY, BETA, wanted=range(6))


def test_a_selective_scan() -> None:
    args = (
        normal(2, 6, 4), normal(2, 6, seed=1), mx.abs(normal(2, 6, seed=2)),
        -mx.abs(normal(6, 4, seed=3)), normal(2, 4, seed=4), normal(2, 4, seed=5), normal(6),
    )  # fmt: skip
    proved(scan, "a step of a selective scan", *args, wanted=range(7))


def test_another_rule_stays() -> None:
    args = S, Q, K, V, DECAY, BETA
    near(other_order, *args)  # fails where one fires
    alike(zmlx.fuse(other_order), other_order, *args)
