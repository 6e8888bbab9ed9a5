"""Literals: Python numbers as exact MSL text of a kernel's value types.

Comes in: a number and an MLX dtype. Goes out: text that is one token or parenthesised, so that it
may stand wherever the name of a value may. The emitter calls it for constants.
"""

from __future__ import annotations

import math

from zmlx import dtypes
from zmlx.dtypes import rounded


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


def _integer(value: int, kind: str) -> str:
    if kind == "ulong":
        return f"ulong({value}UL)"
    if kind == "long" and value == -(2**63):  # a minus sign is no part of a literal
        return "long(-9223372036854775807L - 1L)"
    if kind == "long":
        return f"long({value}L)"
    return f"{kind}({value}{'u' if value > 2**31 - 1 else ''})"
