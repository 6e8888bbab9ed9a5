"""Simplification: graph -> smaller graph with the same values, to the last bit.

Common subexpressions merge, dead nodes vanish, and a few rewrites apply that IEEE arithmetic
allows (x*1, x-0, x/1, --x, a cast to the type a value has). Nothing else: x+0 would lose -0.
The largest of x - max(x), where it is a constant, is max(x) - max(x), of one fold.
A dimension of one that is taken away and added again stays. What a fold joins is counted on the
first array that has the folded sizes, so that no value is kept for its shape alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zmlx.dtypes import is_float
from zmlx.fuse.ones import undone
from zmlx.fuse.places import Places
from zmlx.fuse.repeats import key_of
from zmlx.ops.table import OPS
from zmlx.trace.graph import Graph
from zmlx.trace.passes import verified

_ONES = ("squeeze", "expand_dims")  # calls that add or take away dimensions of one
_IDENTITY = {"multiply": (1, (0, 1)), "divide": (1, (1,)), "subtract": (0, (1,))}


def simplify(graph: Graph) -> Graph:
    """A new graph without duplicate, dead and idle nodes; inputs and outputs keep their order."""
    return simplified(graph).graph


@dataclass(frozen=True, eq=False)
class Rewritten:
    """A graph, and where in it the nodes of the graph before are that still count."""

    graph: Graph
    places: dict[int, int]


@verified("simplify")
def simplified(graph: Graph) -> Rewritten:
    """As `simplify`, with the places of the nodes."""
    places = {node: node for node in graph}
    while True:
        graph, new = _shorter(graph)
        places = {node: new[place] for node, place in places.items() if place in new}
        if len(graph) == len(live_nodes(graph)):
            return Rewritten(graph, places)


def _shorter(graph: Graph) -> tuple[Graph, dict[int, int]]:
    """`graph` without what is duplicate, dead or idle in it; what only those used may be left.

    And the nodes that stand for its own.
    """
    live = live_nodes(graph)
    result = Graph()
    new: dict[int, int] = {}
    seen: dict[Any, int] = {}
    apart = _cast_apart(graph)
    for node in graph:
        if node not in live:
            continue
        operands = tuple(new[o] for o in graph.operands(node))
        if graph.kind(node) == "opaque" and type(graph[node]["call"].fn) is Places:
            operands = (_along(result, operands[0], graph[node]["call"].fn),)
        if graph.kind(node) == "size" and graph[node]["expr"][:2] == ("size", 0):
            new[node] = _sized(result, operands[0], graph[node], seen)
            continue
        if graph.kind(node) == "count":
            new[node] = _counted(result, operands[0], graph[node], seen)
            continue
        kept = _idle(graph, node, result, operands)
        if kept is not None:
            new[node] = kept
            continue
        key = None if node in apart else _key(graph, node, operands)
        if key is not None and key in seen:
            new[node] = seen[key]
            continue
        again = _folded_again(graph, node, result, operands)
        if again is not None:  # an equal fold may have a gradient
            new[node] = again
            continue
        new[node] = copy_node(graph, node, result, operands)
        if key is not None:
            seen[key] = new[node]
    result.outputs = [new[n] for n in graph.outputs]
    return result, new


def _counted(result: Graph, source: int, data: dict[str, Any], seen: dict[Any, int]) -> int:
    """The node that counts what a fold of `source` joins, on the first array that tells."""
    axes = data["axes"]
    while (found := as_long(result, source, axes)) is not None:
        source, axes = found
    key = ("count", axes, source)
    if key not in seen:
        seen[key] = result.add("count", (source,), loc=data["loc"], axes=axes)
    return seen[key]


def _sized(result: Graph, source: int, data: dict[str, Any], seen: dict[Any, int]) -> int:
    """The node that is the size of `source` along an axis, of the first array that tells."""
    axes: tuple[int, ...] = (data["expr"][2],)
    while (found := as_long(result, source, axes)) is not None:
        source, axes = found
    key = ("size", axes, source, data["dtype"])
    if key not in seen:
        expr = ("size", 0, axes[0])
        seen[key] = result.add("size", (source,), dtype=data["dtype"], loc=data["loc"], expr=expr)
    return seen[key]


def _along(result: Graph, source: int, places: Places) -> int:
    """The first array that has the dimension whose positions are asked for, where `source` has it.

    No kernel that reads them must then run before.
    """
    while True:
        axis = len(result[source]["shape"]) + places.axis
        found = as_long(result, source, (axis,))
        if found is None or found[1][0] != len(result[found[0]]["shape"]) + places.axis:
            return source
        source = found[0]


def as_long(graph: Graph, node: int, axes: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | None:
    """An operand of `node` with the same sizes along `axes`, and what axes these are there."""
    shape = graph[node]["shape"]
    if graph.kind(node) == "opaque" and graph[node]["call"].label in _ONES:
        (operand,) = graph.operands(node)
        long, there = _longer(shape), _longer(graph[operand]["shape"])
        known = all(a in long for a in axes) and len(long) == len(there)
        return (operand, tuple([there[long.index(a)] for a in axes])) if known else None
    if graph.kind(node) not in ("op", "reduce"):
        return None
    for operand in graph.operands(node):
        own = graph[operand]["shape"]
        there = tuple([a + len(own) - len(shape) for a in axes])
        if there[0] >= 0 and [own[a] for a in there] == [shape[a] for a in axes]:
            return operand, there
    return None


def _longer(shape: Sequence[int]) -> tuple[int, ...]:
    """The dimensions that are not of size one."""
    return tuple([d for d, size in enumerate(shape) if size != 1])


def copy_node(source: Graph, node: int, target: Graph, operands: Sequence[int]) -> int:
    """Append a copy of `node`, fed by `operands`, to `target`."""
    return target.add(source.kind(node), operands, **source.attributes(node))


def live_nodes(graph: Graph) -> set[int]:
    """Nodes that an output needs, every input, and calls with effects."""
    stack = [*graph.outputs, *graph.inputs]
    stack += [n for n in graph if graph.kind(n) == "opaque" and not graph[n].get("pure", True)]
    live: set[int] = set()
    while stack:
        node = stack.pop()
        if node not in live:
            live.add(node)
            stack.extend(graph.operands(node))
    return live


def _cast_apart(graph: Graph) -> set[int]:
    """The ops that take an integer into a float type, where gradients may flow to it.

    What each sends back is cast to the integer's type before it is added up, as in MLX: equal
    ones must not be one.
    """
    moving, apart = set[int](), set[int]()
    for node in graph:
        data = graph[node]
        if data["kind"] in ("input", "opaque", "item"):
            moving.add(node)
        elif data["kind"] in ("op", "reduce"):
            sources = [o for o in data["operands"] if o in moving]
            if not sources or (data["kind"] == "op" and OPS[data["op"]].grad == "zero"):
                continue
            moving.add(node)
            kinds = [graph[o]["dtype"] for o in sources]
            if data["kind"] == "op" and is_float(data["dtype"]) and not all(map(is_float, kinds)):
                apart.add(node)
    return apart


def _key(graph: Graph, node: int, operands: tuple[int, ...]) -> Any:
    data = graph[node]
    if data["kind"] == "op":
        return ("op", data["op"], data["at"], data["dtype"], operands)
    if data["kind"] == "const":
        value = data["value"]
        zero = isinstance(value, float) and math.copysign(1.0, value) < 0
        return ("const", data["dtype"], type(value), repr(value), zero)
    if data["kind"] == "item":
        return ("item", operands, data["index"])
    if data["kind"] == "reduce":
        return ("reduce", data["op"], data["axes"], operands)
    if data["kind"] != "opaque" or not data["pure"]:
        return None
    key = key_of(data["call"])
    return None if key is None else (*key, operands)


def _idle(graph: Graph, node: int, result: Graph, operands: Sequence[int]) -> int | None:
    """What `node` passes on unchanged, if it does: its operand, or what a view made that of."""
    data = graph[node]
    if data["kind"] == "opaque":
        return undone(graph, node, result, operands)
    if data["kind"] != "op":
        return None
    rule = _IDLE.get(data["op"])
    found = None if rule is None else rule(result, data, operands)
    if found is None:
        return None
    kept = result[found]  # a number is no array, even where it is multiplied by 1
    same = kept["dtype"] == data["dtype"] and kept["shape"] == data["shape"]
    return found if same and kept["kind"] != "scalar" else None


def _folded_again(graph: Graph, node: int, result: Graph, operands: Sequence[int]) -> int | None:
    """What max(x - max(x)) is without a second fold: a rounded difference keeps its order.

    Where it has no gradient: that differs at infinity.
    """
    data, users = graph[node], graph.users(node)
    if data["kind"] != "reduce" or data["op"] not in ("max", "min") or node in graph.outputs:
        return None
    if any(graph[user].get("op") != "stop_gradient" for user in users):
        return None
    low = result[operands[0]]
    if low["kind"] != "op" or low["op"] != "subtract":
        return None
    source, taken = low["operands"]
    fold = result.operands(taken)[0] if result[taken].get("op") == "stop_gradient" else taken
    found = result[fold]
    same = all(found.get(k) == data[k] for k in ("kind", "op", "axes", "shape", "dtype"))
    if not same or found["operands"] != (source,):
        return None
    kinds = {key: low[key] for key in ("op", "at", "dtype", "loc")}
    return result.add("op", (fold, taken), shape=found["shape"], **kinds)


def _identity(result: Graph, data: dict[str, Any], operands: Sequence[int]) -> int | None:
    unit, places = _IDENTITY[data["op"]]
    for place in places:
        other = result[operands[place]]
        if unit == 1 and other["kind"] == "op" and other["op"] == "ones_like":
            return operands[1 - place]
        if other["kind"] == "const" and other["value"] == unit:
            if unit == 0 and math.copysign(1.0, other["value"]) < 0:
                continue
            return operands[1 - place]
    return None


def _double(result: Graph, data: dict[str, Any], operands: Sequence[int]) -> int | None:
    inner = result[operands[0]]
    if inner["kind"] == "op" and inner["op"] == data["op"]:
        return inner["operands"][0]
    return None


_IDLE: dict[str, Callable[[Graph, dict[str, Any], Sequence[int]], int | None]] = {
    **{op: _identity for op in _IDENTITY},
    "negative": _double,
    "bitwise_invert": _double,
    "astype": lambda result, data, operands: operands[0],
}


def cost(graph: Graph, nodes: Sequence[int]) -> int:
    """Rough price of computing `nodes` for one element, in adds."""
    return sum(OPS[graph[n]["op"]].cost for n in nodes)
