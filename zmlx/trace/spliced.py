"""Spliced: graphs that were made elsewhere, of C expressions say, as nodes of a running trace.

Comes in: a graph of elementwise ops with an input for each array, and traced arrays. Goes out: the
traced results. Ops of `zmlx.elementwise`, `zmlx.autograd` and rows of `zmlx.rowwise` call it, so
that they join what stands beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.trace import intercept, locate, placeholders
from zmlx.trace.graph import Graph, broadcast
from zmlx.trace.proxy import Proxy

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer


def joins(tracer: Tracer, arrays: Sequence[Any]) -> bool:
    """Whether ops of these arrays may become nodes: they vary, and run on the trace's stream."""
    return tracer.varies(arrays) and not tracer.streams.elsewhere()


def spliced(tracer: Tracer, graph: Graph, arrays: Sequence[mx.array]) -> list[Proxy]:
    """The outputs of `graph` for `arrays`, recorded node by node; their shapes must broadcast.

    A result of a half type is rounded where it is written, as a region's are.
    """
    places: dict[int, int] = {}
    loc = locate.here()
    for node in graph:
        data = graph[node]
        if data["kind"] == "input":
            places[node] = _operand(tracer, arrays[data["index"]])
        elif data["kind"] == "const":
            places[node] = _const(tracer, data["value"], data["dtype"], loc)
        else:
            operands = [places[o] for o in data["operands"]]
            if node in graph.outputs and _narrows(graph, node):
                one = _const(tracer, 1.0, data["dtype"], loc)
                places[node] = _op(tracer, "multiply", data["dtype"], [*operands, one], data, loc)
            else:
                places[node] = _op(tracer, data["op"], data["at"], operands, data, loc)
    return [result(tracer, places[node]) for node in graph.outputs]


def _operand(tracer: Tracer, array: mx.array) -> int:
    tracer.check(array)
    return tracer.lifted(array).node


def _const(tracer: Tracer, value: Any, dtype: str, loc: str) -> int:
    return tracer.graph.add("const", dtype=dtype, value=value, loc=loc)


def _op(
    tracer: Tracer, op: str, at: str, operands: Sequence[int], data: dict[str, Any], loc: str
) -> int:
    shape = broadcast([tracer.graph[o]["shape"] for o in operands])
    return tracer.graph.add("op", operands, shape=shape, dtype=data["dtype"], loc=loc, op=op, at=at)


def _narrows(graph: Graph, node: int) -> bool:
    """Whether the node only gives a float its half type."""
    data = graph[node]
    wide = graph[data["operands"][0]]["dtype"]
    return data["op"] == "astype" and data["dtype"] in dtypes.HALVES and wide == "float32"


def result(tracer: Tracer, node: int) -> Proxy:
    """The traced array of a node."""
    data = tracer.graph[node]
    kind = getattr(mx, dtypes.attribute(data["dtype"]))
    with intercept.recording(None):
        (base,) = placeholders.placeholders([(data["shape"], kind)])
        return Proxy(tracer.unseen.base(base, node, tie=False), tracer, node)
