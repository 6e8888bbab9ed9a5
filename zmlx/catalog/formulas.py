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
from zmlx.fuse import replay
from zmlx.fuse.api import FusedFunction, fuse
from zmlx.registry import forgets
from zmlx.trace import intercept, reductions


def fused(formula: Callable[..., Any]) -> FusedFunction:
    """`formula` by kernels, under the same name; `clear_cache` forgets them."""
    made: FusedFunction = fuse(formula)
    forgets(made.clear)
    return made


# -- what they are written in ---------------------------------------------------------------------
def wide(x: mx.array) -> mx.array:
    return x.astype(mx.float32)


def length(x: mx.array) -> Any:
    """The length of a row, known when a kernel runs."""
    tracer = intercept.current()
    if tracer is not None and tracer.sees(x):
        return reductions.counted(tracer, x, (x.ndim - 1,))
    return replay.count(x, (-1,))


def total(x: mx.array) -> mx.array:
    return mx.sum(x, -1, keepdims=True)


def root(v: mx.array, eps: mx.array) -> mx.array:
    """1 / the root of the mean square of a row."""
    return mx.rsqrt(total(v * v) / length(v) + eps)


def centred(v: mx.array, eps: mx.array) -> mx.array:
    """Rows less their mean, over their deviation.

    The variance is that of the centred row; `shift` is what its mean lost in rounding. Of rows of a
    million elements, far from zero and all but equal, rounding may leave less than nothing: the
    variance is at least a millionth of the square of what the mean was off.
    """
    count = length(v)
    apart = v - total(v) / count
    shift = mx.stop_gradient(total(apart) / count)
    off = shift * shift
    variance, least = total(apart * apart) / count - off, off * 1e-6
    variance = mx.where(variance < least, least, variance)
    return (apart - shift) * mx.rsqrt(variance + eps)


def powers(v: mx.array) -> tuple[mx.array, mx.array]:
    """Rows less their largest element, which cancels in derivatives; and e to the power of that."""
    apart = v - mx.max(mx.stop_gradient(v), -1, keepdims=True)
    return apart, mx.exp(apart)


def logsumexp(v: mx.array) -> mx.array:
    """Of rows: -infinity where all are, +infinity where one is, as its parts would give it."""
    top = mx.max(mx.stop_gradient(v), -1, keepdims=True)
    top = mx.where(mx.abs(top) == mx.inf, 0.0, top)
    return (mx.log(total(mx.exp(v - top))) + top).squeeze(-1)


# -- softmax --------------------------------------------------------------------------------------
@fused
def softmax_lastdim(x: mx.array) -> mx.array:
    _, found = powers(wide(x))
    return (found / total(found)).astype(x.dtype)


@fused
def log_softmax_lastdim(x: mx.array) -> mx.array:
    apart, found = powers(wide(x))
    return (apart - mx.log(total(found))).astype(x.dtype)


@fused
def softmax_grad(y: mx.array, cotan: mx.array) -> mx.array:
    p, g = wide(y), wide(cotan)
    return (p * (g - total(p * g))).astype(y.dtype)


@fused
def log_softmax_grad(y: mx.array, cotan: mx.array) -> mx.array:
    g = wide(cotan)
    return (g - mx.exp(wide(y)) * total(g)).astype(y.dtype)


# -- norms ----------------------------------------------------------------------------------------
@fused
def rms_norm_no_weight(x: mx.array, eps: mx.array) -> mx.array:
    v = wide(x)
    return (v * root(v, eps)).astype(x.dtype)


@fused
def rmsnorm(x: mx.array, weight: mx.array, eps: mx.array) -> mx.array:
    v = wide(x)
    return (v * root(v, eps) * wide(weight)).astype(x.dtype)


@fused
def rmsnorm_grad(x: mx.array, weight: mx.array, cotan: mx.array, eps: mx.array) -> mx.array:
    """The derivative of rmsnorm, in its order, so that both agree to the bit."""
    v, g = wide(x), wide(cotan) * wide(weight)
    inverse = root(v, eps)
    slope = -(total(g * v) * 0.5 * (inverse * (inverse * inverse))) / length(v)
    part = v * slope
    return (g * inverse + part + part).astype(x.dtype)


@fused
def layer_norm_no_weight(x: mx.array, eps: mx.array) -> mx.array:
    return centred(wide(x), eps).astype(x.dtype)


@fused
def layernorm(x: mx.array, gamma: mx.array, beta: mx.array, eps: mx.array) -> mx.array:
    return (centred(wide(x), eps) * wide(gamma) + wide(beta)).astype(x.dtype)


@fused
def rmsnorm_residual(
    x: mx.array, residual: mx.array, weight: mx.array, eps: mx.array
) -> tuple[mx.array, mx.array]:
    h = wide(x) + wide(residual)
    normed = h * root(h, eps) * wide(weight)
    return normed.astype(x.dtype), h.astype(x.dtype)


@fused
def layernorm_residual(
    x: mx.array, residual: mx.array, gamma: mx.array, beta: mx.array, eps: mx.array
) -> tuple[mx.array, mx.array]:
    h = wide(x) + wide(residual)
    normed = centred(h, eps) * wide(gamma) + wide(beta)
    return normed.astype(x.dtype), h.astype(x.dtype)


@fused
def fused_add_rmsnorm(x: mx.array, residual: mx.array, weight: mx.array, eps: mx.array) -> mx.array:
    h = wide(x) + wide(residual)
    return (h * root(h, eps) * wide(weight)).astype(x.dtype)


@fused
def fused_add_layernorm(
    x: mx.array, residual: mx.array, gamma: mx.array, beta: mx.array, eps: mx.array
) -> mx.array:
    h = wide(x) + wide(residual)
    return (centred(h, eps) * wide(gamma) + wide(beta)).astype(x.dtype)


@fused
def layernorm_grad(x: mx.array, gamma: mx.array, cotan: mx.array, eps: mx.array) -> mx.array:
    """The derivative of layernorm's x, from the same centred rows."""
    v, g = wide(x), wide(cotan) * wide(gamma)
    count = length(v)
    apart = v - total(v) / count
    apart = apart - total(apart) / count
    inverse = mx.rsqrt(total(apart * apart) / count + eps)
    h = apart * inverse
    return (inverse * (g - total(g) / count - h * (total(g * h) / count))).astype(x.dtype)


@fused
def group_norm(
    x: mx.array, gamma: mx.array, beta: mx.array, eps: mx.array, groups: int
) -> mx.array:
    batch, channels = x.shape[0], x.shape[-1]
    parts = wide(x).reshape(batch, -1, groups, channels // groups).swapaxes(1, 2)
    rows = centred(parts.reshape(batch, groups, -1), eps.reshape(()))
    back = rows.reshape(batch, groups, -1, channels // groups).swapaxes(1, 2).reshape(x.shape)
    return (back * wide(gamma) + wide(beta)).astype(x.dtype)


@fused
def norm_residual_norm(
    x: mx.array, residual: mx.array, inner: mx.array, outer: mx.array, eps: mx.array
) -> tuple[mx.array, mx.array]:
    v = wide(x)
    h = wide(residual) + v * root(v, eps) * wide(inner)
    return (h * root(h, eps) * wide(outer)).astype(x.dtype), h.astype(x.dtype)


# -- with a mask ----------------------------------------------------------------------------------
def _dropped(
    v: mx.array, p: mx.array, keep: mx.array, seed: mx.array, places: Sequence[mx.array]
) -> mx.array:
    return mx.where(uniform(seed, *places) < p, 0.0, v * keep)


@fused
def dropout(
    x: mx.array, p: mx.array, keep: mx.array, seed: mx.array, *places: mx.array
) -> mx.array:
    return _dropped(wide(x), p, keep, seed, places).astype(x.dtype)


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
    v = wide(x)
    normed = v * root(v, eps) * wide(weight)
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
    normed = centred(wide(x), eps) * wide(gamma) + wide(beta)
    return _dropped(normed, p, keep, seed, places).astype(x.dtype)


# -- gated units ----------------------------------------------------------------------------------
def _gated(act: Callable[[mx.array], mx.array], x: mx.array, bias: Sequence[mx.array]) -> mx.array:
    """`bias`: of both halves, if there is one."""
    v = wide(x) + wide(bias[0]) if bias else wide(x)
    a, b = mx.split(v, 2, -1)
    return (act(a) * b).astype(x.dtype)


@fused
def swiglu2(a: mx.array, b: mx.array) -> mx.array:
    return (silu(wide(a)) * wide(b)).astype(a.dtype)


@fused
def geglu2(a: mx.array, b: mx.array) -> mx.array:
    return (gelu(wide(a)) * wide(b)).astype(a.dtype)


def silu(z: mx.array) -> mx.array:
    return z * mx.sigmoid(z)


def gelu(z: mx.array) -> mx.array:
    """Gaussian error linear unit, tanh form (Hendrycks and Gimpel, 2016): tanh by a sigmoid."""
    near = mx.clip(z, -15.0, 15.0)  # beyond, the sigmoid is 0 or 1, and a cube would overflow
    return z * mx.sigmoid(math.sqrt(8.0 / math.pi) * (near + 0.044715 * near * near * near))


@fused
def swiglu(x: mx.array, *bias: mx.array) -> mx.array:
    return _gated(silu, x, bias)


@fused
def geglu(x: mx.array, *bias: mx.array) -> mx.array:
    return _gated(gelu, x, bias)
