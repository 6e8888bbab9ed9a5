"""The catalog in float64: values and gradients by the textbook's formulas, the mask by integers.

Nothing here comes from zmlx. `FORWARD[name](*arrays)` gives a tuple of outputs, and
`PULL[name](arrays, cotangents)` the gradient of each array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = Sequence[Array]
RMS_EPS, LAYER_EPS = 1e-6, 1e-5
P, SEED = 0.3, 7  # of every dropout in the tables
K0, K1 = np.sqrt(2 / np.pi), 0.044715


# -- the mask -------------------------------------------------------------------------------------
def hash_u32(seed: int, index: Array) -> Array:
    """Three LCG steps, two rounds of products, PCG's output permutation; all modulo 2**32."""
    with np.errstate(over="ignore"):
        index = np.asarray(index, np.uint64)
        words = [
            index.astype(np.uint32),
            (index >> np.uint64(32)).astype(np.uint32),
            np.full(index.shape, seed, np.uint32),
        ]
        words = [w * np.uint32(1664525) + np.uint32(1013904223) for w in words]
        for round_ in range(2):
            for i in range(3):
                words[i] = words[i] + words[(i + 1) % 3] * words[(i + 2) % 3]
            if round_ == 0:
                words = [w ^ (w >> np.uint32(16)) for w in words]
        state = words[0] ^ words[2]
        shift = (state >> np.uint32(28)) + np.uint32(4)
        word = ((state >> shift) ^ state) * np.uint32(277803737)
        return (word >> np.uint32(22)) ^ word


def uniform(seed: int, index: Array) -> Array:
    return (hash_u32(seed, index) >> np.uint32(8)) * 2.0**-24


def factors(shape: Sequence[int], p: float = P, seed: int = SEED) -> Array:
    """What dropout multiplies by: 0 or 1 / (1 - p)."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    kept = uniform(seed, index) >= np.float32(p)
    return (kept / (1 - p)).reshape(shape)


def dropped(x: Array) -> Array:
    """0 where an element is dropped, whatever it was."""
    scale = factors(x.shape)
    return np.where(scale > 0, x, 0.0) * scale


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


def gated(act: Callable[[Array], Array]) -> Callable[..., tuple[Array]]:
    def run(x: Array, bias: Array | float = 0.0) -> tuple[Array]:
        a, b = np.split(x + bias, 2, -1)
        return (act(a) * b,)

    return run


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


FORWARD: dict[str, Callable[..., tuple[Array, ...]]] = {
    "softmax_lastdim": lambda x: (softmax(x),),
    "log_softmax_lastdim": lambda x: (log_softmax(x),),
    "softmax_grad": lambda y, g: (softmax_pull(y, g),),
    "log_softmax_grad": lambda y, g: (log_softmax_pull(y, g),),
    "rmsnorm": lambda x, w: (rms(x, w),),
    "rmsnorm_grad": lambda x, w, g: (rms_pull(x, w, g)[0],),
    "rms_norm_no_weight": lambda x: (rms(x),),
    "layernorm": lambda x, w, b: (layer(x, w, b),),
    "layer_norm_no_weight": lambda x: (layer(x),),
    "layer_norm_dropout": lambda x, w, b: (dropped(layer(x, w, b)),),
    "swiglu": gated(silu),
    "geglu": gated(gelu),
    "bias_swiglu": gated(silu),
    "bias_geglu": gated(gelu),
    "dropout": lambda x: (dropped(x),),
    "rms_norm_dropout": lambda x, w: (dropped(rms(x, w)),),
    "rmsnorm_residual": lambda x, r, w: (rms(x + r, w), x + r),
    "layernorm_residual": lambda x, r, w, b: (layer(x + r, w, b), x + r),
    "fused_add_rmsnorm": lambda x, r, w: (rms(x + r, w),),
    "fused_add_layernorm": lambda x, r, w, b: (layer(x + r, w, b),),
}
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
