"""Cases for tests of the catalog: each function with the shapes of its arrays and MLX's own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from tests.catalog import exact
from tests.catalog.exact import LAYER_EPS, RMS_EPS, SEED, P
from zmlx.kernels import norms, softmax, transformer

KINDS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# Half a unit in the last place of the type, and what float32 arithmetic adds.
RTOL = {"float32": 3e-6, "float16": 2.0**-11 + 5e-6, "bfloat16": 2.0**-8 + 5e-6}
ATOL = 2e-6  # of the largest element: sums over a row may cancel
SIZES = (1, 2, 7, 33, 128, 1000, 4096)


@dataclass(frozen=True)
class Case:
    """`takes` has a letter for each array: x as large as the result, X with twice its row, and
    w, W one such row."""

    name: str
    call: Callable[..., Any]
    takes: str
    plain: Callable[..., Any]  # of float32 arrays
    threads: bool = True  # has `threadgroup`

    def shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Shapes of the arrays for a result of this shape."""
        *lead, d = shape
        full = {"x": (*lead, d), "X": (*lead, 2 * d), "w": (d,), "W": (2 * d,)}
        return [full[letter] for letter in self.takes]

    def arrays(self, shape: Sequence[int], kind: mx.Dtype, seed: int = 0) -> list[mx.array]:
        return [drawn(s, kind, seed + i) for i, s in enumerate(self.shapes(shape))]

    def run(self, *arrays: mx.array, **options: Any) -> list[mx.array]:
        return listed(self.call(*arrays, **options))

    def exact(self, arrays: Sequence[mx.array]) -> list[np.ndarray]:
        return list(exact.FORWARD[self.name](*[wide(a) for a in arrays]))

    def pulled(self, arrays: Sequence[mx.array], g: Sequence[mx.array]) -> list[np.ndarray]:
        """Exact gradients of all arrays."""
        return exact.PULL[self.name]([wide(a) for a in arrays], [wide(c) for c in g])

    @property
    def drops(self) -> bool:
        return "dropout" in self.name


def listed(found: Any) -> list[mx.array]:
    return [found] if isinstance(found, mx.array) else list(found)


def drawn(shape: Sequence[int], kind: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape)).astype(kind)


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), np.float64)


def close(
    found: mx.array,
    wanted: np.ndarray,
    kind: str,
    more: float = 1.0,
    what: str = "",
    terms: float = 1.0,
) -> None:
    """`terms` is the size of what was added up or subtracted, where the result is smaller."""
    assert found.shape == wanted.shape and found.dtype == KINDS[kind], what
    limit = more * ATOL * max(terms, np.abs(wanted).max(initial=0.0))
    np.testing.assert_allclose(wide(found), wanted, more * RTOL[kind], limit, err_msg=what)


# -- the same with MLX's ops ----------------------------------------------------------------------
def rms(x: mx.array, w: Any = 1.0) -> mx.array:
    return x * mx.rsqrt((x * x).mean(-1, keepdims=True) + RMS_EPS) * w


def layer(x: mx.array, gamma: Any = 1.0, beta: Any = 0.0) -> mx.array:
    c = x - x.mean(-1, keepdims=True)
    return c * mx.rsqrt((c * c).mean(-1, keepdims=True) + LAYER_EPS) * gamma + beta


def mask(x: mx.array) -> mx.array:
    return x * mx.array(exact.factors(x.shape).astype(np.float32))


def silu(z: mx.array) -> mx.array:
    return z * mx.sigmoid(z)


def gelu(z: mx.array) -> mx.array:
    return 0.5 * z * (1 + mx.tanh(float(exact.K0) * (z + exact.K1 * z * z * z)))


def gated(act: Callable[[mx.array], mx.array], x: mx.array, bias: Any = 0.0) -> mx.array:
    a, b = mx.split(x + bias, 2, -1)
    return act(a) * b


def log_softmax(x: mx.array) -> mx.array:
    return x - mx.logsumexp(x, -1, keepdims=True)


def dropping(f: Callable[..., mx.array]) -> Callable[..., mx.array]:
    return lambda *arrays, **options: f(*arrays, P, SEED, **options)


_ALL = [
    Case("softmax_lastdim", softmax.softmax_lastdim, "x", lambda x: mx.softmax(x, -1)),
    Case("log_softmax_lastdim", softmax.log_softmax_lastdim, "x", log_softmax),
    Case("softmax_grad", softmax.softmax_grad, "xx",
         lambda y, g: y * (g - (y * g).sum(-1, keepdims=True))),
    Case("log_softmax_grad", softmax.log_softmax_grad, "xx",
         lambda y, g: g - mx.exp(y) * g.sum(-1, keepdims=True)),
    Case("rmsnorm", norms.rmsnorm, "xw", rms),
    Case("rmsnorm_grad", norms.rmsnorm_grad, "xwx",
         lambda x, w, g: mx.vjp(lambda v: rms(v, w), [x], [g])[1][0]),
    Case("rms_norm_no_weight", norms.rms_norm_no_weight, "x", rms),
    Case("layernorm", norms.layernorm, "xww", layer),
    Case("layer_norm_no_weight", norms.layer_norm_no_weight, "x", layer),
    Case("layer_norm_dropout", dropping(norms.layer_norm_dropout), "xww",
         lambda *a: mask(layer(*a))),
    Case("swiglu", transformer.swiglu, "X", lambda x: gated(silu, x), False),
    Case("geglu", transformer.geglu, "X", lambda x: gated(gelu, x), False),
    Case("bias_swiglu", transformer.bias_swiglu, "XW", lambda x, b: gated(silu, x, b), False),
    Case("bias_geglu", transformer.bias_geglu, "XW", lambda x, b: gated(gelu, x, b), False),
    Case("dropout", dropping(transformer.dropout), "x", mask, False),
    Case("rms_norm_dropout", dropping(transformer.rms_norm_dropout), "xw",
         lambda *a: mask(rms(*a))),
    Case("rmsnorm_residual", transformer.rmsnorm_residual, "xxw",
         lambda x, r, w: (rms(x + r, w), x + r)),
    Case("layernorm_residual", transformer.layernorm_residual, "xxww",
         lambda x, r, w, b: (layer(x + r, w, b), x + r)),
    Case("fused_add_rmsnorm", transformer.fused_add_rmsnorm, "xxw",
         lambda x, r, w: rms(x + r, w)),
    Case("fused_add_layernorm", transformer.fused_add_layernorm, "xxww",
         lambda x, r, w, b: layer(x + r, w, b)),
]  # fmt: skip
CASES = {case.name: case for case in _ALL}
PULLED = {name: CASES[name] for name in exact.PULL}  # those that are no backward pass themselves
