"""What a transformer's blocks are made of: gated units, norms of a residual sum, dropout.

Formulas: gated units after Shazeer (arXiv:2002.05202), dropout after Srivastava et al. (JMLR 15,
2014), norms as in zmlx.kernels.norms. All arithmetic is float32. Every function has gradients by
kernels of its own for all its arrays, tangents, mx.vmap, and derivatives of any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import mlx.core as mx

from zmlx.catalog.common import Call
from zmlx.catalog.dropout_op import dropped
from zmlx.catalog.glu_op import Glu
from zmlx.catalog.norm_op import Norm
from zmlx.registry import forgets

__all__ = [
    "bias_geglu",
    "bias_swiglu",
    "dropout",
    "fused_add_layernorm",
    "fused_add_rmsnorm",
    "geglu",
    "layernorm_residual",
    "rms_norm_dropout",
    "rmsnorm_residual",
    "swiglu",
]

MODULE = "transformer"


def swiglu(x: mx.array, *, compute_dtype: mx.Dtype | None = None) -> mx.array:
    """silu(a) * b, where a and b are the first and the second half of the last axis.

    Args:
        x: (..., 2 * D), D >= 1; float32, float16 or bfloat16.
        compute_dtype: accepted for the contract; all arithmetic is float32.

    Returns:
        (..., D) of x's dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    return _gated("swiglu", x, (), compute_dtype)


def geglu(x: mx.array, *, compute_dtype: mx.Dtype | None = None) -> mx.array:
    """gelu(a) * b with gelu's tanh form; otherwise as swiglu."""
    return _gated("geglu", x, (), compute_dtype)


def bias_swiglu(x: mx.array, bias: mx.array, *, compute_dtype: mx.Dtype | None = None) -> mx.array:
    """swiglu(x + bias); bias is (2 * D,)."""
    return _gated("bias_swiglu", x, (bias,), compute_dtype)


def bias_geglu(x: mx.array, bias: mx.array, *, compute_dtype: mx.Dtype | None = None) -> mx.array:
    """geglu(x + bias); bias is (2 * D,)."""
    return _gated("bias_geglu", x, (bias,), compute_dtype)


def dropout(
    x: mx.array,
    p: float,
    seed: int | mx.array = 0,
    *,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """x / (1 - p) where an element is kept, else 0.

    Element i of the array is dropped iff u(seed, i) < p, for a random u in [0, 1) that depends on
    nothing else: neither on dtype nor on device. rms_norm_dropout and norms.layer_norm_dropout
    share it. Under mx.vmap each example has the mask that it would have alone: all the same one,
    unless the seed is mapped too.

    Args:
        x: any shape; float32, float16 or bfloat16.
        p: the share that is dropped, from 0 on, below 1.
        seed: a whole number below 2**32, or an integer array of one element, which may change
            inside a compiled step.

    Returns:
        x's shape and dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "dropout")
    call.compute(compute_dtype)
    return dropped(call.array("x", x), *call.mask(p, seed))


def rms_norm_dropout(
    x: mx.array,
    weight: mx.array,
    p: float,
    seed: int | mx.array = 0,
    *,
    eps: float = 1e-6,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """dropout(norms.rmsnorm(x, weight), p, seed) up to rounding, in one kernel."""
    call = Call(MODULE, "rms_norm_dropout")
    x = call.rows("x", x)
    weight = call.shaped("weight", weight, x.shape[-1:])
    mask = call.mask(p, seed)
    norm = _norm("rms_norm_dropout", call.launch(threadgroup, compute_dtype))
    return norm.op(x, weight, call.eps(eps), *mask)[0]


def rmsnorm_residual(
    x: mx.array,
    residual: mx.array,
    weight: mx.array,
    *,
    eps: float = 1e-6,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> tuple[mx.array, mx.array]:
    """(rmsnorm(h, weight), h) with h = x + residual, which is normed before it is rounded.

    Args:
        x, residual: (..., D) of one shape, D >= 1; float32, float16 or bfloat16.
        weight: (D,).
        eps, threadgroup, compute_dtype: as for norms.rmsnorm.

    Returns:
        Two arrays of x's shape and dtype.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    call = Call(MODULE, "rmsnorm_residual")
    x, residual = _terms(call, x, residual, "x", "residual")
    weight = call.shaped("weight", weight, x.shape[-1:])
    norm = _norm("rmsnorm_residual", call.launch(threadgroup, compute_dtype))
    normed, total = norm.op(x, residual, weight, call.eps(eps))
    return normed, total


def layernorm_residual(
    x: mx.array,
    residual: mx.array,
    gamma: mx.array,
    beta: mx.array,
    *,
    eps: float = 1e-5,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> tuple[mx.array, mx.array]:
    """(layernorm(h, gamma, beta), h) with h = x + residual; otherwise as rmsnorm_residual."""
    call = Call(MODULE, "layernorm_residual")
    x, residual = _terms(call, x, residual, "x", "residual")
    gamma = call.shaped("gamma", gamma, x.shape[-1:])
    beta = call.shaped("beta", beta, x.shape[-1:])
    norm = _norm("layernorm_residual", call.launch(threadgroup, compute_dtype))
    normed, total = norm.op(x, residual, gamma, beta, call.eps(eps))
    return normed, total


def fused_add_rmsnorm(
    x1: mx.array,
    x2: mx.array,
    weight: mx.array,
    *,
    eps: float = 1e-6,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """rmsnorm(x1 + x2, weight): the first half of rmsnorm_residual, without writing the sum."""
    call = Call(MODULE, "fused_add_rmsnorm")
    x1, x2 = _terms(call, x1, x2, "x1", "x2")
    weight = call.shaped("weight", weight, x1.shape[-1:])
    norm = _norm("fused_add_rmsnorm", call.launch(threadgroup, compute_dtype))
    return norm.op(x1, x2, weight, call.eps(eps))[0]


def fused_add_layernorm(
    x1: mx.array,
    x2: mx.array,
    gamma: mx.array,
    beta: mx.array,
    *,
    eps: float = 1e-5,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """layernorm(x1 + x2, gamma, beta): the first half of layernorm_residual."""
    call = Call(MODULE, "fused_add_layernorm")
    x1, x2 = _terms(call, x1, x2, "x1", "x2")
    gamma = call.shaped("gamma", gamma, x1.shape[-1:])
    beta = call.shaped("beta", beta, x1.shape[-1:])
    norm = _norm("fused_add_layernorm", call.launch(threadgroup, compute_dtype))
    return norm.op(x1, x2, gamma, beta, call.eps(eps))[0]


# -- what the functions share ---------------------------------------------------------------------
def _silu(z: mx.array) -> mx.array:
    return z * mx.sigmoid(z)


def _gelu(z: mx.array) -> mx.array:
    return 0.5 * z * (1.0 + mx.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z * z * z)))


_GATED = {
    "swiglu": Glu("swiglu", "kk_silu", _silu),
    "geglu": Glu("geglu", "kk_gelu_tanh", _gelu),
    "bias_swiglu": Glu("bias_swiglu", "kk_silu", _silu, biased=True),
    "bias_geglu": Glu("bias_geglu", "kk_gelu_tanh", _gelu, biased=True),
}
_RMS = Norm("", residual=True, weights=("weight",), where=MODULE)
_LAYER = replace(_RMS, centred=True, weights=("gamma", "beta"))
_NORMS = {
    "rms_norm_dropout": replace(_RMS, name="rms_norm_dropout", residual=False, dropout=True),
    "rmsnorm_residual": replace(_RMS, name="rmsnorm_residual", keeps_sum=True),
    "layernorm_residual": replace(_LAYER, name="layernorm_residual", keeps_sum=True),
    "fused_add_rmsnorm": replace(_RMS, name="fused_add_rmsnorm"),
    "fused_add_layernorm": replace(_LAYER, name="fused_add_layernorm"),
}


@lru_cache(maxsize=64)
def _norm(name: str, threadgroup: int) -> Norm:
    return replace(_NORMS[name], threadgroup=threadgroup)


@lru_cache(maxsize=8)
def _glu(name: str) -> Glu:
    return replace(_GATED[name])


forgets(_norm.cache_clear)
forgets(_glu.cache_clear)


def _terms(
    call: Call, x: object, other: object, name: str, other_name: str
) -> tuple[mx.array, mx.array]:
    first = call.rows(name, x)
    return first, call.shaped(other_name, other, first.shape)


def _gated(name: str, x: mx.array, biases: Sequence[mx.array], compute: object) -> mx.array:
    call = Call(MODULE, name)
    call.compute(compute)
    x = call.rows("x", x)
    width = x.shape[-1]
    if width % 2:
        raise call.wrong("x", f"of shape {x.shape}", "an even last axis: it is cut into halves")
    given = [call.shaped("bias", bias, (width,)) for bias in biases]
    shape = (*x.shape[:-1], width // 2)
    if x.size == 0:
        return mx.zeros(shape, x.dtype)
    return _glu(name).op(x.reshape(x.size // width, width), *given)[0].reshape(shape)
