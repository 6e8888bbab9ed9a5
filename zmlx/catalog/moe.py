"""Mixture of experts: gates over the best experts of each token, and their outputs put together.

Top-2 gating after Shazeer et al. (arXiv:1701.06538). Equal logits: the lower index first; NaN
counts as the largest logit. Weights are differentiable in the logits, to any order.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from zmlx.catalog.chosen import largest
from zmlx.catalog.common import Call
from zmlx.catalog.formulas import fused, logsumexp, powers, total, wide
from zmlx.catalog.quant import like

__all__ = ["combine_experts", "top2_gating_softmax", "topk_gating_softmax"]

MODULE = "moe"


@fused
def _weights(chosen: mx.array, kind: mx.array) -> mx.array:
    _, found = powers(wide(chosen))
    return (found / total(found)).astype(kind.dtype)


@fused
def _shares(chosen: mx.array, logits: mx.array, kind: mx.array) -> mx.array:
    """Softmax over all experts, of the chosen ones alone."""
    return mx.exp(wide(chosen) - logsumexp(wide(logits))[..., None]).astype(kind.dtype)


@fused
def _combined(outputs: mx.array, weights: mx.array) -> mx.array:
    return mx.sum(wide(outputs) * wide(weights)[..., None], -2).astype(outputs.dtype)


def top2_gating_softmax(
    x: mx.array, *, threadgroup: int = 256, compute_dtype: mx.Dtype | None = None
) -> tuple[mx.array, mx.array]:
    """The two largest logits of each row: their softmax among themselves, and their indices.

    Args:
        x: (..., E), E >= 2; float32, float16 or bfloat16.
        threadgroup: a power of two up to 1024; a simdgroup takes a row whatever it is.
        compute_dtype: the type of the weights, float32 if None; all arithmetic is float32.

    Returns:
        weights (..., 2), which sum to 1, and indices (..., 2), uint32, best first, always two.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    return _gates("top2_gating_softmax", x, 2, True, threadgroup, compute_dtype)


def topk_gating_softmax(
    x: mx.array,
    k: int,
    *,
    renormalize: bool = True,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> tuple[mx.array, mx.array]:
    """The k largest logits of each row: their softmax and their indices, best first.

    Args:
        x: (..., E).
        k: from 1 to E.
        renormalize: True: the k weights sum to 1. False: they are their shares of the softmax over
            all experts.

    Returns:
        weights (..., k) and indices (..., k), uint32; otherwise as top2_gating_softmax.
    """
    return _gates("topk_gating_softmax", x, k, renormalize, threadgroup, compute_dtype)


def combine_experts(outputs: mx.array, weights: mx.array) -> mx.array:
    """The sum of each token's experts' outputs, weighted.

    Args:
        outputs: (..., K, D), what K experts gave for each token.
        weights: (..., K).

    Returns:
        (..., D) of the outputs' type; differentiable in both.
    """
    call = Call(MODULE, "combine_experts")
    outputs = call.rows("outputs", outputs)
    if outputs.ndim < 2:
        raise call.wrong("outputs", f"of shape {outputs.shape}", "axes (..., K, D)")
    found: mx.array = _combined(outputs, call.shaped("weights", weights, outputs.shape[:-1]))
    return found


def _gates(
    name: str, x: mx.array, k: int, renormalize: bool, threadgroup: int, compute: Any
) -> tuple[mx.array, mx.array]:
    call = Call(MODULE, name)
    call.threads(threadgroup)
    kind, x = like(call.result(compute)), call.known(call.rows("x", x))
    if not isinstance(renormalize, bool):
        raise call.wrong("renormalize", repr(renormalize), "True or False")
    if name.startswith("top2") and x.shape[-1] < 2:
        raise call.wrong("x", f"of shape {x.shape}", "two experts at least along its last axis")
    values, places = largest(x, call.whole("k", k, 1, x.shape[-1]))
    weights = _weights(values, kind) if renormalize else _shares(values, x, kind)
    return weights, places
