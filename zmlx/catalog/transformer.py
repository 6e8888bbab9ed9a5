"""What a transformer's blocks are made of: gated units, norms of a residual sum, dropout.

Formulas: gated units after Shazeer (arXiv:2002.05202), dropout after Srivastava et al. (JMLR 15,
2014), norms as in zmlx.kernels.norms. All arithmetic is float32. Every function has gradients by
kernels of its own for all its arrays, tangents, mx.vmap, and derivatives of any order.
"""

from __future__ import annotations

import mlx.core as mx

from zmlx.catalog import formulas
from zmlx.catalog.common import Call

__all__ = [
    "bias_geglu",
    "bias_swiglu",
    "dropout",
    "fused_add_layernorm",
    "fused_add_rmsnorm",
    "geglu",
    "geglu2",
    "layernorm_residual",
    "norm_residual_norm",
    "rms_norm_dropout",
    "rmsnorm_residual",
    "swiglu",
    "swiglu2",
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
    return formulas.swiglu(_halved(Call(MODULE, "swiglu"), x, compute_dtype))


def geglu(x: mx.array, *, compute_dtype: mx.Dtype | None = None) -> mx.array:
    """gelu(a) * b with gelu's tanh form; otherwise as swiglu."""
    return formulas.geglu(_halved(Call(MODULE, "geglu"), x, compute_dtype))


def swiglu2(a: mx.array, b: mx.array, *, compute_dtype: mx.Dtype | None = None) -> mx.array:
    """silu(a) * b, of two arrays of one shape, any; of a's dtype. Otherwise as swiglu."""
    return formulas.swiglu2(*_two(Call(MODULE, "swiglu2"), a, b, compute_dtype))


def geglu2(a: mx.array, b: mx.array, *, compute_dtype: mx.Dtype | None = None) -> mx.array:
    """gelu(a) * b with gelu's tanh form; otherwise as swiglu2."""
    return formulas.geglu2(*_two(Call(MODULE, "geglu2"), a, b, compute_dtype))


def bias_swiglu(x: mx.array, bias: mx.array, *, compute_dtype: mx.Dtype | None = None) -> mx.array:
    """swiglu(x + bias); bias is (2 * D,)."""
    call = Call(MODULE, "bias_swiglu")
    x = _halved(call, x, compute_dtype)
    return formulas.swiglu(x, call.shaped("bias", bias, x.shape[-1:]))


def bias_geglu(x: mx.array, bias: mx.array, *, compute_dtype: mx.Dtype | None = None) -> mx.array:
    """geglu(x + bias); bias is (2 * D,)."""
    call = Call(MODULE, "bias_geglu")
    x = _halved(call, x, compute_dtype)
    return formulas.geglu(x, call.shaped("bias", bias, x.shape[-1:]))


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
    x = call.array("x", x)
    mask = call.mask(p, seed, x)
    return formulas.dropout(x, *mask) if x.size else x


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
    mask = call.mask(p, seed, x)
    run = call.launched(formulas.rms_norm_dropout, threadgroup, compute_dtype)
    return run(x, weight, call.eps(eps, x), *mask)


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
    run = call.launched(formulas.rmsnorm_residual, threadgroup, compute_dtype)
    normed, total = run(x, residual, weight, call.eps(eps, x))
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
    run = call.launched(formulas.layernorm_residual, threadgroup, compute_dtype)
    normed, total = run(x, residual, gamma, beta, call.eps(eps, x))
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
    run = call.launched(formulas.fused_add_rmsnorm, threadgroup, compute_dtype)
    return run(x1, x2, weight, call.eps(eps, x1))


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
    run = call.launched(formulas.fused_add_layernorm, threadgroup, compute_dtype)
    return run(x1, x2, gamma, beta, call.eps(eps, x1))


def norm_residual_norm(
    x: mx.array,
    residual: mx.array,
    inner: mx.array,
    outer: mx.array,
    *,
    eps: float = 1e-6,
    threadgroup: int = 256,
    compute_dtype: mx.Dtype | None = None,
) -> tuple[mx.array, mx.array]:
    """(rmsnorm(h, outer), h), h = residual + rmsnorm(x, inner): between two layers of Gemma 2.

    Args:
        x, residual: (..., D), of one shape.
        inner, outer: (D,).
    """
    call = Call(MODULE, "norm_residual_norm")
    x, residual = _terms(call, x, residual, "x", "residual")
    inner = call.shaped("inner", inner, x.shape[-1:])
    outer = call.shaped("outer", outer, x.shape[-1:])
    run = call.launched(formulas.norm_residual_norm, threadgroup, compute_dtype)
    return run(x, residual, inner, outer, call.eps(eps, x))


# -- what the functions share ---------------------------------------------------------------------
def _terms(
    call: Call, x: object, other: object, name: str, other_name: str
) -> tuple[mx.array, mx.array]:
    first = call.rows(name, x)
    return first, call.shaped(other_name, other, first.shape)


def _halved(call: Call, x: mx.array, compute: object) -> mx.array:
    """An array whose last axis can be cut into halves."""
    if compute is not None:
        call.compute(compute)
    x = call.rows("x", x)
    if x.shape[-1] % 2:
        raise call.wrong("x", f"of shape {x.shape}", "an even last axis: it is cut into halves")
    return x


def _two(call: Call, a: object, b: object, compute: object) -> tuple[mx.array, mx.array]:
    call.compute(compute)
    first = call.array("a", a)
    return first, call.shaped("b", b, first.shape)
