"""Formulas: what the functions of the catalog compute, in MLX's ops, each as a fused function.

Comes in: arrays that zmlx.catalog.common has checked. Goes out: arrays of the first one's dtype.
All arithmetic is float32, rounded once. zmlx.catalog's modules call them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx.catalog.mask import uniform
from zmlx.fuse.api import FusedFunction, fuse
from zmlx.fuse.replay import count
from zmlx.registry import forgets
from zmlx.trace import intercept, reductions


def fused(formula: Callable[..., Any]) -> FusedFunction:
    """`formula` by kernels, under the same name; `clear_cache` forgets them."""
    made: FusedFunction = fuse(formula)
    forgets(made.clear)
    return made


# -- what they are written in ---------------------------------------------------------------------
def _wide(x: mx.array) -> mx.array:
    return x.astype(mx.float32)


def _length(x: mx.array) -> Any:
    """The length of a row, known when a kernel runs."""
    tracer = intercept.current()
    if tracer is not None and tracer.sees(x):
        return reductions.counted(tracer, x, (x.ndim - 1,))
    return count(x, (-1,))


def _total(x: mx.array) -> mx.array:
    return mx.sum(x, -1, keepdims=True)


def _root(v: mx.array, eps: mx.array) -> mx.array:
    """1 / the root of the mean square of a row."""
    return mx.rsqrt(_total(v * v) / _length(v) + eps)


def _centred(v: mx.array, eps: mx.array) -> mx.array:
    """Rows less their mean, over their deviation.

    The variance is that of the centred row; `shift` is what its mean lost in rounding. Of rows of a
    million elements, far from zero and all but equal, rounding may leave less than nothing: the
    variance is at least a millionth of the square of what the mean was off.
    """
    length = _length(v)
    apart = v - _total(v) / length
    shift = mx.stop_gradient(_total(apart) / length)
    off = shift * shift
    variance, least = _total(apart * apart) / length - off, off * 1e-6
    variance = mx.where(variance < least, least, variance)
    return (apart - shift) * mx.rsqrt(variance + eps)


def _powers(v: mx.array) -> tuple[mx.array, mx.array]:
    """Rows less their largest element, which cancels in derivatives; and e to the power of that."""
    apart = v - mx.max(mx.stop_gradient(v), -1, keepdims=True)
    return apart, mx.exp(apart)


# -- softmax --------------------------------------------------------------------------------------
@fused
def softmax_lastdim(x: mx.array) -> mx.array:
    _, powers = _powers(_wide(x))
    return (powers / _total(powers)).astype(x.dtype)


@fused
def log_softmax_lastdim(x: mx.array) -> mx.array:
    apart, powers = _powers(_wide(x))
    return (apart - mx.log(_total(powers))).astype(x.dtype)


@fused
def softmax_grad(y: mx.array, cotan: mx.array) -> mx.array:
    p, g = _wide(y), _wide(cotan)
    return (p * (g - _total(p * g))).astype(y.dtype)


@fused
def log_softmax_grad(y: mx.array, cotan: mx.array) -> mx.array:
    g = _wide(cotan)
    return (g - mx.exp(_wide(y)) * _total(g)).astype(y.dtype)


# -- norms ----------------------------------------------------------------------------------------
@fused
def rms_norm_no_weight(x: mx.array, eps: mx.array) -> mx.array:
    v = _wide(x)
    return (v * _root(v, eps)).astype(x.dtype)


@fused
def rmsnorm(x: mx.array, weight: mx.array, eps: mx.array) -> mx.array:
    v = _wide(x)
    return (v * _root(v, eps) * _wide(weight)).astype(x.dtype)


@fused
def rmsnorm_grad(x: mx.array, weight: mx.array, cotan: mx.array, eps: mx.array) -> mx.array:
    """The derivative of rmsnorm, in its order, so that both agree to the bit."""
    v, g = _wide(x), _wide(cotan) * _wide(weight)
    root = _root(v, eps)
    slope = -(_total(g * v) * 0.5 * (root * (root * root))) / _length(v)
    part = v * slope
    return (g * root + part + part).astype(x.dtype)


@fused
def layer_norm_no_weight(x: mx.array, eps: mx.array) -> mx.array:
    return _centred(_wide(x), eps).astype(x.dtype)


@fused
def layernorm(x: mx.array, gamma: mx.array, beta: mx.array, eps: mx.array) -> mx.array:
    return (_centred(_wide(x), eps) * _wide(gamma) + _wide(beta)).astype(x.dtype)


@fused
def rmsnorm_residual(
    x: mx.array, residual: mx.array, weight: mx.array, eps: mx.array
) -> tuple[mx.array, mx.array]:
    h = _wide(x) + _wide(residual)
    normed = h * _root(h, eps) * _wide(weight)
    return normed.astype(x.dtype), h.astype(x.dtype)


@fused
def layernorm_residual(
    x: mx.array, residual: mx.array, gamma: mx.array, beta: mx.array, eps: mx.array
) -> tuple[mx.array, mx.array]:
    h = _wide(x) + _wide(residual)
    normed = _centred(h, eps) * _wide(gamma) + _wide(beta)
    return normed.astype(x.dtype), h.astype(x.dtype)


@fused
def fused_add_rmsnorm(x: mx.array, residual: mx.array, weight: mx.array, eps: mx.array) -> mx.array:
    h = _wide(x) + _wide(residual)
    return (h * _root(h, eps) * _wide(weight)).astype(x.dtype)


@fused
def fused_add_layernorm(
    x: mx.array, residual: mx.array, gamma: mx.array, beta: mx.array, eps: mx.array
) -> mx.array:
    h = _wide(x) + _wide(residual)
    return (_centred(h, eps) * _wide(gamma) + _wide(beta)).astype(x.dtype)


# -- with a mask ----------------------------------------------------------------------------------
def _dropped(
    v: mx.array, p: mx.array, keep: mx.array, seed: mx.array, places: Sequence[mx.array]
) -> mx.array:
    return mx.where(uniform(seed, *places) < p, 0.0, v * keep)


@fused
def dropout(
    x: mx.array, p: mx.array, keep: mx.array, seed: mx.array, *places: mx.array
) -> mx.array:
    return _dropped(_wide(x), p, keep, seed, places).astype(x.dtype)


@fused
def rms_norm_dropout(
    x: mx.array,
    weight: mx.array,
    eps: mx.array,
    p: mx.array,
    keep: mx.array,
    seed: mx.array,
    *places: mx.array,
) -> mx.array:
    v = _wide(x)
    normed = v * _root(v, eps) * _wide(weight)
    return _dropped(normed, p, keep, seed, places).astype(x.dtype)


@fused
def layer_norm_dropout(
    x: mx.array,
    gamma: mx.array,
    beta: mx.array,
    eps: mx.array,
    p: mx.array,
    keep: mx.array,
    seed: mx.array,
    *places: mx.array,
) -> mx.array:
    normed = _centred(_wide(x), eps) * _wide(gamma) + _wide(beta)
    return _dropped(normed, p, keep, seed, places).astype(x.dtype)


# -- gated units ----------------------------------------------------------------------------------
def _gated(act: Callable[[mx.array], mx.array], x: mx.array, bias: Sequence[mx.array]) -> mx.array:
    """`bias`: of both halves, if there is one."""
    v = _wide(x) + _wide(bias[0]) if bias else _wide(x)
    a, b = mx.split(v, 2, -1)
    return (act(a) * b).astype(x.dtype)


def _silu(z: mx.array) -> mx.array:
    return z * mx.sigmoid(z)


def _gelu(z: mx.array) -> mx.array:
    """Gaussian error linear unit, tanh form (Hendrycks and Gimpel, 2016): tanh by a sigmoid."""
    near = mx.clip(z, -15.0, 15.0)  # beyond, the sigmoid is 0 or 1, and a cube would overflow
    return z * mx.sigmoid(math.sqrt(8.0 / math.pi) * (near + 0.044715 * near * near * near))


@fused
def swiglu(x: mx.array, *bias: mx.array) -> mx.array:
    return _gated(_silu, x, bias)


@fused
def geglu(x: mx.array, *bias: mx.array) -> mx.array:
    return _gated(_gelu, x, bias)
