"""Inlining: calls that MLX would run, written out as ops and reductions.

Comes in: a graph, and some of its opaque nodes that have a definition. Goes out: a graph of the
same values but for rounding, in which those calls are nodes of kinds op, reduce and count, and
squeezes. A call by its definition computes in float32 where its operand is of a half type.
zmlx.fuse.written chooses which.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.derive.builder import Builder
from zmlx.errors import PlanError
from zmlx.fuse.places import Places
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.simplify import as_long, copy_node
from zmlx.ops.definitions import Undefined
from zmlx.ops.table import OPS
from zmlx.trace import intercept
from zmlx.trace.graph import NUMBERS, Graph, OpaqueCall, Ref
from zmlx.trace.operands import mapped, name_of
from zmlx.trace.passes import verified


def defined(graph: Graph, node: int) -> bool:
    """Whether `node` is a call that `inlined` can write out."""
    if graph.kind(node) != "opaque" or graph[node]["call"].definition is None:
        return False
    trial = Builder()
    kinds = [{k: graph[o][k] for k in ("shape", "dtype")} for o in graph.operands(node)]
    operands = [trial.graph.add("input", **kind) for kind in kinds]
    try:
        return _fits(trial.graph, _written(trial, graph, node, operands), graph, node)
    except Undefined:
        return False


@dataclass(frozen=True, eq=False)
class Inlined:
    """A graph with calls written out, and the nodes that each has become."""

    graph: Graph
    parts: dict[int, range]  # by call; what is written alike is made once, for the first call


def inlined(graph: Graph, which: Collection[int]) -> Graph:
    """`graph` with the calls `which` written out; PlanError where one is not `defined`."""
    for node in which:
        if not defined(graph, node):
            raise PlanError(f"[zmlx.inline] node {node} {dict(graph[node])} has no definition.")
    return inlining(graph, which).graph


@verified("inline")
def inlining(graph: Graph, which: Collection[int]) -> Inlined:
    """As `inlined`, for calls that are known to be defined, with the nodes that each has become."""
    builder = Builder()
    new: dict[int, int] = {}
    parts: dict[int, range] = {}
    for node in graph:
        operands = [new[o] for o in graph.operands(node)]
        if node not in which:
            new[node] = copy_node(graph, node, builder.graph, operands)
            continue
        first = len(builder.graph)
        new[node] = _written(builder, graph, node, operands)
        parts[node] = range(first, len(builder.graph))
    builder.graph.outputs = [new[n] for n in graph.outputs]
    return Inlined(builder.graph, parts)


def _fits(made: Graph, result: int, graph: Graph, node: int) -> bool:
    return all(made[result][k] == graph[node][k] for k in ("shape", "dtype"))


def _written(builder: Builder, graph: Graph, node: int, operands: list[int]) -> int:
    """The node of `builder` that computes what `node` of `graph` does, of these operands."""
    call: OpaqueCall = graph[node]["call"]
    writer = Writer(builder, graph[node]["loc"])

    def leaf(value: Any) -> Any:
        return writer.value(operands[value.position]) if type(value) is Ref else value

    args, kwargs = mapped((call.args, call.kwargs), leaf)
    if kwargs.pop("stream", None) is not None or call.definition is None:
        raise Undefined("a stream")
    try:
        result: Value = call.definition(writer, *args, **kwargs)
    except TypeError as error:  # arguments that the definition does not take
        raise Undefined(str(error)) from None
    return result.node


class Value:
    """A node that a definition computes with."""

    def __init__(self, node: int, dtype: mx.Dtype, shape: tuple[int, ...]) -> None:
        self.node, self.dtype, self.shape, self.ndim = node, dtype, shape, len(shape)


class Writer:
    """`F` of zmlx.ops.definitions, over a Builder."""

    def __init__(self, builder: Builder, loc: str) -> None:
        self._builder, self._graph, self._loc = builder, builder.graph, loc

    def value(self, node: int) -> Value:
        data = self._graph[node]
        return Value(node, dtype_of(data["dtype"]), data["shape"])

    def __getattr__(self, op: str) -> Callable[..., Value]:
        if op not in OPS:
            raise AttributeError(op)
        return lambda *operands: self._op(op, operands)

    def astype(self, x: Value, dtype: mx.Dtype) -> Value:
        return self.value(self._builder.astype(x.node, name_of(dtype), self._loc))

    def narrow(self, x: Value, dtype: mx.Dtype) -> Value:
        """`x` as a value of `dtype`, not rounded before it is written: no cast of the caller's."""
        name = name_of(dtype)
        if not (dtypes.is_float(name) and dtypes.is_float(name_of(x.dtype))):
            return self.astype(x, dtype)
        one = self._builder.const(1.0, name)
        return self.value(self._builder.raw("multiply", (x.node, one), name, name, self._loc))

    def reduce(self, op: str, x: Value, axes: tuple[int, ...]) -> Value:
        return self.value(self._builder.reduce(op, x.node, axes, self._loc))

    def count(self, x: Value, axes: tuple[int, ...]) -> Value:
        return self.value(self._builder.count(x.node, axes, self._loc))

    def places(self, x: Value, axis: int) -> Value:
        """The positions along `axis`, an array of ones in all other dimensions."""
        source, there = self._source(x, axis)
        shape, behind = self._graph[source]["shape"], len(x.shape) - axis - 1
        call = OpaqueCall(Places(there - len(shape), behind), (Ref(0),), label="places")
        return self._called(call, source, (shape[there], *[1] * behind), "int32")

    def size(self, x: Value, axis: int) -> Value:
        """How long `axis` is, a number of type int32."""
        source, there = self._source(x, axis)
        expr = ("size", 0, there)
        return self.value(
            self._graph.add("size", (source,), dtype="int32", loc=self._loc, expr=expr)
        )

    def _source(self, x: Value, axis: int) -> tuple[int, int]:
        """The first array on the way to `x` that has its axis, and where: no kernel computes it."""
        source, axes = x.node, tuple([axis])
        while (found := as_long(self._graph, source, axes)) is not None:
            source, axes = found
        return source, axes[0]

    def squeeze(self, x: Value, axes: tuple[int, ...]) -> Value:
        shape = tuple([n for d, n in enumerate(x.shape) if d not in axes])
        return self._view("squeeze", x, shape, axes)

    def unsqueeze(self, x: Value) -> Value:
        """`x` with a last dimension of size one."""
        return self._view("expand_dims", x, (*x.shape, 1), (x.ndim,))

    def above(self, x: Value) -> Value:
        """`x` with a dimension of size one before its last."""
        shape = (*x.shape[:-1], 1, x.shape[-1])
        return self._view("expand_dims", x, shape, (x.ndim - 1,))

    def turned(self, x: Value) -> Value:
        """A matrix, transposed."""
        call = OpaqueCall(intercept.original("transpose"), (Ref(0),), label="transpose")
        return self._called(call, x.node, x.shape[::-1], name_of(x.dtype))

    def _view(self, name: str, x: Value, shape: tuple[int, ...], axes: tuple[int, ...]) -> Value:
        call = OpaqueCall(intercept.original(name), (Ref(0),), {"axis": axes}, name)
        return self._called(call, x.node, shape, name_of(x.dtype))

    def _called(self, call: OpaqueCall, node: int, shape: tuple[int, ...], dtype: str) -> Value:
        return self.value(
            self._graph.add(
                "opaque", (node,), shape=shape, dtype=dtype, loc=self._loc, call=call, pure=True
            )
        )

    def _op(self, op: str, operands: tuple[Any, ...]) -> Value:
        arrays = [o for o in operands if isinstance(o, Value)]
        strong = [name_of(o.dtype) for o in arrays if self._graph.kind(o.node) not in NUMBERS]
        nodes = [
            o.node if isinstance(o, Value) else self._builder.const(o, dtypes.weak(o, strong))
            for o in operands
        ]
        return self.value(self._builder.op(op, nodes, self._loc))
