"""Rows of the table: what folds the last axis: softmax, norms, attention, reductions, losses."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from zmlx.catalog.rows import formulas as f
from zmlx.catalog.rows.row import Row, Sizes, arrays

ByHand = partial(Row, by_hand=True)
_MASK = {"p": f.P, "seed": f.SEED}
_RMS, _LAYER, _DROPS = "arXiv:1910.07467", "arXiv:1607.06450", "JMLR 15 (2014) 1929"
_CE = "Goodfellow et al., Deep Learning, 6.2"

_SOFTMAX = [
    Row("softmax.softmax_lastdim", arrays("x: b d"), "e^(x-m) / sum e^(x-m), m = max x",
        f.softmax, plain=lambda x: mx.softmax(x, -1), bars=(4050, 4000), pull_bars=(4200, 4200)),
    Row("softmax.log_softmax_lastdim", arrays("x: b d"), "x - m - ln sum e^(x-m)",
        f.log_softmax, plain=lambda x: x - mx.logsumexp(x, -1, keepdims=True)),
    Row("softmax.softmax_grad", arrays("y: b d, cotan: b d"), "y (cotan - sum y cotan)",
        lambda xp, y, g: y * (g - f.total(y * g))),
    Row("softmax.log_softmax_grad", arrays("y: b d, cotan: b d"), "cotan - e^y sum cotan",
        lambda xp, y, g: g - xp.exp(y) * f.total(g)),
]  # fmt: skip
_NORMS = [
    Row("norms.rmsnorm", arrays("x: b d, weight: d"), "x r weight, r = 1/sqrt(mean x^2 + eps)",
        f.rms, source=_RMS, bars=(4050, 4050), pull_bars=(3700, 3300)),
    Row("norms.rmsnorm_grad", arrays("x: b d, weight: d, cotan: b d"),
        "r (g w - h mean(g w h)), h = x r, g = cotan", f.rms_grad, source=_RMS),
    Row("norms.rms_norm_no_weight", arrays("x: b d"), "x / sqrt(mean x^2 + eps)",
        f.rms, source=_RMS),
    Row("norms.layernorm", arrays("x: b d, gamma: d, beta: d"),
        "(x - mean) / sqrt(var + eps) gamma + beta", f.layer, source=_LAYER, bars=(4100, 3900),
        pull_bars=(3700, 3300)),
    Row("norms.layernorm_grad", arrays("x: b d, gamma: d, beta: d, cotan: b d"),
        "r (q - mean q - h mean(q h)), q = cotan gamma, h = (x - mean) r", f.layer_grad,
        source=_LAYER, fixed=("beta",)),
    Row("norms.layer_norm_no_weight", arrays("x: b d"), "(x - mean) / sqrt(var + eps)",
        f.layer, source=_LAYER),
    Row("norms.layer_norm_dropout", arrays("x: b d, gamma: d, beta: d"),
        "dropout(layernorm(x, gamma, beta), p, seed)",
        lambda xp, x, w, b: f.dropped(xp, f.layer(xp, x, w, b)), options=_MASK,
        source=_LAYER, random=True),
    Row("norms.group_norm", arrays("x: b d 4*c, gamma: 4*c, beta: 4*c"),
        "layernorm of each group's places and channels, times gamma, plus beta",
        lambda xp, x, w, b: f.group(xp, x, w, b, 4), options={"groups": 4},
        sizes={"b": 2, "d": 9, "c": 3}, odd=({"b": 1, "d": 1, "c": 2}, {"b": 3, "d": 70, "c": 5}),
        large=lambda n: {"b": max(1, n // 2**20), "d": min(n, 2**20) // 64, "c": 16},
        source="arXiv:1803.08494"),
    Row("transformer.dropout", arrays("x: b d"), "x / (1-p) where u(seed, i) >= p, else 0",
        f.dropped, options=_MASK, source=_DROPS, random=True, bars=(3900, 3600)),
    Row("transformer.rms_norm_dropout", arrays("x: b d, weight: d"),
        "dropout(rmsnorm(x, weight), p, seed)", lambda xp, x, w: f.dropped(xp, f.rms(xp, x, w)),
        options=_MASK, source=_DROPS, random=True),
    Row("transformer.rmsnorm_residual", arrays("x: b d, residual: b d, weight: d"),
        "(rmsnorm(h, weight), h), h = x + residual",
        lambda xp, x, r, w: (f.rms(xp, x + r, w), x + r), source=_RMS, bars=(4000, 4000)),
    Row("transformer.layernorm_residual", arrays("x: b d, residual: b d, gamma: d, beta: d"),
        "(layernorm(h, gamma, beta), h), h = x + residual",
        lambda xp, x, r, w, b: (f.layer(xp, x + r, w, b), x + r), source=_LAYER),
    Row("transformer.fused_add_rmsnorm", arrays("x1: b d, x2: b d, weight: d"),
        "rmsnorm(x1 + x2, weight)", lambda xp, x, r, w: f.rms(xp, x + r, w), source=_RMS),
    Row("transformer.fused_add_layernorm", arrays("x1: b d, x2: b d, gamma: d, beta: d"),
        "layernorm(x1 + x2, gamma, beta)", lambda xp, x, r, w, b: f.layer(xp, x + r, w, b),
        source=_LAYER),
    Row("transformer.norm_residual_norm", arrays("x: b d, residual: b d, inner: d, outer: d"),
        "(rmsnorm(h, outer), h), h = residual + rmsnorm(x, inner)",
        lambda xp, x, r, w, o: (f.rms(xp, r + f.rms(xp, x, w), o), r + f.rms(xp, x, w)),
        source="arXiv:2408.00118"),
    Row("vlsp.fused_recurrent_step", arrays("h: b d, w_norm: d, gate: b d"),
        "h + alpha silu(rmsnorm(h, w_norm)) gate",
        lambda xp, h, w, g: h + 0.5 * f.silu(xp, f.rms(xp, h, w)) * g, options={"alpha": 0.5}),
    Row("vlsp.grpo_advantage_norm", arrays("rewards: b d"), "(r - mean) / sqrt(var + eps)",
        lambda xp, r: f.layer(xp, r, eps=1e-6), source="arXiv:2402.03300"),
]  # fmt: skip


def _attended(n: int) -> Sizes:
    long = min(1024, max(16, n // 256))
    return {"b": max(1, n // (256 * long)), "s": long, "t": long, "d": 64}


_ATTENTION = [
    Row("attention.logsumexp_lastdim", arrays("x: b d"), "m + ln sum e^(x-m), m = max x",
        f.logsumexp, plain=lambda x: mx.logsumexp(x, -1)),
    Row("attention.masked_softmax", arrays("x: b d, mask: b d mask"),
        "softmax over what the mask keeps, 0 elsewhere", f.kept,
        plain=lambda x, m: mx.softmax(mx.where(m, x, -1e30), -1) * m),
    Row("attention.scale_mask_softmax", arrays("x: b d, mask: b d mask"),
        "masked_softmax(scale x, mask)", lambda xp, x, m: f.kept(xp, 0.5 * x, m),
        plain=lambda x, m: mx.softmax(mx.where(m, x * 0.5, -1e30), -1) * m,
        options={"scale": 0.5}),
    Row("attention.softcap_mask_softmax", arrays("x: b d, mask: b d mask"),
        "masked_softmax(cap tanh(scale x / cap), mask)",
        lambda xp, x, m: f.kept(xp, 3 * xp.tanh(x * 0.5 / 3), m),
        options={"scale": 0.5, "cap": 3.0}, source="arXiv:2408.00118"),
    ByHand("attention.attention_tile_proto", arrays("q: 16 d, k: 16 d"), "q k^T",
        lambda xp, q, k: q @ k.swapaxes(0, 1), sizes={"d": 36}, wide=True,
        odd=({"d": 1}, {"d": 300}), large=lambda n: {"d": 128}),
    ByHand("attention.flash_attention", arrays("q: b 4 s d, k: b 2 t d, v: b 2 t d"),
        "softmax(scale q k^T + mask) v", lambda xp, q, k, v: f.attended(xp, q, k, v, 0.25),
        options={"scale": 0.25, "causal": True}, sizes={"b": 2, "s": 5, "t": 7, "d": 8},
        odd=({"b": 1, "s": 1, "t": 1, "d": 1}, {"b": 1, "s": 37, "t": 70, "d": 40}),
        large=_attended, source="arXiv:2205.14135"),
]  # fmt: skip
_REDUCTIONS = [
    Row("reductions.sum_lastdim", arrays("x: b d"), "sum x", lambda xp, x: x.sum(-1)),
    Row("reductions.mean_lastdim", arrays("x: b d"), "sum x / D", lambda xp, x: x.mean(-1)),
    Row("reductions.max_lastdim", arrays("x: b d"), "max x", lambda xp, x: x.max(-1)),
    Row("reductions.min_lastdim", arrays("x: b d"), "min x", lambda xp, x: x.min(-1)),
    Row("reductions.var_lastdim", arrays("x: b d"), "mean (x - mean x)^2",
        lambda xp, x: ((x - f.mean(x)) ** 2).mean(-1)),
    Row("reductions.std_lastdim", arrays("x: b d"), "sqrt(mean (x - mean x)^2 + eps)",
        lambda xp, x: xp.sqrt(((x - f.mean(x)) ** 2).mean(-1) + 1e-6)),
    Row("reductions.argmax_lastdim", arrays("x: b d"), "the first i with x_i = max x",
        lambda xp, x: xp.argmax(x, -1).astype(xp.uint32), fixed=("x",)),
    ByHand("reductions.topk_lastdim", arrays("x: b d"), "the k largest, and their indices",
        lambda xp, x: f.chosen(xp, x, 5), options={"k": 5}, wide=True,
        odd=({"b": 5, "d": 7}, {"b": 2, "d": 333}, {"b": 2, "d": 32})),
]  # fmt: skip
_LOSS = [
    Row("loss.softmax_cross_entropy", arrays("logits: b d, targets: b below d"),
        "logsumexp(z) - z[target]", f.entropy, source=_CE, wide=True),
    Row("loss.linear_cross_entropy", arrays("x: b k, weight: d k, targets: b below d"),
        "softmax_cross_entropy(x weight^T, targets)",
        lambda xp, x, w, t: f.entropy(xp, x @ w.swapaxes(0, 1), t), options={"chunk": 2},
        sizes={"b": 5, "k": 8, "d": 36}, odd=({"b": 3, "k": 1, "d": 7},), wide=True,
        large=lambda n: {"b": max(2, n // 2**15), "k": 64, "d": 4096}, source=_CE,
        large_options={"chunk": 128}),
    Row("loss.kl_div", arrays("p_logits: b d, q_logits: b d"), "sum p (ln p - ln q)",
        lambda xp, p, q: f.divergence(xp, f.softmax(xp, p), f.softmax(xp, q)), wide=True),
    Row("loss.js_div", arrays("p_logits: b d, q_logits: b d"),
        "(kl(p, m) + kl(q, m)) / 2, m = (p + q) / 2", f.js, wide=True),
]  # fmt: skip
ROWS = [*_SOFTMAX, *_NORMS, *_ATTENTION, *_REDUCTIONS, *_LOSS]
