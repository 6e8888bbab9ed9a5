"""Functions over calls of MLX that are written out, with their float64 references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from scipy import special

EPS = 1e-5
Shapes = Callable[[tuple[int, ...]], Sequence[tuple[int, ...]]]


@dataclass(frozen=True)
class DefinitionCase:
    """`shapes` gives the inputs' shapes for that of the first; `reference` takes float64."""

    fn: Callable[..., Any]
    reference: Callable[..., Any]
    shapes: Shapes = lambda s: [s]
    calls: int = 1  # that are written out


def _two(s: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [s, s]


def _row(s: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [s, s[-1:]]


def _rows(s: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [s, s[-1:], s[-1:]]


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _normed(x: Any, weight: Any = 1.0, bias: Any = 0.0, centred: bool = False) -> Any:
    moved = x - x.mean(-1, keepdims=True) if centred else x
    return moved / np.sqrt((moved**2).mean(-1, keepdims=True) + EPS) * weight + bias


def _norm(x: Any, order: Any = None) -> Any:
    return np.linalg.norm(x, ord=order, axis=-1, keepdims=True)


def rms_norm(x: mx.array, w: mx.array) -> mx.array:
    return mx.fast.rms_norm(x, w, EPS)


def residual(x: mx.array, r: mx.array, w: mx.array) -> Any:
    h = x + r
    return h, rms_norm(h, w)


def gated(x: mx.array, w: mx.array, g: mx.array) -> mx.array:
    return rms_norm(x, w) * nn.silu(g)


def by_module(x: mx.array, r: mx.array, w: mx.array) -> mx.array:
    norm = nn.RMSNorm(4, eps=EPS)
    norm.weight = w
    return norm(x + r)


def layer(x: mx.array, w: mx.array, b: mx.array) -> mx.array:
    return nn.silu(mx.fast.layer_norm(x, w, b, EPS))


def _np_layer(x: Any, w: Any, b: Any) -> Any:
    y = _normed(x, w, b, True)
    return y * _sigmoid(y)


CASES: dict[str, DefinitionCase] = {
    "mean": DefinitionCase(
        lambda x: x - mx.mean(x, -1, keepdims=True), lambda x: x - x.mean(-1, keepdims=True)
    ),
    "mean, axis not kept": DefinitionCase(
        lambda x: (x - mx.mean(x, -1)[..., None]) * 2,
        lambda x: (x - x.mean(-1, keepdims=True)) * 2,
    ),
    "mean at the end": DefinitionCase(
        lambda x, y: mx.mean(mx.square(x - y), axis=-1), lambda x, y: ((x - y) ** 2).mean(-1), _two
    ),
    "mean of all": DefinitionCase(
        lambda x, y: mx.mean(mx.square(x - y)), lambda x, y: ((x - y) ** 2).mean(), _two
    ),
    "var": DefinitionCase(
        lambda x: x * mx.rsqrt(mx.var(x, axis=-1, keepdims=True) + 1),
        lambda x: x / np.sqrt(x.var(-1, keepdims=True) + 1),
    ),
    "std alone": DefinitionCase(lambda x: mx.std(x, axis=-1), lambda x: x.std(-1)),
    "mean and var": DefinitionCase(
        lambda x: (mx.mean(x, -1), mx.var(x, -1)), lambda x: (x.mean(-1), x.var(-1)), calls=2
    ),
    "softmax": DefinitionCase(
        lambda x, m: mx.softmax(x * 0.125 + m, axis=-1),
        lambda x, m: special.softmax(x * 0.125 + m, -1), lambda s: [s, s[-2:]],
    ),
    "softmax, precise": DefinitionCase(
        lambda x: mx.softmax(x, axis=-1, precise=True) * 3, lambda x: special.softmax(x, -1) * 3
    ),
    "log_softmax": DefinitionCase(
        lambda x: nn.log_softmax(x, axis=-1), lambda x: special.log_softmax(x, -1)
    ),
    "logsumexp": DefinitionCase(
        lambda x: mx.logsumexp(x * 2, axis=-1), lambda x: special.logsumexp(x * 2, -1)
    ),
    "unit": DefinitionCase(
        lambda x: x / (mx.linalg.norm(x, axis=-1, keepdims=True) + EPS),
        lambda x: x / (_norm(x) + EPS),
    ),
    "norm, 1": DefinitionCase(
        lambda x: mx.linalg.norm(x, 1, -1, True) + x, lambda x: _norm(x, 1) + x
    ),
    "rms_norm, gated": DefinitionCase(
        gated, lambda x, w, g: _normed(x, w) * g * _sigmoid(g), lambda s: [s, s[-1:], s]
    ),
    "rms_norm, residual": DefinitionCase(
        residual, lambda x, r, w: (x + r, _normed(x + r, w)), lambda s: [s, s, s[-1:]]
    ),
    "nn.RMSNorm": DefinitionCase(
        by_module, lambda x, r, w: _normed(x + r, w), lambda s: [s, s, s[-1:]]
    ),
    "layer_norm": DefinitionCase(layer, _np_layer, _rows),
    "kl_div": DefinitionCase(
        lambda x, y: nn.losses.kl_div_loss(nn.log_softmax(x), nn.log_softmax(y)),
        lambda x, y: (
            special.softmax(y, -1) * (special.log_softmax(y, -1) - special.log_softmax(x, -1))
        ).sum(-1),
        _two, calls=2,
    ),
    "mse": DefinitionCase(nn.losses.mse_loss, lambda x, y: ((x - y) ** 2).mean(), _two),
    "cosine": DefinitionCase(
        lambda x, y: nn.losses.cosine_similarity_loss(x, y, axis=-1),
        lambda x, y: (x * y).sum(-1) / np.maximum(_norm(x)[..., 0] * _norm(y)[..., 0], 1e-8),
        _two, calls=2,
    ),
}  # fmt: skip
