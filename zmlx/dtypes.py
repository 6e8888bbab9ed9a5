"""Dtypes: MLX's element types by name, how they promote, and what they are called in MSL.

Names are MLX's ("bool", "int8", ..., "bfloat16", "complex64"). Pure data and pure Python: the op
table, the tracer, the emitter and the tests read it, and nothing here imports MLX.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = SIGNED + UNSIGNED
HALVES = ("float16", "bfloat16")
FLOATS = (*HALVES, "float32", "float64")
ALL = ("bool", *INTEGERS, *FLOATS, "complex64")

_MSL = {
    "bool": "bool",
    "int8": "char",
    "int16": "short",
    "int32": "int",
    "int64": "long",
    "uint8": "uchar",
    "uint16": "ushort",
    "uint32": "uint",
    "uint64": "ulong",
    "float16": "half",
    "bfloat16": "bfloat16_t",
    "float32": "float",
}
_BITS = {name: int(name.lstrip("uinbfloat")) for name in (*INTEGERS, *FLOATS)}
_INEXACT_RANK = {"float16": 1, "bfloat16": 1, "float32": 2, "float64": 3, "complex64": 4}


@dataclass(frozen=True)
class Tolerance:
    """How far a correct result may lie from the exact one: |error| <= atol + rtol*|exact|."""

    rtol: float
    atol: float


# Four units in the last place, with the smallest normal number as floor.
TOLERANCES = {
    "float16": Tolerance(4 * 2.0**-11, 2.0**-14),
    "bfloat16": Tolerance(4 * 2.0**-8, 2.0**-126),
    "float32": Tolerance(4 * 2.0**-24, 2.0**-126),
    "float64": Tolerance(4 * 2.0**-53, 2.0**-1022),
}
EXACT = Tolerance(0.0, 0.0)


def msl_type(dtype: str) -> str:
    """The MSL type that an array of `dtype` holds in memory."""
    return _MSL[dtype]


def value_type(dtype: str) -> str:
    """The MSL type of a value of `dtype` inside a kernel: half types compute as float."""
    return "float" if dtype in HALVES else _MSL[dtype]


def attribute(dtype: str) -> str:
    """The attribute of mlx.core that is `dtype`."""
    return "bool_" if dtype == "bool" else dtype


def itemsize(dtype: str) -> int:
    """Bytes of an element of a type that MSL has."""
    return 1 if dtype == "bool" else _BITS[dtype] // 8


def integer_range(dtype: str) -> tuple[int, int]:
    """The numbers that an integer type holds, as a half-open range."""
    bits = _BITS[dtype]
    return (0, 2**bits) if dtype in UNSIGNED else (-(2 ** (bits - 1)), 2 ** (bits - 1))


def has_msl(dtype: str) -> bool:
    """False for float64 and complex64, which MSL does not have."""
    return dtype in _MSL


def is_float(dtype: str) -> bool:
    return dtype in FLOATS


def is_integer(dtype: str) -> bool:
    return dtype in INTEGERS


def tolerance(dtype: str) -> Tolerance:
    return TOLERANCES.get(dtype, EXACT)


def promote(a: str, b: str) -> str:
    """The type that MLX computes in for operands of types `a` and `b`: mx.result_type."""
    if a == b or b == "bool":
        return a
    if a == "bool":
        return b
    rank_a, rank_b = _INEXACT_RANK.get(a, 0), _INEXACT_RANK.get(b, 0)
    if rank_a == rank_b == 1:
        return "float32"  # float16 with bfloat16
    if rank_a or rank_b:
        return a if rank_a > rank_b else b
    return _promote_integers(a, b)


def _promote_integers(a: str, b: str) -> str:
    if (a in SIGNED) == (b in SIGNED):
        return a if _BITS[a] >= _BITS[b] else b
    signed, unsigned = (a, b) if a in SIGNED else (b, a)
    bits = max(_BITS[signed], 2 * _BITS[unsigned])
    return f"int{bits}" if bits <= 64 else "float32"


def weak(value: Any, strong: str | Sequence[str] = ()) -> str:
    """The type that the Python number `value` adopts beside arrays of the types `strong`.

    A number that does not fit the type adopted is refused by MLX itself when the op runs.
    """
    names = (strong,) if isinstance(strong, str) else tuple(strong)
    beside = reduce(promote, names, "bool")
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return beside if beside != "bool" else _plain_int(value, names)
    if isinstance(value, float):
        return beside if beside in _INEXACT_RANK else "float32"
    return "complex64"


def _plain_int(value: int, names: tuple[str, ...]) -> str:
    return "int32" if names or -(2**31) <= value < 2**31 else "int64"


# -- Python numbers in a type ---------------------------------------------------------------------
def adopted(value: Any, dtype: str) -> Any:
    """The Python number `value` as MLX holds it in `dtype`: rounded, or cut to an integer's bits.

    What an array of the type does by itself is left to it: float32 rounds, uint64 wraps.
    """
    if dtype in HALVES:
        return value if rounded(value, dtype) == value else rounded(value, dtype)
    if dtype in INTEGERS and dtype != "uint64" and not isinstance(value, float):
        low, high = integer_range(dtype)
        return value if low <= value < high else (value - low) % (high - low) + low
    return value


def fits(value: Any, dtype: str, beside: Sequence[str]) -> bool:
    """Whether MLX takes the Python number `value`, which adopts `dtype` beside arrays of `beside`.

    Floats always fit. MLX refuses an integer beyond the range of its type, but for uint64, and for
    the int32 that a number is beside bool: there any of 64 bits wraps around.
    """
    if dtype not in INTEGERS or not isinstance(value, int):
        return True
    low, high = integer_range(dtype)
    if dtype == "uint64" or wraps(dtype, beside):
        low, high = -(2**63), max(high, 2**63)
    return low <= value < high


def wraps(dtype: str, beside: Sequence[str]) -> bool:
    """Whether a Python number that adopts `dtype` wraps around at its 32 bits."""
    return dtype == "int32" and bool(beside) and set(beside) == {"bool"}


def rounded(value: int | float, dtype: str) -> float:
    """`value` as a number of the float type `dtype`: float32 first, then the half type, as MLX."""
    value = _packed(float(value), "f")
    if dtype == "float16":
        return _packed(value, "e")
    if dtype == "bfloat16" and not math.isnan(value):
        bits = struct.unpack("I", struct.pack("f", value))[0]
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return float(struct.unpack("f", struct.pack("I", bits))[0])
    return value


def _packed(value: float, code: str) -> float:
    try:
        return float(struct.unpack(code, struct.pack(code, value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
