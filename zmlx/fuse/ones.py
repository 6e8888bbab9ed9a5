"""Ones: views that take away or add dimensions of size one, and what becomes of two of them.

Comes in: nodes of a graph. Goes out: which dimensions a view takes away or adds. A reduction keeps
its axes, and a squeeze takes them away: zmlx.fuse.simplify cancels it where they are added again,
zmlx.fuse.plan runs both as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zmlx.fuse.views import PLACE, SQUEEZE, kind_of
from zmlx.trace.graph import Graph

Axes = tuple[int, ...]


def taken(graph: Graph, node: int) -> Axes | None:
    """The axes of its operand that `node` squeezes; None where it is no squeeze of given axes."""
    if kind_of(graph, node) != SQUEEZE:
        return None
    return _axes(graph[node]["call"], len(graph[graph.operands(node)[0]]["shape"]))


def added(graph: Graph, node: int) -> Axes | None:
    """The axes of its result that `node` adds, all else being its operand; None where it is not so.

    x[:, None] and mx.expand_dims.
    """
    if kind_of(graph, node) != PLACE:
        return None
    call, rank = graph[node]["call"], len(graph[node]["shape"])
    before = len(graph[graph.operands(node)[0]]["shape"])
    if call.label == "getitem":
        return _new_axes(call.args[1], rank)
    found = _axes(call, rank) if call.label == "expand_dims" else None
    return found if found is not None and len(found) == rank - before else None


def undone(graph: Graph, node: int, result: Graph, operands: Sequence[int]) -> int | None:
    """What `node` restores, where `operands`, in `result`, take away what it adds, or add it."""
    for one, other in ((added, taken), (taken, added)):
        axes = one(graph, node)
        if axes is not None and other(result, operands[0]) == axes:
            return result.operands(operands[0])[0]
    return None


def squeezed(graph: Graph, node: int) -> int | None:
    """The node that takes the folded axes away, where nothing else reads the reduction `node`."""
    users = graph.users(node)
    if graph.kind(node) != "reduce" or len(users) != 1 or node in graph.outputs:
        return None
    return users[0] if taken(graph, users[0]) == graph[node]["axes"] else None


def _axes(call: Any, rank: int) -> Axes | None:
    given = call.args[1] if len(call.args) > 1 else call.kwargs.get("axis")
    axes = given if isinstance(given, (list, tuple)) else (given,)
    if not all(type(a) is int and -rank <= a < rank for a in axes):
        return None
    return tuple(sorted(a % rank for a in axes))


def _new_axes(index: Any, rank: int) -> Axes:
    items = index if type(index) is tuple else (index,)
    if Ellipsis in items:
        at = items.index(Ellipsis)
        whole = (slice(None),) * (rank - len(items) + 1)
        items = (*items[:at], *whole, *items[at + 1 :])
    return tuple([i for i, item in enumerate(items) if item is None])
