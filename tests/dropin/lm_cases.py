"""Every kernel of mlx-lm, called as mlx-lm calls it, beside mlx-lm's own ops or MLX's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from tests.dropin.libraries import Load, mended

Pair = tuple[Sequence[mx.array], Sequence[mx.array]]
F32 = mx.float32


def drawn(*shape: int, kind: mx.Dtype = F32, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(kind)


def without_metal(calls: Callable[[], list[mx.array]]) -> Pair:
    """What kernels give, and what is there for machines without Metal."""
    found = calls()
    asked, mx.metal.is_available = mx.metal.is_available, lambda: False
    try:
        return found, calls()
    finally:
        mx.metal.is_available = asked


def _heads(qkvg: mx.array, heads: int, key_heads: int, size: int, eps: float) -> list[mx.array]:
    """Normed heads of queries and keys."""
    both = qkvg[..., : (heads + key_heads) * size].reshape(*qkvg.shape[:-1], -1, size)
    normed = mx.fast.rms_norm(both, None, eps)
    return [normed[..., :heads, :], normed[..., heads:, :]]


def qk_norm(load: Load) -> Pair:
    x = drawn(2, 3, 2 * (4 + 2) * 40)
    found = load("mlx_lm.kernels").qk_norm(
        x, n_heads=4, n_kv_heads=2, head_dim=40, eps=1e-5, query_scale=0.25
    )
    q, k = _heads(x, 4, 2, 40, 1e-5)
    return found, [q * 0.25, k]


def qk_norm_rope(load: Load) -> Pair:
    x = drawn(2, 3, 2 * (4 + 2) * 32)
    offset = mx.array([5, 9])
    found = load("mlx_lm.kernels").qk_norm_rope(
        x, n_heads=4, n_kv_heads=2, head_dim=32, eps=1e-5, query_scale=0.25, rope_base=1e4,
        offset=offset,
    )  # fmt: skip
    q, k = _heads(x, 4, 2, 32, 1e-5)

    def turned(v: mx.array) -> mx.array:
        rope = mx.fast.rope(
            v.swapaxes(1, 2), 32, traditional=True, base=1e4, scale=1.0, offset=offset
        )
        return rope.swapaxes(1, 2)

    return found, [turned(q * 0.25), turned(k)]


def rms_norm_sigmoid_gate(load: Load) -> Pair:
    x, gate = drawn(2, 3, 4, 40), drawn(2, 4, 3 * 40, seed=1)
    found = load("mlx_lm.kernels").rms_norm_sigmoid_gate(x, gate, eps=1e-5)
    normed = mx.fast.rms_norm(x, None, 1e-5).swapaxes(1, 2).reshape(gate.shape)
    return [found], [normed * mx.sigmoid(gate)]


def norm_add_norm(load: Load) -> Pair:
    branch, stream = drawn(3, 300), drawn(3, 300, seed=1)
    alpha, beta, post, weight = (drawn(300, seed=s) for s in range(2, 6))
    norm = nn.RMSNorm(300)
    norm.weight = weight
    how: dict[str, Any] = {"alpha": alpha, "beta": beta, "post_eps": 1e-5}
    kernels = load("mlx_lm.kernels")
    found, wanted = [], []
    for scale in (post, None):
        scaled = branch if scale is None else scale * branch
        new = alpha * stream + beta * mx.fast.rms_norm(scaled, None, 1e-5)
        for then in (norm, None):
            made = kernels.norm_add_norm(branch, stream, post_weight=scale, next_norm=then, **how)
            found += [v for v in made if v is not None]
            wanted += [new, norm(new)] if then else [new]
    found.append(kernels.pre_norm(stream, norm, dtype=F32))
    return found, [*wanted, norm(stream)]


def expert_routing(load: Load) -> Pair:
    logits, bias = drawn(7, 40), 0.1 * drawn(40, seed=1)
    found, weights = load("mlx_lm.kernels").expert_routing(
        logits, bias, top_k=4, multiplier=1.5, score_eps=1e-6, route_scale=2.5
    )
    scores = mx.sigmoid(logits * 1.5)
    best = mx.argsort(-(scores + bias), axis=-1)[:, :4]
    chosen = mx.take_along_axis(scores, best, -1)
    return [found, weights], [best, chosen / (chosen.sum(-1, keepdims=True) + 1e-6) * 2.5]


def post_expert_norm_combine(load: Load) -> Pair:
    experts, weights, weight = drawn(3, 2, 300), drawn(3, 2, seed=1), drawn(300, seed=2)
    found = load("mlx_lm.kernels").post_expert_norm_combine(
        experts, weights, norm_weight=weight, eps=1e-5
    )
    normed = mx.fast.rms_norm(experts * weight, None, 1e-5)
    return [found], [(normed * weights[..., None]).sum(-2)]


def wkv7(load: Load) -> Pair:
    module = load("mlx_lm.models.rwkv7")
    r, k, v, a, b = (0.5 * drawn(2, 3, 2, 32, seed=s) for s in range(5))
    w, state = mx.sigmoid(drawn(2, 3, 2, 32, seed=5)), drawn(2, 2, 32, 32, seed=6)
    found = module.wkv7_kernel(r, w, k, v, a, b, state)
    steps = []
    for t in range(3):
        y, state = module._wkv7_step_ops(*[x[:, t] for x in (r, w, k, v, a, b)], state)
        steps.append(y.reshape(2, 2, 32))
    return found, [mx.stack(steps, 1), state]


def attention_residual(load: Load) -> Pair:
    module = load("mlx_lm.models.kimi_k3")
    blocks = module.ResidualBlocks(1e-5)
    for seed in range(2):
        blocks.append(drawn(3, 70, seed=seed))
    partial, weight = drawn(3, 70, seed=3), drawn(70, seed=4)
    sides = [module._attn_res_mix(blocks, partial, weight, 1e-5, use) for use in (True, False)]
    return sides[:1], sides[1:]


def _gated_delta(size: int, vector: bool) -> list[mx.array]:
    q, k = (drawn(2, 3, 1, size, seed=s) / math.sqrt(size) for s in range(2))
    v, beta = drawn(2, 3, 2, 8, seed=2), mx.sigmoid(drawn(2, 3, 2, seed=3))
    g = mx.sigmoid(drawn(2, 3, 2, *[size] * vector, seed=4))
    return [q, k, v, g, beta, drawn(2, 2, 8, size, seed=5)]


def gated_delta(load: Load) -> Pair:
    module = load("mlx_lm.models.gated_delta")
    found, wanted = [], []
    mask = mx.array([[True, True, False], [True, True, True]])
    for vector in (False, True):
        arrays = _gated_delta(64, vector)
        for padding in (None, mask):
            y, state = module.gated_delta_kernel(*arrays, padding)
            true, last = module.gated_delta_ops(*arrays, padding)
            keep = mx.ones((2, 3)) if padding is None else padding
            found += [y * keep[..., None, None], state]  # y of a masked step means nothing
            wanted += [true * keep[..., None, None], last]
    return found, wanted


def gated_delta_packed(load: Load) -> Pair:
    module, arrays = load("mlx_lm.models.gated_delta"), _gated_delta(128, False)
    packed, tree = module.gated_delta_kernel(*arrays), module.gated_delta_kernel_xtree(*arrays)
    wanted = module.gated_delta_ops(*arrays)
    return [*packed, *tree], [*wanted, *wanted]


def ssm(load: Load) -> Pair:
    module = load("mlx_lm.models.ssm")
    x, dt, state = drawn(2, 1, 4, 8), drawn(2, 1, 4, seed=1), drawn(2, 4, 8, 32, seed=2)
    b, c = drawn(2, 1, 2, 32, seed=3), drawn(2, 1, 2, 32, seed=4)
    a_log, d, bias = drawn(4, seed=5), drawn(4, seed=6), drawn(4, seed=7)
    limit = (0.001, 100.0)
    found = module.ssm_update_kernel(x, a_log, b, c, d, dt, bias, state, limit)
    return found, module.ssm_attn(x, a_log, b, c, d, dt, bias, state, limit)


def sinkhorn(load: Load) -> Pair:
    module = load("mlx_lm.models.deepseek_v41")
    comb, eps = mx.softmax(drawn(5, 7, 4, 4)), mx.array([1e-6])
    found = module._sinkhorn(comb, iters=4, eps=eps)
    module._sinkhorn_kernel = None
    return [found], [module._sinkhorn(comb, iters=4, eps=eps)]


def bitlinear(load: Load) -> Pair:
    module = load("mlx_lm.models.bitlinear_layers")
    found, wanted = [], []
    for invert in (False, True):
        layer = module.BitLinear(256, 8, bias=True, invert_weight_scales=invert)
        layer.weight = mx.random.randint(0, 3, (2, 256), mx.uint8, key=mx.random.key(1)) * 85
        layer.weight_scale = mx.array([0.7])
        x = drawn(3, 256, seed=2)
        parts = [((layer.weight >> (2 * i)) & 3).astype(F32) - 1 for i in range(4)]
        scale = 1 / 0.7 if invert else 0.7
        found.append(layer(x))
        wanted.append(x @ mx.concatenate(parts).T * scale + layer.bias)
    return found, wanted


_BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
# The maxima are read by some simdgroups while others write sums there, and mem_none orders nothing.
REUSE = "max_p = shared[simd_lane_id * 2 + 1];"
ORDERED = ((REUSE, f"{REUSE} {_BARRIER}"),)
ORDERED_ALL = (*ORDERED, ("threadgroup_barrier(mem_flags::mem_none);", _BARRIER))


def losses(load: Load, mend: bool = True) -> Pair:
    """Their kernels race, so a barrier is put where it is missing."""
    module = load("mlx_lm.tuner.losses")
    if mend:
        for name in ("kl", "js"):
            mended(module, f"_{name}_forward_kernel", *ORDERED_ALL)
            mended(module, f"_{name}_backward_kernel", *ORDERED)
    q, p, weight = drawn(2, 50), drawn(2, 50, seed=1), drawn(2, seed=2)
    found, wanted = [], []
    for name in ("kl_div_loss", "js_div_loss"):
        loss = getattr(module, name)
        found += mx.value_and_grad(lambda q, loss=loss: (loss(q, p) * weight).sum())(q)
    for true in (_kl, lambda q, p: 0.5 * (_kl(_middle(q, p), p) + _kl(_middle(q, p), q))):
        wanted += mx.value_and_grad(lambda q, true=true: (true(q, p) * weight).sum())(q)
    return found, wanted


def _logs(x: mx.array) -> mx.array:
    return x - mx.logsumexp(x, -1, keepdims=True)


def _middle(q: mx.array, p: mx.array) -> mx.array:
    return mx.logaddexp(_logs(q), _logs(p)) - math.log(2)


def _kl(q: mx.array, p: mx.array) -> mx.array:
    return (mx.exp(_logs(p)) * (_logs(p) - _logs(q))).sum(-1)


CASES: dict[str, Callable[[Load], Pair]] = {
    f.__name__: f
    for f in (
        qk_norm, qk_norm_rope, rms_norm_sigmoid_gate, norm_add_norm, expert_routing,
        post_expert_norm_combine, wkv7, attention_residual, gated_delta, gated_delta_packed, ssm,
        sinkhorn, bitlinear, losses,
    )
}  # fmt: skip
