"""Norms over the last axis: RMSNorm and LayerNorm, with and without weights, with dropout.

RMSNorm after Zhang and Sennrich (arXiv:1910.07467), LayerNorm after Ba, Kiros and Hinton
(arXiv:1607.06450). All sums are float32; the variance is that of the centred row, so that rows far
from zero keep it. Every function has gradients by kernels of its own for all its arrays, tangents,
mx.vmap, and derivatives of any order.
"""

from __future__ import annotations

import mlx.core as mx

from zmlx.catalog import formulas
from zmlx.catalog.common import Call

__all__ = [
    "group_norm",
    "layer_norm_dropout",
    "layer_norm_no_weight",
    "layernorm",
    "layernorm_grad",
    "rms_norm_no_weight",
    "rmsnorm",
    "rmsnorm_grad",
]

MODULE = "norms"


def rmsnorm(
    x: mx.array,
    weight: mx.array,
    *,
    eps: float = 1e-6,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """x * r * weight, r = 1 / sqrt(mean(x**2) + eps) over the last axis.

    Args:
        x: (..., D), D >= 1; float32, float16 or bfloat16.
        weight: (D,).
        eps: added to the mean of squares; at least 0.
        threadgroup: a power of two up to 1024, the threads of a GPU's group at most; 256, the
            default, leaves the launch to the sizes, and so does an @zmlx.fuse around the call.
        compute_dtype: accepted for the contract; all arithmetic is float32.

    Returns:
        (..., D) of x's dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "rmsnorm")
    x = call.rows("x", x)
    weight = call.shaped("weight", weight, x.shape[-1:])
    run = call.launched(formulas.rmsnorm, threadgroup, compute_dtype)
    return run(x, weight, call.eps(eps, x))


def rmsnorm_grad(
    x: mx.array,
    weight: mx.array,
    cotan: mx.array,
    *,
    eps: float = 1e-6,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """The gradient of rmsnorm's x: r * (g*w - h * mean(g*w*h)), h = x * r, g = cotan.

    `cotan` is of the shape of x; otherwise as rmsnorm. Returns (..., D) of x's dtype.
    """
    call = Call(MODULE, "rmsnorm_grad")
    x = call.rows("x", x)
    weight = call.shaped("weight", weight, x.shape[-1:])
    cotan = call.shaped("cotan", cotan, x.shape)
    run = call.launched(formulas.rmsnorm_grad, threadgroup, compute_dtype)
    return run(x, weight, cotan, call.eps(eps, x))


def rms_norm_no_weight(
    x: mx.array,
    *,
    eps: float = 1e-6,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """x / sqrt(mean(x**2) + eps) over the last axis; otherwise as rmsnorm."""
    call = Call(MODULE, "rms_norm_no_weight")
    x = call.rows("x", x)
    run = call.launched(formulas.rms_norm_no_weight, threadgroup, compute_dtype)
    return run(x, call.eps(eps, x))


def layernorm(
    x: mx.array,
    gamma: mx.array,
    beta: mx.array,
    *,
    eps: float = 1e-5,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """(x - mean) / sqrt(var + eps) * gamma + beta over the last axis; var is that of the row.

    `gamma` and `beta` are (D,); otherwise as rmsnorm.
    """
    call = Call(MODULE, "layernorm")
    x = call.rows("x", x)
    gamma = call.shaped("gamma", gamma, x.shape[-1:])
    beta = call.shaped("beta", beta, x.shape[-1:])
    run = call.launched(formulas.layernorm, threadgroup, compute_dtype)
    return run(x, gamma, beta, call.eps(eps, x))


def layernorm_grad(
    x: mx.array,
    gamma: mx.array,
    beta: mx.array,
    cotan: mx.array,
    *,
    eps: float = 1e-5,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """The gradient of layernorm's x: r * (q - mean(q) - h * mean(q * h)), q = cotan * gamma.

    `h` is the centred row times r. `cotan` is of the shape of x; `beta` is checked and not needed.
    Returns (..., D) of x's dtype; otherwise as layernorm.
    """
    call = Call(MODULE, "layernorm_grad")
    x = call.rows("x", x)
    gamma = call.shaped("gamma", gamma, x.shape[-1:])
    call.shaped("beta", beta, x.shape[-1:])
    cotan = call.shaped("cotan", cotan, x.shape)
    run = call.launched(formulas.layernorm_grad, threadgroup, compute_dtype)
    return run(x, gamma, cotan, call.eps(eps, x))


def group_norm(
    x: mx.array,
    gamma: mx.array,
    beta: mx.array,
    groups: int,
    *,
    eps: float = 1e-5,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """Channels in groups, each normed over its channels and all places (arXiv:1803.08494).

    Args:
        x: (N, ..., C): examples, places, channels.
        gamma, beta: (C,).
        groups: a divisor of C; neighbouring channels form a group.

    Returns:
        x's shape and dtype; otherwise as layernorm.
    """
    call = Call(MODULE, "group_norm")
    call.compute(compute_dtype)
    x = call.known(call.rows("x", x))
    if x.ndim < 2:
        raise call.wrong("x", f"of shape {x.shape}", "axes (N, ..., C)")
    channels = x.shape[-1]
    gamma, beta = call.shaped("gamma", gamma, (channels,)), call.shaped("beta", beta, (channels,))
    number = call.whole("groups", groups, 1, channels)
    if channels % number:
        raise call.wrong("groups", str(number), f"a divisor of the {channels} channels")
    return formulas.group_norm(x, gamma, beta, call.eps(eps, x), number) if x.size else x


def layer_norm_no_weight(
    x: mx.array,
    *,
    eps: float = 1e-5,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """(x - mean) / sqrt(var + eps) over the last axis; otherwise as rmsnorm."""
    call = Call(MODULE, "layer_norm_no_weight")
    x = call.rows("x", x)
    run = call.launched(formulas.layer_norm_no_weight, threadgroup, compute_dtype)
    return run(x, call.eps(eps, x))


def layer_norm_dropout(
    x: mx.array,
    gamma: mx.array,
    beta: mx.array,
    p: float,
    seed: int | mx.array = 0,
    *,
    eps: float = 1e-5,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """transformer.dropout(layernorm(x, gamma, beta), p, seed) up to rounding, in one kernel."""
    call = Call(MODULE, "layer_norm_dropout")
    x = call.rows("x", x)
    gamma = call.shaped("gamma", gamma, x.shape[-1:])
    beta = call.shaped("beta", beta, x.shape[-1:])
    mask = call.mask(p, seed, x)
    run = call.launched(formulas.layer_norm_dropout, threadgroup, compute_dtype)
    return run(x, gamma, beta, call.eps(eps, x), *mask)
