"""Lifting: views of elementwise results become views of what the results are computed from.

Comes in: a simplified graph. Goes out: one with the same values in which view(f(a, b)) reads
f(view(a), view(b)), so that f joins the kernel of those that read the view. At a region's inputs
views cost nothing: kernels take strides. zmlx.fuse.program calls it before it plans.

A view is lifted where a kernel's result is then stored no more, nothing dear is computed more
often, and no input is read against the grain that was read along it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from zmlx.fuse.move import Chain, Lift, rewritten, steps_of
from zmlx.fuse.regions import regions
from zmlx.fuse.simplify import cost, simplify
from zmlx.fuse.views import BROADCAST, DENSE, INDEX, RESHAPE, Shape, content_of, kind_of, run_of
from zmlx.trace.graph import NUMBERS, Graph, broadcast

ROUNDS = 8
CHEAP = 8  # adds an element, about what storing and reading it costs
RUN = 32  # neighbours in memory that fill vectors and caches' lines
AGAINST = 4  # times the price of an input that is read against the grain
EXTRA = 2  # views that MLX makes in less than the time in which it launches a kernel
SLOW = {INDEX: 2}  # times what another view costs


def lift(graph: Graph) -> Graph:
    """`graph` with views moved to where they cost nothing."""
    for _ in range(ROUNDS):
        found = _Search(graph)
        if not found.lifts:
            break
        changed = simplify(rewritten(graph, found.kinds, found.lifts))
        if len(regions(changed)) > len(found.groups):
            break
        graph = changed
    return graph


class _Search:
    """The lifts that pay in one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        kinds = {node: kind_of(graph, node) for node in graph}
        self.kinds = {node: kind for node, kind in kinds.items() if kind is not None}
        self.groups = regions(graph) if self.kinds else []
        self.group = {node: i for i, group in enumerate(self.groups) for node in group}
        self.spaces = [broadcast([graph[n]["shape"] for n in group]) for group in self.groups]
        self.returned = set(graph.outputs)
        self.numbers = self._numbers()
        self.lifts = self._lifts()

    def _lifts(self) -> list[Lift]:
        found = [lift for root in self.group if (lift := self._candidate(root)) is not None]
        found = [lift for lift in sorted(found, key=lambda lift: lift.root) if self._pays(lift)]
        count = -1
        while len(found) != count:  # a kernel dies only if all that it stores is lifted
            count = len(found)
            found = [lift for lift in found if self._saves_a_kernel(lift, found)]
        ends: set[int] = set()
        chosen = []
        for lift in found:  # what hangs on a lifted view comes next, when that view is an op
            if not ends.intersection(lift.leaves):
                ends.update(chain.end for chain in lift.chains)
                chosen.append(lift)
        return chosen

    def _numbers(self) -> set[int]:
        found: set[int] = set()
        for node in self.graph:
            kind, operands = self.graph.kind(node), self.graph.operands(node)
            if kind in ("const", *NUMBERS) or (kind == "op" and found.issuperset(operands)):
                found.add(node)
        return found

    # -- what could be moved ----------------------------------------------------------------------
    def _candidate(self, root: int) -> Lift | None:
        graph = self.graph
        if root in self.returned or not graph[root]["shape"]:
            return None
        if not all(self._is_view_of(user, root) for user in graph.users(root)):
            return None
        chains = self._chains(root)
        if not any(u in self.group for chain in chains for u in graph.users(chain.end)):
            return None
        cone = self._cone(root)
        if cone is None:
            return None
        operands = dict.fromkeys(o for n in cone for o in graph.operands(n) if o not in cone)
        leaves = [o for o in operands if o not in self.numbers and not self._is_number_like(o)]
        return Lift(root, tuple(cone), tuple(leaves), tuple(chains)) if leaves else None

    def _is_view_of(self, user: int, node: int) -> bool:
        return user in self.kinds and self.graph.operands(user).count(node) == 1

    def _is_number_like(self, node: int) -> bool:
        """Arrays that have rank 0 at every call."""
        return self.graph.kind(node) in ("input", "array") and not self.graph[node]["shape"]

    def _chains(self, node: int) -> list[Chain]:
        """All views of `node`; those of views too, where nothing else reads the inner one."""
        found = []
        for view in self.graph.users(node):
            items = [(view, i) for i in self.graph.users(view)]
            for nodes in items if self.graph[view]["call"].outputs else [(view,)]:
                end = nodes[-1]
                users = self.graph.users(end)
                inner = users and all(self._is_view_of(u, end) for u in users)
                if inner and end not in self.returned:
                    found += [Chain((*nodes, *chain.nodes)) for chain in self._chains(end)]
                else:
                    found.append(Chain(tuple(nodes)))
        return found

    def _cone(self, root: int) -> list[int] | None:
        """The ops that die with `root`, and cheap ones that are computed twice then."""
        graph, home = self.graph, self.group[root]
        cone, twice, price = {root}, set(), 0
        open_ = set(graph.operands(root))
        while open_:
            node = max(open_)
            open_.discard(node)
            if self.group.get(node) != home:
                continue
            outside = [u for u in graph.users(node) if u not in cone or u in twice]
            if node in self.returned or any(self.group.get(u) != home for u in outside):
                continue  # it is stored whatever happens
            if outside:
                twice.add(node)
                price += cost(graph, (node,))
            cone.add(node)
            open_.update(graph.operands(node))
        return sorted(cone) if price <= CHEAP // 2 else None

    # -- whether it pays --------------------------------------------------------------------------
    def _pays(self, lift: Lift) -> bool:
        """Whether no kernel computes or reads more than a little more than before."""
        size = max(1, prod(self._shape(lift.root)))
        large = self._large(lift)
        computed = read = 0.0
        for chain in lift.chains:
            part = self._elements(lift, chain.end) / size
            along = self._run(lift.root, chain) >= min(RUN, size)
            computed += part * (1 if along else 2)
            read += prod(self._shape(chain.end)) / size * (1 if along else AGAINST)
        if cost(self.graph, lift.cone) * (computed - 1) > CHEAP or self._rounds_more(lift):
            return False
        if read * (len(large) - 1) > len(large) + 1:
            return False
        return self._reshapes(lift, large) and self._keeps_shapes(lift)

    def _rounds_more(self, lift: Lift) -> bool:
        """Whether a gradient would be cast before it is summed, not after."""
        spread = any(self.kinds.get(n) == BROADCAST for c in lift.chains for n in c.nodes)
        read = {o for n in lift.cone for o in self.graph.operands(n)} - self.numbers
        return spread and len({self.graph[n]["dtype"] for n in (*read, lift.root)}) > 1

    def _large(self, lift: Lift) -> list[int]:
        """The leaves of about the size of what is viewed."""
        size = prod(self._shape(lift.root))
        return [n for n in lift.leaves if 2 * prod(self._shape(n)) > size]

    def _saves_a_kernel(self, lift: Lift, lifts: Sequence[Lift]) -> bool:
        """Whether the kernel that stored the root goes; else whether less is moved, for nothing."""
        home = self.group[lift.root]
        group = set(self.groups[home])
        beside = [other for other in lifts if self.group[other.root] == home]
        stored = {
            n
            for n in group
            if n in self.returned or any(u not in group for u in self.graph.users(n))
        }
        if stored <= {other.root for other in beside}:
            return self._extra(beside) <= EXTRA and self._new_kernels(beside) <= 1
        few = self._extra([lift]) <= 0 and len(self._large(lift)) <= 2
        return few and self._new_kernels([lift]) == 0

    def _new_kernels(self, lifts: Sequence[Lift]) -> int:
        """How many kernels store views that none of those that read them can compute alone."""
        ends = {chain.end for lift in lifts for chain in lift.chains}
        return sum(self._reader(end) is None for end in ends)

    def _reader(self, end: int) -> int | None:
        """The one kernel that reads a view, if that is all."""
        homes = {self.group.get(u) for u in self.graph.users(end)}
        return next(iter(homes)) if len(homes) == 1 and end not in self.returned else None

    def _extra(self, lifts: Sequence[Lift]) -> int:
        """How many more views MLX makes when these lifts are made."""
        before = {n for lift in lifts for c in lift.chains for n in c.nodes if n in self.kinds}
        after: dict[Any, int] = {}
        for lift in lifts:
            for chain in lift.chains:
                path: tuple[Any, ...] = ()
                for node in [n for n in chain.nodes if n in self.kinds]:
                    path = (*path, content_of(self.graph[node]["call"]))
                    after |= {(path, leaf): self._price(node) for leaf in lift.leaves}
        return sum(after.values()) - sum(map(self._price, before))

    def _price(self, view: int) -> int:
        return SLOW.get(self.kinds[view], 1)

    def _elements(self, lift: Lift, end: int) -> int:
        """How often the ops are computed for a view: in the space of the kernel that reads it.

        What stands still along that kernel's rows is computed once a row; on a GPU by each thread,
        which is no price for cheap ops only.
        """
        home, own = self._reader(end), prod(self._shape(end))
        if home is None:
            return own
        space = self.spaces[home]
        if cost(self.graph, lift.cone) > CHEAP:
            return max(own, prod(space))
        still = len(self._shape(end))
        while still and self._shape(end)[still - 1] == 1:
            still -= 1
        return max(own, prod(space[: len(space) - len(self._shape(end)) + still]))

    def _run(self, root: int, chain: Chain) -> int:
        """About how many neighbours in memory stay neighbours through the chain."""
        before = self._shape(root)
        run = prod(before)
        for position, node in enumerate(chain.nodes):
            if node in self.kinds:  # a split's shape is that of its item
                call = self.graph[node]["call"]
                after = self._shape(chain.nodes[position + (call.outputs > 0)])
                run = min(run, run_of(self.kinds[node], before, after, call))
                before = after
        return run

    def _shape(self, node: int) -> Shape:
        return self.graph[node]["shape"]

    def _reshapes(self, lift: Lift, large: Sequence[int]) -> bool:
        """MLX copies what it reshapes where that is no view: at most one array, as before."""
        if not any(self.kinds.get(n) == RESHAPE for c in lift.chains for n in c.nodes):
            return True
        views = [*large, *[n for c in lift.chains for n in c.nodes]]
        strided = any(self.kinds.get(n, RESHAPE) not in DENSE for n in views)
        whole = any(self._shape(n) == self._shape(lift.root) for n in lift.leaves)
        return whole and (not strided or len(large) <= 1)

    def _keeps_shapes(self, lift: Lift) -> bool:
        """Whether what becomes of the leaves can be told beforehand."""
        return all(
            steps_of(self.graph, self.kinds, lift, chain) is not None for chain in lift.chains
        )
