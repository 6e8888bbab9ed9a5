"""Elementwise functions of two arrays: sums, products, gates, and activations of a sum with a bias.

All six are factories; the same arguments give the same callable, whose result has the type of its
first array. Everything is differentiable in both arrays, to any order. `add` and `mul` broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import mlx.core as mx

from zmlx.catalog.activations import check_key
from zmlx.catalog.common import Call
from zmlx.catalog.formulas import fused, gelu, silu, wide
from zmlx.fuse.api import FusedFunction
from zmlx.registry import forgets

__all__ = ["add", "add_bias", "bias_gelu_tanh", "bias_silu", "mul", "silu_mul_grad"]

MODULE = "fused"
Binary = Callable[[mx.array, mx.array], mx.array]


@fused
def _add(a: mx.array, b: mx.array) -> mx.array:
    return (wide(a) + wide(b)).astype(a.dtype)


@fused
def _mul(a: mx.array, b: mx.array) -> mx.array:
    return (wide(a) * wide(b)).astype(a.dtype)


@fused
def _silu_mul(a: mx.array, b: mx.array) -> mx.array:
    return (silu(wide(a)) * wide(b)).astype(a.dtype)


@fused
def _bias_gelu(x: mx.array, bias: mx.array) -> mx.array:
    return gelu(wide(x) + wide(bias)).astype(x.dtype)


@fused
def _bias_silu(x: mx.array, bias: mx.array) -> mx.array:
    return silu(wide(x) + wide(bias)).astype(x.dtype)


def add(*, compute_dtype_key: str = "float32") -> Binary:
    """f(a, b) = a + b, of a's type; the shapes broadcast.

    Args:
        compute_dtype_key: "float32", "float16" or "bfloat16"; changes nothing.

    Raises:
        ValueError: for another key. f raises ValueError or TypeError for what is no float array,
            and for shapes that do not broadcast.
    """
    check_key(MODULE, "add", compute_dtype_key)
    return _pair("add", _add, True)


def mul(*, compute_dtype_key: str = "float32") -> Binary:
    """f(a, b) = a * b; otherwise as add."""
    check_key(MODULE, "mul", compute_dtype_key)
    return _pair("mul", _mul, True)


def silu_mul_grad(*, compute_dtype_key: str = "float32") -> Binary:
    """f(a, b) = silu(a) * b, of equal shapes and types; otherwise as add."""
    check_key(MODULE, "silu_mul_grad", compute_dtype_key)
    return _pair("silu_mul_grad", _silu_mul, False)


def add_bias(*, c: int, compute_dtype: mx.Dtype) -> Binary:
    """f(x, bias) = x + bias: x is (..., c), bias (c,), the result of x's type.

    Args:
        c: the length of a row.
        compute_dtype: float32, float16 or bfloat16; changes nothing.

    Raises:
        ValueError: for other arguments. f raises ValueError for arrays of other shapes.
    """
    return _checked("add_bias", _add, c, compute_dtype)


def bias_gelu_tanh(*, c: int, compute_dtype: mx.Dtype) -> Binary:
    """f(x, bias) = gelu(x + bias), gelu's tanh form; otherwise as add_bias."""
    return _checked("bias_gelu_tanh", _bias_gelu, c, compute_dtype)


def bias_silu(*, c: int, compute_dtype: mx.Dtype) -> Binary:
    """f(x, bias) = silu(x + bias); otherwise as add_bias."""
    return _checked("bias_silu", _bias_silu, c, compute_dtype)


@lru_cache(maxsize=64)
def _pair(name: str, formula: FusedFunction, broadcasts: bool) -> Binary:
    call = Call(MODULE, name)

    def f(a: mx.array, b: mx.array) -> mx.array:
        a, b = call.array("a", a), call.array("b", b)
        if a.shape != b.shape:
            if not broadcasts:
                raise call.wrong("b", f"of shape {b.shape}", f"the shape of a, {a.shape}")
            call.broadcast("b", b, "a", a)
        if not broadcasts and a.dtype != b.dtype:
            raise call.wrong("b", b.dtype, f"the type of a, {a.dtype}")
        found: mx.array = formula(a, b)
        return found

    return f


@lru_cache(maxsize=256)
def _biased(name: str, formula: FusedFunction, c: int) -> Binary:
    call = Call(MODULE, name)

    def f(x: mx.array, bias: mx.array) -> mx.array:
        x = call.rows("x", x)
        if x.shape[-1] != c:
            raise call.wrong("x", f"of shape {x.shape}", f"a last axis of c = {c}")
        found: mx.array = formula(x, call.shaped("bias", bias, (c,)))
        return found

    return f


forgets(_pair.cache_clear)
forgets(_biased.cache_clear)


def _checked(name: str, formula: FusedFunction, c: int, compute_dtype: object) -> Binary:
    call = Call(MODULE, name)
    if compute_dtype is None:
        raise call.wrong("compute_dtype", "None", "float32, float16 or bfloat16")
    call.compute(compute_dtype)
    return _biased(name, formula, call.whole("c", c, 1, 2**31 - 1))
