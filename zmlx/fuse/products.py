"""Products: how matrix products send back what they receive, by matrix products again.

Comes in: nodes of a forward graph, and what they receive in a backward graph (zmlx.fuse.backward).
Goes out: what their operands receive. As these are nodes like others, gradients of gradients are
made of products too, and the planner sees what stands between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import mlx.core as mx

from zmlx import dtypes
from zmlx.trace.graph import NUMBERS, Graph, Ref
from zmlx.trace.intercept import original
from zmlx.trace.proxy import MATMUL

if TYPE_CHECKING:
    from zmlx.fuse.forward import Forward  # sympy, which it needs, is slow to load

# MLX's own, also where this module is first needed while a trace replaces names.
_MATMUL, _TURN, _FLATTEN = map(original, ("matmul", "swapaxes", "flatten"))
_PRODUCTS = {id(_MATMUL), id(MATMUL)}
_SUMS = {id(original("addmm"))}  # of an array and a product
_RANK = 2  # of a matrix; operands have at least that


@dataclass(frozen=True)
class Product:
    """`left @ right`, to which `added` is added, if that is a node."""

    left: int
    right: int
    added: int | None = None

    @property
    def operands(self) -> tuple[int, ...]:
        found = (self.left, self.right)
        return found if self.added is None else (self.added, *found)


def product_of(graph: Graph, node: int) -> Product | None:
    """What `node` multiplies, where all is of one float type and no operand a vector."""
    data = graph[node]
    if data["kind"] != "opaque" or not data["pure"]:
        return None
    call, operands = data["call"], data["operands"]
    count = len(operands)
    if call.outputs or call.kwargs or call.args != tuple([Ref(i) for i in range(count)]):
        return None
    if id(call.fn) in _PRODUCTS and count == len(("left", "right")):
        found = Product(*operands)
    elif id(call.fn) in _SUMS and count == len(("added", "left", "right")):
        found = Product(operands[1], operands[2], operands[0])
    else:
        return None
    kinds = [graph[o] for o in operands]
    known = all(k["kind"] not in ("const", *NUMBERS) for k in kinds)
    alike = {k["dtype"] for k in kinds} == {data["dtype"]} and dtypes.is_float(data["dtype"])
    wide = all(len(graph[o]["shape"]) >= _RANK for o in (found.left, found.right))
    return found if known and alike and wide else None


def pulled(copy: Forward, product: Product, value: int) -> list[tuple[int, int]]:
    """What the operands receive, where the product receives `value`, of its shape and type.

    Where an operand was broadcast, the dimensions are there still: who collects sums them.
    """
    made = [] if product.added is None else [(product.added, value)]
    left, right = copy.node(product.left), copy.node(product.right)
    made.append((product.left, _multiplied(copy, value, _turned(copy, right))))
    if len(copy.graph[right]["shape"]) == _RANK:  # one product of all rows, as MLX makes it
        left, value = _flat(copy, left), _flat(copy, value)
    made.append((product.right, _multiplied(copy, _turned(copy, left), value)))
    return made


def _multiplied(copy: Forward, left: int, right: int) -> int:
    a, b = copy.graph[left], copy.graph[right]
    lead = mx.broadcast_shapes(a["shape"][:-2], b["shape"][:-2])
    shape = (*lead, a["shape"][-2], b["shape"][-1])
    return copy.call(_MATMUL, (Ref(0), Ref(1)), (left, right), shape, a["dtype"], "matmul")


def _turned(copy: Forward, node: int) -> int:
    data = copy.graph[node]
    *lead, rows, columns = data["shape"]
    shape = (*lead, columns, rows)
    return copy.call(_TURN, (Ref(0), -2, -1), (node,), shape, data["dtype"], "swapaxes")


def _flat(copy: Forward, node: int) -> int:
    """All rows of an array as one matrix."""
    data = copy.graph[node]
    *lead, columns = data["shape"]
    if len(lead) == 1:
        return node
    shape = (prod(lead), columns)
    return copy.call(_FLATTEN, (Ref(0), 0, -2), (node,), shape, data["dtype"], "flatten")
