"""Settled: the graph of an op as a trace takes it over, simplified, its constants worked out.

Comes in: what zmlx.expr read. Goes out: a Graph. zmlx.helpers.op and zmlx.helpers.nary splice it
into the trace of a fused function, whose planner would give an op of constants alone to MLX; the
compiler of an op's own kernel works them out by itself.
"""

from __future__ import annotations

import mlx.core as mx

from zmlx.fuse.replay import constant, op_function
from zmlx.fuse.simplify import copy_node, simplify
from zmlx.trace import intercept
from zmlx.trace.graph import Graph


def settled(graph: Graph) -> Graph:
    """`graph` with equal nodes merged, unused ones gone, and no op of constants alone."""
    graph, made = simplify(graph), Graph()
    new: dict[int, int] = {}
    for node in graph:
        operands = [new[o] for o in graph.operands(node)]
        if graph.kind(node) == "op" and all(made.kind(o) == "const" for o in operands):
            with intercept.recording(None), mx.stream(mx.cpu):
                value = op_function(graph, node)(*[constant(made[o]) for o in operands])
                new[node] = made.add("const", dtype=graph[node]["dtype"], value=value.item())
        else:
            new[node] = copy_node(graph, node, made, operands)
    made.outputs = [new[n] for n in graph.outputs]
    return made
