"""Activations: factories of elementwise functions that are differentiable to any order.

`silu()` and its twin `silu_grad()` give the same callable f(x): any shape, x's shape and type. The
same arguments always give the same callable. All arithmetic is float32, rounded once, whatever
`compute_dtype_key` says, which is "float32", "float16" or "bfloat16". Formulas: ELU after Clevert
et al. (arXiv:1511.07289), GELU after Hendrycks and Gimpel (arXiv:1606.08415), Mish after Misra
(arXiv:1908.08681).
"""

from __future__ import annotations

import math
from functools import lru_cache

import mlx.core as mx

from zmlx.catalog.common import Call, number_array
from zmlx.catalog.formulas import fused, gelu, wide
from zmlx.catalog.formulas import silu as silu_of
from zmlx.fuse.api import FusedFunction
from zmlx.registry import forgets

__all__ = [
    *("elu", "elu_grad", "exp", "exp_grad", "gelu_tanh", "gelu_tanh_grad", "log", "log_grad"),
    *(
        "mish",
        "mish_grad",
        "relu",
        "relu_grad",
        "relu_squared",
        "sigmoid",
        "sigmoid_grad",
        "silu",
        "silu_grad",
    ),
    *("softplus", "softplus_grad", "tanh", "tanh_grad"),
]

MODULE = "activations"
KEYS = ("float32", "float16", "bfloat16")


class Activation:
    """An elementwise function of one array: any shape; float32, float16 or bfloat16."""

    def __init__(self, name: str, formula: FusedFunction, alpha: float | None) -> None:
        self.__name__, self._formula, self._alpha = name, formula, alpha

    def __call__(self, x: mx.array) -> mx.array:
        x = Call(MODULE, self.__name__).array("x", x)
        more = () if self._alpha is None else (number_array(self._alpha, x.ndim),)
        found: mx.array = self._formula(x, *more)
        return found

    def __repr__(self) -> str:
        return f"<zmlx.activations {self.__name__}>"


def check_key(module: str, name: str, compute_dtype_key: object) -> None:
    """ValueError for what names no compute type."""
    if compute_dtype_key not in KEYS:
        wanted = '"float32", "float16" or "bfloat16"'
        raise Call(module, name).wrong("compute_dtype_key", repr(compute_dtype_key), wanted)


@lru_cache(maxsize=256)
def _kept(name: str, alpha: float | None) -> Activation:
    return Activation(name, _FORMULAS[name], alpha)


forgets(_kept.cache_clear)


def _made(name: str, compute_dtype_key: str, alpha: float | None = None) -> Activation:
    check_key(MODULE, name, compute_dtype_key)
    return _kept(name, alpha)


# -- formulas -------------------------------------------------------------------------------------
def _plus(z: mx.array) -> mx.array:
    """log(1 + e**z), without overflow."""
    return mx.logaddexp(z, 0.0)


@fused
def _exp(x: mx.array) -> mx.array:
    return mx.exp(wide(x)).astype(x.dtype)


@fused
def _log(x: mx.array) -> mx.array:
    return mx.log(wide(x)).astype(x.dtype)


@fused
def _tanh(x: mx.array) -> mx.array:
    return mx.tanh(wide(x)).astype(x.dtype)


@fused
def _sigmoid(x: mx.array) -> mx.array:
    return mx.sigmoid(wide(x)).astype(x.dtype)


@fused
def _relu(x: mx.array) -> mx.array:
    return mx.where(x <= 0, mx.zeros_like(x), x)


@fused
def _relu_squared(x: mx.array) -> mx.array:
    v = wide(x)
    kept = mx.where(v <= 0, 0.0, v)
    return (kept * kept).astype(x.dtype)


@fused
def _silu(x: mx.array) -> mx.array:
    return silu_of(wide(x)).astype(x.dtype)


@fused
def _gelu_tanh(x: mx.array) -> mx.array:
    return gelu(wide(x)).astype(x.dtype)


@fused
def _softplus(x: mx.array) -> mx.array:
    return _plus(wide(x)).astype(x.dtype)


@fused
def _mish(x: mx.array) -> mx.array:
    v = wide(x)
    return (v * mx.tanh(_plus(v))).astype(x.dtype)


@fused
def _elu(x: mx.array, alpha: mx.array) -> mx.array:
    v = wide(x)
    return mx.where(v > 0, v, alpha * mx.expm1(mx.where(v > 0, 0.0, v))).astype(x.dtype)


_FORMULAS = {
    "exp": _exp, "log": _log, "tanh": _tanh, "sigmoid": _sigmoid, "relu": _relu,
    "relu_squared": _relu_squared, "silu": _silu, "gelu_tanh": _gelu_tanh, "softplus": _softplus,
    "mish": _mish, "elu": _elu,
}  # fmt: skip


# -- factories ------------------------------------------------------------------------------------
def exp(*, compute_dtype_key: str = "float32") -> Activation:
    """f(x) = e**x.

    Args:
        compute_dtype_key: "float32", "float16" or "bfloat16"; changes nothing.

    Returns:
        f: takes an array of any shape, gives one of its shape and type.

    Raises:
        ValueError: for another key. f raises ValueError or TypeError for what is no float array.
    """
    return _made("exp", compute_dtype_key)


def log(*, compute_dtype_key: str = "float32") -> Activation:
    """f(x) = ln x; otherwise as exp."""
    return _made("log", compute_dtype_key)


def tanh(*, compute_dtype_key: str = "float32") -> Activation:
    """f(x) = tanh x; otherwise as exp."""
    return _made("tanh", compute_dtype_key)


def sigmoid(*, compute_dtype_key: str = "float32") -> Activation:
    """f(x) = 1 / (1 + e**-x); otherwise as exp."""
    return _made("sigmoid", compute_dtype_key)


def relu(*, compute_dtype_key: str = "float32") -> Activation:
    """f(x) = max(x, 0), NaN for NaN; its derivative at 0 is 0. Otherwise as exp."""
    return _made("relu", compute_dtype_key)


def relu_squared(*, compute_dtype_key: str = "float32") -> Activation:
    """f(x) = max(x, 0)**2 (arXiv:2109.08668); otherwise as relu."""
    return _made("relu_squared", compute_dtype_key)


def silu(*, compute_dtype_key: str = "float32") -> Activation:
    """f(x) = x * sigmoid(x); otherwise as exp."""
    return _made("silu", compute_dtype_key)


def gelu_tanh(*, compute_dtype_key: str = "float32") -> Activation:
    """f(x) = x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3))); otherwise as exp."""
    return _made("gelu_tanh", compute_dtype_key)


def softplus(*, compute_dtype_key: str = "float32") -> Activation:
    """f(x) = ln(1 + e**x), without overflow; otherwise as exp."""
    return _made("softplus", compute_dtype_key)


def mish(*, compute_dtype_key: str = "float32") -> Activation:
    """f(x) = x * tanh(softplus(x)); otherwise as exp."""
    return _made("mish", compute_dtype_key)


def elu(*, alpha: float = 1.0, compute_dtype_key: str = "float32") -> Activation:
    """f(x) = x where x > 0, else alpha * (e**x - 1), exact near 0; otherwise as exp.

    `alpha` is a finite number that reaches the kernel at run time.
    """
    found = Call(MODULE, "elu").number("alpha", alpha, -math.inf, math.inf)
    if found == -math.inf:
        raise Call(MODULE, "elu").wrong("alpha", repr(alpha), "a finite number")
    return _made("elu", compute_dtype_key, found)


def exp_grad(*, compute_dtype_key: str = "float32") -> Activation:
    """The differentiable twin of exp: the same callable."""
    return exp(compute_dtype_key=compute_dtype_key)


def log_grad(*, compute_dtype_key: str = "float32") -> Activation:
    """The differentiable twin of log: the same callable."""
    return log(compute_dtype_key=compute_dtype_key)


def tanh_grad(*, compute_dtype_key: str = "float32") -> Activation:
    """The differentiable twin of tanh: the same callable."""
    return tanh(compute_dtype_key=compute_dtype_key)


def sigmoid_grad(*, compute_dtype_key: str = "float32") -> Activation:
    """The differentiable twin of sigmoid: the same callable."""
    return sigmoid(compute_dtype_key=compute_dtype_key)


def relu_grad(*, compute_dtype_key: str = "float32") -> Activation:
    """The differentiable twin of relu: the same callable."""
    return relu(compute_dtype_key=compute_dtype_key)


def silu_grad(*, compute_dtype_key: str = "float32") -> Activation:
    """The differentiable twin of silu: the same callable."""
    return silu(compute_dtype_key=compute_dtype_key)


def gelu_tanh_grad(*, compute_dtype_key: str = "float32") -> Activation:
    """The differentiable twin of gelu_tanh: the same callable."""
    return gelu_tanh(compute_dtype_key=compute_dtype_key)


def softplus_grad(*, compute_dtype_key: str = "float32") -> Activation:
    """The differentiable twin of softplus: the same callable."""
    return softplus(compute_dtype_key=compute_dtype_key)


def mish_grad(*, compute_dtype_key: str = "float32") -> Activation:
    """The differentiable twin of mish: the same callable."""
    return mish(compute_dtype_key=compute_dtype_key)


def elu_grad(*, alpha: float = 1.0, compute_dtype_key: str = "float32") -> Activation:
    """The differentiable twin of elu: the same callable."""
    return elu(alpha=alpha, compute_dtype_key=compute_dtype_key)
