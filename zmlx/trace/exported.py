"""Exported: MLX's own graph of arrays that were computed where a trace could not see it.

Comes in: lazy arrays over placeholders. Goes out: their primitives, in order, with inputs, outputs
and arguments as mx.export_function reports them, less copies. It leaves out stop_gradient, so that
the graph is read a second time, from mx.export_to_dot, which has it and no arguments; the two are
walked side by side, and must agree. zmlx.trace.unseen is the caller.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx

from zmlx.trace import intercept, placeholders

NO_OPS = ("StopGradient", "Copy")
# What export calls a primitive that has several names.
_FAMILIES = {
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor", "LeftShift", "RightShift"),
                    "BitwiseBinary"),
    **dict.fromkeys(("And", "Or", "Sum", "Prod", "Min", "Max"), "Reduce"),
    **dict.fromkeys(("CumSum", "CumProd", "CumMin", "CumMax", "CumLogaddexp"), "Scan"),
    "NaNEqual": "Equal", "Log2": "Log", "Log10": "Log", "Rsqrt": "Sqrt",
}  # fmt: skip
_NODE = re.compile(r'^\{ (\d+) \[label ="([^"]*)"')
_INPUT = re.compile(r'^"([^"]*)" -> (\d+)$')
_OUTPUT = re.compile(r'^(\d+) -> "([^"]*)"$')


class Unreadable(Exception):
    """MLX does not report all of a graph; says why."""


@dataclass(frozen=True)
class Value:
    """An array of the graph, as export reports it."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype


@dataclass(frozen=True, eq=False)
class Primitive:
    """One primitive; inputs and outputs by the names that export_to_dot gives."""

    name: str
    arguments: tuple[Any, ...]
    inputs: tuple[str, ...]
    outputs: tuple[Value, ...]


@dataclass
class Found:
    """MLX's graph of some arrays."""

    primitives: list[Primitive] = field(default_factory=list)  # inputs before their users
    results: list[str] = field(default_factory=list)  # the names of the arrays asked for
    constants: dict[str, mx.array] = field(default_factory=dict)  # leaves
    leaves: dict[str, str] = field(default_factory=dict)  # the same name for equal constants
    marked: dict[str, int] = field(default_factory=dict)  # leaves that are marked placeholders
    shapes: dict[str, tuple[tuple[int, ...], mx.Dtype]] = field(default_factory=dict)  # of those


@dataclass
class _Drawn:
    """What export_to_dot tells."""

    labels: dict[str, str] = field(default_factory=dict)  # by primitive
    inputs: dict[str, list[str]] = field(default_factory=dict)  # of each primitive
    outputs: dict[str, list[str]] = field(default_factory=dict)
    made_by: dict[str, str] = field(default_factory=dict)  # array -> its primitive


@dataclass
class _Reported:
    """What the callback of mx.export_function is told."""

    results: list[Value] = field(default_factory=list)
    constants: dict[str, mx.array] = field(default_factory=dict)
    made_by: dict[str, tuple[dict[str, Any], int]] = field(default_factory=dict)

    def __call__(self, item: dict[str, Any]) -> None:
        if item["type"] == "outputs":
            self.results = list(map(_value, item["outputs"]))
        elif item["type"] == "constants":
            self.constants = dict(item["constants"])
        elif item["type"] == "primitive":
            for position, (name, *_) in enumerate(item["outputs"]):
                self.made_by[name] = (item, position)


def read(arrays: Sequence[mx.array]) -> Found:
    """The graph of `arrays`, down to marked placeholders; Unreadable where MLX hides a part."""
    # Export changes the inputs of what it returns: that must not be the caller's arrays.
    ends = [placeholders.tied(array) for array in arrays]
    drawn, reported = _drawn(ends), reports(lambda: ends)
    walk = _Walk(drawn, reported)
    for index, result in enumerate(reported.results):
        (made,) = (drawn.inputs[drawn.made_by[f"{_END}{index}"]][:1],)
        walk.pair(made[0], reported.made_by[result.name][0]["inputs"][0][0])
        walk.found.results.append(made[0])
    return walk.all()


def reports(function: Callable[..., Any], *arrays: mx.array) -> _Reported:
    """What mx.export_function tells of `function`; Unreadable where it does not tell all."""
    reported = _Reported()
    try:
        intercept.original("export_function")(reported, function, *arrays)
    except (ValueError, RuntimeError) as error:
        unknown = re.search(r"state for primitive (\S+)", str(error))
        raise Unreadable(
            f"mx.export_function does not report what {unknown[1]} computes"
            if unknown
            else f"mx.export_function refuses it: {error}"
        ) from None
    return reported


_END = "zmlx_end"


def _drawn(ends: Sequence[mx.array]) -> _Drawn:
    text, drawn = io.StringIO(), _Drawn()
    names = {f"{_END}{i}": end for i, end in enumerate(ends)}
    intercept.original("export_to_dot")(text, *ends, **names, **placeholders.named_root())
    for line in text.getvalue().splitlines():
        if found := _NODE.match(line):
            drawn.labels[found[1]] = found[2].split(" ")[0]
            drawn.inputs[found[1]], drawn.outputs[found[1]] = [], []
        elif found := _INPUT.match(line):
            drawn.inputs[found[2]].append(found[1])
        elif found := _OUTPUT.match(line):
            drawn.outputs[found[1]].append(found[2])
            drawn.made_by[found[2]] = found[1]
    return drawn


def _value(item: tuple[str, Sequence[int], mx.Dtype]) -> Value:
    return Value(item[0], tuple(item[1]), item[2])


class _Walk:
    """Both tellings side by side, from the results down."""

    def __init__(self, drawn: _Drawn, reported: _Reported) -> None:
        self.drawn, self.reported, self.found = drawn, reported, Found()
        self._twins: dict[str, str] = {}  # drawn array -> reported array
        self._waiting: list[str] = []

    def pair(self, drawn: str, reported: str) -> None:
        known = self._twins.setdefault(drawn, reported)
        if known != reported:
            raise Unreadable("mx.export_function and mx.export_to_dot tell different graphs")
        self._waiting.append(drawn)

    def all(self) -> Found:
        seen: set[str] = set()
        needed: set[str] = set()
        while self._waiting:
            name = self._waiting.pop()
            if name not in seen:
                seen.add(name)
                made = self.drawn.made_by.get(name)
                if made is None:
                    self._leaf(name)
                elif not self._placeholder(name, made):
                    needed.add(made)
                    self._inputs(name, made)
        # a primitive stands behind those that it needs
        return _without_copies(
            self.found, [self._primitive(p) for p in self.drawn.labels if p in needed]
        )

    def _leaf(self, name: str) -> None:
        value = self.reported.constants.get(self._twins[name])
        if value is None or name == placeholders.ROOT:
            raise Unreadable("it computes with a placeholder that is not its own")
        self.found.constants[name] = value
        self.found.leaves[name] = self._twins[name]

    def _placeholder(self, name: str, made: str) -> bool:
        if placeholders.ROOT not in self.drawn.inputs[made]:
            return False
        twin = self.reported.made_by[self._twins[name]][0]["inputs"]
        if len(twin) != 3:
            raise Unreadable("it computes with a placeholder that is not its own")
        self.found.marked[name] = int(self.reported.constants[twin[2][0]].item())
        self.found.shapes[name] = self._type_of(self._twins[name])
        return True

    def _inputs(self, name: str, made: str) -> None:
        label, inputs = self.drawn.labels[made], self.drawn.inputs[made]
        if label in NO_OPS:
            return self.pair(inputs[0], self._twins[name])
        item, _ = self.reported.made_by.get(self._twins[name], ({}, 0))
        same = item and item["name"] == _FAMILIES.get(label, label)
        if not same or len(item["inputs"]) != len(inputs):
            raise Unreadable(f"mx.export_function does not report {label}")
        for drawn, (reported, *_) in zip(inputs, item["inputs"], strict=True):
            self.pair(drawn, reported)
        return None

    def _primitive(self, made: str) -> Primitive:
        label, outputs = self.drawn.labels[made], self.drawn.outputs[made]
        name = next(n for n in outputs if n in self._twins)
        inputs = tuple(self.drawn.inputs[made])
        if label in NO_OPS:
            shape, dtype = self._type_of(self._twins[name])
            return Primitive(label, (), inputs, (Value(name, shape, dtype),))
        item, _ = self.reported.made_by[self._twins[name]]
        values = [Value(n, *_shaped(v)) for n, v in zip(outputs, item["outputs"], strict=True)]
        return Primitive(item["name"], tuple(item["arguments"]), inputs, tuple(values))

    def _type_of(self, reported: str) -> tuple[tuple[int, ...], mx.Dtype]:
        made = self.reported.made_by.get(reported)
        if made is not None:
            return _shaped(made[0]["outputs"][made[1]])
        value = self.reported.constants[reported]
        return value.shape, value.dtype


def _without_copies(found: Found, primitives: Sequence[Primitive]) -> Found:
    """`found` with these primitives, less copies and casts to the type that is there."""
    same: dict[str, str] = {}
    types = {name: dtype for name, (_, dtype) in found.shapes.items()}
    types.update({name: array.dtype for name, array in found.constants.items()})
    for p in primitives:
        inputs = tuple([same.get(name, name) for name in p.inputs])
        types.update({value.name: value.dtype for value in p.outputs})
        result = p.outputs[0]
        if p.name == "Copy" or (p.name == "AsType" and types[inputs[0]] == result.dtype):
            same[result.name] = inputs[0]
        else:
            found.primitives.append(replace(p, inputs=inputs))
    found.results = [same.get(name, name) for name in found.results]
    return found


def _shaped(item: tuple[str, Sequence[int], mx.Dtype]) -> tuple[tuple[int, ...], mx.Dtype]:
    return tuple(item[1]), item[2]
