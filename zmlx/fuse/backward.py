"""Backward: the gradient of a whole planned graph as one graph, calls of MLX's among its nodes.

Comes in: a plan's graph, which gradients are wanted of what, what is at hand of the forward pass,
and which results of a call depend on which operands. Goes out: a graph of what it reads of the
forward pass and of the cotangents. zmlx.fuse.whole plans and runs it.

Elementwise ops and reductions are pulled back by their rules (zmlx.derive), views, concatenations
and slices by views, matrix products by products (zmlx.fuse.adjoints), any other call by a node that
has MLX pull back what the call left in its graph. What several readers of a value send back is
added by nodes like others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zmlx.derive.accumulate import contribute, differentiable, gathered, pull_back
from zmlx.derive.folds import pulled as fold_pulled
from zmlx.errors import DeriveError
from zmlx.fuse.adjoints import Adjoints
from zmlx.fuse.cuts import Layout
from zmlx.fuse.forward import Forward
from zmlx.fuse.pulled import Pulled
from zmlx.fuse.reads import Backward, Links, Shape, given_arrays
from zmlx.trace.graph import NUMBERS, Graph, OpaqueCall, Ref
from zmlx.trace.passes import verified


class Writer:
    """Pulls back through one graph; see `backward`."""

    def __init__(
        self, graph: Graph, at_hand: Mapping[int, int], links: Links,
        layouts: Mapping[int, Layout], keeps: bool,
    ) -> None:  # fmt: skip
        self.source, self.links = graph, links
        self.copy = Forward(graph, at_hand)
        if keeps:
            self.copy.stored.update(n for n in graph if graph.kind(n) != "const")
        self.adjoints = Adjoints(self.copy, layouts)
        self.pending: dict[int, dict[Shape, int]] = {}
        self.items: dict[int, dict[int, int]] = {}  # of a call's several results, by position
        self.depends: dict[int, Mapping[int, Sequence[int]]] = {}
        self.moved: list[int] = []

    def written(self, wanted: Sequence[int], used: Sequence[int]) -> Backward:
        source, copy = self.source, self.copy
        given = given_arrays(source)
        inputs = [given[i] for i in wanted]
        outputs = [source.outputs[k] for k in used]
        seeds = [copy.input(source[n]["shape"], source[n]["dtype"]) for n in outputs]
        active = self._active(set(inputs), set(outputs))
        for call in active:
            if call in self.depends or self.adjoints.product(call) is not None:
                copy.stored.update(self._arrays(call))
        for node, seed in zip(outputs, seeds, strict=True):
            if node in active:
                contribute(copy, self.pending, node, seed)
        gradients: dict[int, int] = {}
        for node in sorted(active, reverse=True):
            value = self._received(node)
            if value is not None and node in inputs:
                gradients[node] = copy.full(value, node)
            elif value is not None or node in self.items:
                self._pull(node, value, active)
        found = tuple(i for i in wanted if given[i] in gradients)
        copy.graph.outputs = [gradients[given[i]] for i in found]
        copies = {n: new for n, new in copy.copies.items() if source.kind(n) not in ("const",)}
        return Backward(
            copy.graph, range(len(seeds)), tuple(copy.reads), found, copies, tuple(self.moved)
        )

    # -- what depends on what ---------------------------------------------------------------------
    def _active(self, wanted: set[int], outputs: set[int]) -> set[int]:
        """Nodes on a differentiable way from an input wanted to an output."""
        reached, edges = set(wanted), []
        for node in self.source:
            ways = [o for o in self._ways(node, reached) if o in reached]
            edges += [(o, node) for o in ways]
            reached.update([node] if ways else [])
        useful = set(outputs)
        for operand, node in reversed(edges):
            if node in useful:
                useful.add(operand)
        return reached & useful

    def _ways(self, node: int, reached: set[int]) -> Sequence[int]:
        """Operands through which `node` depends on what is reached."""
        source, kind = self.source, self.source.kind(node)
        if kind in ("op", "reduce"):
            return [o for o, _ in differentiable(source, node)]
        operands = source.operands(node)
        if kind == "item":
            (call,) = operands
            depends = self.depends.get(call)
            index = source[node]["index"]
            known = depends is None or any(index in results for results in depends.values())
            return operands if known else ()
        if kind != "opaque" or not reached.intersection(operands):
            return ()
        if self.adjoints.knows(node):
            return self.adjoints.moves(node)
        links = {p: r for p, r in self.links(node).items() if r and operands[p] in reached}
        self.depends[node] = links
        return [operands[p] for p in links]

    # -- one node ---------------------------------------------------------------------------------
    def _received(self, node: int) -> int | None:
        """All that `node` receives."""
        for value in self.adjoints.collected(node):
            contribute(self.copy, self.pending, node, value)
        buckets = self.pending.pop(node, None)
        if buckets is None:
            return None
        return gathered(self.copy, node, buckets)

    def _pull(self, node: int, value: int | None, active: set[int]) -> None:
        source, copy = self.source, self.copy
        kind = source.kind(node)
        if kind == "opaque":
            if self.adjoints.knows(node):
                given = {} if value is None else {0: value}
                self._adjoint(node, {**given, **self.items.pop(node, {})}, active)
            else:
                self._call(node, value, active)
            return
        assert value is not None
        if kind == "op":
            pull_back(copy, self.pending, active, node, value)
        elif kind == "reduce":
            fold = copy.fold(node)
            value = fold_pulled(copy.builder, fold, copy.node(node), value)
            contribute(copy, self.pending, source.operands(node)[0], value)
        elif kind == "item" and not self.adjoints.keeps(node, value):
            (call,) = source.operands(node)
            self.items.setdefault(call, {})[source[node]["index"]] = copy.full(value, node)

    def _adjoint(self, node: int, given: Mapping[int, int], active: set[int]) -> None:
        for operand, value in self.adjoints.pulled(node, given):
            if operand in active:
                contribute(self.copy, self.pending, operand, value)

    def _arrays(self, call: int) -> list[int]:
        """The operands of a call that are arrays of the forward pass."""
        source = self.source
        operands = dict.fromkeys(source.operands(call))
        return [o for o in operands if source.kind(o) not in ("const", *NUMBERS)]

    def _call(self, node: int, value: int | None, active: set[int]) -> None:
        """Have MLX pull back through a call."""
        source, copy = self.source, self.copy
        operands, several = source.operands(node), source[node]["call"].outputs > 0
        if several:
            given = self.items.pop(node)
            items = {source[u]["index"]: u for u in source.users(node)}
            results = [copy.node(items[k]) for k in given]
            seeds = list(given.values())
        else:
            assert value is not None
            given, results = {0: 0}, [copy.node(node)]
            seeds = [copy.full(value, node)]
        arrays = self._arrays(node)
        links = self.depends[node]
        moving = [
            i for i, o in enumerate(arrays)
            if o in active and any(operands[p] == o and {*r} & {*given} for p, r in links.items())
        ]  # fmt: skip
        if not moving:
            return
        read = [copy.node(o) for o in arrays]
        label = f"{source[node]['call'].label}_vjp"
        numbers = [o for o in dict.fromkeys(operands) if o not in arrays]
        order = [*arrays, *numbers]
        places = [order.index(o) for o in operands]
        pull = Pulled(len(read), moving, source[node]["call"], places, tuple(given))
        told = [copy.node(o) for o in numbers]
        count = len(read) + 2 * len(results) + len(numbers)
        call = OpaqueCall(
            pull, tuple(Ref(i) for i in range(count)), {}, label, len(moving) if pull.several else 0
        )
        own = [source[arrays[i]] for i in moving]
        kinds = {} if pull.several else {"shape": own[0]["shape"], "dtype": own[0]["dtype"]}
        loc = source[node]["loc"]
        made = copy.graph.add(
            "opaque", (*read, *results, *seeds, *told), loc=loc, call=call, pure=True, **kinds
        )
        for k, (i, data) in enumerate(zip(moving, own, strict=True)):
            gradient = made
            if pull.several:
                kinds = {"shape": data["shape"], "dtype": data["dtype"]}
                gradient = copy.graph.add("item", (made,), index=k, loc=loc, **kinds)
            self.moved.append(gradient)
            contribute(copy, self.pending, arrays[i], gradient)


@verified("backward")
def backward(
    graph: Graph, wanted: Sequence[int], used: Sequence[int], at_hand: Mapping[int, int],
    links: Links, layouts: Mapping[int, Layout], keeps: bool = False,
) -> Backward:  # fmt: skip
    """The gradients of the inputs `wanted` through the outputs `used`, both by position.

    `at_hand`: for each node whose value the forward pass has, the node that holds it; another one
    where that has lost the axes that a reduction folds. With `keeps` all values are at hand, and
    none is computed again. DeriveError where complex numbers are on the way: MLX's gradients of
    them are conjugates of partials.
    """
    if any(graph[node]["dtype"] == "complex64" for node in graph):
        raise DeriveError("complex numbers are on the way.")
    return Writer(graph, at_hand, links, layouts, keeps).written(wanted, used)
