"""Moments: a mean of squares less the square of the mean, from the differences from the mean.

Comes in: a graph whose reductions are written out. Goes out: one in which

    sum(x*y)/c - (sum(x)/c) * (sum(y)/c)      sum(x*y) - sum(x)*sum(y)/c

are sums of (x - mean(x)) * (y - mean(y)): the variance (x is y) and the covariance that a user
wrote by hand, which as written lose all digits where the mean is large beside the deviation. Equal
for every divisor c, one that does not count the elements included; sum(x*y) - c * mean(x) * mean(y)
is a form too. zmlx.fuse.program calls it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from zmlx.derive.builder import Builder
from zmlx.fuse.inline import Value, Writer
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.simplify import copy_node, simplify
from zmlx.trace.graph import Graph
from zmlx.trace.passes import verified

_DIVISORS = ("count", "const", "scalar", "size")


@dataclass(frozen=True)
class _Moment:
    """The nodes of one difference that is written anew."""

    sums: tuple[int, int]  # of x and of y
    product: int  # what is taken away
    over: int | None  # what the sum of products is divided by
    # What the product has too much: quotients of numbers, None for the count of the elements.
    ratio: tuple[tuple[int | None, int | None], ...]


@verified("moments")
def centred(graph: Graph) -> Graph:
    """`graph` with moments computed from differences; itself where there are none."""
    found = {n: moment for n in graph if (moment := _moment(graph, n)) is not None}
    if not found:
        return graph
    builder, new = Builder(), dict[int, int]()
    for node in graph:
        if node in found:
            new[node] = _written(builder, graph, node, found[node], new)
        else:
            operands = [new[o] for o in graph.operands(node)]
            new[node] = copy_node(graph, node, builder.graph, operands)
    builder.graph.outputs = [new[n] for n in graph.outputs]
    return simplify(builder.graph)


# -- finding --------------------------------------------------------------------------------------
def _is(graph: Graph, node: int, op: str) -> bool:
    return graph.kind(node) == "op" and graph[node]["op"] == op


def _bare(graph: Graph, node: int) -> int:
    """`node` without casts to float32, and without what only gives it a type."""
    while graph.kind(node) == "op":
        first, *others = graph.operands(node)
        widened = _is(graph, node, "astype") and graph[node]["dtype"] == "float32"
        typed = _is(graph, node, "multiply") and _constant(graph, others[0]) == 1.0
        if not (widened or typed) or not graph[first]["dtype"].endswith(("float32", "float16")):
            return node
        node = first
    return node


def _constant(graph: Graph, node: int) -> object:
    return graph[node]["value"] if graph.kind(node) == "const" else None


def _factors(graph: Graph, node: int) -> tuple[int, int] | None:
    """The two values that `node` is the product of."""
    if _is(graph, node, "multiply"):
        a, b = graph.operands(node)
        return a, b
    squared = _is(graph, node, "power") and _constant(graph, graph.operands(node)[1]) == 2
    if squared or _is(graph, node, "square"):
        return (graph.operands(node)[0],) * 2
    return None


def _over(graph: Graph, node: int) -> tuple[int, int | None]:
    """A value and what it is divided by."""
    node = _bare(graph, node)
    if _is(graph, node, "divide"):
        above, below = graph.operands(node)
        if graph.kind(below) in _DIVISORS:
            return _bare(graph, above), below
    return node, None


def _sum(graph: Graph, node: int) -> bool:
    data = graph[node]
    return graph.kind(node) == "reduce" and (data["op"], data["dtype"]) == ("sum", "float32")


def _moment(graph: Graph, node: int) -> _Moment | None:
    if _is(graph, node, "subtract"):
        total, product = graph.operands(node)
    elif _is(graph, node, "add"):
        total, product = graph.operands(node)
        if not _is(graph, product, "negative"):
            total, product = product, total
        if not _is(graph, product, "negative"):
            return None
        product = graph.operands(product)[0]
    else:
        return None
    of, over = _over(graph, total)
    means = _means(graph, product)
    if means is None or not _sum(graph, of):
        return None
    if (over is None) != (means.once or means.scale is not None):
        return None
    pair = _factors(graph, _bare(graph, graph.operands(of)[0]))
    if pair is None or not _belong(graph, of, pair, means.sums):
        return None
    by = _number(graph, means.by)
    beside = _number(graph, means.scale) if over is None else _number(graph, over)
    ratio = [(by, None)] if means.once else [(by, None), (by, beside)]
    return _Moment(means.sums, product, over, tuple([q for q in ratio if q[0] != q[1]]))


def _number(graph: Graph, node: int | None) -> int | None:
    """A divisor; None for a count, as all that are met here count the same elements."""
    return None if node is None or graph.kind(node) == "count" else node


@dataclass(frozen=True)
class _Means:
    """A product of two sums: (a/by) * (b/by), or times `scale`; or a*b/by, where `once`."""

    sums: tuple[int, int]
    by: int
    scale: int | None = None
    once: bool = False


def _means(graph: Graph, product: int) -> _Means | None:
    inner, by = _over(graph, product)
    scale = None
    pair = _factors(graph, inner)
    for one, other in (pair, pair[::-1]) if pair is not None and by is None else ():
        if graph.kind(one) in _DIVISORS and scale is None:
            scale, pair = one, _factors(graph, _bare(graph, other))
    if pair is None:
        return None
    (a, under_a), (b, under_b) = _over(graph, pair[0]), _over(graph, pair[1])
    if not (_sum(graph, a) and _sum(graph, b)):
        return None
    if by is not None:
        return _Means((a, b), by, once=True) if under_a is None and under_b is None else None
    alike = under_a == under_b or _number(graph, under_a) is _number(graph, under_b) is None
    if under_a is None or under_b is None or not alike:
        return None
    return _Means((a, b), under_a, scale)


def _belong(graph: Graph, of: int, pair: tuple[int, int], sums: tuple[int, int]) -> bool:
    """Whether the sums are those of the factors of what `of` adds up."""
    whole = [_bare(graph, graph.operands(s)[0]) for s in sums]
    factors = [_bare(graph, factor) for factor in pair]
    terms = graph[graph.operands(of)[0]]["shape"]
    return sorted(whole) == sorted(factors) and all(
        graph[s]["axes"] == graph[of]["axes"]
        and graph[graph.operands(s)[0]]["shape"] == terms
        and graph[graph.operands(s)[0]]["dtype"] == "float32"
        for s in sums
    )


# -- writing --------------------------------------------------------------------------------------
def _written(
    builder: Builder, graph: Graph, node: int, moment: _Moment, new: dict[int, int]
) -> int:
    """The node of `builder` that computes what `node` of `graph` does."""
    F, axes = Writer(builder, graph[node]["loc"]), graph[moment.sums[0]]["axes"]  # noqa: N806

    def difference(total: int) -> Value:
        terms = F.value(new[graph.operands(total)[0]])
        return F.subtract(terms, F.divide(F.value(new[total]), F.count(terms, axes)))

    x, y = moment.sums
    products = F.square(difference(x)) if x == y else F.multiply(difference(x), difference(y))
    result = F.reduce("sum", products, axes)
    if moment.over is not None:
        result = F.divide(result, F.value(new[moment.over]))
    if moment.ratio:  # exactly 1 where all numbers are the count of the elements
        count = F.count(F.value(new[graph.operands(x)[0]]), axes)
        parts = [[count if n is None else F.value(new[n]) for n in pair] for pair in moment.ratio]
        quotients = [F.divide(above, below) for above, below in parts]
        beside = F.subtract(reduce(F.multiply, quotients), 1.0)
        result = F.add(result, F.multiply(F.value(new[moment.product]), beside))
    dtype = dtype_of(graph[node]["dtype"])
    return (result if result.dtype == dtype else F.narrow(result, dtype)).node
