"""Part: what of a running trace leads from some arrays to others, as a graph of its own.

Comes in: a tracer's graph, and nodes in it. Goes out: a graph whose inputs are the first ones and
whatever else is read, and whose outputs are those of the last ones that depend on the first; and a
graph that was made of it as nodes of the trace. zmlx.fuse.taken differentiates it between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zmlx.errors import DeriveError
from zmlx.fuse.simplify import copy_node, live_nodes
from zmlx.trace.graph import NUMBERS, Graph, OpaqueCall
from zmlx.trace.tracer import Tracer


class Part:
    """The nodes of `whole` from `starts` to `ends`."""

    def __init__(self, whole: Graph, starts: Sequence[int], ends: Sequence[int]) -> None:
        self.whole, self.graph = whole, Graph()
        reached = self._reached(starts)
        self.outputs = [n for n in dict.fromkeys(ends) if n in reached]
        self._given: list[int] = []  # by input of `graph`: the node of `whole`
        self._new: dict[int, int] = {}
        for start in starts:
            self._read(start)
        needed = self._needed(reached)
        for node in sorted(needed):
            operands = [self._operand(o) for o in whole.operands(node)]
            self._new[node] = copy_node(whole, node, self.graph, operands)
        self.graph.outputs = [self._new[n] for n in self.outputs]

    @property
    def calls(self) -> list[OpaqueCall]:
        """The calls of MLX's in it."""
        graph = self.graph
        return [graph[n]["call"] for n in graph if graph.kind(n) == "opaque"]

    def _reached(self, starts: Sequence[int]) -> set[int]:
        """The nodes that depend on the values of `starts`; numbers are of sizes alone."""
        whole, reached = self.whole, set(starts)
        for node in range(min(starts) + 1, len(whole)):
            if whole.kind(node) not in NUMBERS and reached.intersection(whole.operands(node)):
                reached.add(node)
        return reached

    def _needed(self, reached: set[int]) -> set[int]:
        """Those of `reached` that outputs need, with the numbers that are read of them."""
        whole, stack, needed = self.whole, [*self.outputs], set[int]()
        while stack:
            node = stack.pop()
            if node in needed or node in self._new:
                continue
            inside = node in reached or whole.kind(node) == "const"
            sized = whole.kind(node) in ("size", "count")
            if inside or (sized and reached.intersection(whole.operands(node))):
                if not whole[node].get("pure", True):
                    raise DeriveError("a draw depends on what moves.")
                needed.add(node)
                stack.extend(whole.operands(node))
        return needed

    def _operand(self, node: int) -> int:
        return self._new[node] if node in self._new else self._read(node)

    def _read(self, node: int) -> int:
        """The input that stands for a node outside."""
        data = self.whole[node]
        if data["kind"] in NUMBERS:
            made = self.graph.add("scalar", dtype=data["dtype"])
        else:
            made = self.graph.add("input", shape=data["shape"], dtype=data["dtype"])
        self._given.append(node)
        self._new[node] = made
        return made

    def spliced(
        self, tracer: Tracer, made: Graph, homes: Mapping[int, int], seeds: Sequence[int]
    ) -> list[int]:
        """The outputs of `made`, whose nodes are the tracer's now. Its inputs are those of `graph`,
        those at `homes` being these, and `seeds`.
        """
        names = {id(self.whole[n].get("call")): name for n, name in tracer.sizes.names.items()}
        given = [homes.get(node, node) for node in self._given]
        new = dict(zip(made.inputs, [*given, *seeds], strict=True))
        live = live_nodes(made)
        for node in made:
            if node in new or node not in live:
                continue
            operands = [new[o] for o in made.operands(node)]
            new[node] = copy_node(made, node, tracer.graph, operands)
            name = names.get(id(made[node].get("call")))
            if name is not None:
                tracer.sizes.names[new[node]] = name
        return [new[n] for n in made.outputs]
