"""Joining: regions and the reductions between them become regions that fold rows.

Comes in: a graph and its elementwise groups (zmlx.fuse.regions). Goes out: groups in which some
have grown by reduce and count nodes, each legal as one kernel that walks over rows: all its folds
agree on which dimensions are columns, nothing leaves it and comes back. zmlx.fuse.plan calls it.

In a derivative a group that would only fold what it writes stays as it was: zmlx.fuse.ends serves
it, as it does what is left of others.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.fuse.ends import can_fold
from zmlx.fuse.regions import fits
from zmlx.fuse.shapes import Shape, symbolic_shapes
from zmlx.fuse.simplify import cost
from zmlx.ops.reductions import REDUCTIONS
from zmlx.trace.graph import Graph


def with_folds(graph: Graph, groups: Sequence[Sequence[int]], ends: bool = True) -> list[list[int]]:
    """`groups`, some of them together with the reductions between them.

    With `ends` also with those that nothing else in the kernel reads.
    """
    folds = [n for n in graph if graph.kind(n) == "reduce" and can_fold(graph, n)]
    if not folds:
        return [list(group) for group in groups]
    return _Joiner(graph, groups, folds, ends).found()


def works(graph: Graph, node: int) -> bool:
    """Whether `node` computes something in a kernel."""
    kind = graph.kind(node)
    return kind == "reduce" or (kind == "op" and cost(graph, (node,)) > 0)


class _Joiner:
    """Clusters of nodes, which grow."""

    def __init__(
        self, graph: Graph, groups: Sequence[Sequence[int]], folds: Sequence[int], ends: bool
    ) -> None:
        self.graph, self.groups, self.folds, self.ends = graph, groups, folds, ends
        self.shapes = symbolic_shapes(graph)
        self.returned = set(graph.outputs)
        effects = [n for n in graph if not graph[n].get("pure", True)]
        self.following = dict(zip(effects, effects[1:], strict=False))  # effects keep their order
        self.members: dict[int, set[int]] = {}  # by any name of the cluster
        self.cluster: dict[int, int] = {}  # by node
        for group in [*groups, *[[n] for n in folds]]:
            self.members[group[0]] = set(group)
            self.cluster.update(dict.fromkeys(group, group[0]))

    def found(self) -> list[list[int]]:
        for fold in self.folds:
            self._join(fold, self.graph.operands(fold)[0])
            for user in self.graph.users(fold):
                self._join(fold, user)
        for fold in self.folds:
            self._grow(fold)
        for fold in self.folds if self.ends else ():
            for other in self._beside(fold):
                self._join(fold, other)
        for fold in () if self.ends else self.folds:
            for other in self._readers(fold):
                self._join(fold, other)
        return [group for nodes in self.members.values() for group in self._settled(nodes)]

    def _beside(self, fold: int) -> list[int]:
        """Other folds of the same array."""
        (source,) = self.graph.operands(fold)
        return [n for n in self.graph.users(source) if n > fold and n in self.cluster]

    def _readers(self, fold: int) -> list[int]:
        """Where `fold` adds up an array that nothing here computes (a cotangent, for a bias), maybe
        cast, what else reads that array."""
        (source,) = self.graph.operands(fold)
        while source in self.cluster and self.graph[source].get("op") == "astype":
            (source,) = self.graph.operands(source)
        return [] if source in self.cluster else [u for u in self.graph.users(source) if u != fold]

    def _grow(self, fold: int) -> None:
        """Join what gives values to the cluster of `fold`, and what takes them, while it can."""
        tried: set[tuple[int, int]] = set()
        while True:
            nodes = self.members[self.cluster[fold]]
            edges = [(o, n) for n in nodes for o in self.graph.operands(n) if o not in nodes]
            edges += [(u, n) for n in nodes for u in self.graph.nx.successors(n) if u not in nodes]
            fresh = [edge for edge in sorted(edges) if edge not in tried]
            if not fresh:
                return
            tried.add(fresh[0])
            self._join(fold, fresh[0][0])

    def _settled(self, nodes: set[int]) -> list[list[int]]:
        """A cluster with what it counts, or, where it folds nothing that it reads, its groups."""
        inside = self._folds(nodes)
        if not inside:
            return [self._ordered(nodes)]
        if self._goes_on(nodes, inside):
            return [sorted(nodes | self._counts(nodes))]
        if self.ends:
            kept = nodes - self._behind(nodes, inside)
            if sum(works(self.graph, n) for n in kept) > 1:
                rest = [[n for n in group if n in nodes - kept] for group in self.groups]
                return [sorted(kept | self._counts(kept)), *filter(None, rest)]
        return [list(group) for group in self.groups if nodes.issuperset(group)]

    def _behind(self, nodes: set[int], folds: Sequence[int]) -> set[int]:
        """What is computed from a fold of everything, and is one number itself: then each block of
        rows folds a part.
        """
        found = {n for n in folds if set(self.shapes[n]) <= {1}}
        first = set(found)
        for node in sorted(nodes):
            if any(o in found for o in self.graph.operands(node)):
                found.add(node)
        return found - first

    def _goes_on(self, nodes: set[int], folds: Sequence[int]) -> bool:
        """Whether a whole row, or another fold, is computed from what is folded of it."""
        graph, rank = self.graph, max(len(self.shapes[n]) for n in nodes)
        read = [n for n in folds if any(u in nodes for u in graph.users(n))]
        columns = {d for n in read for d in graph[n]["axes"]}
        reached = set(folds)
        for node in sorted(nodes - reached):
            if any(o in reached for o in graph.operands(node)):
                reached.add(node)
                shape = self.shapes[node]
                if len(shape) == rank and any(shape[d] != 1 for d in columns):
                    return True
        return any(o in reached for n in folds for o in graph.operands(n))

    def _ordered(self, nodes: set[int]) -> list[int]:
        """The group as it came: its order is made for few values alive."""
        return next(list(group) for group in self.groups if nodes.issuperset(group))

    def _counts(self, nodes: set[int]) -> set[int]:
        """Count nodes that it alone reads, of arrays that it has."""
        graph = self.graph
        has = {o for n in nodes for o in graph.operands(n)} | nodes
        read = {o for n in nodes for o in graph.operands(n) if graph.kind(o) == "count"}
        return {n for n in read if graph.operands(n)[0] in has and nodes.issuperset(graph.users(n))}

    def _join(self, node: int, other: int) -> None:
        mine, theirs = self.cluster[node], self.cluster.get(other)
        if theirs is None or mine == theirs:
            return
        nodes = self.members[mine] | self.members[theirs]
        if self._comes_back(nodes) or not self._is_legal(nodes):
            return
        self.members[mine] = nodes
        del self.members[theirs]
        self.cluster.update(dict.fromkeys(nodes, mine))

    def _comes_back(self, nodes: set[int]) -> bool:
        """Whether a value leaves `nodes` and what is made of it, or runs after that, comes back.

        What shares a cluster with a value waits for it, and is there at once.
        """
        last = max(nodes)
        stack = self._after(nodes)
        seen: set[int] = set()
        while stack:
            node = stack.pop()
            if node in nodes:
                return True
            if node in seen:
                continue
            together = self.members.get(self.cluster.get(node, -1), {node})
            seen |= together
            if min(together) < last:  # else nothing after it is one of `nodes`
                stack += self._after(together)
        return False

    def _after(self, nodes: set[int]) -> list[int]:
        found = [u for n in nodes for u in self.graph.nx.successors(n) if u not in nodes]
        return [*found, *[self.following[n] for n in nodes if n in self.following]]

    # -- what one kernel can do ---------------------------------------------------------------
    def _is_legal(self, nodes: set[int]) -> bool:
        space = self._space(nodes)
        if space is None or not self._has_columns(nodes, space):
            return False
        return fits(self.graph, sorted(nodes), self.returned)

    def _space(self, nodes: set[int]) -> Shape | None:
        """The common iteration space in symbols; None where sizes may differ."""
        shapes = [self.shapes[n] for n in nodes]
        shapes += [self.shapes[self.graph.operands(n)[0]] for n in self._folds(nodes)]
        rank = max(map(len, shapes))
        space = [1] * rank
        for shape in shapes:
            for d, size in enumerate(shape, rank - len(shape)):
                if size != 1 and space[d] not in (1, size):
                    return None
                space[d] = size if space[d] == 1 else space[d]
        return tuple(space)

    def _folds(self, nodes: set[int]) -> list[int]:
        return [n for n in nodes if self.graph.kind(n) == "reduce"]

    def _has_columns(self, nodes: set[int], space: Shape) -> bool:
        """Whether some dimensions can be the columns of all folds, and rows all the rest."""
        rank = len(space)
        last = any(self._fits(nodes, space, set(range(first, rank))) for first in range(rank))
        return last or self._lie_before_rows(nodes, space)

    def _lie_before_rows(self, nodes: set[int], space: Shape) -> bool:
        """Whether neighbouring dimensions that are not the last can be the columns, of folds that
        all fold them and nothing else."""
        found = {frozenset(self.graph[n]["axes"]) for n in self._folds(nodes)}
        moving = {d for d in range(len(space)) if space[d] != 1}
        columns = {frozenset(axes & moving) for axes in found}
        wanted = next(iter(columns), frozenset())
        if len(columns) != 1 or not wanted:
            return False
        if not all(self._leads_on(n) for n in self._folds(nodes) if self.graph.users(n)):
            return False
        apart = moving.intersection(range(min(wanted), max(wanted) + 1)) - wanted
        return not apart and self._fits(nodes, space, set(wanted))

    def _leads_on(self, fold: int) -> bool:
        """Whether ops compute something larger, or another fold, of what is folded. Else it is what
        rows may add up at their end, a weight's gradient that is cast, say.
        """
        graph, behind, seen = self.graph, [fold], {fold}
        while behind:
            for user in graph.users(behind.pop()):
                if graph.kind(user) == "reduce" or (
                    graph.kind(user) == "op" and self.shapes[user] != self.shapes[fold]
                ):
                    return True
                if graph.kind(user) == "op" and user not in seen:
                    seen.add(user)
                    behind.append(user)
        return False

    def _fits(self, nodes: set[int], space: Shape, chosen: set[int]) -> bool:
        graph = self.graph
        columns = {d for d in chosen if space[d] != 1}
        rows = {d for d in range(len(space)) if space[d] != 1} - columns
        if not columns:
            return False
        for fold in self._folds(nodes):
            data, operand = graph[fold], self.shapes[graph.operands(fold)[0]]
            axes = {d for d in data["axes"] if operand[d] != 1}
            over_rows, over_columns = axes & rows, axes & columns
            if len(operand) != len(space) or over_columns not in (set(), columns) or not axes:
                return False
            read = any(u in nodes for u in graph.users(fold)) or REDUCTIONS[data["op"]].index
            if over_rows and (over_rows != rows or read):
                return False
        return all(self._fills(n, nodes, space, rows, columns) for n in nodes)

    def _fills(
        self, node: int, nodes: set[int], space: Shape, rows: set[int], columns: set[int]
    ) -> bool:
        """Whether an op that is written out has all rows, and all columns or none."""
        graph = self.graph
        written = node in self.returned or any(u not in nodes for u in graph.users(node))
        if not written or (graph.kind(node) == "reduce" and set(graph[node]["axes"]) & rows):
            return True
        shape = self.shapes[node]
        shape = (1,) * (len(space) - len(shape)) + shape
        moving = {d for d, size in enumerate(shape) if size != 1}
        return rows <= moving and moving & columns in (set(), columns)
