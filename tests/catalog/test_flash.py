"""Attention in tiles: against float64, with every mask, of groups and of single threads."""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from on_metal import mac

from tests.catalog.cases import KINDS, RTOL, drawn, wide
from zmlx.catalog.flash import LEAST
from zmlx.device.base import Device
from zmlx.kernels import attention
from zmlx.metal_check import check_text

pytestmark = pytest.mark.usefixtures("default_device")
flash = attention.flash_attention
Sizes = tuple[int, int, int, int, int, int]  # B, H, G, L, S, D
MASKS = ("none", "keys", "booleans", "heads", "infinities")


@pytest.fixture(params=["groups", "alone"])
def way(request: Any, default_device: Device, monkeypatch: pytest.MonkeyPatch) -> str:
    """The CPU leaves a tile to one thread; with groups it plays a GPU."""
    if request.param == "groups":
        monkeypatch.setattr(type(default_device), "takes_turns", False)
    return str(request.param)


def masked(name: str, sizes: Sizes) -> mx.array | None:
    b, heads, _, rows, keys, _ = sizes
    rng = np.random.default_rng(rows + keys)
    if name == "none":
        return None
    if name == "keys":
        return mx.array(rng.random((keys,)) > 0.3)
    if name == "booleans":
        kept = rng.random((b, 1, rows, keys)) > 0.4
        kept[0, 0, rows // 2] = False  # nothing is left
        return mx.array(kept)
    if name == "heads":
        return mx.array(rng.normal(size=(1, heads, 1, keys)).astype(np.float32))
    added = np.where(rng.random((b, 1, rows, keys)) > 0.4, 0.0, -np.inf)
    added[..., : keys // 2], added[..., -1] = -np.inf, 0.5  # the first tiles are all infinite
    return mx.array(added.astype(np.float32))


def exact(
    q: Any, k: Any, v: Any, g: Any, scale: float, causal: bool, mask: mx.array | None,
    cap: float | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """The result, and the gradients of q, k and v, of float64 arrays."""
    b, heads, rows, d = q.shape
    groups, keys = k.shape[1:3]
    shared = (b, groups, heads // groups)
    kk, vv = (np.repeat(x, heads // groups, 1) for x in (k, v))
    z = scale * q @ kk.swapaxes(-1, -2)
    part = np.zeros(z.shape) if cap is None else np.tanh(z / cap)
    z = z if cap is None else cap * part
    moves = np.ones(z.shape, bool)
    if mask is not None and mask.dtype == mx.bool_:
        moves &= np.array(mask)
    elif mask is not None:
        z = z + wide(mask)
    if causal:
        moves &= np.arange(keys) <= np.arange(rows)[:, None] + keys - rows
    z = np.where(moves, z, LEAST)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = g @ vv.swapaxes(-1, -2)
    dz = np.where(moves, p * (dp - (p * dp).sum(-1, keepdims=True)), 0.0) * scale * (1 - part**2)
    dk = (dz.swapaxes(-1, -2) @ q).reshape(*shared, keys, d).sum(2)
    dv = (p.swapaxes(-1, -2) @ g).reshape(*shared, keys, d).sum(2)
    return [p @ vv, dz @ kk, dk, dv]


def check(sizes: Sizes, kind: str, causal: bool, name: str, cap: float | None = None) -> None:
    b, heads, groups, rows, keys, d = sizes
    shapes = [(b, heads, rows, d), (b, groups, keys, d), (b, groups, keys, d), (b, heads, rows, d)]
    *arrays, g = [drawn(s, KINDS[kind], i) for i, s in enumerate(shapes)]
    mask = masked(name, sizes)
    out, pulled = mx.vjp(lambda *a: flash(*a, 0.3, causal, mask, cap), arrays, [g])
    wanted = exact(*map(wide, (*arrays, g)), 0.3, causal, mask, cap)
    for found, right in zip([*out, *pulled], wanted, strict=True):
        assert found.dtype == KINDS[kind] and found.shape == right.shape
        limit = 4 * RTOL[kind] * max(1.0, np.abs(right).max())
        np.testing.assert_allclose(wide(found), right, 0, limit, err_msg=f"{sizes} {name}")


@pytest.mark.parametrize("name", ["booleans", "infinities"])
def test_masks(way: str, name: str, quick_compiler: None) -> None:
    """Causal, more queries than keys and fewer; lengths that are no multiples of a tile."""
    for sizes in ((1, 4, 2, 45, 37, 24), (2, 2, 1, 33, 70, 64)):
        check(sizes, "float32", True, name)
    check((1, 2, 2, 3, 70, 17), "float32", False, name)


def test_a_cap(way: str, quick_compiler: None) -> None:
    """Scores are capped before they are masked, as the models that have a cap do."""
    check((1, 4, 2, 45, 37, 24), "float32", True, "booleans", 1.5)
    check((1, 2, 1, 33, 40, 17), "bfloat16", False, "heads", 1.5)
    check((2, 2, 1, 3, 70, 64), "float32", False, "none", 50.0)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds(way: str, kind: str, name: str) -> None:
    for sizes in (
        (1, 1, 1, 1, 1, 1), (2, 4, 2, 37, 45, 24), (1, 2, 2, 70, 32, 64), (1, 3, 1, 31, 97, 72),
        (1, 2, 1, 33, 40, 128), (1, 2, 1, 40, 33, 250),
    ):  # fmt: skip
        for causal in (False, True):
            check(sizes, kind, causal, name)
            check(sizes, kind, causal, name, 2.0)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("host_device", "metal_check")
def test_metal_takes_the_texts_of_every_width_and_mask() -> None:
    with mac() as device:
        for d in (64, 128, 256):
            for name in MASKS:
                sizes = (1, 2, 1, 4, 5, d)
                q, k = drawn((1, 2, 4, d), mx.bfloat16), drawn((1, 1, 5, d), mx.bfloat16)
                mask = masked(name, sizes)
                for cap in (None, 2.0):
                    of = partial(flash, causal=True, mask=mask, cap=cap)
                    mx.vjp(of, [q, k, k], [q])
        texts = device.texts()
    assert len(texts) >= 2 * 3 * 3 * 3
    for text in texts:
        assert check_text(text) == []


def test_rows_of_which_nothing_is_left_are_mlx_s() -> None:
    """All keys alike, where booleans say so; NaN, where infinities do."""
    q, k, v = drawn((1, 2, 6, 32)), drawn((1, 2, 4, 32), seed=1), drawn((1, 2, 4, 32), seed=2)
    kept = mx.array([[True] * 4, [False] * 4, [True, False, True, False]] * 2)
    for theirs, ours in (
        ("causal", {"causal": True}), (kept, {"mask": kept}),
        (mx.where(kept, 0.0, -mx.inf), {"mask": mx.where(kept, 0.0, -mx.inf)}),
    ):  # fmt: skip
        right = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=theirs)
        found = wide(flash(q, k, v, 0.3, **ours))
        np.testing.assert_allclose(found, wide(right), 1e-5, 1e-6)
        assert isinstance(theirs, str) or np.isnan(found).any() == (theirs.dtype != mx.bool_)


@pytest.mark.usefixtures("on_cpu")
def test_it_never_holds_the_scores() -> None:
    """Value and gradients together take a sixteenth of one head's scores."""
    q, k, v = (drawn((1, 1, 2048, 16), seed=i) for i in range(3))
    of = mx.value_and_grad(lambda *a: flash(*a, causal=True).square().sum(), (0, 1, 2))
    first = of(q, k, v)
    mx.eval(first)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    found = of(q, k, v)
    mx.eval(found)
    assert mx.get_peak_memory() - before < 2048 * 2048 * 4 / 16
    for one, again in zip(first[1], found[1], strict=True):  # and sums have an order
        assert mx.array_equal(one, again).item()


def plain(q: mx.array, k: mx.array, v: mx.array, mask: mx.array) -> mx.array:
    z = 0.3 * q @ mx.repeat(k, 2, -3).swapaxes(-1, -2)
    return mx.softmax(4 * mx.tanh(z / 4) + mask, -1) @ mx.repeat(v, 2, -3)


def ours(q: mx.array, k: mx.array, v: mx.array, mask: mx.array) -> mx.array:
    return flash(q, k, v, 0.3, mask=mask, cap=4.0)


def test_derivatives_and_maps_with_a_mask() -> None:
    """A mask's own gradient, second derivatives, maps of gradients and gradients of maps."""
    arrays = [drawn((2, 1, 4, 5, 8)), drawn((2, 1, 2, 6, 8), seed=1),
              drawn((2, 1, 2, 6, 8), seed=2), drawn((2, 1, 1, 5, 6), seed=3)]  # fmt: skip
    one = [a[0] for a in arrays]

    def slopes(f: Any) -> Any:
        return mx.grad(lambda *a: f(*a).square().sum(), (0, 1, 2, 3))

    def twice(f: Any) -> Any:
        return mx.grad(lambda *a: sum(d.square().sum() for d in slopes(f)(*a)[:3]), (0, 1, 2))

    pairs = [
        (slopes(ours)(*one), slopes(plain)(*one)),
        (twice(ours)(*one), twice(plain)(*one)),
        (mx.vmap(slopes(ours))(*arrays), mx.vmap(slopes(plain))(*arrays)),
        (slopes(mx.vmap(ours))(*arrays), slopes(plain)(*arrays)),
        (mx.vmap(ours, (0, None, 0, None))(*arrays[:1], one[1], arrays[2], one[3]),
         plain(arrays[0], one[1], arrays[2], one[3])),
        (mx.jvp(ours, one, one)[1], mx.jvp(plain, one, one)[1]),
        (mx.compile(slopes(ours))(*one), slopes(plain)(*one)),
    ]  # fmt: skip
    for found, wanted in pairs:
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(wide(a), wide(b), 1e-4, 2e-4)


def test_what_does_not_fit_is_refused() -> None:
    q, k = mx.zeros((2, 4, 5, 8)), mx.zeros((2, 2, 6, 8))
    for match, call in (
        ("q is of shape .*4 axes", lambda: flash(q[0], k, k)),
        ("rows of 256 at most", lambda: flash(mx.zeros((1, 1, 2, 264)), k, k)),
        ("k is of shape .*divide the 4 of q", lambda: flash(q, mx.zeros((2, 3, 6, 8)), k)),
        ("k is mlx.core.float16", lambda: flash(q, k.astype(mx.float16), k.astype(mx.float16))),
        ("S >= 1", lambda: flash(q, k[:, :, :0], k[:, :, :0])),
        ("mask is of shape .*broadcasts to", lambda: flash(q, k, k, mask=mx.zeros((5, 5)))),
        ("mask is mlx.core.int32", lambda: flash(q, k, k, mask=mx.zeros((6,), mx.int32))),
        ("causal is 'yes'", lambda: flash(q, k, k, causal="yes")),  # type: ignore[arg-type]
        ("scale is nan", lambda: flash(q, k, k, float("nan"))),
        ("cap is 0.0; give a positive", lambda: flash(q, k, k, cap=0.0)),
        ("cap is inf", lambda: flash(q, k, k, cap=float("inf"))),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"\[zmlx.attention\] flash_attention: .*{match}"):
            call()
    assert flash(q[:0], k[:0], k[:0]).shape == (0, 4, 5, 8)
    assert mx.grad(lambda k: flash(q[:, :, :0], k, k).sum())(k).shape == k.shape
