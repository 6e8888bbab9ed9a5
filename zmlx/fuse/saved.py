"""Saved: what a gradient reads of the forward pass, and what it computes again.

Comes in: a backward graph that computes all again but what MLX's calls gave. Goes out: one that
reads values that are in memory anyway where that takes fewer bytes. zmlx.fuse.whole calls it.

Each value of the forward pass that the gradient needs is either read, or computed from others that
are. Reading costs its bytes; computing elementwise costs nothing beside that, so the cheapest set
to read is a minimum cut. Of two cuts of the same bytes the later one is taken, which computes less.
A fold is read where it can be, as computing it takes a walk; but not one in a half type, whose
digits a kernel has beyond those that it stores (the largest of what is in memory has none), nor one
of which the gradient asks which elements it equals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.fuse.pulled import Pulled
from zmlx.fuse.reads import Backward, Read
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.simplify import copy_node
from zmlx.trace.graph import NUMBERS, Graph, OpaqueCall, Ref

_EXPAND = mx.expand_dims
_PICKS = ("max", "min")  # folds that give one of the elements


@dataclass(frozen=True)
class Bill:
    """What a gradient reads of the forward pass, and what it computes again: nodes, with bytes."""

    saved: tuple[tuple[int, int], ...]
    again: tuple[tuple[int, int], ...]


def bytes_of(data: Mapping[str, Any]) -> int:
    """How many bytes a node's value takes, in the example."""
    if data["kind"] in (*NUMBERS, "const"):
        return 0
    return prod(data["shape"]) * dtype_of(data["dtype"]).size


def chosen(back: Backward, forward: Graph, at_hand: Mapping[int, int]) -> tuple[Backward, Bill]:
    """`back` with the cheapest set of values to read, and what that is."""
    graph = back.graph
    live = _live(graph, graph.outputs)
    origin = {new: old for old, new in back.copies.items() if new in live}
    offered = {n: old for n, old in origin.items() if _is_offered(graph, n, forward, old, at_hand)}
    cut = _cut(graph, live, origin, offered) if offered else set()
    found = _rebuilt(back, {n: offered[n] for n in cut}, forward, at_hand)
    inputs = found.graph.inputs[len(found.seeds) :]
    pairs = zip(found.reads, inputs, strict=True)
    read = [r.node for r, own in pairs if not r.is_number and _is_read(found.graph, own)]
    still = _live(graph, graph.outputs, cut) - cut
    again = [origin[n] for n in origin if n in still and graph.kind(n) in ("op", "reduce")]
    arrays = [n for n in dict.fromkeys(read) if forward.kind(n) not in NUMBERS]
    bill = Bill(
        tuple((n, bytes_of(forward[n])) for n in arrays),
        tuple((n, bytes_of(forward[n])) for n in again),
    )
    return found, bill


def _is_read(graph: Graph, node: int) -> bool:
    """Whether anything needs the values of an input, and not only that it was there."""
    for user in [u for u in graph.users(node) if graph.kind(u) not in NUMBERS]:
        call = graph[user].get("call")
        places = [i for i, o in enumerate(graph.operands(user)) if o == node]
        if call is None or type(call.fn) is not Pulled or any(map(call.fn.reads, places)):
            return True
    return node in graph.outputs


def _is_offered(
    graph: Graph, node: int, forward: Graph, old: int, at_hand: Mapping[int, int]
) -> bool:
    """Whether the value of a node that is computed again could be read."""
    if old not in at_hand or graph.kind(node) not in ("op", "reduce"):
        return False
    if graph.kind(node) == "op":
        return at_hand[old] == old
    if any(graph[user].get("op") == "equal" for user in graph.users(node)):
        return False
    data, (source,) = forward[old], forward.operands(old)
    picked = data["op"] in _PICKS and at_hand.get(source) == source
    return picked or data["dtype"] not in dtypes.HALVES


def _live(graph: Graph, ends: Any, stop: Any = ()) -> set[int]:
    stack, live = list(ends), set()
    while stack:
        node = stack.pop()
        if node not in live:
            live.add(node)
            stack += () if node in stop else graph.operands(node)
    return live


def _cut(
    graph: Graph, live: set[int], origin: Mapping[int, int], offered: Mapping[int, int]
) -> set[int]:
    """The nodes `offered` that the cheapest set reads."""
    import networkx as nx

    scale, network = 1 + len(graph), nx.DiGraph()
    needed = {n for n in origin if any(u in live and u not in origin for u in graph.users(n))}
    needed |= set(origin) & set(graph.outputs)
    for node in origin:
        kind = graph.kind(node)
        if kind == "const":
            continue
        leaf = kind in ("input", "scalar")
        if leaf or node in offered:
            free = kind in ("scalar", "reduce")
            price = 0 if free else bytes_of(graph[node]) * scale + len(graph) - node
            network.add_edge(("in", node), ("out", node), capacity=price)
        else:
            network.add_edge(("in", node), ("out", node))
        if leaf:
            network.add_edge("forward", ("in", node))
        for operand in graph.operands(node):
            if operand in origin and graph.kind(operand) != "const":
                network.add_edge(("out", operand), ("in", node))
        if node in needed:
            network.add_edge(("out", node), "gradient")
    if "gradient" not in network or "forward" not in network:
        return set()
    _, (before, _) = nx.minimum_cut(network, "forward", "gradient")
    return {n for n in offered if ("in", n) in before and ("out", n) not in before}


def _rebuilt(
    back: Backward, cut: Mapping[int, int], forward: Graph, at_hand: Mapping[int, int]
) -> Backward:
    """`back` with the nodes `cut` read, by the forward graph's nodes that they are."""
    graph, made = back.graph, Graph()
    live = _live(graph, graph.outputs, cut)
    first = graph.inputs[: len(back.seeds)]
    reads = dict(zip(graph.inputs[len(first) :], back.reads, strict=True))
    new: dict[int, int] = {}
    kept: list[Read] = []
    for node in graph:
        if node in first:
            new[node] = copy_node(graph, node, made, ())
        elif node in live and node in cut:
            kept.append(Read(at_hand[cut[node]]))
            new[node] = _read_again(made, forward, cut[node], at_hand)
        elif node in live:
            if node in reads:
                kept.append(reads[node])
            new[node] = copy_node(graph, node, made, [new[o] for o in graph.operands(node)])
    made.outputs = [new[n] for n in graph.outputs]
    moved = tuple(new[n] for n in back.moved if n in new)
    return replace(back, graph=made, reads=tuple(kept), copies={}, moved=moved)


def _read_again(made: Graph, forward: Graph, old: int, at_hand: Mapping[int, int]) -> int:
    data, holder = forward[old], at_hand[old]
    own = forward[holder]
    value = made.add("input", shape=own["shape"], dtype=own["dtype"])
    if holder == old:
        return value
    call = OpaqueCall(_EXPAND, (Ref(0), data["axes"]), {}, "expand_dims")
    kinds = {"dtype": own["dtype"], "call": call, "pure": True}
    return made.add("opaque", (value,), shape=data["shape"], **kinds)
