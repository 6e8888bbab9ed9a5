"""Alike: whether arrays of MLX's graph are computed in the same way.

Comes in: a graph that zmlx.trace.exported has read. Goes out: a number for each result, equal for
those that the same primitives make of the same leaves in the same order, however a reshape or a
transposition is spelled. zmlx.trace.unseen compares what it made again by it.
"""

from __future__ import annotations

from math import prod
from typing import Any

import mlx.core as mx

from zmlx.trace.exported import Found, Primitive, Value

RESHAPES = ("Reshape", "Squeeze", "ExpandDims", "Flatten", "Unflatten")


class Forms:
    """A number for each form that a value may have; equal forms have one number."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._told: list[tuple[Any, tuple[int, ...], mx.Dtype]] = []  # form, shape, type

    def of(self, found: Found) -> list[int]:
        """The numbers of the results."""
        known: dict[str, int] = {}
        for name, mark in found.marked.items():
            known[name] = self._number(("marked", mark), *found.shapes[name])
        for name, array in found.constants.items():
            known[name] = self._number(("leaf", found.leaves[name]), array.shape, array.dtype)
        for primitive in found.primitives:
            operands = [known[name] for name in primitive.inputs]
            for place, value in enumerate(primitive.outputs):
                known[value.name] = self._made(primitive, operands, place, value)
        return [known[name] for name in found.results]

    def _number(self, form: Any, shape: Any, dtype: mx.Dtype) -> int:
        number = self._numbers.setdefault((form, tuple(shape), dtype), len(self._told))
        if number == len(self._told):
            self._told.append((form, tuple(shape), dtype))
        return number

    def _made(self, p: Primitive, operands: list[int], place: int, value: Value) -> int:
        first = operands[0] if operands else 0
        if p.name in RESHAPES:
            return self._reshaped(first, value.shape)
        if p.name == "Transpose":
            return self._turned(first, list(p.arguments[0]))
        if p.name == "RandomBits":
            form = (p.name, p.arguments[1], first)
            bits = self._number(form, (prod(value.shape),), value.dtype)
            return self._reshaped(bits, value.shape)
        if p.name == "Equal" and p.arguments[0]:
            return self._equal_or_nan(operands, value)
        return self._number((p.name, *self._sorted(p, operands), place), value.shape, value.dtype)

    def _reshaped(self, operand: int, shape: tuple[int, ...]) -> int:
        form, _, dtype = self._told[operand]
        base = form[1] if form[0] == "reshaped" else operand
        if self._told[base][1] == shape:
            return base
        return self._number(("reshaped", base), shape, dtype)

    def _turned(self, operand: int, order: list[int]) -> int:
        """A transposition; dimensions of one element are left out of it."""
        _, shape, dtype = self._told[operand]
        turned = [shape[axis] for axis in order]
        places = [axis for axis, size in enumerate(shape) if size != 1]
        order = [places.index(axis) for axis in order if shape[axis] != 1]
        base = self._reshaped(operand, tuple([shape[axis] for axis in places]))
        form = self._told[base][0]
        if form[0] == "turned":
            base, order = form[1], [form[2][axis] for axis in order]
        if order != sorted(order):
            sizes = self._told[base][1]
            sizes = tuple([sizes[axis] for axis in order])
            base = self._number(("turned", base, tuple(order)), sizes, dtype)
        return self._reshaped(base, tuple(turned))

    def _equal_or_nan(self, operands: list[int], value: Value) -> int:
        def bools(name: str, *of: int) -> int:
            return self._number((name, _NONE if name != "Equal" else "(False,)", of, 0),
                                value.shape, value.dtype)  # fmt: skip

        a, b = operands
        nan = bools("LogicalAnd", bools("NotEqual", a, a), bools("NotEqual", b, b))
        return bools("LogicalOr", bools("Equal", a, b), nan)

    def _sorted(self, p: Primitive, operands: list[int]) -> tuple[str, tuple[int, ...]]:
        """Arguments and operands; pairs of axis and indices in the order of the axes."""
        arguments: Any = p.arguments
        if p.name in ("Gather", "Scatter"):
            place = 0 if p.name == "Gather" else 1
            axes, last = arguments[place], len(arguments[place]) + 1
            pairs = sorted(zip(axes, operands[1:last], strict=True))
            operands = [operands[0], *[index for _, index in pairs], *operands[last:]]
            arguments = [*arguments]
            arguments[place] = sorted(axes)
        if p.name == "MaskedScatter":
            operands = [*operands[:2], self._flat(operands[2])]
        return repr(tuple(arguments)), tuple(operands)

    def _flat(self, operand: int) -> int:
        return self._reshaped(operand, (prod(self._told[operand][1]),))


_NONE = repr(())
