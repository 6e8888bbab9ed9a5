"""The textbook's formulas, over NumPy's float64 and MLX's ops alike: `xp` is one of the two.

The rows of the table are written in them. The dropout mask is counted out in integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RMS_EPS, LAYER_EPS = 1e-6, 1e-5
P, SEED = 0.3, 7  # of every dropout in the table
K0, K1 = float(np.sqrt(2 / np.pi)), 0.044715


def total(x: Any) -> Any:
    return x.sum(-1, keepdims=True)


def mean(x: Any) -> Any:
    return x.mean(-1, keepdims=True)


# -- activations ----------------------------------------------------------------------------------
def sigmoid(xp: Any, z: Any) -> Any:
    return 0.5 * (1 + xp.tanh(0.5 * z))


def silu(xp: Any, z: Any) -> Any:
    return z * sigmoid(xp, z)


def gelu(xp: Any, z: Any) -> Any:
    return 0.5 * z * (1 + xp.tanh(K0 * (z + K1 * z * z * z)))


def softplus(xp: Any, z: Any) -> Any:
    return xp.maximum(z, 0) + xp.log1p(xp.exp(-xp.abs(z)))


def relu(xp: Any, z: Any) -> Any:
    return xp.where(z > 0, z, 0 * z)


def elu(xp: Any, z: Any, alpha: float) -> Any:
    return xp.where(z > 0, z, alpha * xp.expm1(xp.minimum(z, 0)))


def halves(xp: Any, act: Callable[[Any, Any], Any], x: Any, bias: Any = 0.0) -> Any:
    a, b = xp.split(x + bias, 2, -1)
    return act(xp, a) * b


# -- rows -----------------------------------------------------------------------------------------
def softmax(xp: Any, x: Any) -> Any:
    e = xp.exp(x - x.max(-1, keepdims=True))
    return e / total(e)


def logsumexp(xp: Any, x: Any) -> Any:
    m = x.max(-1, keepdims=True)
    return (m + xp.log(total(xp.exp(x - m)))).squeeze(-1)


def log_softmax(xp: Any, x: Any) -> Any:
    return x - logsumexp(xp, x)[..., None]


def kept(xp: Any, x: Any, mask: Any) -> Any:
    """Softmax over what is kept, 0 elsewhere."""
    low = xp.where(mask, x, -1e30)
    e = xp.where(mask, xp.exp(low - low.max(-1, keepdims=True)), 0.0)
    whole = total(e)
    return e / xp.where(whole == 0, 1.0, whole)


def attended(xp: Any, q: Any, k: Any, v: Any, scale: float) -> Any:
    """Causal attention, the ends of both sides aligned; heads of q share those of k and v."""
    b, heads, rows, d = q.shape
    groups, keys = k.shape[1:3]
    z = scale * q.reshape(b, groups, -1, rows, d) @ k[:, :, None].swapaxes(-1, -2)
    seen = xp.arange(keys) <= xp.arange(rows)[:, None] + (keys - rows)
    return (kept(xp, z, seen) @ v[:, :, None]).reshape(b, heads, rows, d)


def rms(xp: Any, x: Any, w: Any = 1.0, eps: float = RMS_EPS) -> Any:
    return x / xp.sqrt(mean(x * x) + eps) * w


def rms_grad(xp: Any, x: Any, w: Any, g: Any) -> Any:
    r = 1 / xp.sqrt(mean(x * x) + RMS_EPS)
    h, q = x * r, g * w
    return r * (q - h * mean(q * h))


def layer(xp: Any, x: Any, gamma: Any = 1.0, beta: Any = 0.0, eps: float = LAYER_EPS) -> Any:
    c = x - mean(x)
    return c / xp.sqrt(mean(c * c) + eps) * gamma + beta


def layer_grad(xp: Any, x: Any, gamma: Any, beta: Any, g: Any) -> Any:
    c = x - mean(x)
    r = 1 / xp.sqrt(mean(c * c) + LAYER_EPS)
    h, q = c * r, g * gamma
    return r * (q - mean(q) - h * mean(q * h))


def group(xp: Any, x: Any, gamma: Any, beta: Any, groups: int) -> Any:
    n, c = x.shape[0], x.shape[-1]
    rows = x.reshape(n, -1, groups, c // groups).swapaxes(1, 2).reshape(n, groups, -1)
    normed = layer(xp, rows).reshape(n, groups, -1, c // groups).swapaxes(1, 2)
    return normed.reshape(x.shape) * gamma + beta


# -- the mask -------------------------------------------------------------------------------------
def hash_u32(seed: int, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
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
        word: np.ndarray[Any, Any] = ((state >> shift) ^ state) * np.uint32(277803737)
        return (word >> np.uint32(22)) ^ word


def uniform(seed: int, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = (hash_u32(seed, index) >> np.uint32(8)) * 2.0**-24
    return found


def factors(shape: Sequence[int], p: float = P, seed: int = SEED) -> np.ndarray[Any, Any]:
    """What dropout multiplies by: 0 or 1 / (1 - p)."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    kept_ones = uniform(seed, index) >= np.float32(p)
    found: np.ndarray[Any, Any] = (kept_ones / (1 - p)).reshape(shape)
    return found


def dropped(xp: Any, x: Any) -> Any:
    """0 where an element is dropped, whatever it was."""
    scale = factors(x.shape)
    if xp is not np:
        scale = xp.array(scale.astype(np.float32))
    return xp.where(scale > 0, x, 0.0) * scale


# -- the rest -------------------------------------------------------------------------------------
def turned(xp: Any, x: Any, c: Any, s: Any) -> Any:
    a, b = xp.split(x, 2, -1)
    return xp.concatenate([a * c - b * s, a * s + b * c], -1)


def turned_pairs(xp: Any, x: Any, c: Any, s: Any) -> Any:
    a, b = x[..., ::2], x[..., 1::2]
    return xp.stack([a * c - b * s, a * s + b * c], -1).reshape(x.shape)


def chosen(xp: Any, x: Any, k: int) -> tuple[Any, Any]:
    if xp is np:
        order = np.argsort(-x, -1, kind="stable")[..., :k]
    else:
        order = xp.argsort(-xp.stop_gradient(x), -1)[..., :k]
    return xp.take_along_axis(x, order, -1), order.astype(xp.uint32)


def gates(xp: Any, x: Any, k: int, renormalize: bool = True) -> tuple[Any, Any]:
    values, order = chosen(xp, x, k)
    if renormalize:
        return softmax(xp, values), order
    return xp.exp(values - logsumexp(xp, x)[..., None]), order


def entropy(xp: Any, z: Any, targets: Any) -> Any:
    places = targets[..., None].astype(xp.int32)
    return logsumexp(xp, z) - xp.take_along_axis(z, places, -1).squeeze(-1)


def divergence(xp: Any, p: Any, q: Any) -> Any:
    """KL of distributions."""
    return (p * (xp.log(p) - xp.log(q))).sum(-1)


def js(xp: Any, a: Any, b: Any) -> Any:
    p, q = softmax(xp, a), softmax(xp, b)
    m = (p + q) / 2
    return (divergence(xp, p, m) + divergence(xp, q, m)) / 2


def nibbles(xp: Any, x: Any, signed: bool) -> Any:
    q = xp.stack([x & 15, x >> 4], -1).astype(xp.float32)
    return xp.where(q > 7, q - 16, q) if signed else q


def int4_groups(xp: Any, w: Any, scales: Any, biases: Any) -> Any:
    """Words as mx.quantize packs them, unpacked."""
    q = xp.stack([(w >> (4 * i)) & 15 for i in range(8)], -1).astype(xp.float32)
    found = q.reshape(*scales.shape, -1) * scales[..., None] + biases[..., None]
    return found.reshape(w.shape[0], -1)


def resized(xp: Any, x: Any, size: Sequence[int]) -> Any:
    for axis, onto in zip((1, 2), size, strict=True):
        n = x.shape[axis]
        at = (xp.arange(onto).astype(x.dtype) + 0.5) * n / onto - 0.5
        left = xp.floor(at)
        part = (at - left).reshape((-1,) + (1,) * (3 - axis))
        low, high = (xp.take(x, xp.clip(left + i, 0, n - 1).astype(xp.int32), axis) for i in (0, 1))
        x = low * (1 - part) + high * part
    return x


def convolved(xp: Any, x: Any, w: Any) -> Any:
    h, v = x.shape[1:3]
    p = xp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    return sum(p[:, i : i + h, j : j + v] * w[i, j] for i in range(3) for j in range(3))


def scattered(xp: Any, indices: Any, updates: Any, n: int) -> Any:
    if xp is np:
        out = np.zeros((n, updates.shape[1]))
        np.add.at(out, indices, updates)
        return out
    return xp.zeros((n, updates.shape[1])).at[indices].add(updates)


def adamw(xp: Any, p: Any, g: Any, m: Any, v: Any, lr: float, step: int) -> tuple[Any, Any, Any]:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    first, second = m / (1 - 0.9**step), v / (1 - 0.999**step)
    return p - lr * (first / (xp.sqrt(second) + 1e-8) + 0.01 * p), m, v


def lion(xp: Any, p: Any, g: Any, m: Any, lr: float) -> tuple[Any, Any]:
    return p - lr * xp.sign(0.9 * m + 0.1 * g), 0.99 * m + 0.01 * g


def delta(xp: Any, s: Any, q: Any, k: Any, v: Any, decay: Any, beta: Any) -> tuple[Any, Any]:
    s = s * decay[..., None, None]
    missing = (v - (s * k[..., None, :]).sum(-1)) * beta[..., None]
    s = s + missing[..., None] * k[..., None, :]
    return (s * q[..., None, :]).sum(-1), s


def walked(xp: Any, step: Any, s: Any, given: Sequence[Any], moves: Sequence[int]) -> Any:
    """`step` for each token of the arrays that move, along axis 1."""
    outputs = []
    for t in range(given[0].shape[1]):
        now = [x[:, t] if moved else x for x, moved in zip(given, moves, strict=True)]
        out, s = step(xp, s, *now)
        outputs.append(out)
    return xp.stack(outputs, 1), s


def ssm(xp: Any, s: Any, x: Any, dt: Any, a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any]:
    s = s * xp.exp(dt[..., None] * a) + (dt * x)[..., None] * b[..., None, :]
    return (s * c[..., None, :]).sum(-1) + d * x, s
