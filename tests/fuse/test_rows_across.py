"""Folds that are read over axes that are not the last: one kernel, right over layouts and types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from fuse_cases import array, close, flat, kernels
from row_cases import EPS, allowed, distance, doubles, pulled

import zmlx

pytestmark = pytest.mark.usefixtures("default_device")
FLOATS = (mx.float32, mx.float16, mx.bfloat16)
Axes = tuple[int, ...]


def softmax(x: Any, axes: Axes) -> Any:
    return mx.softmax(x * 1.5, axis=axes)


def normed(x: Any, axes: Axes) -> Any:
    low = x - x.mean(axes, keepdims=True)
    return low * mx.rsqrt(x.var(axes, keepdims=True) + EPS)


def unit(x: Any, axes: Axes) -> Any:
    return x / mx.sqrt((x * x).sum(axes, keepdims=True) + EPS)


def several(x: Any, axes: Axes) -> Any:
    low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
    return (x - low) / (high - low + EPS), mx.abs(x).sum(axes, keepdims=True), high


def _np_softmax(x: np.ndarray, axes: Axes) -> np.ndarray:
    e = np.exp(1.5 * (x - x.max(axes, keepdims=True)))
    return e / e.sum(axes, keepdims=True)


def _np_normed(x: np.ndarray, axes: Axes) -> np.ndarray:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPS)


def _np_unit(x: np.ndarray, axes: Axes) -> np.ndarray:
    return x / np.sqrt((x * x).sum(axes, keepdims=True) + EPS)


def _np_several(x: np.ndarray, axes: Axes) -> Any:
    low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
    return (x - low) / (high - low + EPS), np.abs(x).sum(axes, keepdims=True), high


CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "softmax": (softmax, _np_softmax),
    "normed": (normed, _np_normed),
    "unit": (unit, _np_unit),
    "several": (several, _np_several),
}
# Rows of every shape: neighbours fewer and more than a vector, rows before and behind.
PLACES: list[tuple[tuple[int, ...], Axes]] = [
    ((37, 100), (0,)), ((6, 150, 16), (1,)), ((70, 6, 40), (0,)), ((3, 5, 7, 33), (1, 2)),
    ((3, 5, 7, 24), (0, 1, 2)), ((2, 300, 3, 11), (1,)), ((4, 9, 1, 300), (1, 2)),
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    right(name, PLACES[list(CASES).index(name) % 2 :: 3])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_over_all_axes(name: str) -> None:
    right(name, PLACES)


def right(name: str, places: Sequence[tuple[tuple[int, ...], Axes]]) -> None:
    fn, reference = CASES[name]
    for i, (shape, axes) in enumerate(places):

        def plain(x: Any, axes: Axes = axes) -> Any:
            return fn(x, axes)

        fused, dtype = zmlx.fuse(plain), FLOATS[i % 3]
        x = array(i, *shape, dtype=dtype, scale=1.5)
        got, want = fused(x), reference(*doubles([x]), axes)
        assert len(kernels(*flat(got))) == 1, shape
        assert distance(got, want) <= allowed(distance(plain(x), want), dtype), shape
        assert [g.dtype for g in flat(got)] == [w.dtype for w in flat(plain(x))]
        wide = x.astype(mx.float32)
        close(pulled(fused, [wide]), pulled(plain, [wide]), rtol=1e-4, atol=2e-5)
        assert len(kernels(*pulled(fused, [wide]))) <= 2


def test_layouts() -> None:
    """Transposed, sliced, reversed and broadcast inputs, among them columns that are neighbours."""

    def plain(x: Any, m: Any) -> Any:
        return mx.softmax(x * 0.5 + m, axis=1)

    fused, wide = zmlx.fuse(plain), array(9, 12, 20, 80)
    shape = (6, 10, 40)
    for x in (
        array(7, 40, 10, 6).T, array(7, 6, 40, 10).swapaxes(1, 2), wide[::2, ::2, 1::2],
        wide[:6, 10:, 40:], wide[5::-1, :10, 79:39:-1], mx.broadcast_to(array(8, 40), shape),
        mx.broadcast_to(array(8, 6, 1, 40), shape), mx.broadcast_to(array(8, 10, 1), shape),
    ):  # fmt: skip
        for mask in (array(1, 40), array(2, 10, 1), array(3, 6, 1, 40), array(4, 1, 10, 40)):
            want, got = plain(x, mask), fused(x, mask)
            assert len(kernels(got)) == 1
            close(got, want, rtol=1e-5, atol=1e-6)


def test_nan_infinity_and_no_elements() -> None:
    x = array(0, 6, 50, 20)
    x[0, 3, 1], x[1, 4, 2], x[2, 5, 3] = mx.nan, mx.inf, -mx.inf
    x[3, :, 4] = -mx.inf
    for name in ("softmax", "several"):
        fused = zmlx.fuse(lambda x, name=name: CASES[name][0](x, (1,)))
        close(fused(x), CASES[name][0](x, (1,)), rtol=1e-5)
        close(fused(x[:0]), CASES[name][0](x[:0], (1,)))
        close(fused(x[:, :, :0]), CASES[name][0](x[:, :, :0], (1,)))
    close(zmlx.fuse(lambda x: softmax(x, (1,)))(x[:, :0]), softmax(x[:, :0], (1,)))
    for f in (several, zmlx.fuse(several)):
        with pytest.raises(ValueError, match="Cannot min reduce over axis 1 with size 0"):
            mx.eval(f(x[:, :0], (1,)))


def test_integers_and_truth() -> None:
    def count(x: Any, y: Any) -> Any:
        large, whole = (x > y).any(1, keepdims=True), x.sum(1, keepdims=True)
        return mx.where(large, x + whole, x - x.max(1, keepdims=True)), (x == x).all(1)

    for dtype in (mx.int32, mx.uint32, mx.int8, mx.uint16):
        x = (mx.abs(array(0, 4, 37, 20)) * 9).astype(dtype)
        y = mx.full((4, 1, 1), 20).astype(dtype)
        got = zmlx.fuse(count)(x, y)
        assert len(kernels(*got)) == 1
        close(got, count(x, y), rtol=0, atol=0)


def test_columns_far_from_zero_and_long_ones() -> None:
    x = 1000 + array(0, 5000, 16, scale=0.01)
    want = _np_normed(*doubles([x]), (0,))
    got, plain = zmlx.fuse(lambda x: normed(x, (0,)))(x), normed(x, (0,))
    assert distance(got, want) <= max(1.1 * distance(plain, want), 2e-6)
    ones = mx.full((1 << 20, 16), 0.1)
    sums = lambda x: x * 0 + mx.exp(x * 0.5).sum(0, keepdims=True)  # noqa: E731
    exact = np.exp(0.05) * (1 << 20)
    got, plain = [abs(f(ones)[0, 0].item() / exact - 1) for f in (zmlx.fuse(sums), sums)]
    assert got <= max(2e-5, plain)


def test_second_order_jvp_and_vmap() -> None:
    x, weight, tangent = array(0, 3, 12, 20), array(1, 3, 12, 20), array(2, 3, 12, 20)
    for name in ("softmax", "unit"):

        def plain(x: Any, name: str = name) -> Any:
            return CASES[name][0](x, (x.ndim - 2,))

        fused = zmlx.fuse(plain)

        def slope(f: Any) -> Any:
            return lambda x: (mx.grad(lambda v: (f(v) * weight).sum())(x) ** 2).sum()

        close(mx.grad(slope(fused))(x), mx.grad(slope(plain))(x), 1e-3, 1e-4)
        got, want = mx.jvp(fused, [x], [tangent]), mx.jvp(plain, [x], [tangent])
        close(got[1], want[1], rtol=1e-4, atol=1e-5)
        close(mx.vmap(fused)(x), plain(x), rtol=1e-5)


def test_a_few_neighbours_stay_with_mlx() -> None:
    x = array(0, 5, 60, 2)
    fused = zmlx.fuse(lambda x: softmax(x, (1,)))
    close(fused(x), softmax(x, (1,)), rtol=1e-5)
    assert len(kernels(fused(array(1, 5, 60, 32)))) == 1
