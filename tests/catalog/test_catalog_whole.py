"""What the table cannot say of a function: trees, memory, offsets, scalars that are arrays."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from tests.catalog.cases import drawn, wide
from zmlx.catalog.rows import formulas as textbook
from zmlx.kernels import (
    attention,
    indexing,
    linear,
    loss,
    optimizers,
    quant,
    reductions,
    rope,
    scan,
    vlsp,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("default_device")


def tree(seed: int) -> dict[str, Any]:
    return {"a": drawn((4, 6), seed=seed), "b": [drawn((5,), seed=seed + 1), drawn((), seed=9)]}


def flat(found: dict[str, Any]) -> list[mx.array]:
    return [found["a"], *found["b"]]


def test_steps_of_trees() -> None:
    """As leaf by leaf; lr and step may be arrays, and launches are few."""
    p, g, m = tree(0), tree(10), tree(20)
    v = {"a": m["a"] ** 2, "b": [x**2 for x in m["b"]]}
    lr, step = mx.array(0.05), mx.array(3)
    with zmlx.profile(show=False) as seen:
        found = optimizers.adamw_step(p, g, m, v, lr, step)
        mx.eval(found)
    assert sum(k.launches for k in seen.kernels) <= 3
    for i in range(3):
        leaves = [wide(flat(t)[i]) for t in (p, g, m, v)]
        for got, wanted in zip(found, textbook.adamw(np, *leaves, 0.05, 3), strict=True):
            np.testing.assert_allclose(wide(flat(got)[i]), wanted, 1e-5, 1e-6)
    assert isinstance(found[0]["b"], list) and found[0]["b"][1].shape == ()
    with pytest.raises(ValueError, match=r"adamw_step: g\['a'\] is of shape"):
        optimizers.adamw_step(p, {**g, "a": mx.zeros((2, 2))}, m, v, 0.1, 1)
    with pytest.raises(ValueError, match="keys of p"):
        optimizers.adamw_step(p, {"a": g["a"]}, m, v, 0.1, 1)


def test_the_first_step_keeps_its_digits() -> None:
    """1 - beta2 is 0.001, not what float32 leaves of it."""
    p, g = mx.zeros((3,)), mx.array([1e-3, 1.0, -5.0])
    moved, _, _ = optimizers.adamw_step(p, g, mx.zeros((3,)), mx.zeros((3,)), 1.0, 1, wd=0.0)
    np.testing.assert_allclose(wide(moved), -np.sign(wide(g)), 2e-5)


@pytest.mark.usefixtures("on_cpu")
def test_a_linear_loss_never_holds_the_logits() -> None:
    """Value and gradients take a fifth of the logits' memory at most."""
    x, w = drawn((1024, 8)), drawn((16384, 8), seed=1)
    targets = mx.array(np.random.default_rng(2).integers(0, 16384, 1024))

    def mean(x: mx.array, w: mx.array) -> mx.array:
        return loss.linear_cross_entropy(x, w, targets, chunk=16).mean()

    def plain(x: mx.array, w: mx.array) -> mx.array:
        z = x @ w.T
        return (mx.logsumexp(z, -1) - mx.take_along_axis(z, targets[:, None], -1)[:, 0]).mean()

    wanted = mx.value_and_grad(plain, (0, 1))(x, w)
    mx.eval(wanted)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    found = mx.value_and_grad(mean, (0, 1))(x, w)
    mx.eval(found)
    assert mx.get_peak_memory() - before < 1024 * 16384 * 4 / 5
    np.testing.assert_allclose(found[0].item(), wanted[0].item(), 1e-5)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        np.testing.assert_allclose(wide(ours), wide(theirs), 1e-4, 1e-7)


def test_numbers_that_are_arrays_have_gradients() -> None:
    h, w, gate = drawn((3, 8)), drawn((8,), seed=1), drawn((3, 8), seed=2)
    slope = mx.grad(lambda a: vlsp.fused_recurrent_step(h, w, gate, a).sum())(mx.array(0.5))
    part = textbook.silu(np, textbook.rms(np, wide(h), wide(w))) * wide(gate)
    np.testing.assert_allclose(slope.item(), part.sum(), 1e-5)
    q = mx.array([[-3, 4]], mx.int8)
    assert mx.grad(lambda s: quant.dequantize_int8(q, s).sum())(mx.array([0.5])).tolist() == [1]


def test_rope_with_an_offset_is_mlx_s() -> None:
    x = drawn((2, 3, 7, 16))
    for offset in (0, 5, mx.array(1000)):
        wanted = mx.fast.rope(x, 16, traditional=False, base=1e4, scale=0.5, offset=offset)
        found = rope.rope_at(x, offset, base=1e4, scale=0.5)
        np.testing.assert_allclose(wide(found), wide(wanted), 2e-4, 2e-4)


def test_masks_broadcast() -> None:
    x, mask = drawn((2, 3, 4, 5)), drawn((1, 1, 4, 5), seed=1) > 0
    found = attention.masked_softmax(x, mask)
    wanted = attention.masked_softmax(x, mx.broadcast_to(mask, x.shape))
    assert mx.array_equal(found, wanted).item()
    assert not wide(attention.masked_softmax(x, mx.zeros((5,), mx.bool_))).any()
    with pytest.raises(ValueError, match="mask is of shape"):
        attention.masked_softmax(x[0], mx.broadcast_to(mask, x.shape))


def test_scattered_sums_are_the_same_bits() -> None:
    """Thousands of equal indices, in any type of them."""
    rng = np.random.default_rng(0)
    at, updates = rng.integers(-7, 9, 4000), drawn((4000, 3))
    wanted = np.zeros((8, 3))
    inside = (at >= -8) & (at < 8)
    np.add.at(wanted, at[inside] % 8, np.array(updates, np.float64)[inside])
    runs = [
        indexing.fused_scatter_add(mx.array(at.astype(kind)), updates, (8, 3))
        for kind in (np.int32, np.int64, np.int8, np.int32)
    ]
    assert all(mx.array_equal(runs[0], other).item() for other in runs[1:])
    np.testing.assert_allclose(wide(runs[0]), wanted, 1e-4, 1e-4)


@pytest.mark.usefixtures("on_cpu")  # MLX's custom kernels, which GPUs run, have shapes built in
def test_sizes_that_come_later() -> None:
    """Right for any sizes, or refused with words where a result depends on them."""
    for f in (scan.cumsum_lastdim, scan.cumsum_grad, reductions.var_lastdim):
        compiled = mx.compile(f, shapeless=True)
        for shape in ((3, 8), (5, 32)):
            x = drawn(shape)
            np.testing.assert_allclose(wide(compiled(x)), wide(f(x)), 1e-5, 1e-5)
    for f in (rope.rope_at, reductions.max_lastdim):
        with pytest.raises(ValueError, match="sizes, which are still to come"):
            mx.compile(f, shapeless=True)(drawn((3, 8)))


def test_second_derivatives_by_hand() -> None:
    x, w = drawn((2, 6)), mx.array([[0x1F], [0x80]], mx.uint8)

    def cubed(v: mx.array) -> mx.array:
        return (scan.cumsum_lastdim(v) ** 3).sum() + (reductions.topk_lastdim(v, 2)[0] ** 3).sum()

    twice = mx.grad(lambda v: mx.grad(cubed)(v).sum())(x)
    sums = np.cumsum(wide(x), -1)
    steps = np.arange(1, 7)
    wanted = np.cumsum((6 * sums * steps)[:, ::-1], -1)[:, ::-1]
    order = np.argsort(-wide(x), -1)[:, :2]
    for row, places in enumerate(order):
        wanted[row, places] += 6 * wide(x)[row, places]
    np.testing.assert_allclose(wide(twice), wanted, 1e-4, 1e-4)
    mixed = mx.grad(
        lambda s: mx.grad(lambda v: linear.dequantize_int4_matmul(v, w, s).sum())(x[:, :2]).sum()
    )(mx.ones((2,)))
    assert mixed.tolist() == [0, -16]
