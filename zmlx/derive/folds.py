"""Folds: the derivatives of reductions, from the rules of their table.

Comes in: a Builder, a reduction's row, its operand and its result in the Builder's graph, and the
cotangent or tangent. Goes out: a node. zmlx.derive.accumulate calls it.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from zmlx import dtypes
from zmlx.derive.builder import Builder
from zmlx.ops.reductions import MLX, REDUCTIONS
from zmlx.trace.graph import OpaqueCall, Ref
from zmlx.trace.namespace import folding


@dataclass(frozen=True)
class Fold:
    """A reduce node of a region: its row and axes, and its operand in a derivative's graph."""

    op: str
    axes: tuple[int, ...]
    operand: int
    loc: str


def pulled(builder: Builder, of: Fold, out: int, cotangent: int) -> int:
    """What the operand receives; a size of one stands for each size of the operand.

    `cotangent` has the result's shape, or sizes of one in place of some of its sizes.
    """
    rule = REDUCTIONS[of.op].pull
    if rule != MLX:
        values = {"x": of.operand, "out": out, "g": cotangent}
        return builder.plant(rule, values, builder.graph[out]["dtype"], of.loc, of.axes)
    kind = builder.graph[out]["dtype"]
    seed = builder.spread(builder.astype(cotangent, kind, ""), out)
    shape = builder.graph[of.operand]["shape"]
    return _called(builder, Pulled(of.op, of.axes), of, seed, shape, kind)


def pushed(builder: Builder, of: Fold, out: int, tangent: int) -> int:
    """The result's tangent; `tangent`, of the operand, has its shape."""
    rule = REDUCTIONS[of.op].push
    kind = builder.graph[of.operand]["dtype"]
    if rule != MLX:
        return builder.plant(rule, {"g": tangent}, kind, of.loc, of.axes)
    if dtypes.is_float(kind):
        tangent = builder.astype(tangent, kind, "")
    moved = builder.graph[tangent]["dtype"]
    kind = moved if dtypes.is_float(moved) else builder.graph[out]["dtype"]
    return _called(builder, Pushed(of.op, of.axes), of, tangent, builder.graph[out]["shape"], kind)


def _called(
    builder: Builder, rule: Pulled | Pushed, of: Fold, other: int, shape: tuple[int, ...], kind: str
) -> int:
    call = OpaqueCall(rule, (Ref(0), Ref(1)), label=f"{of.op}_{rule.kind}")
    operands = (of.operand, other)
    return builder.graph.add(
        "opaque", operands, shape=shape, dtype=kind, loc=of.loc, call=call, pure=True
    )


class _Rule:
    """A derivative of a reduction that MLX works out; it holds for operands of one rank."""

    kind = ""

    def __init__(self, op: str, axes: tuple[int, ...]) -> None:
        self.fold = folding(op, axes)


class Pulled(_Rule):
    """The operand's gradient, for the operand and the cotangent."""

    kind = "vjp"

    def __call__(self, x: mx.array, cotangent: mx.array) -> mx.array:
        return mx.vjp(self.fold, (x,), (cotangent,))[1][0]


class Pushed(_Rule):
    """The result's tangent, for the operand and its tangent."""

    kind = "jvp"

    def __call__(self, x: mx.array, tangent: mx.array) -> mx.array:
        return mx.jvp(self.fold, (x,), (tangent,))[1][0]
