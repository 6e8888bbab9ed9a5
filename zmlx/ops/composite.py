"""Composites: functions of mlx.core and mlx.nn that are made of rows, in MLX's own order of ops.

COMPOSITES maps "mlx.core.clip", "mlx.nn.gelu", ... to functions that take `F`, a namespace with
one function per row (F.add(a, b), F.exp(x), F.astype(x, dtype)), then MLX's own parameters. The
tracer calls them with proxies, the tests with mlx.core itself; Python numbers stay weak.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx

Composite = Callable[..., Any]
COMPOSITES: dict[str, Composite] = {}

_LARGEST = {
    mx.float16: 65504.0,
    mx.bfloat16: 3.3895313892515355e38,
    mx.float32: 3.4028234663852886e38,
}


def _register(module: str) -> Callable[[Composite], Composite]:
    def register(function: Composite) -> Composite:
        COMPOSITES[f"mlx.{module}.{function.__name__.lstrip('_')}"] = function
        return function

    return register


_core, _nn = _register("core"), _register("nn")


def parameters(name: str) -> list[inspect.Parameter]:
    """The MLX function's own parameters, as the composite `name` takes them."""
    return list(inspect.signature(COMPOSITES[name]).parameters.values())[1:]


def _inexact(value: Any) -> bool:
    """Whether a value (array or Python number) is of a float or complex type."""
    if hasattr(value, "dtype"):
        return mx.issubdtype(value.dtype, mx.inexact)
    return isinstance(value, (float, complex))


# -- mlx.core -------------------------------------------------------------------------------------
@_core
def clip(F: Any, a: Any, a_min: Any, a_max: Any) -> Any:
    if a_min is None and a_max is None:
        raise ValueError("[clip] At most one of a_min and a_max may be None")
    if a_min is not None:
        a = F.maximum(a, a_min)
    return a if a_max is None else F.minimum(a, a_max)


@_core
def isnan(F: Any, a: Any) -> Any:
    return F.not_equal(a, a) if _inexact(a) else _never(F, a)


def _never(F: Any, a: Any) -> Any:
    """False for every integer: in MLX it depends on no value, so that no gradient flows."""
    still = F.stop_gradient(a) if hasattr(a, "dtype") else a
    return F.not_equal(still, still)


@_core
def isposinf(F: Any, a: Any) -> Any:
    return F.equal(a, math.inf) if _inexact(a) else _never(F, a)


@_core
def isneginf(F: Any, a: Any) -> Any:
    return F.equal(a, -math.inf) if _inexact(a) else _never(F, a)


@_core
def isinf(F: Any, a: Any) -> Any:
    return F.logical_or(isposinf(F, a), isneginf(F, a)) if _inexact(a) else _never(F, a)


@_core
def isfinite(F: Any, a: Any) -> Any:
    if not _inexact(a):
        return F.logical_not(_never(F, a))
    return F.logical_not(F.logical_or(isinf(F, a), isnan(F, a)))


@_core
def nan_to_num(
    F: Any, a: Any, nan: float = 0, posinf: float | None = None, neginf: float | None = None
) -> Any:
    if not _inexact(a):
        return F.stop_gradient(a)
    largest = _LARGEST[a.dtype] if hasattr(a, "dtype") else _LARGEST[mx.float32]
    high = largest if posinf is None else posinf
    low = -largest if neginf is None else neginf
    out = F.where(isnan(F, a), float(nan), a)
    out = F.where(isposinf(F, a), float(high), out)
    return F.where(isneginf(F, a), float(low), out)


@_core
def degrees(F: Any, a: Any) -> Any:
    return F.multiply(_to_float(F, a), 180.0 / math.pi)


@_core
def radians(F: Any, a: Any) -> Any:
    return F.multiply(_to_float(F, a), math.pi / 180.0)


def _to_float(F: Any, a: Any) -> Any:
    return a if _inexact(a) or not hasattr(a, "dtype") else F.astype(a, mx.float32)


@_core
def trunc(F: Any, a: Any) -> Any:
    if not _inexact(a):
        return a
    return F.where(F.less(a, 0.0), F.ceil(a), F.floor(a))


@_core
def positive(F: Any, a: Any) -> Any:
    return a


@_core
def logical_xor(F: Any, a: Any, b: Any) -> Any:
    return F.not_equal(F.logical_not(a), F.logical_not(b))


@_core
def _round(F: Any, a: Any, decimals: int = 0) -> Any:
    if decimals == 0:
        return F.round(a)
    scale = float(10.0**decimals)
    out = F.multiply(F.round(F.multiply(_to_float(F, a), scale)), 1.0 / scale)
    return out if _inexact(a) else F.astype(out, a.dtype)


@_core
def isclose(
    F: Any, a: Any, b: Any, rtol: float = 1e-05, atol: float = 1e-08, *, equal_nan: bool = False
) -> Any:
    near = F.add(F.multiply(_single(F, F.abs(b)), rtol), atol)
    out = F.less_equal(F.abs(F.subtract(a, b)), near)
    infinite = F.logical_or(isinf(F, a), isinf(F, b))
    out = F.logical_and(out, F.logical_not(infinite))
    for same in (isposinf, isneginf):
        out = F.logical_or(out, F.logical_and(same(F, a), same(F, b)))
    return F.logical_or(out, F.logical_and(isnan(F, a), isnan(F, b))) if equal_nan else out


def _single(F: Any, a: Any) -> Any:
    """`a` in float32 at least: MLX's tolerances are float32 arrays, not weak numbers."""
    return a if a.dtype in (mx.float32, mx.float64, mx.complex64) else F.astype(a, mx.float32)


@_core
def zeros_like(F: Any, a: Any, dtype: Any = None) -> Any:
    return F.zeros_like(a) if dtype is None else F.astype(F.zeros_like(a), dtype)


@_core
def ones_like(F: Any, a: Any, dtype: Any = None) -> Any:
    return F.ones_like(a) if dtype is None else F.astype(F.ones_like(a), dtype)


# -- mlx.nn ---------------------------------------------------------------------------------------
@_nn
def sigmoid(F: Any, x: Any) -> Any:
    return F.sigmoid(x)


@_nn
def tanh(F: Any, x: Any) -> Any:
    return F.tanh(x)


@_nn
def relu(F: Any, x: Any) -> Any:
    return F.maximum(x, 0)


@_nn
def relu2(F: Any, x: Any) -> Any:
    return F.square(F.maximum(x, 0))


@_nn
def relu6(F: Any, x: Any) -> Any:
    return F.minimum(F.maximum(x, 0), 6.0)


@_nn
def leaky_relu(F: Any, x: Any, negative_slope: float = 0.01) -> Any:
    return F.maximum(F.multiply(negative_slope, x), x)


@_nn
def elu(F: Any, x: Any, alpha: float = 1.0) -> Any:
    return F.where(F.greater(x, 0), x, F.multiply(alpha, F.subtract(F.exp(x), 1)))


@_nn
def softplus(F: Any, x: Any) -> Any:
    return F.logaddexp(x, 0)


@_nn
def softsign(F: Any, x: Any) -> Any:
    return F.divide(x, F.add(1, F.abs(x)))


@_nn
def softshrink(F: Any, x: Any, lambd: float = 0.5) -> Any:
    shrunk = F.subtract(x, F.multiply(F.sign(x), lambd))
    return F.where(F.greater(F.abs(x), lambd), shrunk, 0)


@_nn
def celu(F: Any, x: Any, alpha: float = 1.0) -> Any:
    negative = F.subtract(F.exp(F.divide(F.minimum(x, 0.0), alpha)), 1)
    return F.add(F.maximum(x, 0.0), F.multiply(alpha, negative))


@_nn
def silu(F: Any, x: Any) -> Any:
    return F.multiply(x, F.sigmoid(x))


@_nn
def log_sigmoid(F: Any, x: Any) -> Any:
    return F.negative(softplus(F, F.negative(x)))


@_nn
def gelu(F: Any, x: Any) -> Any:
    return F.divide(F.multiply(x, F.add(1, F.erf(F.divide(x, math.sqrt(2))))), 2)


@_nn
def gelu_approx(F: Any, x: Any) -> Any:
    cubic = F.add(x, F.multiply(0.044715, F.power(x, 3)))
    return F.multiply(
        F.multiply(0.5, x), F.add(1, F.tanh(F.multiply(math.sqrt(2 / math.pi), cubic)))
    )


@_nn
def gelu_fast_approx(F: Any, x: Any) -> Any:
    return F.multiply(x, F.sigmoid(F.multiply(1.702, x)))


@_nn
def step(F: Any, x: Any, threshold: float = 0.0) -> Any:
    return F.where(F.greater_equal(x, threshold), 1, 0)


@_nn
def selu(F: Any, x: Any) -> Any:
    return F.multiply(elu(F, x, 1.67326), 1.0507)


@_nn
def prelu(F: Any, x: Any, alpha: Any) -> Any:
    return F.add(F.maximum(0, x), F.multiply(alpha, F.minimum(0, x)))


@_nn
def mish(F: Any, x: Any) -> Any:
    return F.multiply(x, F.tanh(softplus(F, x)))


@_nn
def hardswish(F: Any, x: Any) -> Any:
    raised = F.maximum(F.add(x, 3), 0)
    return F.divide(F.multiply(x, F.minimum(raised, 6)), 6)


@_nn
def hard_tanh(F: Any, x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    return F.minimum(F.maximum(x, min_val), max_val)


@_nn
def hard_shrink(F: Any, x: Any, lambd: float = 0.5) -> Any:
    return F.where(F.greater(F.abs(x), lambd), x, 0)
