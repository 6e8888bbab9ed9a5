"""Row-wise ops for tests: softmax and norms by map_reduce, and the same in float64."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from zmlx import rowwise

SOFTMAX: dict[str, Any] = {
    "pass1_init": "-INFINITY",
    "pass1_update": "metal::max(acc1, x)",
    "pass1_reduce_op": "metal::max(a, b)",
    "pass2_init": "0.0f",
    "pass2_update": "acc2 + metal::exp(x - s1)",
    "pass2_reduce_op": "a + b",
    "write_expr": "metal::exp(x - s1) / s2",
}
LAYERNORM: dict[str, Any] = {
    "pass1_init": "0.0f",
    "pass1_update": "acc1 + x",
    "pass1_reduce_op": "a + b",
    "pass2_init": "0.0f",
    "pass2_update": "acc2 + (x - s1 / d) * (x - s1 / d)",
    "pass2_reduce_op": "a + b",
    "write_expr": "(x - s1 / d) * metal::rsqrt(s2 / d + eps) * gamma + beta",
    "input_names": ("inp", "gamma", "beta", "eps"),
}
RMSNORM: dict[str, Any] = {
    "pass1_init": "0.0f",
    "pass1_update": "acc1 + x * x",
    "pass1_reduce_op": "a + b",
    "pass2_init": "0.0f",
    "pass2_update": "acc2",
    "pass2_reduce_op": "a + b",
    "write_expr": "x * metal::rsqrt(s1 / d + 1e-6f) * w",
    "input_names": ("inp", "w"),
}
FARTHEST: dict[str, Any] = {
    "pass1_init": "0.0f", "pass1_update": "metal::abs(x) > metal::abs(acc1) ? x : acc1",
    "pass1_reduce_op": "metal::abs(a) > metal::abs(b) ? a : b",
    "pass2_init": "0.0f", "pass2_update": "acc2 + (x > s1 * w ? 1.0f : 0.0f)",
    "pass2_reduce_op": "a + b", "write_expr": ("s1", "s2"),
    "input_names": ("x", "w"), "output_names": ("far", "count"),
}  # fmt: skip  # no reduction of the op table
KINDS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
RTOL = {"float32": 4e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
SIZES = (1, 7, 32, 33, 1000, 4096)


def op(what: dict[str, Any], d: int, **changes: Any) -> Any:
    return rowwise.map_reduce(**{"name": "row_op", **what, "d": d, **changes})


def drawn(shape: tuple[int, ...], kind: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape)).astype(kind)


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), np.float64)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layernorm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * gamma + beta


def rmsnorm(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * w
