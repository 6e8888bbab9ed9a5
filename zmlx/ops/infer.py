"""Infer: which type an op of the table computes in, and which it returns.

Comes in: a row's name and the dtypes of its operands (MLX names; Python numbers as the type they
adopt). Goes out: (at, result). The tracer and the derivatives call it; the answers equal MLX's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, reduce

from zmlx import dtypes
from zmlx.ops.spec import OpSpec
from zmlx.ops.table import OPS


def infer(op_name: str, operand_dtypes: Sequence[str], param: str | None = None) -> tuple[str, str]:
    """(type the operands are converted to, type of the result); ValueError where MLX raises.

    For "where" the first type is that of both branches; its condition is converted to bool. `param`
    is the target type of "astype".
    """
    return _infer(op_name, tuple(operand_dtypes), param)


@cache  # as many entries as there are rows and dtype tuples
def _infer(op_name: str, operand_dtypes: tuple[str, ...], param: str | None) -> tuple[str, str]:
    spec = OPS[op_name]
    if len(operand_dtypes) != spec.arity:
        raise ValueError(
            f"[zmlx.ops] {op_name} takes {spec.arity} operands, got {list(operand_dtypes)}."
        )
    at = _operand_type(spec, operand_dtypes)
    if at in spec.refuses:
        raise ValueError(f"[zmlx.ops] {op_name} is not defined for {at}: {list(operand_dtypes)}.")
    if spec.result == "bool":
        return at, "bool"
    if spec.result == "param":
        if param is None:
            raise ValueError(f"[zmlx.ops] {op_name} needs the type to return.")
        return at, param
    return at, ("float32" if at == "complex64" and spec.name == "abs" else at)


def _operand_type(spec: OpSpec, operands: Sequence[str]) -> str:
    if spec.operands == "own":
        return operands[0]
    if spec.operands == "bool":
        return "bool"
    common = reduce(dtypes.promote, operands[1:] if spec.operands == "select" else operands)
    if spec.operands == "float" and common not in dtypes.FLOATS and common != "complex64":
        return "float32"
    if spec.operands == "shift" and common == "bool":
        return "uint8"
    return common
