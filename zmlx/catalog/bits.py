"""Bits packed eight to a byte, the least significant first, and unpacked; no gradients."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import prod

import mlx.core as mx

from zmlx.catalog.by_hand import ByHand, Text, by_elements, element
from zmlx.catalog.common import Call

__all__ = ["pack_bits", "unpack_bits"]

MODULE = "bits"
_WHY = "[zmlx.bits] {} has no derivative: bits do not change gradually. Leave it out of mx.grad."


# -- by hand --------------------------------------------------------------------------------------
_PACK = Text("pack_bits", "x", "out", element("x_shape[0] / 8") + """
uint byte = 0;
for (uint i = 0; i < 8; ++i) byte |= (x[elem * 8 + i] != 0 ? 1u : 0u) << i;
out[elem] = O(byte);
""")  # fmt: skip
_UNPACK = Text("unpack_bits", "x", "out", element("x_shape[0]") + """
const uint byte = x[elem];
for (uint i = 0; i < 8; ++i) out[elem * 8 + i] = O((byte >> i) & 1u);
""")  # fmt: skip


def _packed(x: mx.array) -> list[mx.array]:
    count = x.size // 8
    return _PACK([x], [(count,)], [mx.uint8], *by_elements(count))


def _unpacked(x: mx.array) -> list[mx.array]:
    return _UNPACK([x], [(8 * x.size,)], [mx.uint8], *by_elements(x.size))


def _plain_pack(x: mx.array) -> list[mx.array]:
    places = mx.arange(8, dtype=mx.uint8)
    return [mx.sum((x.reshape(-1, 8) != 0).astype(mx.uint8) << places, -1).astype(mx.uint8)]


def _plain_unpack(x: mx.array) -> list[mx.array]:
    return [((x.reshape(-1, 1) >> mx.arange(8, dtype=mx.uint8)) & 1).reshape(-1)]


_pack = ByHand("pack_bits", _packed, _plain_pack, None, why=_WHY.format("pack_bits"))
_unpack = ByHand("unpack_bits", _unpacked, _plain_unpack, None, why=_WHY.format("unpack_bits"))


# -- functions ------------------------------------------------------------------------------------
def pack_bits(x: mx.array) -> mx.array:
    """Element 8j + i becomes bit i of byte j, as numpy.packbits(x, bitorder="little") does.

    Args:
        x: bool or uint8, any shape, a multiple of 8 elements; what is not 0 counts as 1.

    Returns:
        (x.size / 8,), uint8.

    Raises:
        ValueError, TypeError: for another type or number of elements.
    """
    call = Call(MODULE, "pack_bits")
    x = call.integers("x", x, (mx.bool_, mx.uint8))
    if x.size % 8:
        raise call.wrong("x", f"of {x.size} elements", "a multiple of 8")
    return _pack(x.reshape(-1))[0] if x.size else mx.zeros((0,), mx.uint8)


def unpack_bits(x: mx.array, original_shape: Sequence[int] | None = None) -> mx.array:
    """The bits of each byte, least significant first, as zeros and ones.

    Args:
        x: uint8, n elements.
        original_shape: the shape of the result: of 8 * n elements, or up to 7 less, which are cut
            off the end. None: (8 * n,).

    Returns:
        uint8.

    Raises:
        ValueError, TypeError: for another type, and for a shape of another size.
    """
    call = Call(MODULE, "unpack_bits")
    x = call.integers("x", x, (mx.uint8,))
    bits = 8 * x.size
    shape = (bits,) if original_shape is None else _sizes(call, original_shape)
    if not bits - 8 < prod(shape) <= bits:
        came = f"{tuple(shape)}, of {prod(shape)} elements"
        raise call.wrong("original_shape", came, f"a shape of {bits}, or up to 7 less")
    found = _unpack(x.reshape(-1))[0] if bits else mx.zeros((0,), mx.uint8)
    return found[: prod(shape)].reshape(shape)


def _sizes(call: Call, shape: Sequence[int]) -> tuple[int, ...]:
    try:
        found = tuple([operator.index(n) for n in shape])
    except TypeError:
        found = (-1,)
    if any(n < 0 for n in found):
        raise call.wrong("original_shape", repr(shape), "a tuple of sizes from 0 on")
    return found
