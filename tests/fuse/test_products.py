"""Products of one row: written out as sums, where what follows joins them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")
KINDS = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


def gated(x: Any, w: Any, v: Any, r: Any) -> Any:
    return r + nn.silu(x @ w.T) * (x @ v.T)


def biased(x: Any, w: Any, v: Any, r: Any) -> Any:
    return mx.tanh(mx.addmm(r, x, w.swapaxes(0, 1))) + v[:, 0]


def arrays(rows: int, columns: int, lead: tuple[int, ...] = (1, 1)) -> list[np.ndarray]:
    drawn = np.random.default_rng(rows + columns)
    shapes = [(*lead, columns), (rows, columns), (rows, columns), (*lead, rows)]
    return [drawn.normal(size=s) * s[-1] ** -0.5 for s in shapes]


def exact(fn: Any, x: Any, w: Any, v: Any, r: Any) -> Any:
    if fn is gated:
        g = x @ w.T
        return r + g / (1 + np.exp(-g)) * (x @ v.T)
    return np.tanh(x @ w.T + r) + v[:, 0]


def calls(fused: Any, *args: Any) -> list[str]:
    plan = fused.entry(*args).program.plan
    names = [plan.graph[native.node]["call"].label for native in plan.natives]
    return [name for name in names if name in ("matmul", "addmm")]


@pytest.mark.smoke
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fn", [gated, biased])
@pytest.mark.parametrize("sizes", [(2, 3), (5, 64), (33, 257), (300, 1000)])
def test_values(fn: Any, kind: str, sizes: tuple[int, int]) -> None:
    args = [mx.array(a).astype(getattr(mx, kind)) for a in arrays(*sizes)]
    wide = [np.array(a.astype(mx.float32), np.float64) for a in args]
    fused = zmlx.fuse(fn)
    assert calls(fused, *args) == [] and len(fused.entry(*args).program.plan.regions) == 1
    got = fused(*args)
    assert got.dtype == args[0].dtype
    expected = exact(fn, *wide)
    np.testing.assert_allclose(
        np.array(got.astype(mx.float32)), expected, rtol=KINDS[kind], atol=KINDS[kind]
    )


def test_layouts_and_values_that_are_no_numbers() -> None:
    """A matrix with gaps, one that was transposed already, columns of NaN and infinity."""
    x, w, v, r = (mx.array(a.astype(np.float32)) for a in arrays(12, 40))
    wide = mx.concatenate([w, w], axis=1)[:, ::2][:, :40]
    turned = mx.array(np.ascontiguousarray(np.array(v).T)).T
    for first, second in ((wide, v), (w, turned), (w[::-1], v)):
        assert mx.allclose(
            zmlx.fuse(gated)(x, first, second, r), gated(x, first, second, r), atol=1e-5
        )
    for value in (mx.nan, mx.inf, -mx.inf):
        odd = mx.where(mx.arange(12)[:, None] == 3, value, w)
        got, plain = zmlx.fuse(gated)(x, odd, v, r), gated(x, odd, v, r)
        assert mx.array_equal(mx.isnan(got), mx.isnan(plain))
        kept = ~mx.isnan(plain)
        assert mx.allclose(mx.where(kept, got, 0), mx.where(kept, plain, 0), atol=1e-5)


def test_gradients() -> None:
    args = [mx.array(a.astype(np.float32)) for a in arrays(7, 9)]
    for fn in (gated, biased):
        got, plain = (
            mx.grad(lambda *a, f=f: f(*a).square().sum(), argnums=(0, 1, 2, 3))(*args)
            for f in (zmlx.fuse(fn), fn)
        )
        for a, b in zip(got, plain, strict=True):
            assert mx.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_stays_a_product() -> None:
    """Several rows, a matrix read by columns, one alone, one that a norm folds, MLX's numerics."""
    x, w, v, r = (mx.array(a.astype(np.float32)) for a in arrays(16, 8))
    rows = mx.concatenate([x, x], axis=1)
    assert calls(zmlx.fuse(gated), rows, w, v, r) == ["matmul", "matmul"]
    assert calls(zmlx.fuse(lambda x, w: mx.exp(x @ w)), x, mx.array(np.array(w.T))) == ["matmul"]
    assert calls(zmlx.fuse(lambda x, w: mx.exp(x) @ w.T), x, w) == ["matmul"]
    normed = zmlx.fuse(lambda x, w: nn.silu(mx.fast.rms_norm(x @ w.T, None, 1e-5)))
    assert calls(normed, x, w) == ["matmul"]
    exactly = zmlx.fuse(gated, numerics="mlx")
    assert calls(exactly, x, w, v, r) == ["matmul", "matmul"]
    assert mx.array_equal(exactly(x, w, v, r), gated(x, w, v, r))
