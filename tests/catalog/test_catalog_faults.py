"""Faults that catalogs of this kind are known for, one test each: none of them is here."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from tests.catalog.cases import drawn, wide
from zmlx import registry
from zmlx.kernels import (
    activations,
    attention,
    bits,
    fused,
    image,
    indexing,
    linear,
    loss,
    moe,
    norms,
    quant,
    reductions,
    rope,
    scan,
    softmax,
    transformer,
    vlsp,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("default_device")


def test_gradients_of_gated_units_keep_every_row() -> None:
    x = drawn((4, 8))
    dx = mx.grad(lambda v: transformer.swiglu(v).sum())(x)
    assert dx.shape == x.shape and np.array(dx).all()


def test_no_gradient_is_the_cotangent_by_mistake() -> None:
    """Of weights and biases too, which are sums over rows."""
    x, w, b = drawn((5, 8)), drawn((8,), seed=1), drawn((16,), seed=2)
    dw = mx.grad(lambda w: norms.rmsnorm(x, w).sum())(w)
    np.testing.assert_allclose(wide(dw), wide(norms.rms_norm_no_weight(x)).sum(0), 1e-5, 1e-5)
    db = mx.grad(lambda b: transformer.bias_swiglu(mx.concatenate([x, x], -1), b).sum())(b)
    assert db.shape == b.shape


def test_variance_far_from_zero() -> None:
    """Mean 1000, deviation 0.01."""
    x = mx.array((1000 + 0.01 * np.random.default_rng(0).normal(size=(2, 512))).astype(np.float32))
    wanted = np.array(x, np.float64).var(-1)
    np.testing.assert_allclose(wide(reductions.var_lastdim(x)), wanted, 1e-3)
    deviation = wide(vlsp.grpo_advantage_norm(x, eps=0.0)).std(-1)
    np.testing.assert_allclose(deviation, 1.0, 1e-3)


def test_the_mask_has_no_pattern() -> None:
    """Neither are neighbours alike, nor does a seed shift the mask."""
    kept = [np.array(transformer.dropout(mx.ones((2**15,)), 0.5, s)) > 0 for s in (0, 1)]
    for mask in kept:
        assert abs(np.corrcoef(mask[1:], mask[:-1])[0, 1]) < 0.03
    best = max(abs((kept[0][:1000] == kept[1][i : i + 1000]).mean() - 0.5) for i in range(200))
    assert best < 0.1


@pytest.mark.smoke
def test_numbers_and_sizes_make_no_kernel() -> None:
    x = drawn((4, 40))
    idx, many = mx.array([1, 2]), mx.array([0, 1, 1])

    def calls(k: int, n: int) -> list[Any]:
        v = drawn((n, 32 + n))
        return [
            reductions.topk_lastdim(v, k)[0], scan.cumsum_lastdim(v),
            moe.topk_gating_softmax(v, k)[0],
            image.resize_bilinear(drawn((1, n, n + 1, 2)), (k, k + n)),
            image.depthwise_conv_3x3(drawn((1, n, n, k)), drawn((3, 3, k))),
            indexing.fused_gather_add(drawn((n, k)), idx, drawn((2, k))),
            indexing.fused_scatter_add(many, drawn((3, k)), (n, k)),
            linear.dequantize_int4_matmul(
                drawn((2, 2 * k)), mx.zeros((n, k), mx.uint8), drawn((n,))),
            attention.attention_tile_proto(drawn((16, n)), drawn((16, n))),
        ]  # fmt: skip

    mx.eval(calls(3, 5))
    before = registry.cache_size()
    mx.eval(calls(9, 11))
    assert registry.cache_size() == before
    found = [transformer.dropout(x, p, s) for p, s in ((0.1, 1), (0.7, 9))]
    assert not mx.array_equal(*found).item()


def test_results_in_bfloat16_have_their_type() -> None:
    x = drawn((3, 8), mx.bfloat16)
    for y in (activations.exp()(x), softmax.softmax_lastdim(x), rope.rope_at(x),
              reductions.max_lastdim(x), scan.cumsum_lastdim(x)):  # fmt: skip
        assert y.dtype == mx.bfloat16


def test_activations_far_out_and_near_zero() -> None:
    x = mx.array([-200.0, -30.0, -1e-6, 0.0, 1e-6, 100.0, 3e38])
    v = np.array(x, np.float64)
    plus = np.maximum(v, 0) + np.log1p(np.exp(-np.abs(v)))
    np.testing.assert_allclose(wide(activations.softplus()(x)), plus, 1e-6, 1e-37)
    np.testing.assert_allclose(wide(activations.mish()(x)), v * np.tanh(plus), 1e-6, 1e-37)
    with np.errstate(over="ignore"):
        elu = np.where(v > 0, v, np.expm1(v))
    np.testing.assert_allclose(wide(activations.elu()(x)), elu, 1e-6)
    half = mx.array([-20.0, 0.0, 20.0, 300.0], mx.float16)
    assert np.isfinite(wide(activations.gelu_tanh()(half))).all()
    assert np.isnan(wide(activations.relu()(mx.array([float("nan")])))).all()


def test_ties_infinities_and_nan() -> None:
    nan, inf = float("nan"), float("inf")
    x = mx.array([[1.0, 3, 3, 2] * 200, [nan, 1, nan, inf] * 200, [-inf] * 800])
    places = [1, 0, 0]
    assert reductions.argmax_lastdim(x).tolist() == places
    values, top = reductions.topk_lastdim(x, 3)
    assert top.tolist() == [[1, 2, 5], [0, 2, 4], [0, 1, 2]]
    assert np.isnan(wide(values)[1]).all() and (wide(values)[2] == -inf).all()
    weights, two = moe.top2_gating_softmax(mx.array([[5.0, 5, 5], [-inf, 1, -inf]]))
    assert two.tolist() == [[0, 1], [1, 0]]
    np.testing.assert_allclose(wide(weights), [[0.5, 0.5], [1, 0]])
    sums = wide(attention.logsumexp_lastdim(mx.array([[-inf, -inf], [0.0, inf], [0, 0]])))
    np.testing.assert_allclose(sums, [-inf, inf, np.log(2)])
    dx = mx.grad(lambda v: reductions.max_lastdim(v).sum())(mx.array([[1.0, 3, 3]]))
    assert dx.tolist() == [[0, 1, 0]]


def test_many_of_the_largest_and_too_many() -> None:
    x = drawn((2, 300))
    values, _ = reductions.topk_lastdim(x, 300)
    np.testing.assert_array_equal(np.array(values), -np.sort(-np.array(x), -1))
    for k in (0, 301, 1.5, True):
        with pytest.raises(ValueError, match="topk_lastdim: k is"):
            reductions.topk_lastdim(x, k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two experts"):
        moe.top2_gating_softmax(mx.zeros((3, 1)))


def test_indices_out_of_range_touch_nothing() -> None:
    src, far = drawn((4, 3)), mx.array([-1, -4, -5, 4, 2**30])
    rows = np.array(indexing.fused_gather_add(src, far, mx.zeros((5, 3))))
    np.testing.assert_array_equal(rows, np.array([*np.array(src)[[3, 0]], *np.zeros((3, 3))]))
    added = np.array(indexing.fused_scatter_add(far, mx.ones((5, 3)), (4, 3)))
    np.testing.assert_array_equal(added[:, 0], [1, 0, 0, 1])
    z, targets = drawn((3, 5)), mx.array([1, 5, -1])
    losses = np.array(loss.softmax_cross_entropy(z, targets))
    assert np.isfinite(losses[0]) and np.isnan(losses[1:]).all()
    dz = np.array(mx.grad(lambda v: loss.softmax_cross_entropy(v, targets)[0])(z))
    assert np.isfinite(dz[0]).all()
    dz = np.array(mx.grad(lambda v: loss.softmax_cross_entropy(v, targets).sum())(z))
    assert np.isfinite(dz[0]).all() and np.isnan(dz[1:]).all()


def test_scales_are_one_number() -> None:
    q = mx.array([-128, 0, 127], mx.int8)
    for scale in (0.5, mx.array(0.5), mx.array([0.5])):
        assert quant.dequantize_int8(q, scale).tolist() == [-64, 0, 63.5]
    with pytest.raises(ValueError, match="scale is"):
        quant.dequantize_int8(q, mx.array([0.5, 0.5]))
    byte = mx.array([0x8F], mx.uint8)
    assert quant.dequantize_int4(byte, 1.0).tolist() == [15, 8]
    assert quant.dequantize_int4(byte, 1.0, signed=True).tolist() == [-1, -8]
    found = quant.dequantize_fp8(mx.arange(256).astype(mx.uint8))
    assert np.isnan(np.array(found)[[127, 255]]).all()
    np.testing.assert_allclose(np.array(found)[[1, 8, 126, 254]], [2**-9, 2**-6, 448, -448])


def test_nothing_in_nothing_out() -> None:
    assert scan.cumsum_lastdim(mx.zeros((0, 4))).shape == (0, 4)
    assert bits.pack_bits(mx.zeros((0,), mx.bool_)).shape == (0,)
    assert bits.unpack_bits(mx.array([3], mx.uint8), (2, 3)).tolist() == [[1, 1, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="original_shape"):
        bits.unpack_bits(mx.array([3], mx.uint8), (3, 3))
    assert bits.unpack_bits(mx.array([3], mx.uint8), ()).item() == 1
    assert image.resize_bilinear(mx.zeros((0, 2, 2, 1)), (3, 3)).shape == (0, 3, 3, 1)


def test_the_residual_norm_is_that_of_its_own_sum() -> None:
    """It norms the sum before rounding: half types do not part from their statistics."""
    x, w = drawn((3, 64), mx.float16), mx.ones((64,), mx.float16)
    normed, _ = transformer.rmsnorm_residual(x, x, w)
    v = 2 * wide(x)
    wanted = v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(wide(normed), wanted, 2**-10, 1e-4)


def test_compensated_sums() -> None:
    x = mx.array([[1e8, 1.0, -1e8] * 100 + [0.25]])
    assert reductions.sum_lastdim(x, kahan=True).tolist() == [100.25]
    assert reductions.mean_lastdim(x[:, :3], kahan=True).item() == pytest.approx(1 / 3)


def test_factories_are_memoised_and_forgotten() -> None:
    assert activations.silu() is activations.silu() is activations.silu_grad()
    assert fused.add_bias(c=4, compute_dtype=mx.float32) is fused.add_bias(
        c=4, compute_dtype=mx.float16
    )
    kept = activations.silu()
    registry.clear_cache()
    assert activations.silu() is not kept
    with pytest.raises(ValueError, match="compute_dtype_key is 'flaot32'"):
        activations.silu(compute_dtype_key="flaot32")


def test_one_import_brings_one_module() -> None:
    """Asking for a module loads it, and not the whole catalog."""
    code = (
        "import sys; from zmlx.kernels import softmax; print('zmlx.catalog.image' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_heads_change_nothing_and_a_depth_is_continuous() -> None:
    x, c, s = drawn((1, 3, 4, 8)), drawn((3, 4), seed=1), drawn((3, 4), seed=2)
    one, four = (rope.apply_gqa_rope(x, c, s, n_kv_heads=n) for n in (1, 4))
    assert mx.array_equal(one, four).item()
    with pytest.raises(ValueError, match="n_kv_heads"):
        rope.apply_gqa_rope(x, c, s, n_kv_heads=3)
    assert vlsp.depth_gate_sigmoid(mx.array([0.0]), k_max=5).tolist() == [2.5]


def test_calls_inside_fused_functions_and_compiled_ones() -> None:
    """Kernels by hand are calls in a trace; under a shapeless mx.compile MLX's ops are used."""
    x = drawn((3, 40))

    def f(v: mx.array) -> mx.array:
        return scan.cumsum_lastdim(mx.tanh(v)) + reductions.topk_lastdim(v, 1)[0]

    wanted = np.cumsum(np.tanh(wide(x)), -1) + wide(x).max(-1, keepdims=True)
    for g in (zmlx.fuse(f), mx.compile(f)):
        np.testing.assert_allclose(wide(g(x)), wanted, 1e-5, 1e-5)
    slope = mx.grad(lambda v: f(v).sum())
    np.testing.assert_allclose(wide(mx.compile(slope)(x)), wide(slope(x)), 1e-5, 1e-5)
