"""Rotary embedding by a turned half becomes products of halves, at sizes for which it is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from tests.patterns.proof import alike, fired, near, normal, proved
from zmlx.fuse import patterns

X = normal(1, 2, 8, 16)
COS, SIN = normal(8, 16, seed=1), normal(8, 16, seed=2)


def half(x: Any, cos: Any, sin: Any) -> Any:
    middle = x.shape[-1] // 2
    a, b = x[..., :middle], x[..., middle:]
    return x * cos + mx.concatenate([-b, a], axis=-1) * sin


def split(x: Any, cos: Any, sin: Any) -> Any:
    a, b = mx.split(x, 2, axis=-1)
    return sin * mx.concatenate((-b, a), -1) + cos * x


def at_eight(x: Any, cos: Any, sin: Any) -> Any:
    a, b = x[..., :8], x[..., 8:]
    return x * cos + mx.concatenate([-b, a], axis=-1) * sin


@pytest.mark.parametrize("fn", [half, split, at_eight], ids=lambda f: f.__name__)
def test_values_gradients_tangents_and_maps(fn: Callable[..., Any]) -> None:
    proved(fn, "rope, a half turned", X, COS, SIN, wanted=(0, 1, 2))


@pytest.mark.parametrize("tables", [mx.float32, mx.bfloat16])
def test_half_types(tables: mx.Dtype) -> None:
    args = X.astype(mx.bfloat16), COS.astype(tables), SIN.astype(tables)
    assert fired(half, *args) == ["rope, a half turned"]
    alike(zmlx.fuse(half), half, *args)


@pytest.mark.smoke
def test_it_is_one_kernel_with_the_norm_before_it() -> None:
    def normed(x: Any, weight: Any, cos: Any, sin: Any) -> Any:
        return half(mx.fast.rms_norm(x, weight, 1e-5), cos, sin)

    args = X, normal(16, seed=4), COS, SIN
    assert fired(normed, *args) == ["rope, a half turned"]
    alike(zmlx.fuse(normed), normed, *args)


def test_a_size_for_which_it_is_no_rope_is_computed_as_it_is_said() -> None:
    fused = zmlx.fuse(at_eight)
    for width in (16, 20, 16, 8 + 3):
        x, cos, sin = (normal(1, 2, 8, width, seed=i) for i in range(3))
        alike(fused, at_eight, x, cos[0, 0], sin[0, 0])
    assert fused.cache_info().misses == 2 or fused.cache_info().misses == 3


def test_odd_rows_are_computed_as_they_are_said() -> None:
    fused = zmlx.fuse(half)
    for width in (16, 15, 6, 7):
        x, cos, sin = (normal(2, 3, 4, width, seed=i) for i in range(3))
        alike(fused, half, x, cos[0, 0], sin[0, 0])
    assert fused.cache_info().misses == 2


# -- near misses ----------------------------------------------------------------------------------
def halves_change_places(x: Any, cos: Any, sin: Any) -> Any:
    a, b = x[..., :8], x[..., 8:]
    return x * cos + mx.concatenate([-a, b], axis=-1) * sin


def other_cut(x: Any, cos: Any, sin: Any) -> Any:
    a, b = x[..., :6], x[..., 6:]
    return x * cos + mx.concatenate([-b, a], axis=-1) * sin


def other_axis(x: Any, cos: Any, sin: Any) -> Any:
    a, b = x[..., :4, :], x[..., 4:, :]
    return x * cos + mx.concatenate([-b, a], axis=-2) * sin


def read_elsewhere(x: Any, cos: Any, sin: Any) -> Any:
    turned = mx.concatenate([-x[..., 8:], x[..., :8]], axis=-1)
    return x * cos + turned * sin, turned


def of_another(x: Any, cos: Any, sin: Any) -> Any:
    a, b = x[..., :8], x[..., 8:]
    return (x + 1.0) * cos + mx.concatenate([-b, a], axis=-1) * sin


MISSES = [halves_change_places, other_cut, other_axis, read_elsewhere, of_another]


@pytest.mark.parametrize("fn", MISSES, ids=lambda f: f.__name__)
def test_a_near_miss_is_told_and_not_replaced(fn: Callable[..., Any]) -> None:
    assert "rope, a half turned" in near(fn, X, COS, SIN)
    alike(zmlx.fuse(fn), fn, X, COS, SIN)


def test_tables_of_one_number_a_row_are_no_halves() -> None:
    args = X, normal(8, 1), normal(8, 1, seed=2)
    assert "its last axis" in near(half, *args)["rope, a half turned"]
    alike(zmlx.fuse(half), half, *args)


# -- neighbours -----------------------------------------------------------------------------------
NEIGHBOURS = "rope, neighbours turned"


@pytest.fixture
def on_any_device() -> Iterator[None]:
    (known,) = [one for one in patterns.table() if one.name == NEIGHBOURS]
    patterns.allow(NEIGHBOURS, "cpu", "metal", "cuda")
    yield
    patterns.allow(NEIGHBOURS, *known.devices)


def stacked(x: Any, cos: Any, sin: Any) -> Any:
    turned = mx.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    return x * cos + turned * sin


def flattened(x: Any, cos: Any, sin: Any) -> Any:
    a, b = x[..., 0::2], x[..., 1::2]
    return sin * mx.flatten(mx.stack((-b, a), -1), -2, -1) + cos * x


def joined(x: Any, cos: Any, sin: Any) -> Any:
    a, b = x[..., ::2], x[..., 1::2]
    pairs = mx.concatenate([-b[..., None], mx.expand_dims(a, -1)], axis=-1)
    return x * cos + pairs.reshape(*x.shape) * sin


@pytest.mark.usefixtures("on_any_device")
@pytest.mark.parametrize("fn", [stacked, flattened, joined], ids=lambda f: f.__name__)
def test_neighbours(fn: Callable[..., Any]) -> None:
    proved(fn, NEIGHBOURS, X, COS, SIN, wanted=(0, 1, 2))
    half = [a.astype(mx.bfloat16) for a in (X, COS, SIN)]
    assert fired(fn, *half) == [NEIGHBOURS]
    alike(zmlx.fuse(fn), fn, *half)
    for width in (2, 6, 64):
        x, cos, sin = (normal(1, 2, 8, width, seed=i) for i in range(3))
        alike(zmlx.fuse(fn), fn, x, cos, sin[0, 0, 0])


def to_the_other_side(x: Any, cos: Any, sin: Any) -> Any:
    turned = mx.stack([x[..., 1::2], -x[..., ::2]], axis=-1).reshape(x.shape)
    return x * cos + turned * sin


def halves_after(x: Any, cos: Any, sin: Any) -> Any:
    turned = mx.stack([-x[..., 1::2], x[..., ::2]], axis=-2).reshape(x.shape)
    return x * cos + turned * sin


def of_another_array(x: Any, cos: Any, sin: Any) -> Any:
    turned = mx.stack([-x[..., 1::2], mx.abs(x)[..., ::2]], axis=-1)
    return x * cos + turned.reshape(x.shape) * sin


def turned_is_read(x: Any, cos: Any, sin: Any) -> Any:
    turned = mx.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    return x * cos + turned * sin, -x[..., 1::2] * 2


@pytest.mark.usefixtures("on_any_device")
@pytest.mark.parametrize(
    "fn",
    [to_the_other_side, halves_after, of_another_array, turned_is_read],
    ids=lambda f: f.__name__,
)
def test_other_neighbours_stay(fn: Callable[..., Any]) -> None:
    assert NEIGHBOURS in near(fn, X, COS, SIN)
    alike(zmlx.fuse(fn), fn, X, COS, SIN)


@pytest.mark.usefixtures("host_device")
def test_neighbours_are_computed_as_they_are_said_on_a_cpu() -> None:
    assert "does not pay on this device" in near(stacked, X, COS, SIN)[NEIGHBOURS]
