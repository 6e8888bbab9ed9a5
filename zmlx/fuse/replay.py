"""Replay: a graph's elementwise nodes and reductions computed by MLX's own ops.

Used where no kernel can run, for lone ops and numbers, and as what ZMLX_CHECK compares with. MLX
differentiates what it runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.device.rules import elements, traces_shapeless
from zmlx.ops.table import OPS
from zmlx.trace import namespace
from zmlx.trace.graph import Graph

Values = Sequence[mx.array]


def dtype_of(name: str) -> mx.Dtype:
    """MLX's dtype of that name."""
    return getattr(mx, dtypes.attribute(name))


def constant(data: dict[str, Any]) -> mx.array:
    """A const node's value as a 0-d array."""
    return mx.array(data["value"], dtype_of(data["dtype"]))


def op_function(graph: Graph, node: int) -> Callable[..., mx.array]:
    """What op `node` does to its operands' values, converted as the node says."""
    data = graph[node]
    spec, at, dtype = OPS[data["op"]], dtype_of(data["at"]), dtype_of(data["dtype"])
    function = namespace.function(data["op"], dtype if spec.result == "param" else None)
    converted = [graph[o]["dtype"] != data["at"] for o in graph.operands(node)]
    if spec.operands == "select":
        converted[0] = False
    if spec.operands == "bool" or not any(converted):
        return function

    def run(*operands: mx.array) -> mx.array:
        pairs = zip(operands, converted, strict=True)
        return function(*[o.astype(at) if wrong else o for o, wrong in pairs])

    return run


def count(x: mx.array, axes: Sequence[int]) -> int | mx.array:
    """The value of a count node; an array of one element where sizes are still to come."""
    if traces_shapeless():
        return elements(x, axes).reshape(1)
    return prod([x.shape[axis] for axis in axes])


def replay(region: Graph, arrays: Values) -> list[mx.array]:
    """The outputs of `region`, op by op; scalars come as arrays of one element."""
    values: dict[int, mx.array] = {}
    given = iter(arrays)
    for node in region:
        data = region[node]
        if data["kind"] == "input":
            values[node] = next(given)
        elif data["kind"] == "scalar":
            values[node] = next(given).reshape(()).astype(dtype_of(data["dtype"]))
        elif data["kind"] == "const":
            values[node] = constant(data)
        elif data["kind"] == "reduce":
            fold = namespace.folding(data["op"], data["axes"])
            values[node] = fold(values[data["operands"][0]])
        elif data["kind"] == "count":
            folded = count(values[data["operands"][0]], data["axes"])
            values[node] = mx.array(folded, mx.float32).reshape(())
        else:
            operands = [values[o] for o in region.operands(node)]
            values[node] = op_function(region, node)(*operands)
    return [values[n] for n in region.outputs]


def replay_fp32(region: Graph, arrays: Values) -> list[mx.array]:
    """As replay, but float types compute in float32 and round at the outputs and casts only."""
    outputs = replay(_widened(region), arrays)
    kinds = [dtype_of(region[n]["dtype"]) for n in region.outputs]
    return [o.astype(kind) for o, kind in zip(outputs, kinds, strict=True)]


def _widened(region: Graph) -> Graph:
    """`region` with float32 in place of half types; an explicit cast still rounds."""
    wide = Graph()
    new: dict[int, int] = {}
    for node in region:
        data = region.attributes(node)
        kind, operands = region.kind(node), [new[o] for o in region.operands(node)]
        halves = [k for k in ("dtype", "at") if data.get(k) in dtypes.HALVES and kind != "input"]
        cast = kind == "op" and data["op"] == "astype" and data["dtype"] in dtypes.HALVES
        narrow = data["dtype"]
        data.update(dict.fromkeys(halves, "float32"))
        if cast:
            data["dtype"] = narrow
        new[node] = wide.add(kind, operands, **data)
        if cast or (kind == "input" and narrow in dtypes.HALVES):
            up = {"shape": data["shape"], "dtype": "float32", "op": "astype", "at": narrow}
            new[node] = wide.add("op", (new[node],), **up)
    wide.outputs = [new[n] for n in region.outputs]
    return wide
