"""Adjoints: how views, concatenations and slices send back what they receive, by views again, and
matrix products by matrix products.

Comes in: nodes of a forward graph, and what they receive in a backward graph (zmlx.fuse.backward).
Goes out: what their operands receive. Where several slices lie in one array, its gradient is put
together piece by piece, zeros where nothing was read and sums where slices overlap; the planner
has it written in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx

from zmlx.fuse.cuts import Layout
from zmlx.fuse.forward import Forward
from zmlx.fuse.joins import Join, join_of
from zmlx.fuse.ones import taken
from zmlx.fuse.products import Product, product_of
from zmlx.fuse.products import pulled as product_pulled
from zmlx.fuse.reads import Read, Told
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.views import BROADCAST, PLACE, RESHAPE, SPLIT, SQUEEZE, TAKE, Lifted, kind_of
from zmlx.trace.graph import Graph, OpaqueCall, Ref, broadcast
from zmlx.trace.intercept import original

# MLX's own, also where this module is first needed while a trace replaces names.
_SPLIT, _PUT, _STACK = map(original, ("split", "concatenate", "stack"))
_EXPAND, _SQUEEZE = map(original, ("expand_dims", "squeeze"))
_ORDER, _SHAPE = map(original, ("transpose", "reshape"))
_SPREAD, _ZEROS = map(original, ("broadcast_to", "zeros"))
_KNOWN = (PLACE, SQUEEZE, RESHAPE, BROADCAST)


def viewed(graph: Graph, node: int) -> tuple[str, OpaqueCall] | None:
    """The kind of view that `node` is, and its call; also where the view was lifted to an operand
    that has the full shape.
    """
    if graph.kind(node) != "opaque":
        return None
    kind, call = kind_of(graph, node), graph[node]["call"]
    if kind is None and type(call.fn) is Lifted and not call.kwargs:
        shapes = [graph[o]["shape"] for o in graph.operands(node)]
        if len(shapes) == len(call.args) and broadcast(shapes) == shapes[0]:
            return call.fn.kind, call.fn.call
    return None if kind is None else (kind, call)


class Adjoints:
    """The adjoints of views in one backward graph; `layouts`: of arrays that are sliced."""

    def __init__(self, copy: Forward, layouts: Mapping[int, Layout]) -> None:
        self.copy, self.source, self.layouts = copy, copy.region, layouts
        self._slices = {
            view: (array, i) for array, lay in layouts.items() for i, view in enumerate(lay.views)
        }
        self._parts: dict[int, dict[int, int]] = {}  # what slices receive: by array, by position
        self._joins: dict[int, Join | None] = {}
        self._products: dict[int, Product | None] = {}

    def joins(self, node: int) -> Join | None:
        """What `node` puts together, if it does."""
        if node not in self._joins:
            self._joins[node] = join_of(self.source, node)
        return self._joins[node]

    def product(self, node: int) -> Product | None:
        """What `node` multiplies, if it does."""
        if node not in self._products:
            self._products[node] = product_of(self.source, node)
        return self._products[node]

    def moves(self, node: int) -> Sequence[int]:
        """The operands that receive something from `node`, of those that `pulled` knows."""
        operands = self.source.operands(node)
        return operands if self.joins(node) or self.product(node) else operands[:1]

    def knows(self, node: int) -> bool:
        """Whether `pulled` pulls back through `node`."""
        if node in self._slices or self.joins(node) is not None or self.product(node) is not None:
            return True
        found = viewed(self.source, node)
        if found is None:
            return False
        if found[0] == SPLIT:
            return any(u in self._slices for u in self.source.users(node))
        return found[0] in _KNOWN

    def keeps(self, node: int, value: int) -> bool:
        """Whether the slice `node` belongs to an array that is put together: then it waits."""
        if node not in self._slices:
            return False
        array, position = self._slices[node]
        self._parts.setdefault(array, {})[position] = self.copy.full(value, node)
        return True

    def collected(self, array: int) -> Iterator[int]:
        """What an array receives from its slices."""
        parts = self._parts.pop(array, None)
        if parts is not None:
            yield self._put(array, self.layouts[array], parts)

    def pulled(self, node: int, given: Mapping[int, int]) -> Sequence[tuple[int, int]]:
        """What operands receive, where `node` receives `given`, by result."""
        join = self.joins(node)
        if 0 in given and self.keeps(node, given[0]):
            return ()
        if join is not None:
            return self._unjoined(join, self.copy.full(given[0], node))
        product = self.product(node)
        if product is not None:
            return product_pulled(self.copy, product, self.copy.full(given[0], node))
        found = viewed(self.source, node)
        if found is None or 0 not in given or found[0] == SPLIT:
            return ()
        operand = self.source.operands(node)[0]
        return [(operand, self._back(node, operand, *found, given[0]))]

    def _back(self, node: int, operand: int, kind: str, call: OpaqueCall, value: int) -> int:
        copy, source = self.copy, self.source
        if kind == BROADCAST:
            return copy.full(value, node)
        if kind == RESHAPE:
            return copy.shaped(_SHAPE, "reshape", copy.full(value, node), operand)
        if kind == SQUEEZE:
            axes = taken(source, node)
            before = source[operand]["shape"]
            if axes is None:
                axes = tuple([d for d, size in enumerate(before) if size == 1])
            return self._expanded(value, axes)
        return self._placed_back(value, source[operand]["shape"], call)

    def _expanded(self, value: int, axes: Sequence[int]) -> int:
        data = self.copy.graph[value]
        shape = list(data["shape"])
        for axis in sorted(axes):
            shape.insert(axis, 1)
        return self.copy.call(
            _EXPAND, (Ref(0), tuple(axes)), (value,), tuple(shape), data["dtype"], "expand_dims"
        )

    def _placed_back(self, value: int, before: tuple[int, ...], call: OpaqueCall) -> int:
        """Dimensions in the order that they had, without those that were added."""
        marks = _SPREAD(_ZEROS(()), tuple(range(2, 2 + len(before))))
        after = call.fn(marks, *call.args[1:], **call.kwargs).shape
        added = tuple([d for d, mark in enumerate(after) if mark == 1])
        data = self.copy.graph[value]
        shape, kind = data["shape"], data["dtype"]
        if added:
            shape = tuple([size for d, size in enumerate(shape) if d not in added])
            call = OpaqueCall(_SQUEEZE, (Ref(0),), {"axis": added}, "squeeze")
            kinds = {"dtype": kind, "call": call, "pure": True}
            value = self.copy.graph.add("opaque", (value,), shape=shape, **kinds)
        order = [mark - 2 for mark in after if mark != 1]
        back = tuple([order.index(d) for d in range(len(order))])
        if back == tuple(range(len(back))):
            return value
        shape = tuple([shape[d] for d in back])
        return self.copy.call(_ORDER, (Ref(0), back), (value,), shape, kind, "transpose")

    # -- concatenations ---------------------------------------------------------------------------
    def _unjoined(self, join: Join, value: int) -> list[tuple[int, int]]:
        copy = self.copy
        shapes = [self.source[p]["shape"] for p in join.parts]
        dtype = copy.graph[value]["dtype"]
        if join.stacks:
            lead = (slice(None),) * join.axis
            return [
                (part, copy.call(TAKE, (Ref(0), (*lead, k)), (value,), shape, dtype, "getitem"))
                for k, (part, shape) in enumerate(zip(join.parts, shapes, strict=True))
            ]
        if len(join.parts) == 1:
            return [(join.parts[0], value)]
        counts = range(1, len(join.parts))
        ends = [self._end(join.parts[:count], join.axis) for count in counts]
        operands = [end for end in ends if type(end) is _Node]
        places = iter(range(1, 1 + len(operands)))
        args = (Ref(0), [Ref(next(places)) if type(e) is _Node else e for e in ends], join.axis)
        call = OpaqueCall(_SPLIT, args, {}, "split", len(join.parts))
        cut = copy.graph.add("opaque", (value, *operands), call=call, pure=True)
        return [
            (part, copy.graph.add("item", (cut,), shape=shape, dtype=dtype, index=k))
            for k, (part, shape) in enumerate(zip(join.parts, shapes, strict=True))
        ]

    def _end(self, parts: Sequence[int], axis: int) -> int:
        """Where these parts end: a number, or the node that computes it."""
        source, copy = self.source, self.copy
        sizes = [copy.size(p, axis) for p in parts if source[p]["shape"][axis] != 1]
        ones = len(parts) - len(sizes)
        if not sizes:
            return ones
        expr: Any = ("arg", 0)
        for i in range(1, len(sizes)):
            expr = ("add", expr, ("arg", i))
        expr = ("add", expr, ("value", ones)) if ones else expr
        if expr == ("arg", 0):
            return _Node(sizes[0])
        return _Node(copy.graph.add("size", sizes, dtype="int32", expr=expr))

    # -- what an array receives from its slices ---------------------------------------------------
    def _put(self, array: int, layout: Layout, parts: Mapping[int, int]) -> int:
        made = [self._piece(array, layout, k, parts) for k in range(len(layout.pieces))]
        if len(made) == 1:
            return made[0]
        data, args = self.source[array], ([Ref(k) for k in range(len(made))], layout.cuts[0].axis)
        fn, label = (_STACK, "stack") if layout.stacks else (_PUT, "concatenate")
        return self.copy.call(fn, args, made, data["shape"], data["dtype"], label)

    def _piece(self, array: int, layout: Layout, k: int, parts: Mapping[int, int]) -> int:
        """The gradient of one piece, at the rank that `_put` wants."""
        piece, cuts, data, copy = layout.pieces[k], layout.cuts, self.source[array], self.copy
        axis, dtype = cuts[0].axis, data["dtype"]
        shape = (*data["shape"][:axis], piece.stop - piece.start, *data["shape"][axis + 1 :])
        total: int | None = None
        for i in piece.covers:
            value = parts.get(i)
            if value is None:
                continue
            if cuts[i].drops and not layout.stacks:
                value = copy.call(_EXPAND, (Ref(0), axis), (value,), shape, dtype, "expand_dims")
            if i not in piece.whole:
                ends = [self._told(array, _inside(array, k, i, end)) for end in (False, True)]
                index = (*(slice(None),) * axis, slice(Ref(1), Ref(2)))
                value = copy.call(TAKE, (Ref(0), index), (value, *ends), shape, dtype, "getitem")
            total = value if total is None else copy.builder.op("add", (total, value), "")
        if total is not None:
            return total
        shape = (*shape[:axis], *shape[axis + 1 :]) if layout.stacks else shape
        sizes: list[Any] = []
        operands: list[int] = []
        for d, size in enumerate(data["shape"]):
            if d == axis and layout.stacks:
                continue
            own = d == axis or size != 1
            sizes.append(Ref(len(operands)) if own else 1)
            if own:
                told = self._told(array, _length(array, k)) if d == axis else copy.size(array, d)
                operands.append(told)
        zeros = _Zeros(dtype_of(dtype))
        return copy.call(zeros, (tuple(sizes),), operands, shape, dtype, "zeros")

    def _told(self, array: int, told: Told) -> int:
        return self.copy.read(Read(array, told=told))


class _Node(int):
    """The id of a node, among numbers."""


class _Zeros:
    """Zeros of one type, of any shape."""

    def __init__(self, dtype: mx.Dtype) -> None:
        self.dtype = dtype

    def __call__(self, shape: Sequence[int]) -> mx.array:
        return _SPREAD(_ZEROS((), self.dtype), shape)


def _length(array: int, k: int) -> Told:
    def told(layouts: Mapping[int, Layout]) -> int:
        piece = layouts[array].pieces[k]
        return piece.stop - piece.start

    return told


def _inside(array: int, k: int, i: int, end: bool) -> Told:
    def told(layouts: Mapping[int, Layout]) -> int:
        layout = layouts[array]
        piece = layout.pieces[k]
        return (piece.stop if end else piece.start) - layout.cuts[i].start

    return told
