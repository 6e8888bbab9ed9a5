"""Attention written out becomes one call, in all its spellings; what is no attention does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from tests.patterns.proof import alike, fired, near, normal, proved
from zmlx.device.base import Device

Q, K, V = (normal(1, 2, 64, 32, seed=i) for i in range(3))
MASK = mx.arange(64) <= mx.arange(64)[:, None]
ADDED = normal(2, 64, 64, seed=5)


def turned(k: mx.array) -> mx.array:
    return k.swapaxes(-1, -2)


def softmax(s: mx.array) -> mx.array:
    powers = mx.exp(s - s.max(-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def scaled_first(q: Any, k: Any, v: Any) -> Any:
    return mx.softmax((q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2), axis=-1, precise=True) @ v


def masked(q: Any, k: Any, v: Any, mask: Any) -> Any:
    scores = mx.where(mask, mx.matmul(q, k.transpose(0, 1, 3, 2)) / math.sqrt(32), -1e9)
    return mx.matmul(mx.softmax(scores, -1), v)


def by_hand(q: Any, k: Any, v: Any, mask: Any, scale: float) -> Any:
    return softmax((q @ mx.moveaxis(k, -1, -2)) * scale + mask) @ v


CASES: list[tuple[Callable[..., Any], str, tuple[Any, ...]]] = [
    (scaled_first, "attention", (Q, K, V)),
    (masked, "attention, where", (Q, K, V, MASK)),
    (by_hand, "attention, softmax written out", (Q, K, V, ADDED, 0.3)),
]


@pytest.mark.parametrize(("fn", "name", "args"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_values_gradients_tangents_and_maps(
    fn: Callable[..., Any], name: str, args: tuple[Any, ...]
) -> None:
    proved(fn, name, *args, wanted=(0, 1, 2, 3) if fn is by_hand else (0, 1, 2))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_types_round_once(dtype: mx.Dtype) -> None:
    args = [a.astype(dtype) for a in (Q, K, V)]
    assert fired(scaled_first, *args) == ["attention"]
    alike(zmlx.fuse(scaled_first), scaled_first, *args)


def test_second_derivatives() -> None:
    def twice(f: Callable[..., Any]) -> Any:
        inner = mx.grad(lambda q, k, v: (f(q, k, v) ** 2).sum())
        return mx.grad(lambda q, k, v: (inner(q, k, v) ** 2).sum(), argnums=(0, 1))

    alike(twice(zmlx.fuse(scaled_first)), twice(scaled_first), Q, K, V)


def test_one_trace_serves_all_sizes_and_numbers() -> None:
    fused = zmlx.fuse(by_hand)
    for length, keys, width, scale in ((64, 64, 32, 0.3), (3, 90, 8, 0.2), (70, 130, 32, 1.5)):
        q, k, v = (normal(2, 3, n, width, seed=n) for n in (length, keys, keys + 1))
        args = (q, k, v[:, :, :keys], normal(length, keys), scale)
        alike(fused, by_hand, *args)
    assert fused.cache_info().misses <= 2  # on a CPU few scores are another trace


def test_few_scores_are_left_as_they_are_on_a_cpu(host_device: Device) -> None:
    few = normal(1, 2, 8, 16), normal(1, 2, 8, 16), normal(1, 2, 8, 16)
    report = zmlx.explain(scaled_first, *few)
    assert not report.fired and any("from 8192 on it pays" in one.why for one in report.nearly)
    alike(zmlx.fuse(scaled_first), scaled_first, *few)


def test_values_of_another_width_are_right_in_the_same_trace() -> None:
    fused = zmlx.fuse(scaled_first)
    alike(fused, scaled_first, Q, K, V)
    alike(fused, scaled_first, Q, K, normal(1, 2, 64, 80))
    assert fused.cache_info().misses == 1


def test_three_axes_and_shared_heads_of_one() -> None:
    args = Q[0], K[0], V[0]
    assert fired(scaled_first, *args) == ["attention"]
    alike(zmlx.fuse(scaled_first), scaled_first, *args)


def test_one_scaled_array_is_query_key_and_value() -> None:
    """The scale is taken into the replacement for the query, and stays for the others."""

    def attend(x: Any) -> Any:
        scaled = x * 1.5
        return mx.softmax(scaled @ turned(scaled), axis=-1) @ scaled

    assert fired(attend, Q) == ["attention"]
    alike(zmlx.fuse(attend), attend, Q)


def test_a_row_that_its_mask_leaves_nothing_of_is_as_plain_mlx_has_it() -> None:
    def attend(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return mx.softmax(mx.where(mask, q @ turned(k), -mx.inf), -1) @ v

    mask = MASK & (mx.arange(64) != 7)[:, None]
    assert fired(attend, Q, K, V, mask) == ["attention, where"]
    got, plain = zmlx.fuse(attend)(Q, K, V, mask), attend(Q, K, V, mask)
    assert np.isnan(np.array(plain)[:, :, 7]).all()
    np.testing.assert_allclose(np.array(got), np.array(plain), atol=1e-5, equal_nan=True)


def test_nothing_fires_where_bits_count_or_the_switch_is_off() -> None:
    exact = zmlx.fuse(scaled_first, numerics="mlx")
    assert not zmlx.explain(exact, Q, K, V).fired
    assert mx.array_equal(exact(Q, K, V), scaled_first(Q, K, V))
    fused = zmlx.fuse(scaled_first)
    with zmlx.config(patterns=False):
        report = zmlx.explain(fused, Q, K, V)
        assert not report.fired and not report.nearly
    assert zmlx.explain(fused, Q, K, V).fired


def keys_turned_at_once(q: Any, k: Any, v: Any) -> Any:
    return mx.softmax((q @ k.transpose(0, 2, 3, 1)) * 0.2, -1) @ v


def by_einsum(q: Any, k: Any, v: Any) -> Any:
    weights = mx.softmax(mx.einsum("nhqc,nhkc->nhqk", q, k) / 5.0, axis=-1)
    return mx.einsum("nhqk,nhkc->nhqc", weights, v)


def places_first(q: Any, k: Any, v: Any) -> Any:
    scores = mx.where(MASK, mx.einsum("blhd,bshd->bhls", q * 0.2, k), -1e9)
    return mx.einsum("bhls,bshd->blhd", mx.softmax(scores, axis=-1), v)


def in_float32(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.swapaxes(2, 3) * 0.2
    return mx.softmax(scores.astype(mx.float32), axis=-1).astype(scores.dtype) @ v


PLACES = tuple(a.swapaxes(1, 2) for a in (Q, K, V))


@pytest.mark.parametrize(
    ("fn", "name", "args"),
    [
        (keys_turned_at_once, "attention, keys turned at once", (Q, PLACES[1], V)),
        (by_einsum, "attention by einsum", (Q, K, V)),
        (places_first, "attention by einsum, places first, where", PLACES),
        (in_float32, "attention, softmax in float32", [a.astype(mx.float16) for a in (Q, K, V)]),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_further_spellings(fn: Callable[..., Any], name: str, args: Any) -> None:
    assert fired(fn, *args) == [name]
    alike(zmlx.fuse(fn), fn, *args)


# -- scores with a cap ----------------------------------------------------------------------------
def with_cap(q: Any, k: Any, v: Any, mask: Any) -> Any:
    scores = mx.tanh((q * 0.3) @ turned(k) / 1.5) * 1.5
    return mx.softmax(scores + mask, axis=-1, precise=True) @ v


def cap_and_booleans(q: Any, k: Any, v: Any, mask: Any, scale: float, cap: float) -> Any:
    scores = cap * mx.tanh((q @ turned(k)) * scale / cap)
    return softmax(mx.where(mask, scores, -mx.inf)) @ v


def heads_in_groups(q: Any, k: Any, v: Any, mask: Any) -> Any:
    q = q.reshape(1, 2, 2, *q.shape[2:])
    scores = (q * 0.3) @ mx.expand_dims(k, 2).swapaxes(-1, -2)
    scores = mx.tanh(scores / 2.0) * 2.0
    out = mx.softmax(mx.where(mask, scores, -1e9), -1) @ mx.expand_dims(v, 2)
    return out.reshape(1, 4, *out.shape[3:])


def groups_without(q: Any, k: Any, v: Any, mask: Any) -> Any:
    q = q.reshape(1, 2, 2, *q.shape[2:])
    out = mx.softmax((q * 0.3) @ turned(k[:, :, None]) + mask, -1) @ v[:, :, None]
    return out.reshape(1, 4, *out.shape[3:])


OF_GROUPS = normal(2, 1, 64, 64, seed=9)
CAPS: list[tuple[Callable[..., Any], str, tuple[Any, ...]]] = [
    (with_cap, "attention, scores with a cap", (Q, K, V, ADDED)),
    (cap_and_booleans, "attention, softmax written out, where, scores with a cap",
     (Q, K, V, MASK, 0.3, 1.5)),
    (heads_in_groups, "attention, heads in groups, where, scores with a cap",
     (normal(1, 4, 64, 32, seed=8), K, V, MASK)),
    (groups_without, "attention, heads in groups",
     (normal(1, 4, 64, 32, seed=8), K, V, OF_GROUPS)),
]  # fmt: skip


@pytest.mark.usefixtures("host_device")
@pytest.mark.parametrize(("fn", "name", "args"), CAPS, ids=lambda v: getattr(v, "__name__", ""))
def test_scores_with_a_cap_and_heads_in_groups(
    fn: Callable[..., Any], name: str, args: tuple[Any, ...]
) -> None:
    proved(fn, name, *args, wanted=(0, 1, 2))
    half = [a.astype(mx.bfloat16) if mx.issubdtype(a.dtype, mx.floating) else a for a in args[:4]]
    assert fired(fn, *half, *args[4:]) == [name]
    alike(zmlx.fuse(fn), fn, *half, *args[4:])


@pytest.mark.usefixtures("host_device")
def test_caps_that_are_none_and_few_rows_are_computed_as_they_are_said() -> None:
    fused = zmlx.fuse(cap_and_booleans)
    for rows, cap in ((64, 1.5), (64, -1.5), (64, 0.0), (64, math.inf), (2, 1.5), (1, 0.4)):
        q, k, v = normal(1, 64, rows, 16), normal(1, 64, 90, 16), normal(1, 64, 90, 16, seed=2)
        args = q, k, v, mx.arange(90) > 3, 0.3, cap
        got, plain = fused(*args), cap_and_booleans(*args)
        np.testing.assert_allclose(np.array(got), np.array(plain), atol=2e-5, equal_nan=True)
    assert fused.cache_info().misses <= 3  # few scores, and rows of one


def another_cap(q: Any, k: Any, v: Any) -> Any:
    return mx.softmax(50 * mx.tanh((q @ turned(k)) * 0.2 / 30), axis=-1) @ v


def cap_after_the_mask(q: Any, k: Any, v: Any) -> Any:
    return mx.softmax(5 * mx.tanh(mx.where(MASK, q @ turned(k), -1e9) / 5), axis=-1) @ v


def cap_read_elsewhere(q: Any, k: Any, v: Any) -> Any:
    scores = 5 * mx.tanh((q @ turned(k)) / 5)
    return mx.softmax(scores, axis=-1) @ v, scores


def array_for_cap(q: Any, k: Any, v: Any) -> Any:
    cap = mx.abs(v[..., :1])
    return mx.softmax(cap * mx.tanh((q @ turned(k)) / cap), axis=-1) @ v


def another_bend(q: Any, k: Any, v: Any) -> Any:
    return mx.softmax(5 * mx.sigmoid((q @ turned(k)) / 5), axis=-1) @ v


# -- MLX's own, on a CPU --------------------------------------------------------------------------
def fast(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)


def causal(q: Any, k: Any, v: Any) -> Any:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.2, mask="causal")


SHARED = normal(1, 4, 64, 32, seed=8), K, V


@pytest.mark.usefixtures("host_device")
@pytest.mark.parametrize(
    ("fn", "name", "args"),
    [
        (fast, "MLX's attention", SHARED),
        (fast, "MLX's attention", (*SHARED, ADDED[0])),
        (fast, "MLX's attention, booleans for a mask", (*SHARED, MASK)),
        (causal, "MLX's attention, causal", SHARED),
    ],
    ids=["plain", "added", "booleans", "causal"],
)
def test_mlx_attention_in_tiles(fn: Callable[..., Any], name: str, args: tuple[Any, ...]) -> None:
    assert fired(fn, *args) == [name]
    fused = zmlx.fuse(fn)
    wide = [a.astype(mx.float32) for a in args[:3]]
    for got, want in zip([fused(*args)], [fn(*wide, *args[3:])], strict=True):
        np.testing.assert_allclose(np.array(got), np.array(want), atol=1e-5)
    for few in (1, 3):  # MLX's ops are as quick
        rows = args[0][:, :, :few]
        rest = [*args[1:3], *[mask[:few] for mask in args[3:]]]
        assert mx.array_equal(fused(rows, *rest), fn(rows, *rest))
    assert fused.cache_info().misses <= 3


@pytest.mark.usefixtures("host_device")
def test_gradients_of_mlx_attention() -> None:
    def loss(f: Callable[..., Any]) -> Any:
        return mx.grad(lambda q, k, v: mx.sin(f(q, k, v)).sum(), argnums=(0, 1, 2))

    for got, want in zip(loss(zmlx.fuse(causal))(*SHARED), loss(causal)(*SHARED), strict=True):
        np.testing.assert_allclose(np.array(got), np.array(want), atol=2e-5)


# -- near misses ----------------------------------------------------------------------------------
def other_axis(q: Any, k: Any, v: Any) -> Any:
    return mx.softmax((q * 0.2) @ turned(k), axis=-2) @ v


def read_elsewhere(q: Any, k: Any, v: Any) -> Any:
    weights = mx.softmax((q * 0.2) @ turned(k), axis=-1)
    return weights @ v, weights


def other_type(q: Any, k: Any, v: Any) -> Any:
    return mx.softmax(((q * 0.2) @ turned(k)).astype(mx.float16), axis=-1) @ v.astype(mx.float16)


def mask_that_lets_through(q: Any, k: Any, v: Any) -> Any:
    return mx.softmax(mx.where(MASK, (q * 0.2) @ turned(k), -3.0), axis=-1) @ v


def array_for_scale(q: Any, k: Any, v: Any) -> Any:
    return mx.softmax((q * v) @ turned(k), axis=-1) @ v


def wrong_max(q: Any, k: Any, v: Any) -> Any:
    s = (q * 0.2) @ turned(k)
    powers = mx.exp(s - s.max(-2, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)) @ v


MISSES = {
    other_axis: "axis",
    read_elsewhere: "used elsewhere",
    another_cap: "another value than where it stands before",
    cap_after_the_mask: "wanted",
    cap_read_elsewhere: "used elsewhere",
    array_for_cap: "wanted a number",
    another_bend: "wanted",
    other_type: "float16",
    mask_that_lets_through: "-3.0",
    wrong_max: "axes (2,), wanted (3,)",
}


@pytest.mark.parametrize("fn", MISSES, ids=lambda f: f.__name__)
def test_a_near_miss_is_told_and_not_replaced(fn: Callable[..., Any]) -> None:
    told = near(fn, Q, K, V)
    assert told and any(MISSES[fn] in why for why in told.values()), told
    alike(zmlx.fuse(fn), fn, Q, K, V)


def test_a_factor_that_is_an_array_is_part_of_the_queries() -> None:
    assert fired(array_for_scale, Q, K, V) == ["attention"]
    alike(zmlx.fuse(array_for_scale), array_for_scale, Q, K, V)
