"""Parts: what a kernel gives of a fold whose rows or columns it cuts, and how it becomes a whole.

Comes in: a Schedule, the Geometry of a launch, what the kernel gives. Goes out: outputs, by one
reduction of MLX's each, and the rules of the kernel's results. zmlx.fuse.walked uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import mlx.core as mx

from zmlx import dtypes
from zmlx.device.rules import Rules
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.shapes import Shape
from zmlx.msl.geometry import Geometry
from zmlx.msl.schedule import FOLD_TYPES, Schedule, columns_of, is_sink
from zmlx.trace.graph import broadcast
from zmlx.trace.namespace import folding

Arrays = Sequence[mx.array]
# By the type in which a kernel folds, that of the parts.
KINDS = {"float": "float32", "int": "int32", "uint": "uint32"}


@dataclass(frozen=True)
class Join:
    """How the parts of one fold become an output of `shape`."""

    op: str
    kind: str  # of the parts
    given: Shape  # of the parts: dimensions of rows, groups in place of inner ones, columns or cuts
    axes: tuple[int, ...]  # along which parts are joined
    shape: Shape
    dtype: str

    @classmethod
    def of(cls, plan: Schedule, node: int, made: Geometry) -> Join:
        data, column = plan.region[node], columns_of(plan.region)
        space = broadcast([plan.region[n]["shape"] for n in plan.region])
        sink, axes = is_sink(plan.region, node, plan.outer), set(data["axes"])
        rows = [*space[: plan.outer], made.groups] if sink else space[:column]
        last = len(rows)
        cuts = made.cuts if plan.cut else 1
        given = (*rows, space[column] if plan.keeps_columns(node) else cuts)
        left = {d for d in axes if d < (plan.outer if sink else column)}
        left |= {last - 1} if sink else set()
        left |= set() if plan.keeps_columns(node) else {last}
        kind = KINDS[FOLD_TYPES[dtypes.value_type(data["dtype"])]]
        joined = tuple(sorted(d for d in left if given[d] != 1))
        return cls(data["op"], kind, given, joined, data["shape"], data["dtype"])

    @property
    def count(self) -> int:
        """How many parts an element of the output has."""
        return prod([self.given[axis] for axis in self.axes])

    def __call__(self, parts: mx.array) -> mx.array:
        if self.axes:
            parts = folding(self.op, self.axes)(parts)
        parts = parts if parts.shape == self.shape else parts.reshape(self.shape)
        wanted = dtype_of(self.dtype)
        return parts if parts.dtype == wanted else parts.astype(wanted)

    def first(self, parts: mx.array) -> mx.array:
        """Of cotangents of parts, which are alike, those of the output."""
        for axis in self.axes:
            parts = parts[(slice(None),) * axis + (slice(0, 1),)]
        return parts.reshape(self.shape).astype(dtype_of(self.dtype))

    def apart(self, value: mx.array) -> mx.array:
        """Parts whose sum is `value`, mapped along further dimensions in front: the first is all,
        the others are zero."""
        lead = value.shape[: value.ndim - len(self.shape)]
        small = tuple(1 if d in self.axes else n for d, n in enumerate(self.given))
        value = value.reshape(*lead, *small).astype(dtype_of(self.kind))
        for axis in self.axes:
            rest = [*value.shape]
            rest[axis + len(lead)] = self.given[axis] - 1
            value = mx.concatenate([value, mx.zeros(rest, value.dtype)], axis + len(lead))
        return value


class PartRules:
    """The rules of what a kernel gives, outputs and then parts of sums, by those of the whole.

    Right as long as the parts of a sum are added up: their cotangents are then alike.
    """

    def __init__(self, joins: Sequence[Join], order: Sequence[int], whole: Rules) -> None:
        self._joins, self._order, self._whole = list(joins), list(order), whole
        self._count = len(order) - len(joins)

    def vjp(
        self,
        primals: Arrays,
        cotangents: Sequence[mx.array | None],
        argnums: Sequence[int],
        outputs: Arrays,
    ) -> Arrays:
        count = self._count
        pairs = zip(self._joins, cotangents[count:], strict=True)
        seeds = [*cotangents[:count], *[None if c is None else j.first(c) for j, c in pairs]]
        parts = zip(self._joins, outputs[count:], strict=True)
        given = [*outputs[:count], *[join.first(o) for join, o in parts]]
        seeds, given = [seeds[i] for i in self._order], [given[i] for i in self._order]
        return self._whole.vjp(primals, seeds, argnums, given)

    def jvp(self, primals: Arrays, tangents: Arrays, argnums: Sequence[int]) -> Arrays:
        return self._taken_apart(self._whole.jvp(primals, tangents, argnums))

    def vmap(self, inputs: Arrays, axes: Sequence[int]) -> Arrays:
        return self._taken_apart(self._whole.vmap(inputs, axes))

    def _taken_apart(self, values: Arrays) -> Arrays:
        found = [values[self._order.index(k)] for k in range(len(self._order))]
        parts = zip(self._joins, found[self._count :], strict=True)
        return [*found[: self._count], *[join.apart(value) for join, value in parts]]
