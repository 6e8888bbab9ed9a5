"""Kernels of single models of mlx-vlm, called as it calls them, beside ops."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from tests.dropin.lm_cases import F32, Load, Pair, drawn

F16 = mx.float16


def _experts(load: Load, outputs: int, bits: int, seed: int, inputs: int = 512) -> tuple[Any, Any]:
    """Quantized weights of five experts, and those weights."""
    module = load("mlx_vlm.models.switch_layers")
    mx.random.seed(seed)
    made = module.QuantizedSwitchLinear(inputs, outputs, 5, bias=False, bits=bits)
    made.scales, made.biases = made.scales.astype(F16), made.biases.astype(F16)
    wide = mx.dequantize(
        made.weight, made.scales, made.biases, group_size=made.group_size, bits=bits
    )
    return made, wide.astype(F32)


def switched_experts(load: Load) -> Pair:
    """Projections by chosen experts, down again, and with hyper connections behind."""
    fast = load("mlx_vlm.models.fast_ops")
    verifier = load("mlx_vlm.models.quantized_verifier")
    x = drawn(1, 3, 512, kind=F16, seed=1)
    chosen = mx.random.randint(0, 5, (1, 3, 2), key=mx.random.key(2))
    route = mx.softmax(drawn(1, 3, 2, seed=3), -1)
    shared = drawn(1, 3, 16, kind=F16, seed=4)
    residual, post = drawn(1, 3, 4, 16, kind=F16, seed=5), drawn(1, 3, 4, seed=6)
    comb = mx.softmax(drawn(1, 3, 4, 4, seed=7), -1)
    found: list[mx.array] = []
    wanted: list[mx.array] = []
    for bits in (4, 5):
        (up, wide_up), (gate, wide_gate) = (_experts(load, 16, bits, seed) for seed in (1, 2))
        found += fast.exact_affine_switch_gate_up(
            SimpleNamespace(up_proj=up, gate_proj=gate), x, chosen
        )
        wanted += [(w[chosen] @ x.astype(F32)[:, :, None, :, None])[..., 0] for w in
                   (wide_up, wide_gate)]  # fmt: skip
        inner = drawn(1, 3, 2, 512, kind=F16, seed=8)
        own = (wide_up[chosen] @ inner.astype(F32)[..., None])[..., 0]
        down = (own * route[..., None]).sum(2) + shared
        spread = post[..., None] * down[:, :, None] + comb.swapaxes(-1, -2) @ residual.astype(F32)
        rest = (shared, residual, post, comb)
        found += [
            fast.exact_affine_moe_down(up, inner, chosen, route, shared),
            verifier.exact_quantized_moe_hc_expand(up, inner, chosen, route, *rest),
            verifier.exact_quantized_moe_hc_expand(
                up, inner, chosen, route, *rest, routed=own.astype(F16)
            ),
        ]
        wanted += [down, spread, spread]
    return found, wanted


def short_hyper_connections(load: Load) -> Pair:
    """A few tokens' hyper connections, with the norm that comes behind them."""
    fast = load("mlx_vlm.models.fast_ops")
    ops = load("mlx_vlm.models.deepseek_v4.hyper_connection")
    found: list[mx.array] = []
    wanted: list[mx.array] = []
    for width in (64, 4096):
        x = drawn(1, 2, 4, width, kind=F16, seed=width)
        norm = SimpleNamespace(weight=drawn(width, kind=F16, seed=1), eps=1e-6)
        connection = SimpleNamespace(
            sinkhorn_iters=3, hc_eps=1e-6, scale=drawn(3, seed=2), base=drawn(24, seed=3),
            fn=(drawn(24, 4 * width, seed=4) / 64).astype(F16),
        )  # fmt: skip
        y = x.astype(F32)
        mixes = mx.fast.rms_norm(y.flatten(-2), None, 1e-6) @ connection.fn.astype(F32).T
        flat, post, comb = ops._hc_ops(y, y, mixes, connection.scale, connection.base, 4, 3, 1e-6)
        true = [mx.fast.rms_norm(flat, norm.weight.astype(F32), 1e-6), post, comb]
        found += fast.exact_hc_norm(connection, norm, x, mixes)
        wanted += true
        if width == 4096:
            found += fast.exact_hc_normalized_norm(connection, norm, x)
            wanted += true
        branch = drawn(1, 2, width, kind=F16, seed=5)
        found.append(fast.exact_hc_expand(branch, x, post, comb))
        wanted.append(ops._hc_expand_op(branch, x, post, comb))
    return found, wanted


def best_of_nvfp4(load: Load) -> Pair:
    module = load("mlx_vlm.models.quantized_verifier")
    plain = nn.Linear(512, 64, bias=False)
    plain.weight = drawn(64, 512, kind=F16, seed=1)
    head = plain.to_quantized(16, 4, mode="nvfp4")
    x = drawn(1, 3, 512, kind=F16, seed=2)
    return [module.optimized_nvfp4_argmax(head, x)], [mx.argmax(head(x), -1).astype(mx.int32)]


def verified_head(load: Load) -> Pair:
    module = load("mlx_vlm.models.glm_moe_dsa.speculative_verifier")
    found, wanted = [], []
    for bits in (4, 5, 8):
        plain = nn.Linear(512, 16, bias=False)
        plain.weight = drawn(16, 512, kind=F16, seed=bits)
        head, x = plain.to_quantized(64, bits), drawn(2, 3, 512, kind=F16, seed=1) / 8
        found.append(module._quantized_head_logits(head, x))
        wide = mx.dequantize(head.weight, head.scales, head.biases, group_size=64, bits=bits)
        wanted.append(x.astype(F32) @ wide.astype(F32).T)
    return found, wanted


def verified_states(load: Load) -> Pair:
    """A state space over several tokens at once, beside one token after the other."""
    module = load("mlx_vlm.models.nemotron_h.speculative_verifier")
    x, d = drawn(2, 3, 4, 16) / 4, drawn(4, seed=1)
    b, c = (drawn(2, 3, 2, 64, seed=s) / 8 for s in (2, 3))
    a, bias = mx.log(mx.arange(1, 5).astype(F32)), drawn(4, seed=4)
    dt, state = drawn(2, 3, 4, seed=5), drawn(2, 4, 16, 64, seed=6)
    given = (x, a, b, c, d, dt, bias, state, (0.001, 100.0), None)
    out, last, kept = module._mamba_update_exact(*given)
    true, end, states = module._mamba_update_timewise(*given)
    return [out, last, module.replay_mamba_state(kept, 2)], [true, end, states[:, 1]]


def small_rows(load: Load) -> Pair:
    """Products of a few rows, also with a gate behind, and in MLX's own tiles of 32 rows."""
    module = load("mlx_vlm.models.nemotron_labs_diffusion.language")
    gate, up = nn.Linear(256, 64, bias=False), nn.Linear(256, 64, bias=False)
    gate.weight, up.weight = drawn(64, 256) / 16, drawn(64, 256, seed=1) / 16
    x = drawn(1, 5, 256, seed=2)
    found = [module._small_row_linear(gate, x, 8), module._small_row_swiglu(gate, up, x, 8)]
    wanted = [gate(x), nn.silu(gate(x)) * up(x)]
    x, gate.weight = drawn(1, 32, 256, seed=3).astype(mx.bfloat16), gate.weight.astype(mx.bfloat16)
    found.append(module._bm32_linear(gate, x).astype(F32))
    return found, [*wanted, x.astype(F32) @ gate.weight.astype(F32).T]


def ragged_attention(load: Load) -> Pair:
    """One query to keys that begin at another place in each row, in one pass and in two."""
    module = load("mlx_vlm.models.qwen3_5.language")
    found, wanted = [], []
    for heads, tokens in ((2, 70), (1, 4200)):
        q = drawn(2, 2, 1, 64, kind=F16)
        k, v = (drawn(2, heads, tokens, 64, kind=F16, seed=s) for s in (1, 2))
        found.append(module._qwen3_5_ragged_decode_attention(q, k, v, [3, 20], 0.125))
        rows = [
            mx.fast.scaled_dot_product_attention(
                q[n : n + 1], k[n : n + 1, :, pad:], v[n : n + 1, :, pad:], scale=0.125
            )
            for n, pad in enumerate((3, 20))
        ]
        wanted.append(mx.concatenate(rows))
    return found, wanted


def routed_down(load: Load) -> Pair:
    module = load("mlx_vlm.models.inkling.language")
    linear, wide = _experts(load, 8, 4, 1, 2048)
    act = drawn(3, 2, 2048, kind=F16) / 8
    chosen = mx.random.randint(0, 5, (3, 2), key=mx.random.key(1)).astype(mx.uint32)
    weights = mx.softmax(drawn(3, 2, seed=2), -1).astype(F16)
    found = module._down_combine_kernel(
        inputs=[act, linear.weight, linear.scales, linear.biases, chosen, weights],
        template=[("T", F16), ("OUT", 8), ("IN", 2048), ("GROUPS", 32), ("K", 2)],
        grid=(256, 8, 3), threadgroup=(256, 1, 1), output_shapes=[(3, 8)], output_dtypes=[F16],
    )  # fmt: skip
    own = (wide[chosen] @ act.astype(F32)[..., None])[..., 0]
    return found, [(own * weights[..., None]).sum(1)]


def video_frames(load: Load) -> Pair:
    """Planes of a video to colours, by fixed-point arithmetic: two of 255 steps off at most."""
    module = load("mlx_vlm.models.embedding_gemma2._video_kernel")
    found, wanted = [], []
    for depth, subsampled, width in ((8, 1, 16), (8, 0, 10), (10, 0, 6)):
        draw = np.random.default_rng(depth + width)
        size = (8 >> subsampled, width >> subsampled)
        planes = [draw.integers(80, 160, s) for s in ((8, width), size, size)]
        kind = np.uint16 if depth > 8 else np.uint8
        meta = {
            "colorspace": 5, "format": "yuv", "depth": depth, "log2_chroma_w": subsampled,
            "log2_chroma_h": subsampled,
        }  # fmt: skip
        found.append(
            module.yuv_to_rgb([(p << (depth - 8)).astype(kind) for p in planes], meta) / 255
        )
        y, u, v = (p.astype(float) for p in planes)
        u, v = (np.kron(p - 128, np.ones((1 + subsampled,) * 2)) for p in (u, v))
        light = 1.164383 * (y - 16)
        rgb = (light + 1.596027 * v, light - 0.391762 * u - 0.812968 * v, light + 2.017232 * u)
        wanted.append(mx.array(np.clip(np.stack(rgb, -1), 0, 255).astype(np.float32)) / 255)
    return found, wanted


def normed_and_turned(load: Load) -> Pair:
    """Queries and keys of an image's block: normed, and turned in place, from one projection."""
    module = load("mlx_vlm.models.bonsai.klein_fast.blocks")
    spec = module.Flux2KleinBlockSpec(dim=128, num_heads=2, head_dim=64, rms_norm_eps=1e-5)
    angle, norms = drawn(5, 32), [drawn(64, seed=s) for s in range(1, 5)]
    turns = (mx.cos(angle), mx.sin(angle))

    def heads(x: mx.array, q: mx.array, k: mx.array) -> list[mx.array]:
        parts = x[..., :384].reshape(1, -1, 3, 2, 64).transpose(2, 0, 3, 1, 4)
        return [mx.fast.rms_norm(parts[0], q, 1e-5), mx.fast.rms_norm(parts[1], k, 1e-5), parts[2]]

    def turned(parts: list[mx.array]) -> list[mx.array]:
        return [*(module._apply_rope_bshd(p, *turns) for p in parts[:2]), parts[2]]

    launch: Any = {
        "template": [("T", F32)], "grid": (5 * 2 * 32, 1, 1), "threadgroup": (32, 1, 1),
        "output_shapes": [(1, 2, 5, 64)] * 3, "output_dtypes": [F32] * 3,
    }  # fmt: skip
    fused = drawn(1, 5, spec.qkv_mlp_out_dim, seed=5)
    single = module._get_fused_single_norm_rope_kernel(spec, 5)
    found = list(single(inputs=[fused, *norms[:2], *turns], **launch))
    image, text = drawn(1, 3, 384, seed=6), drawn(1, 2, 384, seed=7)
    double = module._get_fused_double_norm_rope_kernel(spec, 3, 2)
    found += double(inputs=[image, text, *norms, *turns], **launch)
    pairs = zip(heads(text, *norms[2:]), heads(image, *norms[:2]), strict=True)
    both = [mx.concatenate(pair, 2) for pair in pairs]
    return found, [*turned(heads(fused, *norms[:2])), *turned(both)]


HALVES = (
    switched_experts, short_hyper_connections, verified_head, small_rows, ragged_attention,
    routed_down, video_frames,
)  # fmt: skip
CASES: dict[str, Callable[[Load], Pair]] = {
    f.__name__: f for f in (*HALVES, best_of_nvfp4, verified_states, normed_and_turned)
}
