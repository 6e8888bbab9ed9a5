"""Functions that fold rows, written out in plain ops, with their float64 references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from fuse_cases import array, flat, numpy

EPS = 1e-5


@dataclass(frozen=True)
class RowCase:
    """`shapes` gives the inputs' shapes for that of the first; `reference` takes float64."""

    fn: Callable[..., Any]
    reference: Callable[..., Any]
    shapes: Callable[[tuple[int, ...]], Sequence[tuple[int, ...]]]
    kernels: int = 1


def _alone(s: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [s]


def _weight(s: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [s, s[-1:]]


def _mean(x: Any) -> Any:
    return x.sum(-1, keepdims=True) / x.shape[-1]


def rms_norm(x: Any, w: Any) -> Any:
    return x * mx.rsqrt(_mean(x * x) + EPS) * w


def residual_rms(x: Any, r: Any, w: Any) -> Any:
    h = x + r
    return h, h * mx.rsqrt(_mean(h * h) + EPS) * w


def layer_norm(x: Any, w: Any, b: Any) -> Any:
    centred = x - _mean(x)
    return centred * mx.rsqrt(_mean(centred * centred) + EPS) * w + b


def softmax(x: Any) -> Any:
    e = mx.exp(x - mx.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def masked_softmax(x: Any, mask: Any) -> Any:
    return softmax(x * 0.125 + mask)


def log_softmax(x: Any) -> Any:
    low = x - mx.stop_gradient(x.max(-1, keepdims=True))
    return low - mx.log(mx.exp(low).sum(-1, keepdims=True))


def logsumexp(x: Any) -> Any:
    top = mx.stop_gradient(x.max(-1, keepdims=True))
    return mx.log(mx.exp(x - top).sum(-1, keepdims=True)) + top


def unit(x: Any) -> Any:
    return x / mx.sqrt((x * x).sum(-1, keepdims=True) + EPS)


def scaled(x: Any) -> Any:
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    return (x - low) / (high - low + EPS)


def gated_norm(x: Any, w: Any, g: Any) -> Any:
    y = rms_norm(x, w)
    return y * mx.sigmoid(y) * g


def _np_softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _np_rms(x: Any, w: Any) -> Any:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w


def _np_lse(x: Any) -> Any:
    top = x.max(-1, keepdims=True)
    return np.log(np.exp(x - top).sum(-1, keepdims=True)) + top


def _np_gated(x: Any, w: Any, g: Any) -> Any:
    y = _np_rms(x, w)
    return y / (1 + np.exp(-y)) * g


def _np_layer(x: Any, w: Any, b: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + EPS) * w + b


CASES: dict[str, RowCase] = {
    "rms_norm": RowCase(rms_norm, _np_rms, _weight),
    "residual_rms": RowCase(
        residual_rms, lambda x, r, w: (x + r, _np_rms(x + r, w)), lambda s: [s, s, s[-1:]]
    ),
    "layer_norm": RowCase(layer_norm, _np_layer, lambda s: [s, s[-1:], s[-1:]]),
    "softmax": RowCase(softmax, _np_softmax, _alone),
    "masked_softmax": RowCase(
        masked_softmax, lambda x, m: _np_softmax(x * 0.125 + m), lambda s: [s, s[-2:]]
    ),
    "log_softmax": RowCase(log_softmax, lambda x: x - _np_lse(x), _alone),
    "logsumexp": RowCase(logsumexp, _np_lse, _alone),
    "unit": RowCase(
        unit, lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True) + EPS), _alone
    ),
    "scaled": RowCase(
        scaled,
        lambda x: (x - x.min(-1, keepdims=True))
        / (x.max(-1, keepdims=True) - x.min(-1, keepdims=True) + EPS),
        _alone,
    ),
    "gated_norm": RowCase(gated_norm, _np_gated, lambda s: [s, s[-1:], (*s[:-1], 1)]),
}  # fmt: skip


# -- how close results are ------------------------------------------------------------------------
UNITS = {mx.float32: 2.0**-22, mx.float16: 2.0**-9, mx.bfloat16: 2.0**-6}


def distance(got: Any, want: Any) -> float:
    """The largest error, in units of the largest value."""
    pairs = zip(flat(got), want if isinstance(want, tuple) else (want,), strict=True)
    found = []
    for g, w in pairs:
        error = np.abs(np.nan_to_num(numpy(g).astype(np.float64), nan=np.inf, posinf=np.inf) - w)
        found.append(error.max() / max(1.0, np.abs(w).max()))
    return float(max(found))


def allowed(plain: float, dtype: mx.Dtype) -> float:
    """Twice what plain MLX errs by, but where its sum in a half type has no room."""
    return max(2 * plain if np.isfinite(plain) else 0.0, 4 * UNITS[dtype])


def doubles(arrays: list[mx.array]) -> list[np.ndarray]:
    return [numpy(a).astype(np.float64) for a in arrays]


def pulled(fn: Any, arrays: list[mx.array]) -> list[mx.array]:
    """The gradients of all results, weighted with numbers of their own."""
    weights = [array(50 + i, *o.shape, dtype=o.dtype) for i, o in enumerate(flat(fn(*arrays)))]
    return mx.vjp(lambda *a: tuple(flat(fn(*a))), arrays, weights)[1]
