"""A call of every public function of the catalog: shapes of its arrays, and its other arguments.

Tests run them under the sanitizer and show them to the Metal check. What they should compute is in
tests/catalog.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import mlx.core as mx

from tests.sanitized.census import catalog

D = 36  # more than a simdgroup, and no whole number of packs of eight
X, ROW, BOTH = (3, D), (D,), (3, 2 * D)
MASK = {"p": 0.3, "seed": 7}

# "module.function": (shapes, keyword arguments)
CALLS: dict[str, tuple[Sequence[tuple[int, ...]], dict[str, Any]]] = {
    "softmax.softmax_lastdim": ((X,), {}),
    "softmax.log_softmax_lastdim": ((X,), {}),
    "softmax.softmax_grad": ((X, X), {}),
    "softmax.log_softmax_grad": ((X, X), {}),
    "norms.rmsnorm": ((X, ROW), {}),
    "norms.rmsnorm_grad": ((X, ROW, X), {}),
    "norms.rms_norm_no_weight": ((X,), {}),
    "norms.layernorm": ((X, ROW, ROW), {}),
    "norms.layer_norm_no_weight": ((X,), {}),
    "norms.layer_norm_dropout": ((X, ROW, ROW), MASK),
    "transformer.swiglu": ((BOTH,), {}),
    "transformer.geglu": ((BOTH,), {}),
    "transformer.bias_swiglu": ((BOTH, (2 * D,)), {}),
    "transformer.bias_geglu": ((BOTH, (2 * D,)), {}),
    "transformer.dropout": ((X,), MASK),
    "transformer.rms_norm_dropout": ((X, ROW), MASK),
    "transformer.rmsnorm_residual": ((X, X, ROW), {}),
    "transformer.layernorm_residual": ((X, X, ROW, ROW), {}),
    "transformer.fused_add_rmsnorm": ((X, X, ROW), {}),
    "transformer.fused_add_layernorm": ((X, X, ROW, ROW), {}),
}
NAMES = sorted(f.removeprefix("catalog/").replace(".py:", ".") for f in catalog())
FLOATS = ("float32", "float16", "bfloat16")
GROUPS = (32, 256)  # threads of a group, where a function lets its caller say


def function(name: str, threadgroup: int | None = None) -> Callable[..., list[mx.array]]:
    """The call, as a function from arrays to a list of them."""
    module, _, called = name.partition(".")
    op, options = getattr(import_module(f"zmlx.catalog.{module}"), called), CALLS[name][1]
    more = {} if threadgroup is None else {"threadgroup": threadgroup}

    def run(*arrays: mx.array) -> list[mx.array]:
        found = op(*arrays, **options, **more)
        return [found] if isinstance(found, mx.array) else list(found)

    return run


def drawn(name: str, kind: str) -> list[mx.array]:
    return [
        mx.random.normal(shape, key=mx.random.key(i)).astype(getattr(mx, kind))
        for i, shape in enumerate(CALLS[name][0])
    ]


def transformed(name: str, kind: str, threadgroup: int | None = None) -> list[mx.array]:
    """The value, the gradients of all inputs, their gradients, and the value mapped."""
    run, arrays = function(name, threadgroup), drawn(name, kind)

    def pulled(*given: mx.array) -> list[mx.array]:
        seeds = [mx.cos(mx.arange(o.size)).reshape(o.shape).astype(o.dtype) for o in run(*given)]
        return mx.vjp(run, list(given), seeds)[1]

    ones = [mx.ones_like(a) for a in arrays]
    found = [*run(*arrays), *pulled(*arrays), *mx.vjp(pulled, arrays, ones)[1]]
    return found + mx.vmap(run)(*[mx.stack([a, a]) for a in arrays])
