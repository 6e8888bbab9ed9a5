"""Joins: concatenations and stacks of what regions compute, written in place by their kernels.

Comes in: a graph and its regions. Goes out: Joined steps, each some regions and the calls that put
their results together; one kernel then writes every part where it belongs, and no part is stored
and copied. zmlx.fuse.plan calls it; zmlx.fuse.joined runs such a step.

A call is taken where at least half of what it puts together is computed for it, by regions that
read no large array against the grain; the rest of its parts may be any arrays. It stays with MLX
where types differ, where a region sums (its kernel is of another kind), where Metal has not the
buffers, and where two parts wait for each other through a call of MLX's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.fuse.extract import Ends, Region
from zmlx.fuse.views import PLACE, kind_of, run_of
from zmlx.msl.space import MAX_BUFFERS
from zmlx.trace.graph import NUMBERS, Graph, OpaqueCall, Ref

RUN = 32  # neighbours in memory that fill vectors and caches' lines
# By identity, before any trace replaces names; True for what makes a dimension.
_CALLS = {id(mx.concatenate): False, id(mx.concat): False, id(mx.stack): True}


@dataclass(frozen=True)
class Join:
    """A call that puts `parts` (node ids) together along `axis`, one of its result's dimensions."""

    node: int
    parts: tuple[int, ...]
    axis: int
    stacks: bool  # along a new dimension


@dataclass(frozen=True, eq=False)
class Joined:
    """Regions whose results go to their places in the results of `joins`, by one kernel."""

    regions: tuple[Region, ...]
    joins: tuple[Join, ...]
    kept: tuple[int, ...]  # results of the regions that others read too

    @property
    def plain(self) -> tuple[int, ...]:
        """Parts that none of the regions computes."""
        computed = {n for region in self.regions for n in region.ends.outputs}
        parts = (n for join in self.joins for n in join.parts)
        return tuple(dict.fromkeys(n for n in parts if n not in computed))

    @property
    def ends(self) -> Ends:
        """What it reads and gives, as node ids."""
        read = [n for region in self.regions for n in region.ends.inputs]
        numbers = [n for region in self.regions for n in region.ends.scalars]
        arrays = tuple(dict.fromkeys([*read, *self.plain]))
        return Ends(arrays, tuple(dict.fromkeys(numbers)), self.results)

    @property
    def results(self) -> tuple[int, ...]:
        """What running it gives."""
        return (*self.kept, *[join.node for join in self.joins])


def join_of(graph: Graph, node: int) -> Join | None:
    """What `node` puts together, where it concatenates or stacks arrays of its own type."""
    data = graph[node]
    if data["kind"] != "opaque" or not data["pure"] or not dtypes.has_msl(data["dtype"]):
        return None
    call: OpaqueCall = data["call"]
    stacks = _CALLS.get(id(call.fn))
    if stacks is None or call.outputs or not set(call.kwargs) <= {"axis"} or not call.args:
        return None
    arrays, *rest = call.args
    axis = rest[0] if rest else call.kwargs.get("axis", 0)
    if type(axis) is not int or len(rest) > 1 or type(arrays) not in (list, tuple):
        return None
    if not arrays or any(type(a) is not Ref for a in arrays):
        return None
    parts = tuple(data["operands"][a.position] for a in arrays)
    rank = len(data["shape"])
    fits = all(graph[p]["dtype"] == data["dtype"] and _is_array(graph, p) for p in parts)
    return Join(node, parts, axis % rank, stacks) if fits and rank else None


def joined(graph: Graph, regions: Sequence[Region]) -> list[Joined]:
    """The joins of `graph` that regions can write in place, with these regions."""
    home = {n: i for i, r in enumerate(regions) for n in r.ends.outputs}
    search = _Search(graph, regions, home)
    for node in graph:
        join = join_of(graph, node)
        if join is not None and search.pays(join):
            search.take(join)
    return search.found()


def _is_array(graph: Graph, node: int) -> bool:
    return graph.kind(node) not in (*NUMBERS, "const")


class _Search:
    """Regions and joins taken so far, in units of which each becomes one kernel."""

    def __init__(self, graph: Graph, regions: Sequence[Region], home: dict[int, int]) -> None:
        self.graph, self.regions, self.home = graph, regions, home
        self.units: list[tuple[frozenset[int], tuple[Join, ...]]] = []

    def pays(self, join: Join) -> bool:
        graph = self.graph
        homes = {self.home[p] for p in join.parts if p in self.home}
        computed = sum(prod(graph[p]["shape"]) for p in join.parts if p in self.home)
        if not homes or 2 * computed < prod(graph[join.node]["shape"]):
            return False
        return not any(self._crosses(n) for i in homes for n in self.regions[i].ends.inputs)

    def _crosses(self, node: int) -> bool:
        """Whether a kernel would read it against the grain."""
        graph = self.graph
        if kind_of(graph, node) != PLACE:
            return False
        before, after = graph[graph.operands(node)[0]]["shape"], graph[node]["shape"]
        return run_of(PLACE, before, after, graph[node]["call"]) < min(RUN, prod(after))

    def take(self, join: Join) -> None:
        """Add `join` where a kernel can hold it and no step comes to wait for itself."""
        homes = frozenset(self.home[p] for p in join.parts if p in self.home)
        joins: tuple[Join, ...] = (join,)
        apart = []
        for unit in self.units:
            if unit[0] & homes:
                homes, joins = homes | unit[0], (*unit[1], *joins)
            else:
                apart.append(unit)
        units = [*apart, (homes, joins)]
        if self._slots(homes, joins) <= MAX_BUFFERS and self._runs(units):
            self.units = units

    def _slots(self, homes: frozenset[int], joins: Sequence[Join]) -> int:
        made = self._made(homes, joins)
        ends = made.ends
        return 2 * len(ends.inputs) + len(ends.scalars) + len(ends.outputs) + 1

    def _runs(self, units: Sequence[tuple[frozenset[int], tuple[Join, ...]]]) -> bool:
        """Whether each unit can be one step: what it reads is there before it begins."""
        import networkx as nx

        pairs = enumerate(self.regions)
        home: dict[int, Any] = {n: ("region", i) for i, r in pairs for n in r.nodes}
        owner = dict(home)
        for number, (homes, joins) in enumerate(units):
            owner |= {n: ("unit", number) for i in homes for n in self.regions[i].nodes}
            owner |= {join.node: ("unit", number) for join in joins}
        order = nx.DiGraph()
        for node in self.graph:
            mine = owner.get(node, node)
            for operand in self.graph.operands(node):
                if owner.get(operand, operand) != mine:
                    order.add_edge(owner.get(operand, operand), mine)
                elif operand not in home or home.get(node, home[operand]) != home[operand]:
                    return False
        return nx.is_directed_acyclic_graph(order)

    def found(self) -> list[Joined]:
        return [self._made(homes, joins) for homes, joins in self.units]

    def _made(self, homes: frozenset[int], joins: Sequence[Join]) -> Joined:
        regions = tuple(self.regions[i] for i in sorted(homes))
        inside = {n for r in regions for n in r.nodes} | {join.node for join in joins}
        returned = set(self.graph.outputs)
        kept = tuple(
            n
            for r in regions
            for n in r.ends.outputs
            if n in returned or any(u not in inside for u in self.graph.users(n))
        )
        return Joined(regions, tuple(joins), kept)
