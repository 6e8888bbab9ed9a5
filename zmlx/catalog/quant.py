"""Dequantisation: small integers, or codes of floats, times their scales.

Results are of `compute_dtype`, float32 if None. Everything is differentiable in the scales.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mlx.core as mx

from zmlx.catalog.common import Call
from zmlx.catalog.formulas import fused, silu, wide
from zmlx.registry import forgets

__all__ = [
    "dequantize_fp8",
    "dequantize_int4",
    "dequantize_int8",
    "dequantize_nf4",
    "dequantize_silu_int8",
]

MODULE = "quant"
# Quantiles of a normal number, QLoRA's (Dettmers et al., arXiv:2305.14314, appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


@lru_cache(maxsize=4)
def like(kind: mx.Dtype) -> mx.array:
    """Says a type to a formula."""
    return mx.zeros((1,), kind)


forgets(like.cache_clear)


# -- formulas -------------------------------------------------------------------------------------
@fused
def _int8(x: mx.array, scale: mx.array, kind: mx.array) -> mx.array:
    return (wide(x) * wide(scale)).astype(kind.dtype)


@fused
def _silu_int8(x: mx.array, scale: mx.array, kind: mx.array) -> mx.array:
    return silu(wide(x) * wide(scale)).astype(kind.dtype)


def nibbles(x: mx.array, signed: bool) -> mx.array:
    """(n,) bytes as (n, 2) float32 numbers, the low half first; signed ones from -8 to 7."""
    low, high = wide(x & 15), wide(x >> 4)
    if signed:
        low, high = (mx.where(q > 7.0, q - 16.0, q) for q in (low, high))
    return mx.stack([low, high], -1)


@fused
def _int4(x: mx.array, scale: mx.array, kind: mx.array) -> mx.array:
    return (nibbles(x.reshape(-1), False) * wide(scale)).reshape(-1).astype(kind.dtype)


@fused
def _signed_int4(x: mx.array, scale: mx.array, kind: mx.array) -> mx.array:
    return (nibbles(x.reshape(-1), True) * wide(scale)).reshape(-1).astype(kind.dtype)


def _quantile(code: mx.array) -> mx.array:
    """The number of a code, by four choices of halves."""
    found = [mx.array(v, mx.float32) for v in NF4]
    for bit in range(4):
        odd = (code & (1 << bit)) != 0
        pairs = zip(found[::2], found[1::2], strict=True)
        found = [mx.where(odd, high, low) for low, high in pairs]
    return found[0]


@fused
def _nf4(x: mx.array, scales: mx.array, kind: mx.array) -> mx.array:
    values = mx.stack([_quantile(x & 15), _quantile(x >> 4)], -1)
    blocks = values.reshape(scales.shape[0], -1)
    return (blocks * wide(scales)[:, None]).reshape(-1).astype(kind.dtype)


@fused
def _fp8(x: mx.array, scale: mx.array, kind: mx.array) -> mx.array:
    """Sign, four bits of exponent, three of fraction; without infinities, 0x7f is NaN."""
    body = wide(x & 7)
    power = (x >> 3) & 15
    size = (body + 8.0) * 2.0**-10
    for bit in range(4):
        size = mx.where((power & (1 << bit)) != 0, size * 2.0 ** (1 << bit), size)
    size = mx.where(power == 0, body * 2.0**-9, size)
    size = mx.where((x & 127) == 127, mx.nan, size)
    return (mx.where(x > 127, -size, size) * wide(scale)).astype(kind.dtype)


# -- functions ------------------------------------------------------------------------------------
def dequantize_int8(
    x: mx.array, scale: float | mx.array, *, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """x * scale.

    Args:
        x: int8, any shape.
        scale: a number, or a float array of one element.
        compute_dtype: the type of the result, float32 if None.

    Returns:
        x's shape.

    Raises:
        ValueError, TypeError: for arguments that are none of these.
    """
    return _scaled("dequantize_int8", _int8, mx.int8, x, scale, compute_dtype)


def dequantize_silu_int8(
    x: mx.array, scale: float | mx.array, *, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """silu(x * scale); otherwise as dequantize_int8."""
    return _scaled("dequantize_silu_int8", _silu_int8, mx.int8, x, scale, compute_dtype)


def dequantize_int4(
    x: mx.array,
    scale: float | mx.array,
    *,
    signed: bool = False,
    compute_dtype: mx.Dtype | None = None,
) -> mx.array:
    """Two numbers of each byte times scale: element 2j is byte j's low half, 2j + 1 its high half.

    Args:
        x: uint8, any shape, of n elements.
        scale: a number, or a float array of one element.
        signed: False: numbers from 0 to 15; True: from -8 to 7, as in dequantize_int4_matmul.
        compute_dtype: the type of the result, float32 if None.

    Returns:
        (2 * n,). Errors as for dequantize_int8.
    """
    call = Call(MODULE, "dequantize_int4")
    if not isinstance(signed, bool):
        raise call.wrong("signed", repr(signed), "True or False")
    formula = _signed_int4 if signed else _int4
    found = call.integers("x", x, (mx.uint8,))
    number, kind = call.scalar("scale", scale, 1), call.result(compute_dtype)
    if not found.size:
        return mx.zeros((0,), kind)
    result: mx.array = formula(found, number, like(kind))
    return result


def dequantize_nf4(
    x: mx.array, scales: mx.array, *, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """QLoRA's four-bit normal floats: the quantile of each half byte, times its block's scale.

    Args:
        x: uint8, n elements; low halves come first.
        scales: (B,), floats; each is of 2 * n / B numbers that follow one another.
        compute_dtype: the type of the result, float32 if None.

    Returns:
        (2 * n,). Errors as for dequantize_int8.
    """
    call = Call(MODULE, "dequantize_nf4")
    x = call.known(call.integers("x", x, (mx.uint8,))).reshape(-1)
    scales = call.of_rank("scales", call.array("scales", scales), 1, "(B,)")
    kind = call.result(compute_dtype)
    if not scales.size or 2 * x.size % scales.size:
        wanted = f"a number of scales that divides {2 * x.size}"
        raise call.wrong("scales", f"of shape {scales.shape}", wanted)
    if not x.size:
        return mx.zeros((0,), kind)
    found: mx.array = _nf4(x, scales, like(kind))
    return found


def dequantize_fp8(
    x: mx.array, scale: float | mx.array = 1.0, *, compute_dtype: mx.Dtype | None = None
) -> mx.array:
    """Numbers of eight bits, E4M3 without infinities (arXiv:2209.05433), times scale.

    `x` is uint8, of any shape; 0x7f and 0xff are NaN. Otherwise as dequantize_int8.
    """
    return _scaled("dequantize_fp8", _fp8, mx.uint8, x, scale, compute_dtype)


def _scaled(
    name: str, formula: Any, kind: mx.Dtype, x: mx.array, scale: Any, compute: mx.Dtype | None
) -> mx.array:
    call = Call(MODULE, name)
    found = call.integers("x", x, (kind,))
    number, result = call.scalar("scale", scale, found.ndim), call.result(compute)
    return mx.zeros(found.shape, result) if not found.size else formula(found, number, like(result))
