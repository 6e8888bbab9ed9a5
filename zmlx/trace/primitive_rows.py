"""Primitive rows: which row of the op table a primitive of MLX's graph is, if any.

Comes in: a primitive, as zmlx.trace.exported reads it. Goes out: the row's name.
zmlx.trace.primitives and zmlx.trace.unseen ask.
"""

from __future__ import annotations

from zmlx.trace.exported import Primitive

_ROWS = {
    "Abs": "abs", "ArcCos": "arccos", "ArcCosh": "arccosh", "ArcSin": "arcsin",
    "ArcSinh": "arcsinh", "ArcTan": "arctan", "ArcTanh": "arctanh", "Ceil": "ceil",
    "Conjugate": "conjugate", "Cos": "cos", "Cosh": "cosh", "Erf": "erf", "ErfInv": "erfinv",
    "Exp": "exp", "Expm1": "expm1", "Floor": "floor", "Imag": "imag", "Real": "real",
    "Log1p": "log1p", "LogicalNot": "logical_not", "Negative": "negative", "Round": "round",
    "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Square": "square",
    "StopGradient": "stop_gradient", "Tan": "tan", "Tanh": "tanh",
    "Add": "add", "Subtract": "subtract", "Multiply": "multiply", "Divide": "divide",
    "Remainder": "remainder", "FloorDivide": "floor_divide", "Power": "power",
    "Maximum": "maximum", "Minimum": "minimum", "LogAddExp": "logaddexp", "ArcTan2": "arctan2",
    "NotEqual": "not_equal", "Greater": "greater", "GreaterEqual": "greater_equal",
    "Less": "less", "LessEqual": "less_equal", "LogicalAnd": "logical_and",
    "LogicalOr": "logical_or", "Select": "where",
}  # fmt: skip
_BITWISE = ("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift")
_LOGS = ("log2", "log10", "log")


def row_of(primitive: Primitive) -> str | None:
    """The row of the op table that the primitive is, if any; astype apart."""
    name, arguments = primitive.name, primitive.arguments
    if name == "BitwiseBinary":
        return _BITWISE[arguments[0]]
    if name == "Log":
        return _LOGS[arguments[0]]
    if name == "Sqrt":
        return "rsqrt" if arguments[0] else "sqrt"
    if name == "Equal":
        return None if arguments[0] else "equal"
    return _ROWS.get(name)
