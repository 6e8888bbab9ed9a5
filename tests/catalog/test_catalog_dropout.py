"""The dropout ops: the mask against another writing of its hash, its statistics, its gradient."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.catalog import exact
from tests.catalog.cases import KINDS, close, drawn, wide
from zmlx import registry
from zmlx.catalog.rows import formulas as textbook
from zmlx.device.base import Device
from zmlx.kernels import norms, transformer

pytestmark = pytest.mark.usefixtures("default_device")
dropout = transformer.dropout


def kept(p: float, seed: Any, shape: tuple[int, ...], kind: mx.Dtype = mx.float32) -> np.ndarray:
    return wide(dropout(mx.ones(shape, kind), p, seed)) > 0


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**32 - 1])
def test_the_mask(seed: int) -> None:
    for p in (0.0, 1e-3, 0.1, 0.5, 0.999):
        wanted = textbook.factors((4097,), p, seed)
        np.testing.assert_allclose(wide(dropout(mx.ones((4097,)), p, seed)), wanted, 1e-6)


def test_an_element_at_the_share_is_kept() -> None:
    """u < p drops, u == p does not: else p = 0 would drop one element of 2**24."""
    u = textbook.uniform(7, np.arange(64))
    x, w = mx.ones((64,)), mx.ones((64,))
    for p in (float(u[3]), float(u[40])):
        found = [
            dropout(x, p, 7),
            transformer.rms_norm_dropout(x, w, p, 7),
            norms.layer_norm_dropout(x, w, w, p, 7),
        ]
        for y in found:
            np.testing.assert_array_equal(wide(y) > 0, u >= p)


def test_numbers_of_the_hash() -> None:
    """Fixed for good: masks of a run that was stopped come again."""
    found = textbook.hash_u32(7, np.array([0, 1, 2, 2**32, 2**40 + 5]))
    assert found.dtype == np.uint32 and len(set(found.tolist())) == 5
    first = np.flatnonzero(~kept(0.3, 7, (64,)))
    np.testing.assert_array_equal(first, np.flatnonzero(textbook.uniform(7, np.arange(64)) < 0.3))


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
def test_the_rate(p: float) -> None:
    count = 2**18
    for seed in range(8):
        share = 1 - kept(p, seed, (count,)).mean()
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / count)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """In deviations of what independent bits would give."""
    return float(np.corrcoef(a, b)[0, 1] * np.sqrt(len(a)))


def test_neighbours_and_seeds_are_independent() -> None:
    masks = [kept(0.5, seed, (2**17,)) for seed in (0, 1, 2, 3, 2**16, 2**31)]
    found = [correlation(mask[:-lag], mask[lag:]) for mask in masks for lag in (*range(1, 9), 64)]
    found += [correlation(a, b) for i, a in enumerate(masks) for b in masks[:i]]
    found += [
        correlation(a[lag:], b[:-lag]) for a in masks[1:3] for b in masks[:1] for lag in (1, 2)
    ]
    assert np.abs(found).max() < 4.5 and np.abs(found).mean() < 1.2
    runs = np.diff(np.flatnonzero(np.diff(masks[0])))  # lengths of runs: 1 half, 2 a quarter, ...
    for length in range(1, 6):
        assert abs((runs == length).mean() - 0.5**length) < 0.01


def test_one_mask_for_all_types_shapes_and_launches(
    default_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = textbook.factors((6000,), 0.3, 11) > 0
    for kind in KINDS.values():
        for shape in ((6000,), (60, 100), (3, 20, 100), (6000, 1), (1, 6000)):
            np.testing.assert_array_equal(kept(0.3, 11, shape, kind).ravel(), wanted)
    one = mx.ones((60, 100))
    np.testing.assert_array_equal(wide(dropout(one.T, 0.3, 11)).ravel() > 0, wanted)
    monkeypatch.setattr(type(default_device), "takes_turns", False)
    np.testing.assert_array_equal(kept(0.3, 11, (60, 100)).ravel(), wanted)
    rows = mx.broadcast_to(mx.arange(1, 101, dtype=mx.float32), (60, 100))
    for threads in (1, 32, 1024):
        y = transformer.rms_norm_dropout(rows, mx.ones((100,)), 0.3, 11, threadgroup=threads)
        np.testing.assert_array_equal(wide(y).ravel() > 0, wanted)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_dropped_is_the_identity(name: str) -> None:
    """Bit for bit, with zeros of both signs, infinities and NaN."""
    bits = mx.array(np.random.default_rng(0).integers(0, 2**16, 4000).astype(np.uint16))
    x = bits.view(KINDS[name]) if name != "float32" else bits.astype(mx.uint32) * 65537
    x = x.view(KINDS[name])
    y = dropout(x, 0.0, 5)
    same = mx.isnan(x) & mx.isnan(y)
    word = mx.uint32 if name == "float32" else mx.uint16
    assert mx.all(same | (x.view(word) == y.view(word))).item()


def test_shapes() -> None:
    for shape in ((), (1,), (0,), (3, 0), (2, 3, 4)):
        x = mx.full(shape, 2.0)
        y = dropout(x, 0.5, 3)
        assert y.shape == shape
        np.testing.assert_allclose(wide(y), 2 * textbook.factors(shape, 0.5, 3))
        dx = mx.grad(lambda v: dropout(v, 0.5, 3).sum())(x)
        np.testing.assert_allclose(wide(dx), textbook.factors(shape, 0.5, 3))


def test_bad_numbers_are_dropped_too() -> None:
    gone = textbook.factors((40,), 0.5, 3) == 0
    for bad in (np.nan, np.inf):
        y = wide(dropout(mx.full((40,), bad), 0.5, 3))
        assert (y[gone] == 0).all() and not np.isfinite(y[~gone]).any()


def test_norms_share_the_mask() -> None:
    for name, kind in KINDS.items():
        x, w, b = drawn((5, 40), kind), drawn((40,), kind, 1), drawn((40,), kind, 2)
        pairs = [
            (transformer.rms_norm_dropout(x, w, 0.3, 9), dropout(norms.rmsnorm(x, w), 0.3, 9)),
            (norms.layer_norm_dropout(x, w, b, 0.3, 9), dropout(norms.layernorm(x, w, b), 0.3, 9)),
        ]
        for found, two_steps in pairs:
            assert mx.array_equal(found == 0, two_steps == 0)
            close(found, wide(two_steps), name, 3)
        no_mask = transformer.rms_norm_dropout(x, w, 0.0, 9)
        assert mx.array_equal(no_mask, norms.rmsnorm(x, w))


@pytest.mark.smoke
def test_the_gradient_has_the_same_mask() -> None:
    x = drawn((5, 40))
    for seed in (0, 3):
        wanted = textbook.factors((5, 40), 0.4, seed)
        dx = mx.grad(lambda v, seed=seed: dropout(v, 0.4, seed).sum())(x)
        np.testing.assert_allclose(wide(dx), wanted, 1e-6)
        b = mx.zeros((40,))
        db = mx.grad(lambda b, s=seed: norms.layer_norm_dropout(x, b + 1, b, 0.4, s).sum())(b)
        w_part = (exact.layer(wide(x)) * wanted).sum(0)
        np.testing.assert_allclose(wide(db), wanted.sum(0) + w_part, 1e-5, 1e-5)


def test_mapped_items_have_the_mask_of_a_call_of_their_own() -> None:
    x, seeds = drawn((3, 4, 10)), mx.array([1, 2, 3])
    found = mx.vmap(lambda v: dropout(v, 0.5, 6))(x)
    np.testing.assert_allclose(wide(found), wide(x) * textbook.factors((4, 10), 0.5, 6), 1e-6)
    found = mx.vmap(lambda v, s: dropout(v, 0.5, s))(x, seeds)
    wanted = np.stack([textbook.factors((4, 10), 0.5, s) for s in (1, 2, 3)])
    np.testing.assert_allclose(wide(found), wide(x) * wanted, 1e-6)
    found = mx.vmap(lambda s: dropout(x[0], 0.5, s))(seeds)
    np.testing.assert_allclose(wide(found), wide(x[0]) * wanted, 1e-6)
    row = drawn((10,), seed=1)
    found = mx.vmap(lambda v, s: transformer.rms_norm_dropout(v, row, 0.5, s))(x, seeds)
    np.testing.assert_allclose(wide(found), exact.rms(wide(x), wide(row)) * wanted, 3e-6, 3e-6)


def test_a_seed_that_changes_makes_no_kernel() -> None:
    """Nor do another p and eps."""
    x, w = drawn((4, 40)), drawn((40,), seed=1)

    def step(x: mx.array, w: mx.array, seed: mx.array) -> Any:
        return mx.grad(
            lambda x: transformer.rms_norm_dropout(dropout(x, 0.5, seed), w, 0.5, seed + 1).sum()
        )(x), dropout(x, 0.5, seed)

    compiled = mx.compile(step)
    mx.eval(compiled(x, w, mx.array(0)))
    size, masks = registry.cache_size(), []
    for seed in range(1, 5):
        slope, y = compiled(x, w, mx.array(seed))
        masks.append((wide(y) != 0).tobytes())
        np.testing.assert_array_equal(wide(y) != 0, textbook.factors((4, 40), 0.5, seed) != 0)
        eager = step(x, w, mx.array(seed))[0]
        np.testing.assert_allclose(wide(slope), wide(eager), 1e-6, 1e-6)
    assert len(set(masks)) == 4 and registry.cache_size() == size
    for p, eps in ((0.1, 1e-3), (0.2, 1.0)):
        mx.eval(transformer.rms_norm_dropout(x, w, p, 5, eps=eps), dropout(x, p, 77))
    assert registry.cache_size() == size


def test_seeds_as_arrays() -> None:
    x = mx.ones((64,))
    wanted = dropout(x, 0.5, 2**32 - 1)
    for seed in (mx.array(2**32 - 1, mx.uint32), mx.array([2**32 - 1], mx.int64), mx.array(-1)):
        assert mx.array_equal(dropout(x, 0.5, seed), wanted)
    assert mx.array_equal(dropout(x, 0.5), dropout(x, 0.5, mx.array(0, mx.uint8)))
    assert not mx.array_equal(dropout(x, 0.5, 1), dropout(x, 0.5, 2))


def test_gradients_leave_the_seed_alone() -> None:
    x, seed = drawn((40,)), mx.array(3)
    dx, ds = mx.grad(lambda v, s: dropout(v, 0.5, s).sum(), (0, 1))(x, seed)
    np.testing.assert_allclose(wide(dx), textbook.factors((40,), 0.5, 3), 1e-6)
    assert ds.shape == () and ds.item() == 0
