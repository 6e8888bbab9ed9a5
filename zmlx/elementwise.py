"""Elementwise ops from one C expression: `unary`, `binary`, `map`.

Comes in: an expression over values. Goes out: a function of arrays, with derivatives of any order
where the expression can be read. See docs/helpers.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx

from zmlx.helpers.op import ElementwiseOp
from zmlx.helpers.spec import (
    OpSpec,
    checked_compute,
    checked_expression,
    checked_header,
    checked_name,
    checked_names,
    refuse_reserved,
)
from zmlx.registry import forgets, lists

__all__ = ["binary", "map", "unary"]

_WHERE = "elementwise"


def unary(
    *,
    name: str,
    expr: str,
    compute_dtype: mx.Dtype | None = None,
    ensure_row_contiguous: bool = True,
    header: str | None = "",
    cache: bool = True,
) -> ElementwiseOp:
    """An op `f(a)` that computes `expr` of each element.

    Args:
        name: an identifier; kernels are called after it.
        expr: C over `x`, the element in the type `T`. Also `T`, `O` (the type of the output).
        compute_dtype: the type `T`; half types are held in float32. None is float32.
        ensure_row_contiguous: whether an expression that runs as a kernel of its own may copy its
            input first; other kernels read any strides.
        header: text before the kernel; empty means zmlx.msl.DEFAULT_HEADER.
        cache: whether the same arguments return the same op.

    Returns:
        A function; its result has the input's shape and type. It can be differentiated and mapped
        by MLX; where the expression cannot be read, a gradient raises DeriveError and says why.

    Raises:
        ValueError: for a wrong name or type, and for an expression with a slip, at its column.
    """
    fields = _fields(name, expr, compute_dtype, ensure_row_contiguous, header)
    spec = OpSpec(names=("x",), buffers=("inp",), **fields)
    return _op(spec) if cache else ElementwiseOp(spec, _WHERE)


def binary(
    *,
    name: str,
    expr: str,
    compute_dtype: mx.Dtype | None = None,
    ensure_row_contiguous: bool = True,
    header: str | None = "",
) -> ElementwiseOp:
    """An op `f(lhs, rhs)` that computes `expr` over `a` and `b` (`x` is `a` too).

    The arguments are those of `unary`. The inputs broadcast; the result has the type of `lhs`.
    """
    fields = _fields(name, expr, compute_dtype, ensure_row_contiguous, header)
    spec = OpSpec(names=("a", "b"), buffers=("lhs", "rhs"), aliases=(("x", "a"),), **fields)
    return _op(spec)


def map(
    *,
    name: str,
    expr: str,
    input_names: Sequence[str],
    compute_dtype: mx.Dtype | None = None,
    ensure_row_contiguous: bool = True,
    header: str | None = "",
) -> ElementwiseOp:
    """An op `f(*inputs)` that computes `expr` over the names `input_names`.

    The arguments are those of `unary`. The inputs broadcast; the result has the type of the first.
    """
    fields = _fields(name, expr, compute_dtype, ensure_row_contiguous, header)
    names = checked_names(input_names, "input_names", name, _WHERE)
    refuse_reserved(names, "input_names", name, _WHERE)
    buffers = tuple(f"zmlx_in{i}_{n}" for i, n in enumerate(names))
    return _op(OpSpec(names=names, buffers=buffers, **fields))


def _fields(
    name: Any, expr: Any, compute_dtype: Any, ensure_row_contiguous: Any, header: Any
) -> dict[str, Any]:
    checked_name(name, _WHERE)
    return {
        "name": name,
        "expr": checked_expression(expr, "expr", name, _WHERE),
        "compute": checked_compute(compute_dtype, name, _WHERE),
        "contiguous": bool(ensure_row_contiguous),
        "header": checked_header(header, name, _WHERE),
    }


@lru_cache(maxsize=1024)
def _op(spec: OpSpec) -> ElementwiseOp:
    op = ElementwiseOp(spec, _WHERE)
    lists(op, spec.forward_name, spec.names, ("out",), spec)
    return op


forgets(_op.cache_clear)
