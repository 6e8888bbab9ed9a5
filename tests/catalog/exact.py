"""Gradients of the catalog's norms, softmax and gates in float64, by the textbook's formulas.

`PULL[name](arrays, cotangents)` gives the gradient of each array. Values are those of the table's
rows, of which differences must agree with these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zmlx.catalog.rows.formulas import K0, K1, LAYER_EPS, RMS_EPS, factors

Array = np.ndarray[Any, Any]
Arrays = Sequence[Array]


# -- rows -----------------------------------------------------------------------------------------
def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(x: Array) -> Array:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def softmax_pull(y: Array, g: Array) -> Array:
    return y * (g - (y * g).sum(-1, keepdims=True))


def log_softmax_pull(y: Array, g: Array) -> Array:
    return g - np.exp(y) * g.sum(-1, keepdims=True)


def rms(x: Array, w: Array | float = 1.0, eps: float = RMS_EPS) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w


def rms_pull(x: Array, w: Array, g: Array, eps: float = RMS_EPS) -> list[Array]:
    r = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    h, q = x * r, g * w
    return [r * (q - h * (q * h).mean(-1, keepdims=True)), rows_added(g * h)]


def layer(
    x: Array, gamma: Array | float = 1.0, beta: Array | float = 0.0, eps: float = LAYER_EPS
) -> Array:
    c = x - x.mean(-1, keepdims=True)
    return c / np.sqrt((c**2).mean(-1, keepdims=True) + eps) * gamma + beta


def layer_pull(x: Array, gamma: Array, g: Array, eps: float = LAYER_EPS) -> list[Array]:
    c = x - x.mean(-1, keepdims=True)
    r = 1 / np.sqrt((c**2).mean(-1, keepdims=True) + eps)
    h, q = c * r, g * gamma
    dx = r * (q - q.mean(-1, keepdims=True) - h * (q * h).mean(-1, keepdims=True))
    return [dx, rows_added(g * h), rows_added(g)]


def rows_added(terms: Array) -> Array:
    return terms.reshape(-1, terms.shape[-1]).sum(0)


# -- gated units ----------------------------------------------------------------------------------
def sigmoid(z: Array) -> Array:
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, 1.0) / (1 + e)


def silu(z: Array) -> Array:
    return z * sigmoid(z)


def silu_slope(z: Array) -> Array:
    s = sigmoid(z)
    return s + z * s * (1 - s)


def gelu(z: Array) -> Array:
    return 0.5 * z * (1 + np.tanh(K0 * (z + K1 * z**3)))


def gelu_slope(z: Array) -> Array:
    t = np.tanh(K0 * (z + K1 * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t**2) * K0 * (1 + 3 * K1 * z**2)


def gated_pull(
    act: Callable[[Array], Array], slope: Callable[[Array], Array]
) -> Callable[[Arrays, Arrays], list[Array]]:
    def run(arrays: Arrays, cotangents: Arrays) -> list[Array]:
        a, b = np.split(sum(arrays), 2, -1)  # type: ignore[call-overload]
        (g,) = cotangents
        dx = np.concatenate([g * b * slope(a), g * act(a)], -1)
        return [dx, rows_added(dx)][: len(arrays)]

    return run


# -- the tables -----------------------------------------------------------------------------------
def _norm_pull(
    pull: Callable[..., list[Array]], terms: int = 1, weights: int = 0, drops: bool = False
) -> Callable[[Arrays, Arrays], list[Array]]:
    """Gradients of a norm of the sum of `terms` arrays; a second cotangent is that of the sum."""

    def run(arrays: Arrays, cotangents: Arrays) -> list[Array]:
        h = sum(arrays[1:terms], arrays[0])
        g = cotangents[0] * (factors(h.shape) if drops else 1.0)
        scale = arrays[terms] if weights else np.ones(h.shape[-1])
        dh, *dw = pull(h, scale, g)
        if len(cotangents) > 1:
            dh = dh + cotangents[1]
        return [dh] * terms + dw[:weights]

    return run


PULL: dict[str, Callable[[Arrays, Arrays], list[Array]]] = {
    "softmax_lastdim": lambda a, g: [softmax_pull(softmax(a[0]), g[0])],
    "log_softmax_lastdim": lambda a, g: [log_softmax_pull(log_softmax(a[0]), g[0])],
    "rmsnorm": _norm_pull(rms_pull, 1, 1),
    "rms_norm_no_weight": _norm_pull(rms_pull),
    "layernorm": _norm_pull(layer_pull, 1, 2),
    "layer_norm_no_weight": _norm_pull(layer_pull),
    "layer_norm_dropout": _norm_pull(layer_pull, 1, 2, drops=True),
    "swiglu": gated_pull(silu, silu_slope),
    "geglu": gated_pull(gelu, gelu_slope),
    "bias_swiglu": gated_pull(silu, silu_slope),
    "bias_geglu": gated_pull(gelu, gelu_slope),
    "dropout": lambda a, g: [g[0] * factors(a[0].shape)],
    "rms_norm_dropout": _norm_pull(rms_pull, 1, 1, drops=True),
    "rmsnorm_residual": _norm_pull(rms_pull, 2, 1),
    "layernorm_residual": _norm_pull(layer_pull, 2, 2),
    "fused_add_rmsnorm": _norm_pull(rms_pull, 2, 1),
    "fused_add_layernorm": _norm_pull(layer_pull, 2, 2),
}


def slopes(function: Callable[..., Any], arrays: Arrays, which: int, step: float = 1e-5) -> Array:
    """The gradient of a number, `function(*arrays)`, by arrays[which]: central differences."""
    found = np.zeros(arrays[which].shape)
    for at in np.ndindex(*found.shape):
        sides = []
        for sign in (1, -1):
            moved = [np.array(a) for a in arrays]
            moved[which][at] += sign * step
            sides.append(float(function(*moved)))
        found[at] = (sides[0] - sides[1]) / (2 * step)
    return found
