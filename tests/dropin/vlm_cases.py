"""Kernels of mlx-vlm, called as it calls them, beside its own ops or MLX's."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from tests.dropin import lm_cases, turbo_cases, vlm_more_cases
from tests.dropin.libraries import Load
from tests.dropin.lm_cases import F32, Pair, drawn, without_metal

# What mlx-vlm has as mlx-lm has it, by the case: other modules' names.
_THERE = {
    "mlx_lm.kernels": "mlx_vlm.kernels", "mlx_lm.models.rwkv7": "mlx_vlm.models.rwkv7.language",
    "mlx_lm.models.kimi_k3": "mlx_vlm.models.kimi_k3.language",
    "mlx_lm.models.bitlinear_layers": "mlx_vlm.models.bitnet.bitlinear",
    "mlx_lm.models.gated_delta": "mlx_vlm.models.gated_delta",
    "mlx_lm.models.ssm": "mlx_vlm.models.ssm",
}  # fmt: skip


def _shared(case: Callable[[Load], Pair]) -> Callable[[Load], Pair]:
    return lambda load: case(lambda name: load(_THERE[name]))


def states(load: Load) -> Pair:
    """The gated delta rule that also gives the states between steps."""
    module = load("mlx_vlm.models.gated_delta")
    mask = mx.array([[True, True, False], [True, True, True]])
    found, wanted = [], []
    for vector in (False, True):
        for padding in (None, mask):
            arrays = lm_cases._gated_delta(64, vector)
            keep = (mx.ones((2, 3)) if padding is None else padding)[..., None, None]
            y, state, steps = module.gated_delta_kernel(*arrays, padding, state_steps=3)
            found += [y * keep, state, steps]
            outs, between, now = [], [], arrays[-1]
            for t in range(3):
                step = [a[:, t : t + 1] for a in arrays[:-1]]
                part = None if padding is None else padding[:, t : t + 1]
                out, now = module.gated_delta_ops(*step, now, part)
                outs.append(out)
                between.append(now)
            wanted += [mx.concatenate(outs, 1) * keep, now, mx.stack(between, 1)]
    return found, wanted


def gated_delta_of_qwen(load: Load) -> Pair:
    module = load("mlx_vlm.models.qwen3_5.gated_delta")
    found, wanted = [], []
    mask = mx.array([[True, True, False], [True, True, True]])
    for size, vector, padding in ((64, 0, None), (64, 0, mask), (64, 1, None), (128, 0, None)):
        arrays = lm_cases._gated_delta(size, bool(vector))
        keep = (mx.ones((2, 3)) if padding is None else padding)[..., None, None]
        for pair, run in ((found, module.gated_delta_kernel), (wanted, module.gated_delta_ops)):
            y, state = run(*arrays, padding)
            pair += [y * keep, state]
    q, k, v, _, _, state = lm_cases._gated_delta(64, False)
    gates = [drawn(2, 3, 2, seed=s) for s in (7, 8)] + [drawn(2, seed=9), drawn(2, seed=10)]
    for padding in (None, mask):
        keep = (mx.ones((2, 3)) if padding is None else padding)[..., None, None]
        for pair, use in ((found, True), (wanted, False)):
            y, *rest = module.gated_delta_update_with_states(q, k, v, *gates, state, padding, use)
            pair += [y * keep, *rest]
    return found, wanted


def hyper_connection(load: Load) -> Pair:
    module = load("mlx_vlm.models.deepseek_v4.hyper_connection")
    mixes, scale, base = drawn(2, 3, 24), drawn(3, seed=1), drawn(24, seed=2)
    x = drawn(2, 3, 4, 512, seed=3)
    found = [
        *module.hc_split_sinkhorn(mixes, scale, base, 4, 3, 1e-6),
        *module._hc_kernel(x, x, mixes, scale, base, 4, 3, 1e-6),
    ]
    wanted = [
        *module._hc_split_sinkhorn_ops(mixes, scale, base, 4, 3, 1e-6),
        *module._hc_ops(x, x, mixes, scale, base, 4, 3, 1e-6),
    ]
    return found, wanted


def fp8(load: Load) -> Pair:
    module, x = load("mlx_vlm.models.deepseek_v41.fakequant"), 3 * drawn(5, 96)
    found = module.fake_quant_fp8_ue8m0(x)
    module._fp8_roundtrip_kernel = None
    return [found], [module.fake_quant_fp8_ue8m0(x)]


def interpolation(load: Load) -> Pair:
    module = load("mlx_vlm.models.kernels")
    x, grid = drawn(2, 3, 8, 9), mx.random.uniform(-1, 1, (2, 5, 6, 2), key=mx.random.key(1))
    index = mx.random.randint(0, 8, (2, 7, 3), mx.int32, key=mx.random.key(2))
    weight = drawn(2, 7, 3, seed=3)
    taps = (index[0], weight[0], index[1], weight[1])

    def calls() -> list[mx.array]:
        last = x.transpose(0, 2, 3, 1)
        return [
            module.nearest_interpolate(x, size=(5, 13)),
            module.bicubic_interpolate(x, size=(5, 13)),
            module.bicubic_interpolate(x, size=(16, 4), align_corners=True),
            module.bicubic_interpolate(x, size=(4, 5), antialias=True),
            module.grid_sample(last, grid),
            module.separable_interpolate(last, *taps),
        ]

    found, module._HAS_METAL = calls(), False
    return found, calls()


def rotary(load: Load) -> Pair:
    module = load("mlx_vlm.models.rope_utils")
    q, k = drawn(2, 4, 5, 24), drawn(2, 2, 5, 24, seed=1)
    inverse = 1.0 / 100.0 ** (mx.arange(8, dtype=F32) / 8)
    flat, spread = mx.arange(10).reshape(2, 5), mx.arange(30).reshape(3, 2, 5)
    selector = mx.array([0, 0, 0, 1, 1, 1, 2, 2], mx.int32)
    found, wanted = [], []
    for pairing in (module._HALF_SPLIT, module._EVEN_ODD):
        for positions in (flat, spread):
            kernel = module._mrope_apply_kernel(16, positions.ndim, pairing)
            args = (q, k, positions, inverse, selector, pairing)
            found += module._fast_mrope_apply(kernel, *args)
            wanted += module._mrope_apply(*args)
        angles = flat[..., None] * mx.concatenate([inverse, inverse])
        kernel = module._rotary_apply_kernel(16, pairing, 3, False, module._HALF_COS)
        turns = (mx.cos(angles), mx.sin(angles))
        how: dict[str, Any] = {"pairing": pairing, "cos_layout": module._HALF_COS}
        found += module._fast_rotary_apply(kernel, q, k, *turns, **how)
        how |= {"sectioned": False, "mrope_section": None}
        wanted += module._precomputed_rotary(q, k, *turns, **how)
    return found, wanted


def one_bit(load: Load) -> Pair:
    module = load("mlx_vlm.quantization.one_bit")
    found, wanted = [], []
    for rows in (8, 70):
        weight = mx.random.randint(0, 2**31 - 1, (rows, 4), mx.int32, key=mx.random.key(rows))
        packed = weight.astype(mx.uint32) * 2 + 1
        scales, biases = drawn(rows, 2, seed=1), drawn(rows, 2, seed=2)
        x = drawn(3, 128, seed=3)
        dense = module.dequantize_one_bit(packed, scales, biases, 64)
        found.append(module.one_bit_quantized_matmul(x, packed, scales, biases, group_size=64))
        wanted.append(x @ dense.T)
    return found, wanted


def one_bit_tiles(load: Load) -> Pair:
    """Matrices of a simdgroup."""
    module = load("mlx_vlm.quantization.one_bit")
    weight = mx.random.randint(0, 2**31 - 1, (40, 16), mx.int32, key=mx.random.key(0))
    packed, x = weight.astype(mx.uint32) * 2 + 1, drawn(33, 512, seed=3) / 16
    scales, biases = drawn(40, 8, seed=1), drawn(40, 8, seed=2)
    dense = module.dequantize_one_bit(packed, scales, biases, 64)
    found = module.one_bit_quantized_matmul(x, packed, scales, biases, group_size=64)
    return [found], [x @ dense.T]


def allowed_tokens(load: Load) -> Pair:
    module, logits = load("mlx_vlm.structured"), drawn(2, 70)
    words = mx.random.randint(-(2**31), 2**31 - 1, (2, 2), mx.int32, key=mx.random.key(1))
    bits = (words.view(mx.uint32)[..., None] >> mx.arange(32, dtype=mx.uint32)) & 1
    allowed = mx.pad(bits.reshape(2, 64), ((0, 0), (0, 6)))
    found = module._apply_llguidance_mask(logits, words)
    return [found], [mx.where(allowed != 0, logits, -math.inf)]


def indexer(load: Load) -> Pair:
    module = load("mlx_vlm.models.longcat_flash_sparse.indexer_kernel")
    q, pooled, weights = drawn(2, 3, 5, 16), drawn(2, 300, 16, seed=1), drawn(2, 5, 3, seed=2)
    scores = mx.maximum(q @ pooled[:, None].swapaxes(-1, -2), 0)
    wanted = (scores * weights.swapaxes(1, 2)[..., None]).sum(1) * 0.25
    return [module.indexer_dense_scores(q, pooled, weights, 0.25)], [wanted]


def sparse_attention(load: Load) -> Pair:
    module = load("mlx_vlm.models.sparse_attention")
    shapes = ((4, 3), (2, 50), (2, 50))
    q, k, v = (drawn(2, *n, 64, kind=mx.float16, seed=s) for s, n in enumerate(shapes))
    order = mx.argsort(drawn(2, 3, 50, seed=5), -1)[..., :8].astype(mx.int32)
    chosen = mx.where(mx.arange(8) < 6, order, -1)
    mask = (chosen[..., None] == mx.arange(50)).any(-2)[:, None]
    wanted = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.125, mask=mask)
    return [module.indexed_sparse_attention(q, k, v, chosen, 0.125)], [wanted]


def short_conv(load: Load) -> Pair:
    module = load("mlx_vlm.models.kimi_k3.language")
    layer = module.ShortConv1d(40, 4)
    layer.eval()
    x, state = drawn(2, 1, 40), drawn(2, 3, 40, seed=1)
    found = layer(x, state, None, None)
    module._short_conv_kernel = None
    return found, layer(x, state, None, None)


def inkling(load: Load) -> Pair:
    """A banded mask, a convolution over a cache, the choice of experts."""
    module = load("mlx_vlm.models.inkling.language")
    rel, proj = drawn(2, 5, 3, 8), drawn(8, 6, seed=1)
    layer = module.InklingShortConvolution(40, 4, 0)
    layer.conv.weight = drawn(40, 4, 1, seed=2)
    x, residual = drawn(2, 3, 40, seed=3), drawn(2, 3, 40, seed=4)
    router = SimpleNamespace(
        n_routed=40, n_shared=2, top_k=4, route_scale=2.5, intermediate_size=3, _wscale=None,
        e_score_correction_bias=0.1 * drawn(40, seed=5), global_scale=mx.array([0.7]),
    )  # fmt: skip

    def calls() -> list[mx.array]:
        cache = [drawn(2, 3, 40, seed=6)]
        indices, weights, shared = module.InklingSparseMoE._route(router, drawn(3, 42, seed=7))
        order = mx.argsort(indices, -1)
        return [
            *[module.banded_additive_mask(rel, proj, 4, 9, window, 6) for window in (0, 3)],
            module.banded_additive_mask(rel, proj, 4, 9, 3, 6, shape_ref=mx.zeros((2, 3, 9, 8))),
            layer(x, cache),
            layer(x, cache, residual=residual),
            cache[0],
            mx.take_along_axis(indices, order, -1).astype(mx.float32),
            mx.take_along_axis(weights, order, -1),
            shared,
        ]

    return without_metal(calls)


def turboquant(load: Load) -> Pair:
    """Codecs of keys and values: packing, scores of queries, sums of values, attention."""
    module = load("mlx_vlm.turboquant")
    tensor, queries = drawn(1, 2, 40, 64), drawn(1, 4, 1, 64, seed=1)
    weights = mx.softmax(drawn(1, 2, 2, 1, 40, seed=2), -1)
    found, wanted = [], []
    for bits, mode in ((4, "mse"), (3, "mse"), (4, "prod"), (3.5, "mse")):
        codec = module._build_codec(tensor, bits, mode, 0)
        state = codec.quantize(tensor)
        grouped = queries.reshape(1, 2, 2, 1, 64)

        def calls(codec: Any = codec, state: Any = state, grouped: Any = grouped) -> list[mx.array]:
            sums = [codec.weighted_sum(weights, state)] if hasattr(codec, "weighted_sum") else []
            return [codec.dequantize(state), codec.score(grouped, state), *sums]

        ours, theirs = without_metal(calls)
        found += ours
        wanted += theirs
    return found, wanted


def verification(load: Load) -> Pair:
    module = load("mlx_vlm.models.exact_speculative_verify")
    weight, x = drawn(8, 96, kind=mx.float16), drawn(2, 3, 96, kind=mx.float16, seed=1)
    experts = drawn(5, 8, 96, kind=mx.float16, seed=2)
    chosen = mx.random.randint(0, 5, (2, 3, 2), key=mx.random.key(3))
    found = [
        module.exact_speculative_verify_weight(weight, x),
        module.exact_speculative_verify_switch_weight(experts, x, chosen),
    ]
    wide = (experts[chosen].astype(F32) @ x.astype(F32)[:, :, None, :, None])[..., 0]
    return found, [x.astype(F32) @ weight.astype(F32).T, wide]


def chosen_blocks(load: Load) -> Pair:
    """Attention to blocks of keys that were chosen for each query."""
    shapes = ((4, 3), (2, 130), (2, 130))
    q, k, v = (drawn(1, *n, 64, kind=mx.float16, seed=s) for s, n in enumerate(shapes))
    blocks = mx.array([[[0, 3], [2, 7], [4, 9]]], mx.int32)
    ends = mx.array([[23, 119, 127]], mx.int32)  # whole blocks
    module = load("mlx_vlm.models.minimax_m3_vl.language")
    found = module._minimax_m3_sparse_prefill_attention(q, k, v, blocks, ends, 0.125, 8)
    other = load("mlx_vlm.models.qwen4_exp.qsa_kernel")
    again = other.qsa_sparse_attention(
        q, k, v, blocks, ends + 1, scale=0.125, block_size=8,
        _plan=other.QSAExecutionPlan.INDEXED_SPARSE_PREFILL,
    )  # fmt: skip
    place = mx.arange(130)
    mask = (blocks[..., None] == place // 8).any(-2) & (place <= ends[..., None])
    wanted = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.125, mask=mask[:, None])
    return [found, again], [wanted, wanted]


def quantized_verifier(load: Load) -> Pair:
    """Products with quantized weights, and the best token: few, streamed and tiled tokens."""
    module = load("mlx_vlm.models.quantized_verifier")
    found, wanted = [], []
    for bits, tokens in ((4, 2), (4, 7), (4, 10), (8, 3), (5, 2)):
        layers = []
        for seed in (1, 2):
            plain = nn.Linear(512, 64, bias=False)
            plain.weight = drawn(64, 512, kind=mx.float16, seed=seed) / 8
            layers.append(plain.to_quantized(64, bits))
        x = drawn(1, tokens, 512, kind=mx.float16, seed=3) / 8
        true = [layer(x) for layer in layers]
        words = mx.random.randint(-(2**31), 2**31 - 1, (tokens, 2), mx.int32, key=mx.random.key(4))
        bit = (words.view(mx.uint32)[..., None] >> mx.arange(32, dtype=mx.uint32)) & 1
        allowed = bit.reshape(1, tokens, 64) != 0
        found += [
            module.optimized_affine_linear(layers[0], x),
            module.optimized_affine_argmax(layers[0], x),
            module.optimized_affine_argmax(layers[0], x, words),
        ]
        best = mx.argmax(mx.where(allowed, true[0], -math.inf), -1)
        wanted += [true[0], mx.argmax(true[0], -1), best]
        if tokens <= 8:
            found += module.optimized_affine_linears(layers, x)
            wanted += true
    return found, wanted


def turboquant_attention(load: Load) -> Pair:
    """One query attends to keys and values as they are packed."""
    module = load("mlx_vlm.turboquant")
    k, v = (drawn(1, 2, 40, 64, kind=mx.float16, seed=s) for s in range(2))
    q = drawn(1, 4, 1, 64, kind=mx.float16, seed=2)
    found, wanted = [], []
    for bits in (4, 3, 3.5):
        cache = module.TurboQuantKVCache(bits=bits)
        states = cache.update_and_fetch(k, v)
        found.append(cache.decode_attention(q, *states, scale=0.125))
        wide = [a.astype(mx.float16) for a in cache.dequantize()]
        wanted.append(mx.fast.scaled_dot_product_attention(q, *wide, scale=0.125))
    return found, wanted


CASES: dict[str, Callable[[Load], Pair]] = {
    name: _shared(lm_cases.CASES[name])
    for name in (
        "qk_norm", "qk_norm_rope", "rms_norm_sigmoid_gate", "norm_add_norm", "expert_routing",
        "post_expert_norm_combine", "wkv7", "attention_residual", "gated_delta", "ssm", "bitlinear",
    )
} | {
    f.__name__: f
    for f in (
        states, gated_delta_of_qwen, hyper_connection, fp8, interpolation, rotary, one_bit,
        one_bit_tiles, allowed_tokens, indexer, sparse_attention, short_conv, inkling, verification,
        chosen_blocks, turboquant, quantized_verifier, turboquant_attention,
    )
} | turbo_cases.CASES | vlm_more_cases.CASES  # fmt: skip
