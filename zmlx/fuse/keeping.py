"""Keeping: folded axes stay, with size one, through the elementwise ops that follow a reduction.

Comes in: a simplified graph. Goes out: one in which f(squeeze(a), b) has become
squeeze(f(a, b[..., None])), and a sum of squeeze(a) the squeeze of a sum, where `a` is folded over
the axes, its last ones: f and the sum may then share a kernel with the reduction.
zmlx.fuse.written calls it.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.fuse.ones import taken
from zmlx.fuse.shapes import Shape, symbolic_shapes
from zmlx.fuse.simplify import Rewritten, copy_node
from zmlx.trace import intercept
from zmlx.trace.graph import NUMBERS, Graph, OpaqueCall, Ref
from zmlx.trace.passes import verified


@verified("keep")
def keeping(graph: Graph) -> Rewritten:
    """`graph` with squeezes of folded axes behind the ops that read them; itself where none are."""
    if any(graph.kind(n) == "reduce" for n in graph):
        found = _Keeper(graph)
        if found.moved:
            return Rewritten(found.made, found.new | found.moved)
    return Rewritten(graph, {node: node for node in graph})


class _Keeper:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.shapes = graph, symbolic_shapes(graph)
        self.made, self.new = Graph(), dict[int, int]()
        self.moved: dict[int, int] = {}
        self.kept: dict[int, int] = {}  # by node that a squeeze gives: in `made`, what it squeezes
        self.folded: set[int] = set()
        for node in graph:
            self._add(node)
        self.made.outputs = [self.new[n] for n in graph.outputs]

    def _add(self, node: int) -> None:
        graph = self.graph
        kind, operands = graph.kind(node), graph.operands(node)
        count = self._last(node)
        if count and operands[0] in self.folded:
            self.kept[node] = self.new[operands[0]]
        if kind == "reduce" or (kind == "op" and self.folded.intersection(operands)):
            self.folded.add(node)
        axes = self._axes(node) if kind == "op" or graph[node].get("op") == "sum" else ()
        if not axes:
            self.new[node] = copy_node(graph, node, self.made, [self.new[o] for o in operands])
            return
        data = graph.attributes(node)
        data["shape"] = (*data["shape"], *[1] * len(axes))
        inner = [self._wide(o, axes) for o in operands]
        self.kept[node] = self.moved[node] = self.made.add(kind, inner, **data)
        self.new[node] = self._view("squeeze", self.kept[node], graph[node]["shape"], axes)
        self.folded.discard(node)  # its squeeze is what others read

    def _last(self, node: int) -> int:
        """How many of the last axes `node` takes away; 0 where it is no such squeeze."""
        axes = taken(self.graph, node)
        if not axes:
            return 0
        rank = len(self.graph[self.graph.operands(node)[0]]["shape"])
        return len(axes) if axes == tuple(range(rank - len(axes), rank)) else 0

    def _axes(self, node: int) -> tuple[int, ...]:
        """The axes that a node over squeezed values can keep; none where it reads no such one."""
        squeezed = [o for o in self.graph.operands(node) if o in self.kept]
        ranks = {self._rank(self.kept[o]) - len(self.graph[o]["shape"]) for o in squeezed}
        same = self.graph.kind(node) == "reduce" or all(
            self.shapes[o] == self.shapes[node] for o in squeezed
        )
        if len(ranks) != 1 or not same:
            return ()
        rank = len(self.graph[node]["shape"])
        return tuple(range(rank, rank + ranks.pop()))

    def _rank(self, made: int) -> int:
        return len(self.made[made]["shape"])

    def _wide(self, operand: int, axes: Sequence[int]) -> int:
        """An operand with further axes of size one behind its own."""
        if operand in self.kept:
            return self.kept[operand]
        data, new = self.graph[operand], self.new[operand]
        if not data["shape"] or data["kind"] in ("const", *NUMBERS):
            return new
        rank = len(data["shape"])
        shape = (*data["shape"], *[1] * len(axes))
        return self._view("expand_dims", new, shape, tuple(range(rank, rank + len(axes))))

    def _view(self, name: str, node: int, shape: Shape, axes: tuple[int, ...]) -> int:
        data = self.made[node]
        call = OpaqueCall(intercept.original(name), (Ref(0),), {"axis": axes}, name)
        kinds = {"dtype": data["dtype"], "loc": data["loc"], "call": call, "pure": True}
        return self.made.add("opaque", (node,), shape=shape, **kinds)
