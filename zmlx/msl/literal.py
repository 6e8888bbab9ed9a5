"""Literals: Python numbers as exact MSL text of a kernel's value types.

Comes in: a number and an MLX dtype. Goes out: text that is one token or parenthesised, so that it
may stand wherever the name of a value may. The emitter calls it for constants.
"""

from __future__ import annotations

import math
import struct

from zmlx import dtypes


def literal(value: bool | int | float, dtype: str) -> str:
    """`value` as the value type of `dtype`; for half types as float32, not rounded further."""
    kind = dtypes.value_type(dtype)
    if kind == "bool":
        return "true" if value else "false"
    if kind != "float":
        return _integer(int(value), kind)
    value = rounded(value, "float32")
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = f"{value:.9g}"
    text = text if any(c in text for c in ".e") else text + ".0"
    return f"{text}f" if math.copysign(1.0, value) > 0 else f"({text}f)"


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


def _integer(value: int, kind: str) -> str:
    if kind == "ulong":
        return f"ulong({value}UL)"
    if kind == "long" and value == -(2**63):  # a minus sign is no part of a literal
        return "long(-9223372036854775807L - 1L)"
    if kind == "long":
        return f"long({value}L)"
    return f"{kind}({value}{'u' if value > 2**31 - 1 else ''})"
