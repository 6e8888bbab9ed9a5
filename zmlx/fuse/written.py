"""Writing out: which calls of MLX become ops and reductions, so that they join a kernel.

Comes in: a simplified graph. Goes out: the graph with those calls written out, which calls they
were, and why the others that have a definition were left to MLX. zmlx.fuse.program calls it where
kernels fold rows.

A call is written out where all its reductions come to lie in one kernel that folds rows, beside
something else; alone too where MLX runs several kernels for it, or a slow one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from zmlx.fuse.folded import with_folds, works
from zmlx.fuse.inline import defined, inlining
from zmlx.fuse.keeping import keeping
from zmlx.fuse.regions import regions
from zmlx.fuse.simplify import cost, simplified, simplify
from zmlx.ops.definitions import ONE_KERNEL, PRODUCTS
from zmlx.trace.graph import Graph
from zmlx.trace.passes import verified

ALONE = "alone, so MLX's own kernel is as good: nothing elementwise over its rows is beside it"
FOLDED = "its result is folded again, a norm's row say: that kernel reads it all at once"
TURNED = ("transpose", "swapaxes")  # of a matrix
APART = "no one kernel can hold what it is made of: its axes are no neighbours, say"


@dataclass(frozen=True, eq=False)
class Written:
    """A graph, and the calls of the graph before that it says in ops."""

    graph: Graph
    calls: tuple[tuple[str, str], ...] = ()  # label and line of each
    left: dict[int, str] = field(default_factory=dict)  # by id of an OpaqueCall: why it stays


@verified("write")
def written_out(
    graph: Graph, ends: bool, worth_alone: int, products: Collection[str] = ()
) -> Written:
    """`graph` with the calls written out that join a kernel so; `ends` as for with_folds.

    One whose ops cost at least `worth_alone` is written out alone too. `products`: the types of
    which products of one row may be.
    """
    chosen = [n for n in graph if defined(graph, n) and _is_better(graph, n, products)]
    left: dict[int, str] = {}
    while chosen:
        made, parts = _tried(graph, chosen)
        homes = _homes(made, ends)
        sums = {p for n in chosen if graph[n]["call"].label in PRODUCTS for p in parts[n]}
        reasons = {
            n: _why_not(graph[n]["call"].label, made, parts[n], homes, worth_alone, sums)
            for n in chosen
        }
        stay = {n: why for n, why in reasons.items() if why}
        if not stay:
            calls = [(graph[n]["call"].label, graph[n]["loc"]) for n in chosen]
            return Written(made, tuple(calls), left)
        left |= {id(graph[n]["call"]): why for n, why in stay.items()}
        chosen = [n for n in chosen if n not in stay]
    return Written(_kept(graph, ends), (), left)


def _is_better(graph: Graph, node: int, products: Collection[str]) -> bool:
    """Whether a call may be written out as far as types and layouts go: a product reads rows of its
    matrix, which then has to be a transposed one.
    """
    if graph[node]["call"].label not in PRODUCTS:
        return True
    matrix = graph[graph.operands(node)[-1]]
    return graph[node]["dtype"] in products and (
        matrix["kind"] == "opaque" and matrix["call"].label in TURNED
    )


def _kept(graph: Graph, ends: bool) -> Graph:
    """`graph` with folded axes kept, where that saves a kernel."""
    kept = keeping(graph).graph
    if kept is graph:
        return graph
    kept = simplify(kept)
    return kept if len(_groups(kept, ends)) < len(_groups(graph, ends)) else graph


def _groups(graph: Graph, ends: bool) -> list[list[int]]:
    return with_folds(graph, regions(graph), ends)


def _tried(graph: Graph, chosen: Sequence[int]) -> tuple[Graph, dict[int, set[int]]]:
    """`graph` with the calls `chosen` written out, and the working nodes that each became."""
    inlined = inlining(graph, chosen)
    kept = keeping(inlined.graph)
    found = simplified(kept.graph)
    made = found.graph
    parts = {}
    for call, nodes in inlined.parts.items():
        places = [found.places.get(kept.places[n]) for n in nodes]
        parts[call] = {p for p in places if p is not None and works(made, p)}
    return made, parts


def _homes(graph: Graph, ends: bool) -> dict[int, Collection[int]]:
    """For each node in a kernel that folds rows, all nodes of the kernel."""
    groups = [set(group) for group in _groups(graph, ends)]
    folding = [g for g in groups if any(graph.kind(n) == "reduce" for n in g)]
    return {node: group for group in folding for node in group}


def _why_not(
    label: str, made: Graph, nodes: set[int], homes: dict[int, Collection[int]], worth_alone: int,
    products: Collection[int],
) -> str:  # fmt: skip
    """Why a call stays with MLX; "" where the reductions of its `nodes` are in one kernel."""
    folds = {n for n in nodes if made.kind(n) == "reduce"}
    if not folds:  # they are another call's, which decides
        return ""
    home = homes.get(min(folds), ())
    if not folds.issubset(home):
        return APART
    beside = any(n not in nodes and works(made, n) for n in home)
    dear = cost(made, sorted(nodes - folds)) >= worth_alone
    if label in PRODUCTS:
        others = any(made.kind(n) == "reduce" and n not in products for n in home)
        return FOLDED if others else "" if beside else ALONE
    return "" if beside or dear or label not in ONE_KERNEL else ALONE
