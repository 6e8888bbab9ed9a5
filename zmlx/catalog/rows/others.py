"""Rows of the table: rope, quantisation, bits, experts, images, indexing, scans, linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from zmlx.catalog.quant import NF4
from zmlx.catalog.rows import formulas as f
from zmlx.catalog.rows.row import Row, Sizes, arrays

ByHand = partial(Row, by_hand=True)
_ROPE = "arXiv:2104.09864"
def _short(n: int) -> Sizes:
    """Not beyond places at which the rounding of an angle is all that differs."""
    return {"b": max(1, n // 2**16), "s": max(1, min(n, 2**16) // 128), "d": 64}


_TURNS: dict[str, Any] = {
    "sizes": {"b": 2, "s": 5, "d": 18},
    "odd": ({"b": 1, "s": 1, "d": 1}, {"b": 3, "s": 7, "d": 33}),
    "large": lambda n: {"b": max(1, n // 2**19), "s": max(1, min(n, 2**19) // 128), "d": 64},
    "source": _ROPE,
}


def _angles(xp: Any, x: Any, offset: int, base: float) -> tuple[Any, Any]:
    s, half = x.shape[-2], x.shape[-1] // 2
    place = (xp.arange(s) + offset)[:, None] * 1.0
    angle = place * base ** (-xp.arange(half) / half)
    return xp.cos(angle), xp.sin(angle)


def _appended(xp: Any, keys: Any, values: Any, k: Any, v: Any) -> tuple[Any, Any]:
    turned = f.turned(xp, k, *_angles(xp, k, 3, 100.0))
    end = 3 + k.shape[-2]
    return (xp.concatenate([keys[..., :3, :], turned, keys[..., end:, :]], -2),
            xp.concatenate([values[..., :3, :], v, values[..., end:, :]], -2))  # fmt: skip


def _axes_angles(xp: Any, x: Any, positions: Any) -> tuple[Any, Any]:
    part = x.shape[-1] // 4
    turns = 10000.0 ** (-xp.arange(part) / part)
    angle = xp.concatenate([(p * 1.0)[:, None, :, None] * turns for p in positions], -1)
    return xp.cos(angle), xp.sin(angle)


_ROPES = [
    Row("rope.apply_rope", arrays("x: b s 2*d, cos: s d, sin: s d"),
        "x_j c_j - x_(j+D/2) s_j, x_j s_j + x_(j+D/2) c_j", f.turned, **_TURNS),
    Row("rope.apply_rope_interleaved", arrays("x: b s 2*d, cos: s d, sin: s d"),
        "x_2i c_i - x_(2i+1) s_i, x_2i s_i + x_(2i+1) c_i", f.turned_pairs, **_TURNS),
    Row("rope.apply_gqa_rope", arrays("x: b s 4 2*d, cos: s d, sin: s d"),
        "apply_rope for each head",
        lambda xp, x, c, s: f.turned(xp, x, c[:, None], s[:, None]),
        options={"n_kv_heads": 2}, **_TURNS),
    Row("rope.rope_at", arrays("x: b s 2*d"), "apply_rope by (offset + i) scale base^(-2j/D)",
        lambda xp, x: f.turned(xp, x, *_angles(xp, x, 3, 100.0)),
        options={"offset": 3, "base": 100.0}, **{**_TURNS, "large": _short}),
    Row("rope.rope_append", arrays("keys: b c 2*d, values: b c 3, k: b s 2*d, v: b s 3"),
        "the caches, with apply_rope of k and v in rows offset + i", _appended,
        options={"offset": 3, "base": 100.0}, sizes={"b": 2, "c": 12, "s": 5, "d": 18},
        odd=({"b": 1, "c": 4, "s": 1, "d": 1}, {"b": 3, "c": 10, "s": 7, "d": 33}),
        large=lambda n: {"b": max(1, n // 2**16), "c": 512, "s": 8, "d": 64}, source=_ROPE),
    Row("rope.rope_axes", arrays("x: b 2 s 6*d, positions: 2 b s below s"),
        "apply_rope by the place along the axis of each pair's section",
        lambda xp, x, p: f.turned(xp, x, *_axes_angles(xp, x, p)),
        options={"sections": (9, 9), "restart": True},
        sizes={"b": 2, "s": 5, "d": 6}, odd=({"b": 1, "s": 1, "d": 6}, {"b": 3, "s": 7, "d": 6}),
        large=lambda n: {"b": max(1, n // 2**18), "s": max(1, min(n, 2**18) // 72), "d": 6},
        source="arXiv:2409.12191"),
    Row("rope.qk_norm_rope", arrays("x: b s 2*d, weight: 2*d, cos: s d, sin: s d"),
        "apply_rope(rmsnorm(x, weight), cos, sin)",
        lambda xp, x, w, c, s: f.turned(xp, f.rms(xp, x, w), c, s), **_TURNS),
]  # fmt: skip


def _fp8() -> list[float]:
    found = []
    for code in range(256):
        power, part = code >> 3 & 15, code & 7
        size = part * 2.0**-9 if power == 0 else (8 + part) * 2.0 ** (power - 10)
        size = float("nan") if code & 127 == 127 else size
        found.append(-size if code > 127 else size)
    return found


def _looked_up(xp: Any, table: Sequence[float], codes: Any) -> Any:
    return np.array(table)[codes] if xp is np else mx.take(mx.array(table), codes)


_FLAT: dict[str, Any] = {
    "sizes": {"n": 48}, "odd": ({"n": 2}, {"n": 666}), "large": lambda n: {"n": n}, "wide": True,
}  # fmt: skip
_QUANT = [
    Row("quant.dequantize_int8", arrays("x: n signed bytes"), "x scale",
        lambda xp, x: x * 0.25, options={"scale": 0.25}, **_FLAT),
    Row("quant.dequantize_silu_int8", arrays("x: n signed bytes"), "silu(x scale)",
        lambda xp, x: f.silu(xp, x * 0.125), options={"scale": 0.125}, **_FLAT),
    Row("quant.dequantize_int4", arrays("x: n bytes, scale: 1"),
        "q scale, q the halves of bytes, low ones first, from 0 to 15",
        lambda xp, x, s: (f.nibbles(xp, x, False) * s).reshape(-1), **_FLAT),
    Row("quant.dequantize_nf4", arrays("x: 4*n bytes, scales: n"),
        "quantile(q) scale of its block",
        lambda xp, x, s: (_looked_up(xp, NF4, xp.stack([x & 15, x >> 4], -1)).reshape(-1, 8)
                          * s[:, None]).reshape(-1),
        sizes={"n": 12}, odd=({"n": 1}, {"n": 333}), large=lambda n: {"n": n // 4}, wide=True,
        source="arXiv:2305.14314"),
    Row("quant.dequantize_fp8", arrays("x: n bytes, scale: 1"), "E4M3 of each byte, times scale",
        lambda xp, x, s: _looked_up(xp, _fp8(), x) * s,
        plain=lambda x, s: mx.take(mx.array(_fp8()), x) * s, source="arXiv:2209.05433",
        **_FLAT),
    ByHand("bits.pack_bits", arrays("x: 8*n bits"), "byte_j = sum over i of (x_(8j+i) != 0) 2^i",
        lambda xp, x: np.packbits(x, bitorder="little"), **_FLAT,
        plain=lambda x: mx.sum(x.reshape(-1, 8) << mx.arange(8, dtype=mx.uint8), -1)
        .astype(mx.uint8)),
    ByHand("bits.unpack_bits", arrays("x: n bytes"), "x_(8j+i) = bit i of byte_j",
        lambda xp, x: np.unpackbits(x, bitorder="little"), **_FLAT,
        plain=lambda x: ((x[:, None] >> mx.arange(8, dtype=mx.uint8)) & 1).reshape(-1)),
]  # fmt: skip
_EXPERTS = [
    ByHand("moe.top2_gating_softmax", arrays("x: b d"),
        "softmax of the two largest logits, and their indices",
        lambda xp, x: f.gates(xp, x, 2), odd=({"b": 5, "d": 2}, {"b": 2, "d": 333}),
        large=lambda n: {"b": max(1, n // 64), "d": 64}, wide=True, source="arXiv:1701.06538"),
    ByHand("moe.topk_gating_softmax", arrays("x: b d"),
        "softmax of the k largest logits, and their indices",
        lambda xp, x: f.gates(xp, x, 4, False), options={"k": 4, "renormalize": False},
        odd=({"b": 5, "d": 7}, {"b": 2, "d": 333}), wide=True,
        large=lambda n: {"b": max(1, n // 64), "d": 64}, source="arXiv:1701.06538"),
    Row("moe.combine_experts", arrays("outputs: b k d, weights: b k"), "sum over k of w_k y_k",
        lambda xp, y, w: (y * w[..., None]).sum(-2), sizes={"b": 3, "k": 4, "d": 36},
        odd=({"b": 2, "k": 1, "d": 1}, {"b": 5, "k": 3, "d": 33}),
        large=lambda n: {"b": max(1, n // 4096), "k": 4, "d": 1024}),
]  # fmt: skip


def _photos(n: int) -> Sizes:
    return {"n": max(1, n // 2**20), "h": 128, "w": 128, "c": 64} if n >= 2**20 else {
        "n": 1, "h": 16, "w": 16, "c": 4}  # fmt: skip


_IMAGES = [
    ByHand("image.resize_bilinear", arrays("x: n h w c"),
        "the mean of four neighbours of (i + 0.5) H/OH - 0.5, by distance",
        lambda xp, x: f.resized(xp, x, (7, 4)), options={"output_shape": (7, 4)},
        sizes={"n": 2, "h": 5, "w": 6, "c": 3}, large=_photos,
        odd=({"n": 1, "h": 1, "w": 1, "c": 1}, {"n": 1, "h": 7, "w": 4, "c": 5},
             {"n": 1, "h": 20, "w": 3, "c": 2})),
    ByHand("image.depthwise_conv_3x3", arrays("x: n h w c, w: 3 3 c"),
        "sum over i, j of x[h+i-1, w+j-1, c] w[i, j, c]", f.convolved,
        sizes={"n": 2, "h": 5, "w": 6, "c": 3}, large=_photos,
        odd=({"n": 1, "h": 1, "w": 1, "c": 1}, {"n": 3, "h": 2, "w": 9, "c": 5})),
]  # fmt: skip


def _lookups(n: int) -> Sizes:
    return {"n": max(4, n // 8192), "m": max(1, n // 1024), "d": 1024}


_TABLES = [
    ByHand("indexing.fused_gather_add", arrays("src: n d, indices: m below n, other: m d"),
        "src[indices] + other", lambda xp, s, i, o: s[i] + o, sizes={"n": 4, "m": 9, "d": 6},
        odd=({"n": 1, "m": 1, "d": 1}, {"n": 50, "m": 70, "d": 33}), large=_lookups),
    ByHand("indexing.fused_scatter_add", arrays("indices: m below n, updates: m d"),
        "zeros, plus updates[i] in row indices[i]",
        lambda xp, i, u: f.scattered(xp, i, u, u.shape[1]), sizes={"n": 6, "m": 9, "d": 6},
        options={"out_shape": (6, 6)}, odd=(), wide=True, large_options={"out_shape": (1024, 1024)},
        large=lambda n: {"n": 1024, "m": max(1, n // 1024), "d": 1024}),
]  # fmt: skip
_STATE: dict[str, Any] = {"sizes": {"b": 2, "v": 4, "k": 6}, "odd": ({"b": 1, "v": 1, "k": 1},
          {"b": 3, "v": 5, "k": 33}), "large": lambda n: {"b": max(1, n // 2**14), "v": 128,
          "k": 128}}  # fmt: skip
_STATES: dict[str, Any] = {**_STATE, "sizes": {"b": 2, "v": 3, "k": 6, "t": 2},
          "odd": ({"b": 1, "v": 1, "k": 1, "t": 1}, {"b": 2, "v": 11, "k": 40, "t": 5}),
          "large": lambda n: {"b": max(1, n // 2**16), "v": 64, "k": 64,
                              "t": 128}}  # fmt: skip
_SCANS = [
    ByHand("scan.cumsum_lastdim", arrays("x: b d"), "x_0 + ... + x_i",
        lambda xp, x: xp.cumsum(x, -1)),
    ByHand("scan.cumsum_grad", arrays("cotan: b d"), "g_i + ... + g_(D-1)",
        lambda xp, g: xp.cumsum(g[..., ::-1], -1)[..., ::-1],
        plain=lambda g: mx.cumsum(g, -1, reverse=True)),
    Row("scan.gated_delta_step",
        arrays("state: b v k, q: b k, k: b k unit, v: b v, decay: b share, beta: b share"),
        "S' = a S + beta (v - a S k) k^T; (S' q, S')", f.delta, source="arXiv:2412.06464",
        **_STATE),
    Row("scan.ssm_step",
        arrays("state: b v k, x: b v, dt: b v positive, a: v k negative, b: b k, c: b k, d: v"),
        "S' = e^(dt a) S + dt x b^T; (S' c + d x, S')", f.ssm, source="arXiv:2312.00752",
        **_STATE),
    ByHand("scan.gated_delta_scan",
        arrays(
            "state: b v k, q: b t k, k: b t k unit, v: b t v, decay: b t share, beta: b t share"),
        "gated_delta_step for each token",
        lambda xp, s, *more: f.walked(xp, f.delta, s, more, (1, 1, 1, 1, 1)),
        source="arXiv:2412.06464", **_STATES),
    ByHand("scan.ssm_scan",
        arrays("state: b v k, x: b t v, dt: b t v positive, a: v k negative, b: b t k, c: b t k,"
               "d: v"),
        "ssm_step for each token",
        lambda xp, s, *more: f.walked(xp, f.ssm, s, more, (1, 1, 0, 1, 1, 0)),
        source="arXiv:2312.00752", **_STATES),
]  # fmt: skip
_LAYER: dict[str, Any] = {"sizes": {"b": 3, "k": 8, "n": 7}, "odd": ({"b": 1, "k": 1, "n": 1},
          {"b": 5, "k": 33, "n": 40}), "wide": True,
          "large": lambda n: {"b": max(1, n // 2**12), "k": 512, "n": 2048}}  # fmt: skip
_LINEAR = [
    Row("linear.fused_linear_bias_silu", arrays("x: b k, w: n k, bias: n"), "silu(x w^T + bias)",
        lambda xp, x, w, b: f.silu(xp, x @ w.swapaxes(0, 1) + b), **_LAYER),
    Row("linear.fused_linear_bias_gelu", arrays("x: b k, w: n k, bias: n"), "gelu(x w^T + bias)",
        lambda xp, x, w, b: f.gelu(xp, x @ w.swapaxes(0, 1) + b), **_LAYER),
    Row("linear.fused_linear_rmsnorm", arrays("x: b k, w: n k, gamma: n"),
        "rmsnorm(x w^T, gamma)", lambda xp, x, w, g: f.rms(xp, x @ w.swapaxes(0, 1), g), **_LAYER),
    ByHand("linear.dequantize_int4_matmul", arrays("x: b 2*k, w_int4: n k bytes, scales: n"),
        "x (scales_n q_nk)^T, q signed halves of bytes",
        lambda xp, x, w, s: (x @ f.nibbles(xp, w, True).reshape(w.shape[0], -1).swapaxes(0, 1))
        * s, **{**_LAYER, "odd": ({"b": 1, "k": 1, "n": 1}, {"b": 12, "k": 33, "n": 5})}),
    ByHand("linear.int4_matmul",
        arrays("x: b 32*g, w_q: n 4*g words, scales: n g, biases: n g"),
        "x (scale q + bias)^T, q four bits each, in groups",
        lambda xp, x, w, s, c: x @ f.int4_groups(xp, w, s, c).swapaxes(0, 1),
        plain=lambda x, w, s, c: mx.quantized_matmul(x, w, s, c, group_size=32, bits=4),
        options={"group_size": 32}, sizes={"b": 3, "g": 2, "n": 7},
        odd=({"b": 1, "g": 1, "n": 1}, {"b": 12, "g": 5, "n": 9}),
        large=lambda n: {"b": max(1, n // 2**20), "g": 64, "n": 2048}),
]  # fmt: skip
ROWS = [*_ROPES, *_QUANT, *_EXPERTS, *_IMAGES, *_TABLES, *_SCANS, *_LINEAR]
