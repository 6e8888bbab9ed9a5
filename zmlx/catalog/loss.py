"""Losses, one number for each row, without a reduction over rows; differentiable to any order.

Cross-entropy after Goodfellow et al., Deep Learning, 6.2; divergences after Kullback and Leibler
(1951) and Lin (1991). `linear_cross_entropy` never holds the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx

from zmlx.catalog.by_hand import ByHand
from zmlx.catalog.common import Call
from zmlx.catalog.formulas import fused, logsumexp, total, wide
from zmlx.registry import forgets

__all__ = ["js_div", "kl_div", "linear_cross_entropy", "softmax_cross_entropy"]

MODULE = "loss"
Arrays = Sequence[mx.array]


# -- formulas -------------------------------------------------------------------------------------
def _valid(targets: mx.array, classes: Any) -> mx.array:
    return (targets >= 0) & (targets < classes)


def _entropy(v: mx.array, targets: mx.array) -> mx.array:
    valid = _valid(targets, v.shape[-1])
    place = mx.where(valid, targets, mx.zeros_like(targets)).astype(mx.uint32)
    chosen = mx.take_along_axis(v, place[..., None], -1).squeeze(-1)
    loss = logsumexp(v) - chosen
    return loss * mx.where(valid, 1.0, mx.nan)


@fused
def _cross_entropy(logits: mx.array, targets: mx.array, like: mx.array) -> mx.array:
    return _entropy(wide(logits), targets).astype(like.dtype)


@fused
def _kept_entropy(
    logits: mx.array, targets: mx.array, like: mx.array, ignored: mx.array
) -> mx.array:
    """0 where a target is the ignored one, whatever the row holds; no gradient goes there."""
    left_out = targets == ignored
    v = mx.where(left_out[..., None], 0.0, wide(logits))
    loss = _entropy(v, mx.where(left_out, mx.zeros_like(targets), targets))
    return mx.where(left_out, 0.0, loss).astype(like.dtype)


def _log_softmax(v: mx.array) -> mx.array:
    apart = v - mx.max(mx.stop_gradient(v), -1, keepdims=True)
    return apart - mx.log(total(mx.exp(apart)))


def _divergence(p: mx.array, log_p: mx.array, log_q: mx.array) -> mx.array:
    """sum p * (log_p - log_q); what has no weight adds nothing, nor to the gradient."""
    return mx.sum(p * mx.where(p == 0, 0.0, log_p - log_q), -1)


@fused
def _kl(p_logits: mx.array, q_logits: mx.array, like: mx.array) -> mx.array:
    log_p, log_q = _log_softmax(wide(p_logits)), _log_softmax(wide(q_logits))
    return _divergence(mx.exp(log_p), log_p, log_q).astype(like.dtype)


@fused
def _js(p_logits: mx.array, q_logits: mx.array, like: mx.array) -> mx.array:
    log_p, log_q = _log_softmax(wide(p_logits)), _log_softmax(wide(q_logits))
    p, q = mx.exp(log_p), mx.exp(log_q)
    neither = (p == 0) & (q == 0)  # of two infinities there is no slope
    log_m = mx.logaddexp(mx.where(neither, 0.0, log_p), mx.where(neither, 0.0, log_q))
    log_m = log_m - 0.6931471805599453
    both = _divergence(p, log_p, log_m) + _divergence(q, log_q, log_m)
    return (0.5 * both).astype(like.dtype)


# -- functions ------------------------------------------------------------------------------------
def softmax_cross_entropy(
    logits: mx.array,
    targets: mx.array,
    *,
    ignore_index: int | None = None,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """logsumexp(z) - z[target] for each row z of the logits.

    Args:
        logits: (..., D), D >= 1; float32, float16 or bfloat16.
        targets: (...), integers. Where one is not from 0 to D - 1, the loss and the gradient of
            its row are NaN; other rows stay as they are.
        ignore_index: a target whose rows count for nothing, such as PyTorch's -100: their loss and
            gradient are 0, whatever their logits are. A number at run time. A mean over the others
            is losses.sum() / (targets != ignore_index).sum().
        threadgroup: a power of two up to 1024, the threads of a GPU's group at most; 256, the
            default, leaves the launch to the sizes.
        compute_dtype: the type of the result, float32 if None; all arithmetic is float32.

    Returns:
        (...), one loss for each row. The gradient of a row is softmax(z) less 1 at the target.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "softmax_cross_entropy")
    logits = call.known(call.rows("logits", logits))
    targets = call.of_shape("targets", call.integers("targets", targets), logits.shape[:-1])
    ignored = _ignored(call, ignore_index, targets)
    formula = _kept_entropy if ignored else _cross_entropy
    run = call.launched(formula, threadgroup, compute_dtype)
    found: mx.array = run(logits, targets, _like(call.result(compute_dtype)), *ignored)
    return found


def _ignored(call: Call, index: int | None, targets: mx.array) -> list[mx.array]:
    """The target to be left out, with the targets' rank; nothing where none can be it."""
    if index is None:
        return []
    at = call.whole("ignore_index", index, -(2**63), 2**63 - 1)
    kind = mx.iinfo(targets.dtype)
    if not kind.min <= at <= kind.max:
        return []
    return [_index_array(at, targets.dtype, targets.ndim)]


@lru_cache(maxsize=64)
def _index_array(index: int, kind: mx.Dtype, rank: int) -> mx.array:
    with mx.stream(mx.cpu):
        made = mx.array([index], kind).reshape((1,) * rank)
        mx.eval(made)
    return made


forgets(_index_array.cache_clear)


def kl_div(
    p_logits: mx.array,
    q_logits: mx.array,
    *,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """sum p * (log p - log q) over each row, p and q the softmax of the logits.

    Logits of -infinity, as masks leave them, have no weight: where p has none, neither the sum nor
    the gradient takes notice; where q alone has none, the sum is infinite.

    Args:
        p_logits, q_logits: (..., D), of one shape.

    Returns:
        (...) of `compute_dtype`, float32 if None. Otherwise as softmax_cross_entropy.
    """
    return _divergent("kl_div", _kl, p_logits, q_logits, threadgroup, compute_dtype)


def js_div(
    p_logits: mx.array,
    q_logits: mx.array,
    *,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """The Jensen-Shannon divergence: half of kl(p, m) + kl(q, m), m = (p + q) / 2; as kl_div."""
    return _divergent("js_div", _js, p_logits, q_logits, threadgroup, compute_dtype)


def _divergent(
    name: str, formula: Any, p: mx.array, q: mx.array, threadgroup: int, compute: Any
) -> mx.array:
    call = Call(MODULE, name)
    run = call.launched(formula, threadgroup, compute)
    p = call.rows("p_logits", p)
    found: mx.array = run(p, call.shaped("q_logits", q, p.shape), _like(call.result(compute)))
    return found


@lru_cache(maxsize=4)
def _like(kind: mx.Dtype) -> mx.array:
    """Says a type to a formula."""
    return mx.zeros((1,), kind)


forgets(_like.cache_clear)


# -- the loss of a linear layer -------------------------------------------------------------------
def linear_cross_entropy(
    x: mx.array,
    weight: mx.array,
    targets: mx.array,
    *,
    ignore_index: int | None = None,
    chunk: int = 1024,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """softmax_cross_entropy(x @ weight.T, targets), never holding more logits than of a chunk.

    Rows go chunk by chunk, forward and backward; the backward pass computes a chunk's logits once
    more. Products are MLX's, in float32. Chunks of 64 rows and more take no longer than all logits
    at once; a few rows at a time read the weights again for each of them.

    Args:
        x: (..., D), the last hidden states.
        weight: (V, D), the output layer.
        targets: (...), integers; out of range as in softmax_cross_entropy.
        ignore_index: as in softmax_cross_entropy.
        chunk: how many rows' logits are held at a time.

    Returns:
        (...), one loss for each row, of `compute_dtype`, float32 if None.
    """
    call = Call(MODULE, "linear_cross_entropy")
    x, weight = call.rows("x", x), call.of_rank("weight", call.rows("weight", weight), 2, "(V, D)")
    if weight.shape[-1] != x.shape[-1]:
        wanted = f"rows of {x.shape[-1]}, those of x"
        raise call.wrong("weight", f"of shape {weight.shape}", wanted)
    targets = call.of_shape("targets", call.integers("targets", targets), x.shape[:-1])
    kind, size = call.result(compute_dtype), call.whole("chunk", chunk, 1, 2**31 - 1)
    call.known(x)
    ignored = _ignored(call, ignore_index, targets.reshape(-1))
    return in_chunks(wide(x), wide(weight), targets, size, ignored).astype(kind)


def in_chunks(
    x: mx.array,
    weight: mx.array,
    targets: mx.array,
    size: int = 1024,
    ignored: Sequence[mx.array] = (),
) -> mx.array:
    """linear_cross_entropy without its checks, in float32; products are of the arrays' own type."""
    rows = x.reshape(-1, x.shape[-1])
    (loss,) = _chunked(size)(rows, weight, targets.reshape(-1), *ignored)
    return loss.reshape(x.shape[:-1])


def _of_chunk(x: mx.array, weight: mx.array, targets: mx.array, *ignored: mx.array) -> mx.array:
    formula = _kept_entropy if ignored else _cross_entropy
    if ignored:  # or the weights' gradient would be 0 times what such a row holds
        x = mx.where((targets == ignored[0])[:, None], mx.zeros_like(x), x)
    found: mx.array = formula(x @ weight.T, targets, _like(mx.float32), *ignored)
    return found


def _after(done: mx.array) -> mx.array:
    """0, known once `done` is: what it is added to waits, so that one chunk is held at a time."""
    return (done[:1] != done[:1]).astype(mx.float32) * 0.0


@lru_cache(maxsize=64)
def _chunked(size: int) -> ByHand:
    def run(x: mx.array, weight: mx.array, targets: mx.array, *ignored: mx.array) -> list[mx.array]:
        if not x.shape[0]:
            return [mx.zeros((0,))]
        done: list[mx.array] = []
        for first in range(0, x.shape[0], size):
            part = slice(first, first + size)
            rows = x[part] + _after(done[-1]).astype(x.dtype) if done else x[part]
            done.append(_of_chunk(rows, weight, targets[part], *ignored))
        return [mx.concatenate(done)]

    def plain(*arrays: mx.array) -> list[mx.array]:
        return [_of_chunk(*arrays)]

    def pull(primals: Arrays, given: Arrays, outputs: Arrays) -> list[mx.array | None]:
        (x, weight, targets, *ignored), g = primals, given[0]
        if not x.shape[0]:
            return [None] * len(primals)
        dx: list[mx.array] = []
        dw = mx.zeros(weight.shape)
        for first in range(0, x.shape[0], size):
            part = slice(first, first + size)
            rows = x[part] + _after(dw.reshape(-1)).astype(x.dtype)
            if dx:  # or its chunk's logits would wait for it
                rows = rows + _after(dx[-1].reshape(-1)).astype(x.dtype)
            _, (dr, dpart) = mx.vjp(
                lambda r, w, t=targets[part]: [_of_chunk(r, w, t, *ignored)],
                [rows, weight], [g[part]],
            )  # fmt: skip
            dw = dw + wide(dpart)
            dx.append(dr)
        return [mx.concatenate(dx), dw, *[None] * (len(primals) - 2)]

    return ByHand("linear_cross_entropy", run, plain, pull, composed=True)


forgets(_chunked.cache_clear)
