"""Forward: a forward graph's values inside a backward graph, read or computed again.

Comes in: a plan's graph, and which of its values are at hand when the gradient is computed. Goes
out: nodes of a backward graph, each made when it is first needed. zmlx.fuse.backward and its
adjoints of views build with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zmlx.derive.accumulate import Copy
from zmlx.errors import DeriveError
from zmlx.fuse.reads import Read, Shape
from zmlx.fuse.shapes import symbolic_shapes
from zmlx.trace.graph import NUMBERS, Graph, OpaqueCall, Ref
from zmlx.trace.intercept import original

READ = ("input", "scalar", "array", "opaque", "item", "size")  # kinds that are not computed again
_SPREAD = original("broadcast_to")


class Forward(Copy):
    """The forward graph's values inside the backward graph: read, or computed again from those."""

    def __init__(self, graph: Graph, at_hand: Mapping[int, int]) -> None:
        self.reads: list[Read] = []
        super().__init__(graph)
        self._at_hand = at_hand
        self.stored: set[int] = set()  # what is to be read as it is, by calls
        self._symbols = symbolic_shapes(graph)
        self._sizes: dict[Any, int] = {}
        self._places: dict[int, tuple[int, int]] = {}
        for node in at_hand:
            if at_hand[node] == node and graph.kind(node) not in NUMBERS:
                for axis, symbol in enumerate(self._symbols[node]):
                    self._places.setdefault(symbol, (node, axis))

    def _first(self) -> Sequence[int]:
        return ()

    def _needs(self, node: int) -> tuple[int, ...]:
        return () if self._is_read(node) else self.region.operands(node)

    def _is_read(self, node: int) -> bool:
        return self.region.kind(node) in READ or node in self.stored

    def _made(self, node: int) -> int:
        if not self._is_read(node):
            return super()._made(node)
        if self._at_hand.get(node) != node:
            raise DeriveError(f"[zmlx.fuse] node {node} is computed and never stored.")
        return self.read(Read(node))

    def read(self, what: Read) -> int:
        """The input that is `what`."""
        self.reads.append(what)
        data = self.region[what.node]
        if what.is_number:
            return self.graph.add("scalar", dtype="int32")
        if data["kind"] in NUMBERS:
            return self.graph.add("scalar", dtype=data["dtype"])
        return self.input(data["shape"], data["dtype"])

    def size(self, node: int, axis: int) -> int:
        """How long `node` is along an axis of which the size is not always one."""
        where = (node, axis)
        if self._at_hand.get(node) != node:
            found = self._places.get(self._symbols[node][axis])
            if found is None:
                raise DeriveError(f"[zmlx.fuse] no array tells the sizes of node {node}.")
            where = found
        if where not in self._sizes:
            self._sizes[where] = self.read(Read(*where))
        return self._sizes[where]

    def call(
        self, fn: Any, args: tuple[Any, ...], operands: Sequence[int], shape: Shape, dtype: str,
        label: str,
    ) -> int:  # fmt: skip
        """A node that MLX runs."""
        call = OpaqueCall(fn, args, {}, label)
        return self.graph.add("opaque", operands, shape=shape, dtype=dtype, call=call, pure=True)

    def shaped(self, fn: Any, label: str, value: int, node: int) -> int:
        """`fn(value, shape)`, a view of the shape that `node` has."""
        shape = self.region[node]["shape"]
        sizes: list[Any] = []
        operands = [value]
        for axis, size in enumerate(shape):
            sizes.append(1 if size == 1 else Ref(len(operands)))
            operands += [] if size == 1 else [self.size(node, axis)]
        kind = self.graph[value]["dtype"]
        return self.call(fn, (Ref(0), tuple(sizes)), operands, shape, kind, label)

    def full(self, value: int, node: int) -> int:
        """`value` in type and shape of `node`, spread by a view."""
        value = self.builder.astype(value, self.region[node]["dtype"], "")
        if self.graph[value]["shape"] == self.region[node]["shape"]:
            return value
        return self.shaped(_SPREAD, "broadcast_to", value, node)
