"""Metal's functions of integers of every size on the host, against Python's whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mlx.core as mx
import numpy as np
import pytest

from zmlx import metal

KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
Exact = Callable[["Whole", int, int, int], int]


class Whole:
    """The integers of a type: how many bits, and what a number becomes in them."""

    def __init__(self, name: str) -> None:
        self.bits = int(name.strip("uint"))
        self.signed = not name.startswith("u")
        self.least = -(1 << (self.bits - 1)) if self.signed else 0
        self.most = (1 << (self.bits - self.signed)) - 1
        self.mask = (1 << self.bits) - 1

    def cut(self, x: int) -> int:
        x &= self.mask
        return x - (1 << self.bits) if self.signed and x >> (self.bits - 1) else x

    def within(self, x: int) -> int:
        return max(self.least, min(self.most, x))


def _rotated(k: Whole, x: int, count: int) -> int:
    by, word = count % k.bits, x & k.mask
    return word << by | word >> (k.bits - by)


def _extracted(k: Whole, x: int, offset: int, bits: int) -> int:
    field = (x & k.mask) >> offset & ((1 << bits) - 1)
    return field - (1 << bits) if k.signed and bits and field >> (bits - 1) else field


def _inserted(k: Whole, x: int, y: int) -> int:
    mask = ((1 << 3) - 1) << 2
    return (x & ~mask) | (y << 2 & mask)


# Expressions in x, y, z of type T, with what they are exactly.
FUNCTIONS: dict[str, Exact] = {
    "abs(x)": lambda k, x, y, z: abs(x),
    "T(absdiff(x, y))": lambda k, x, y, z: abs(x - y),
    "addsat(x, y)": lambda k, x, y, z: k.within(x + y),
    "subsat(x, y)": lambda k, x, y, z: k.within(x - y),
    "hadd(x, y)": lambda k, x, y, z: (x + y) >> 1,
    "rhadd(x, y)": lambda k, x, y, z: (x + y + 1) >> 1,
    "mulhi(x, y)": lambda k, x, y, z: x * y >> k.bits,
    "madhi(x, y, z)": lambda k, x, y, z: (x * y >> k.bits) + z,
    "madsat(x, y, z)": lambda k, x, y, z: k.within(x * y + z),
    "max(x, y)": lambda k, x, y, z: max(x, y),
    "min(x, y)": lambda k, x, y, z: min(x, y),
    "max3(x, y, z)": lambda k, x, y, z: max(x, y, z),
    "min3(x, y, z)": lambda k, x, y, z: min(x, y, z),
    "median3(x, y, z)": lambda k, x, y, z: sorted([x, y, z])[1],
    "clamp(x, min(y, z), max(y, z))": lambda k, x, y, z: sorted([x, y, z])[1],
    "clz(x)": lambda k, x, y, z: k.bits - (x & k.mask).bit_length(),
    "ctz(x)": lambda k, x, y, z: ((x & -x).bit_length() - 1) if x else k.bits,
    "popcount(x)": lambda k, x, y, z: bin(x & k.mask).count("1"),
    "reverse_bits(x)": lambda k, x, y, z: int(f"{x & k.mask:0{k.bits}b}"[::-1], 2),
    "rotate(x, y)": lambda k, x, y, z: _rotated(k, x, y),
    "extract_bits(x, 3u, 4u)": lambda k, x, y, z: _extracted(k, x, 3, 4),
    "extract_bits(x, 0u, 0u)": lambda k, x, y, z: 0,
    "extract_bits(x, 0u, uint(8 * sizeof(T)))": lambda k, x, y, z: x,
    "insert_bits(x, y, 2u, 3u)": lambda k, x, y, z: _inserted(k, x, y),
    "clz(vec<T, 3>(x)).z": lambda k, x, y, z: k.bits - (x & k.mask).bit_length(),
    "mulhi(vec<T, 2>(x, y), vec<T, 2>(y, z)).y": lambda k, x, y, z: y * z >> k.bits,
    "T(absdiff(vec<T, 4>(x), vec<T, 4>(y)).w)": lambda k, x, y, z: abs(x - y),
    "rotate(vec<T, 4>(x), vec<T, 4>(y)).w": lambda k, x, y, z: _rotated(k, x, y),
    "select(x, y, z > T(0))": lambda k, x, y, z: y if z > 0 else x,
}


def _low24(x: int, signed: bool) -> int:
    x &= 0xFFFFFF
    return x - (1 << 24) if signed and x >> 23 else x


OF_24: dict[str, Exact] = {
    "mul24(x, y)": lambda k, x, y, z: _low24(x, k.signed) * _low24(y, k.signed),
    "mad24(x, y, z)": lambda k, x, y, z: _low24(x, k.signed) * _low24(y, k.signed) + z,
}


@cache
def kernel(texts: tuple[str, ...]) -> metal.MetalKernel:
    lines = "\n".join(f"out[{k}u * n + i] = T({text});" for k, text in enumerate(texts))
    return metal.kernel(
        name=f"language_integers_{len(texts)}",
        input_names=["a", "b", "c"],
        output_names=["out"],
        source="const uint i = thread_position_in_grid.x, n = uint(a_shape[0]);\n"
        f"const T x = a[i], y = b[i], z = c[i];\n{lines}",
    )


def operands(name: str, count: int = 3000) -> list[np.ndarray]:
    """Of 8 bits every pair in `a` and `b`; else random words of all lengths, and the ends."""
    kind, whole = np.dtype(name), Whole(name)
    generator = np.random.default_rng(3)
    if whole.bits == 8:
        every = np.arange(256, dtype=np.uint8).view(kind)
        third = generator.permutation(np.tile(every, 256))
        return [np.repeat(every, 256), np.tile(every, 256), third]
    found = []
    for _ in range(3):
        words = generator.integers(0, 2**64, count, dtype=np.uint64)
        words >>= generator.integers(64 - whole.bits, 64, count).astype(np.uint64)
        ends = np.array([0, 1, whole.mask, whole.mask >> 1, 1 << (whole.bits - 1)], np.uint64)
        words[: 25 * len(ends)] = np.resize(generator.permutation(np.tile(ends, 25)), 125)
        found.append(words.astype(f"uint{whole.bits}").view(kind))
    return found


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.usefixtures("quick_compiler", "host_device")
def test_functions_of_whole_numbers(name: str) -> None:
    whole, (a, b, c) = Whole(name), operands(name)
    functions = {**FUNCTIONS, **(OF_24 if whole.bits == 32 else {})}
    dtype = getattr(mx, name)
    (out,) = kernel(tuple(functions))(
        mx.array(a), mx.array(b), mx.array(c), template=[("T", dtype)], grid=(a.size, 1, 1),
        threadgroup=(256, 1, 1), output_shapes=[(len(functions), a.size)], output_dtypes=[dtype],
    )  # fmt: skip
    step = 7 if whole.bits == 8 else 1  # Python is slow; 7 meets every number of each operand
    some = list(zip(a[::step].tolist(), b[::step].tolist(), c[::step].tolist(), strict=True))
    for text, got in zip(functions, np.array(out)[:, ::step].tolist(), strict=True):
        wanted = [whole.cut(functions[text](whole, *xyz)) for xyz in some]
        wrong = [(xyz, g, w) for xyz, g, w in zip(some, got, wanted, strict=True) if g != w]
        assert not wrong, (text, wrong[:3], len(wrong))
