"""Namespace: what a name of mlx.core or mlx.nn means in terms of the op table.

The tracer asks `meaning` for a call by name: a row of the table, a composite of rows, or None
(MLX runs it). Composites are written over an Elementwise namespace, which records rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

from zmlx import dtypes
from zmlx.ops.composite import COMPOSITES
from zmlx.ops.reductions import REDUCTIONS
from zmlx.ops.table import OPS
from zmlx.trace import intercept
from zmlx.trace.graph import folded_shape
from zmlx.trace.operands import name_of

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

ROWS: dict[str, str] = {
    name: spec.name for spec in OPS.values() for name in (*spec.mx, *spec.methods)
}


class Elementwise:
    """One method for each row of the table: `F.add(a, b)` records on the tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op not in OPS:
            raise AttributeError(op)
        if op == "astype":
            return lambda x, dtype: self._tracer.elementwise(op, (x,), dtype)
        return lambda *operands: self._tracer.elementwise(op, operands)


def meaning(
    name: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> Callable[[Tracer], Any] | None:
    """What to record for `name(*args, **kwargs)`; None where MLX must run it.

    A call on an explicit stream stays with MLX, as does one whose arguments do not fit the row.
    """
    if kwargs.get("stream") is not None:
        return None
    kwargs = {key: value for key, value in kwargs.items() if key != "stream"}
    row = ROWS.get(name)
    if row == "astype" and len(args) + len(kwargs) == 2 and isinstance(args[0], mx.array):
        target = args[1] if len(args) == 2 else kwargs.get("dtype")
        if isinstance(target, mx.Dtype):
            return lambda tracer: tracer.elementwise(row, args[:1], target)
    elif row is not None and not kwargs and len(args) == OPS[row].arity:
        return lambda tracer: tracer.elementwise(row, args)
    composite = COMPOSITES.get(f"mlx.core.{name}")
    if composite is not None and _has_kernels(args, kwargs):
        return lambda tracer: composite(Elementwise(tracer), *args, **kwargs)
    return None


def reason(name: str, kwargs: dict[str, Any]) -> str:
    """Why a call that could be elementwise is not; "" for calls that never are."""
    known = name in ROWS or f"mlx.core.{name}" in COMPOSITES
    if not known:
        return ""
    if kwargs.get("stream") is not None:
        return "it names a stream"
    return "unusual arguments, or a type that has no kernels"


def _has_kernels(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether there are arrays, of types that a kernel can hold: else a composite gains nothing."""
    arrays = [a for a in (*args, *kwargs.values()) if isinstance(a, mx.array)]
    return bool(arrays) and all(dtypes.has_msl(name_of(a.dtype)) for a in arrays)


def function(op: str, param: mx.Dtype | None = None) -> Callable[..., Any]:
    """MLX's own function for row `op`; for a row that it has no name for, the row's plain form."""
    if op == "astype":
        return lambda x: mx.array.astype(x, param)
    plain = OPS[op].plain
    return intercept.original(OPS[op].mx[0]) if plain is None else partial(plain, _MLX)


def folding(op: str, axes: tuple[int, ...], keepdims: bool = True) -> Callable[..., Any]:
    """What a reduce node does to its operand, by MLX's own function.

    Of nothing MLX 0.32 folds by shapes that it reads past their ends, at times without end: the
    neutral element is filled in.
    """
    function, row = intercept.original(op), REDUCTIONS[op]
    if row.index:  # of one axis, or all
        axis = axes[0] if len(axes) == 1 else None
        return lambda x: function(x, axis, keepdims=keepdims)
    if not row.empty:  # MLX raises
        return lambda x: function(x, axes, keepdims)

    def fold(x: mx.array) -> mx.array:
        if x.size:
            return function(x, axes, keepdims)
        shape = folded_shape(x.shape, axes)
        kept = shape if keepdims else [n for d, n in enumerate(shape) if d not in axes]
        kind = row.dtype(name_of(x.dtype))
        return mx.full(kept, row.neutral(kind), getattr(mx, dtypes.attribute(kind)))

    return fold


class _Mlx:
    """One function of MLX for each row: `F.add(a, b)` computes."""

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op not in OPS:
            raise AttributeError(op)
        return function(op)


_MLX = _Mlx()


@cache
def _activations() -> dict[int, Callable[..., Any]]:
    """Composites of mlx.nn by the identity of the compiled function they replace."""
    found = {}
    for name, composite in COMPOSITES.items():
        target = (
            getattr(nn, name.removeprefix("mlx.nn."), None) if name.startswith("mlx.nn.") else None
        )
        if target is not None and not isinstance(target, type):
            found[id(target)] = composite
    return found


def activation(
    target: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> Callable[..., Any] | None:
    """The composite for a compiled activation of mlx.nn, by identity."""
    return _activations().get(id(target)) if _has_kernels(args, kwargs) else None
