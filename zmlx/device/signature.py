"""Signatures: what a kernel or a trace is made for, as bytes that make a dictionary key.

Comes in: a list of arrays. Goes out: the default device, then for each array its dtype, its rank,
and for each size whether it is one. None where an item is no array. zmlx.fuse keys traces and
kernels by it. The native module computes the same bytes ten times faster, where it is there, and
tells by the device's letter, in capitals, whether sizes are examples (mx.compile, shapeless=True).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx.device.base import default_device
from zmlx.device.rules import native_or_none

_DTYPES = {
    getattr(mx, name): number
    for number, name in enumerate(
        (
            "bool_", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
            "float16", "float32", "float64", "bfloat16", "complex64",
        )
    )
}  # fmt: skip


def portable(arrays: Sequence[Any]) -> bytes | None:
    """The signature in Python."""
    text = bytearray(b"c" if default_device().type == mx.DeviceType.cpu else b"g")
    for array in arrays:
        if not isinstance(array, mx.array):
            return None
        shape = array.shape
        text += bytes((_DTYPES[array.dtype], len(shape)))
        text += b"".join(b"1" if size == 1 else b"n" for size in shape)
    return bytes(text)


def fastest() -> Callable[[Sequence[Any]], bytes | None]:
    """The signature function for this machine; asked for, it brings the native module up."""
    native = native_or_none()
    return portable if native is None else native.signature
