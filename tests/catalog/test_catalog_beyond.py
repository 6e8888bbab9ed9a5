"""What the table cannot say of caches, places along axes, weights in groups, and divergences."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.catalog.cases import drawn, wide
from zmlx.kernels import linear, loss, rope

pytestmark = pytest.mark.usefixtures("default_device")


# -- caches ---------------------------------------------------------------------------------------
def test_a_cache_is_filled_token_by_token() -> None:
    """As all at once; what was there before stays as it was, and so does the cache given."""
    empty, x = mx.zeros((1, 2, 8, 16)), drawn((1, 2, 8, 16))
    values = drawn((1, 2, 8, 5), seed=1)
    keys, kept = empty, mx.zeros((1, 2, 8, 5))
    for i in range(8):
        part = slice(i, i + 1)
        keys, kept = rope.rope_append(keys, kept, x[..., part, :], values[..., part, :],
                                      mx.array(i) if i % 2 else i)  # fmt: skip
    wanted = mx.fast.rope(x, 16, traditional=False, base=1e4, scale=1.0, offset=0)
    np.testing.assert_allclose(wide(keys), wide(wanted), 1e-4, 1e-5)
    assert mx.array_equal(kept, values).item() and not np.array(empty).any()


def test_a_cache_that_is_full_says_so() -> None:
    keys, new = mx.zeros((1, 4, 8)), drawn((1, 2, 8))
    with pytest.raises(ValueError, match=r"rope_append: offset is 3; give a whole number from 0"):
        rope.rope_append(keys, keys, new, new, 3)
    with pytest.raises(ValueError, match="k is of shape .* 1 to 4 rows"):
        rope.rope_append(keys, keys, mx.zeros((1, 5, 8)), mx.zeros((1, 5, 8)), 0)
    for start in (3, -1, 2**20):
        found = np.array(rope.rope_append(keys, keys, new, new, mx.array(start))[1])
        assert np.isnan(found).sum() == new.size
    right = np.array(rope.rope_append(keys, keys, new, new, mx.array([2]))[1])
    np.testing.assert_array_equal(right[:, 2:], np.array(new))


# -- places along axes ----------------------------------------------------------------------------
@pytest.mark.parametrize("restart", [False, True])
def test_sections_turn_by_their_axes(restart: bool) -> None:
    """Three axes, as of a film; where all places agree, apply_rope by them."""
    x = drawn((2, 3, 5, 16)).astype(mx.float32)
    at = mx.array(np.random.default_rng(0).integers(0, 50, (3, 2, 5)))
    found = rope.rope_axes(x, at, (2, 3, 3), base=100.0, restart=restart)
    places, turns = np.array(at, np.float64), []
    for axis, (first, n) in enumerate(((0, 2), (2, 3), (5, 3))):
        for i in range(n):
            power = -i / n if restart else -(first + i) / 8
            turns.append(places[axis] * 100.0**power)
    angle = np.stack(turns, -1)[:, None]
    a, b = np.split(wide(x), 2, -1)
    c, s = np.cos(angle), np.sin(angle)
    right = np.concatenate([a * c - b * s, a * s + b * c], -1)
    np.testing.assert_allclose(wide(found), right, 1e-4, 1e-4)
    if not restart:
        same = mx.broadcast_to(mx.arange(5), (3, 2, 5))
        np.testing.assert_allclose(
            wide(rope.rope_axes(x, same, (2, 3, 3))), wide(rope.rope_at(x)), 1e-5, 1e-5
        )


def test_sections_that_do_not_fit_are_refused() -> None:
    x, at = mx.zeros((1, 2, 3, 8)), mx.zeros((2, 1, 3), mx.int32)
    for sections in ((2, 3), (4, 0), (), (2.0, 2.0)):
        with pytest.raises(ValueError, match="rope_axes: sections is .* add up to 4"):
            rope.rope_axes(x, at, sections)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"positions is of shape .*\(2, 1, 3\)"):
        rope.rope_axes(x, at[:1], (2, 2))


# -- weights in groups ----------------------------------------------------------------------------
@pytest.mark.parametrize("group", [32, 64, 128])
def test_four_bits_as_mlx_packs_them(group: int) -> None:
    """Values and gradients of few rows and many, both ways round."""
    packed = mx.quantize(drawn((24, 256)), group_size=group, bits=4)
    for rows in (1, 5, 8, 9):
        for transpose in (True, False):
            x = drawn((2, rows // 2, 256) if rows == 8 else (rows, 256), seed=rows)
            x = x if transpose else x[..., :24]

            def ours(x: mx.array, t: bool = transpose) -> mx.array:
                return linear.int4_matmul(x, *packed, group_size=group, transpose=t)

            def theirs(x: mx.array, t: bool = transpose) -> mx.array:
                return mx.quantized_matmul(x, *packed, group_size=group, bits=4, transpose=t)

            for found, wanted in (
                (ours(x), theirs(x)),
                (mx.grad(lambda v: ours(v).square().sum())(x),
                 mx.grad(lambda v: theirs(v).square().sum())(x)),
            ):  # fmt: skip
                right = wide(wanted)
                np.testing.assert_allclose(wide(found), right, 1e-5, 1e-5 * np.abs(right).max())


def test_what_is_not_packed_so_is_refused() -> None:
    x, packed = drawn((2, 64)), mx.quantize(drawn((3, 64)), group_size=32, bits=4)
    for match, call in (
        ("group_size is 16", lambda: linear.int4_matmul(x, *packed, group_size=16)),
        ("bits is 8", lambda: linear.int4_matmul(x, *packed, group_size=32, bits=8)),
        ("w_q is of shape", lambda: linear.int4_matmul(x, *packed, group_size=128)),
        ("scales is of shape", lambda: linear.int4_matmul(x, *packed, group_size=64)),
        ("w_q is of shape", lambda: linear.int4_matmul(x, *packed, group_size=32,
                                                       transpose=False)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"int4_matmul: {match}"):
            call()


# -- divergences ----------------------------------------------------------------------------------
def test_logits_without_weight_have_no_slope() -> None:
    """As a mask leaves them: in p, in q, in both; where there are none, NaN stays NaN."""
    p = mx.array([[-mx.inf, 1.0, 2.0], [0.5, 1.0, 2.0], [-mx.inf, 1.0, 2.0]])
    q = mx.array([[0.0, 3.0, 1.0], [-mx.inf, 3.0, 1.0], [-mx.inf, 3.0, 1.0]])

    def shares(x: mx.array) -> np.ndarray:
        e = np.exp(wide(x) - wide(x).max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def kl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.where(a > 0, a * np.log(a / b), 0.0).sum(-1)

    a, b = shares(p), shares(q)
    m = (a + b) / 2
    np.testing.assert_allclose(wide(loss.kl_div(p, q)), kl(a, b), 1e-5)
    np.testing.assert_allclose(wide(loss.js_div(p, q)), (kl(a, m) + kl(b, m)) / 2, 1e-5)
    with np.errstate(all="ignore"):
        logs = [np.where(x > 0, np.log(x / m), 0.0) for x in (a, b)]
        ratio = np.where(a > 0, np.log(a / b), 0.0)
    finite = mx.array([0, 2])  # rows whose sum is finite
    dp, dq = mx.grad(lambda *x: loss.kl_div(*x).sum(), (0, 1))(p[finite], q[finite])
    right = a[::2] * (ratio[::2] - kl(a, b)[::2, None])
    np.testing.assert_allclose(wide(dp), right, 0, 1e-5)
    np.testing.assert_allclose(wide(dq), (b - a)[::2], 0, 1e-5)
    slopes = mx.grad(lambda *x: loss.js_div(*x).sum(), (0, 1))(p, q)
    for found, x, log in zip(slopes, (a, b), logs, strict=True):
        right = x * (log - (x * log).sum(-1, keepdims=True)) / 2
        np.testing.assert_allclose(wide(found), right, 0, 1e-5)
    for f in (loss.kl_div, loss.js_div):
        assert np.isnan(wide(f(mx.array([[mx.nan, 1.0]]), mx.zeros((1, 2))))).all()
        assert np.isnan(wide(f(mx.full((1, 2), -mx.inf), mx.zeros((1, 2))))).all()


IGNORED = ((mx.int32, -100), (mx.int64, 3), (mx.uint8, 255), (mx.uint32, 0), (mx.int8, -1))
ENTROPIES: dict[str, Any] = {
    "softmax_cross_entropy": lambda x, w, t, **k: loss.softmax_cross_entropy(x @ w.T, t, **k),
    "linear_cross_entropy": lambda x, w, t, **k: loss.linear_cross_entropy(x, w, t, chunk=2, **k),
}


@pytest.mark.parametrize("name", ENTROPIES)
@pytest.mark.parametrize(("kind", "index"), IGNORED)
def test_ignored_targets_count_for_nothing(name: str, kind: mx.Dtype, index: int) -> None:
    """Loss and gradient 0 there, even of rows that hold no numbers; others as without them."""
    f, out = ENTROPIES[name], [1, 4]
    x, w = mx.random.normal((6, 5), key=mx.random.key(1)), mx.random.normal((7, 5))
    x[4] = mx.nan
    targets = mx.array([1, 2, 4, 5, 6, 1])
    targets[mx.array(out)] = index
    kept = mx.array([i for i in range(6) if i not in out])

    def whole(x: mx.array, w: mx.array) -> mx.array:
        return mx.sum(f(x, w, targets.astype(kind), ignore_index=index))

    def rest(x: mx.array, w: mx.array) -> mx.array:
        return mx.sum(f(x[kept], w, targets.astype(mx.int64)[kept]))

    losses = f(x, w, targets.astype(kind), ignore_index=index)
    assert losses[mx.array(out)].tolist() == [0.0, 0.0]
    value, dx = mx.value_and_grad(whole)(x, w)
    wanted, dx_wanted = mx.value_and_grad(rest)(x, w)
    np.testing.assert_allclose(value.item(), wanted.item(), 1e-5)
    np.testing.assert_allclose(np.array(dx), np.array(dx_wanted), 1e-4, 1e-6)
    assert not np.array(dx)[out].any()
    if name == "linear_cross_entropy":  # a product of MLX's would say 0 times NaN
        pairs = [mx.grad(g, argnums=1)(x, w) for g in (whole, rest)]
        np.testing.assert_allclose(np.array(pairs[0]), np.array(pairs[1]), 1e-4, 1e-6)


def test_an_index_that_no_target_has_ignores_none_and_what_is_none_is_refused() -> None:
    x, targets = mx.random.normal((3, 5)), mx.array([0, 4, 9], mx.uint8)
    plain = np.array(loss.softmax_cross_entropy(x, targets))
    found = loss.softmax_cross_entropy(x, targets, ignore_index=-100)
    np.testing.assert_array_equal(np.array(found), plain)
    assert np.isnan(plain[2])
    for wrong in (1.5, True, "x", 2**63):
        with pytest.raises(ValueError, match=r"softmax_cross_entropy: ignore_index is"):
            loss.softmax_cross_entropy(x, targets, ignore_index=wrong)
