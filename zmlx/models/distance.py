"""Distance: how far two trees of arrays are apart. zmlx.models.validating and locating ask."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

LEAST = 1e-3  # of a tree's largest value: what is smaller all over counts as that


def apart(got: dict[str, Any], exact: dict[str, Any]) -> tuple[float, str]:
    """The largest distance of two trees, as a share of each array's largest value, and where."""
    if got.keys() != exact.keys():
        return float("inf"), "the results have another structure"
    largest = {n: _largest(a) for n, a in exact.items() if isinstance(a, mx.array)}
    least = LEAST * max(largest.values(), default=0.0)
    worst, where = 0.0, ""
    for name, scale in largest.items():
        if got[name].shape != exact[name].shape:
            return float("inf"), f"{name.strip('.')}: its shape is {got[name].shape}"
        found = _distance(got[name], exact[name])
        share = found / max(scale, least) if found else 0.0
        if not share <= worst:  # a NaN too
            worst, where = share if share == share else float("inf"), name.strip(".")
    return worst, where


def _largest(array: mx.array) -> float:
    if array.size == 0:
        return 0.0
    values = mx.abs(array.astype(mx.float32))
    return float(mx.where(mx.isfinite(values), values, 0).max().item())


def _distance(got: mx.array, exact: mx.array) -> float:
    """The largest difference; nothing where both are the same infinity or NaN."""
    if exact.size == 0:
        return 0.0
    a, b = got.astype(mx.float32), exact.astype(mx.float32)
    same = (a == b) | (mx.isnan(a) & mx.isnan(b))
    return float(mx.where(same, 0, mx.abs(a - b)).max().item())
