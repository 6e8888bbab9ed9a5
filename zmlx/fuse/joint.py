"""Joint: a forward graph and a gradient of it as one graph, so that kernels compute both.

Comes in: a graph, and which gradients of which results are wanted. Goes out: a graph of its inputs
and of what the results receive, which gives the results, then the gradients. zmlx.fuse.whole asks
for it where a loss is differentiated: a row is then read once for its loss and its gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from zmlx import dtypes
from zmlx.fuse.plan import Plan
from zmlx.fuse.reads import Backward, Links
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.shortened import shortened
from zmlx.fuse.simplify import copy_node
from zmlx.fuse.views import kind_of
from zmlx.trace.graph import NUMBERS, Graph

SHORTER = 16  # times fewer bytes than what is read: next to nothing


def joint(
    forward: Graph, wanted: Sequence[int], used: Sequence[int], links: Links
) -> tuple[Graph, tuple[int, ...]]:
    """The graph, and the inputs, by position, whose gradients it gives."""
    from zmlx.fuse.backward import backward  # sympy, which it needs, is slow to load

    hand = {node: node for node in forward}
    back = backward(forward, wanted, used, hand, links, {}, keeps=True)
    gradient = shortened(back.graph, back.seeds, back.moved)
    made = Graph()
    new: dict[int, int] = {}
    for node in forward:
        new[node] = copy_node(forward, node, made, [new[o] for o in forward.operands(node)])
    own = _appended(made, gradient, back, new)
    made.outputs = [*[new[n] for n in forward.outputs], *[own[n] for n in gradient.outputs]]
    return made, back.found


def _appended(
    made: Graph, gradient: Graph, back: Backward, values: Mapping[int, int]
) -> dict[int, int]:
    """The nodes of `gradient` in `made`, of which `values` are those of the forward graph."""
    count = len(back.seeds)
    reads = dict(zip(gradient.inputs[count:], back.reads, strict=True))
    own: dict[int, int] = {}
    for node in gradient:
        read = reads.get(node)
        if read is None:
            own[node] = copy_node(gradient, node, made, [own[o] for o in gradient.operands(node)])
        elif read.size is None:
            own[node] = values[read.node]
        else:
            expr = ("size", 0, read.size)
            own[node] = made.add("size", (values[read.node],), dtype="int32", expr=expr)
    return own


def may_join(plan: Plan) -> bool:
    """Whether nothing but kernels computes the results of `plan`, and these are small beside what
    it reads, as a loss is: nobody minds that they are computed where only a gradient is wanted.
    """
    graph = plan.graph
    few = max((_bytes(graph, n) for n in graph.inputs), default=0) // SHORTER
    small = sum(_bytes(graph, n) for n in graph.outputs) <= few
    return small and all(_is_idle(graph, step.node, few) for step in plan.natives)


def _is_idle(graph: Graph, node: int, few: int) -> bool:
    """Whether what MLX runs is a view, a number, a small op, or makes few integers of integers."""
    if is_view(graph, node) or graph.kind(node) in (*NUMBERS, "item", "op"):
        return True
    if graph.kind(node) != "opaque" or not graph[node]["pure"] or graph[node]["call"].outputs:
        return False
    arrays = [n for n in graph.operands(node) if graph.kind(n) not in ("const", *NUMBERS)]
    whole = not any(dtypes.is_float(graph[n]["dtype"]) for n in (node, *arrays))
    return whole and sum(_bytes(graph, n) for n in (node, *arrays)) <= few


def is_view(graph: Graph, node: int) -> bool:
    """Whether a node is a call that computes nothing."""
    if graph.kind(node) != "opaque" or not graph[node]["pure"]:
        return False
    known = graph[node]["call"].label in ("places", "squeeze", "expand_dims")
    return known or kind_of(graph, node) is not None


def reads_once(forward: Plan, both: Plan) -> bool:
    """Whether the kernels of `both` move no more than those of `forward`, but for the gradients
    that they write."""
    graph, count = both.graph, len(forward.graph.outputs)
    gradients = sum(_bytes(graph, n) for n in dict.fromkeys(graph.outputs[count:]))
    small = max(_bytes(graph, n) for n in graph.inputs) // SHORTER
    return _moved(both) <= _moved(forward) + gradients + small


def _moved(plan: Plan) -> int:
    """Bytes that the kernels of a plan read and write, in the example."""
    ends = [(*region.ends.inputs, *region.ends.outputs) for region in plan.regions]
    return sum(_bytes(plan.graph, n) for nodes in ends for n in nodes)


def _bytes(graph: Graph, node: int) -> int:
    data = graph[node]
    return 0 if data["kind"] in NUMBERS else prod(data["shape"]) * dtype_of(data["dtype"]).size
