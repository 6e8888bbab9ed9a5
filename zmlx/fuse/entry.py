"""Entries: what one trace of a function became, ready to be called.

Comes in: a Trace and its Program. Goes out: an Entry, which turns the program's values into the
function's result and writes back what the function wrote. zmlx.fuse.table makes entries.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import mlx.core as mx

from zmlx.fuse.program import Program
from zmlx.fuse.rebound import Surroundings
from zmlx.fuse.region import Picked, RegionFunction
from zmlx.fuse.runtime import NoElements, Run
from zmlx.trace.exprs import Compute, Number, computed
from zmlx.trace.recipe import Given, Output, overwrite, rebuild, update
from zmlx.trace.run import Trace
from zmlx.trace.static import Constant
from zmlx.trace.tree import Leaves


@dataclass(eq=False)
class Entry:
    """One trace, its program, and how to turn the program's values into the function's result."""

    trace: Trace
    program: Program
    used: int = 0  # when it was last called, for the cache's bound
    owner: int | None = None  # the object that it holds for; None where it holds for all
    around: Surroundings | None = None  # what the trace read beside its arguments, if anything
    _run: Run = field(init=False)
    _unsettled: RegionFunction | Picked | None = field(init=False)
    _numbers: Compute = field(init=False)
    _plain: bool = field(init=False)
    _writes: bool = field(init=False)
    _result: Callable[[Sequence[mx.array]], Any] | None = field(init=False)
    _objects: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        graph = self.trace.graph
        run = self._run = self.program.simple() or self.program.run
        self._unsettled = run if isinstance(run, (RegionFunction, Picked)) else None
        scalars = [graph[n]["expr"] for n in graph.inputs if graph.kind(n) == "scalar"]
        self._numbers, self._plain = computed(scalars), not scalars
        self._writes = bool(self.trace.updates or self.trace.writes)
        self._result = None if self._writes else _shortcut(self.trace.result)

    def call(
        self, arrays: Sequence[mx.array], numbers: Sequence[Number], objects: Sequence[Any]
    ) -> Any:
        """The function's result."""
        values = self.values(arrays, numbers)
        if self._result is not None:
            return self._result(values)
        given = Given(values, numbers, objects, arrays=arrays)
        if self._writes:
            self._write(arrays, given)
        return rebuild(self.trace.result, given)

    def values(self, arrays: Sequence[mx.array], numbers: Sequence[Number]) -> list[mx.array]:
        """The values of the graph's outputs."""
        try:
            if self._plain:
                unsettled = self._unsettled
                if unsettled is not None:  # a site holds entries for one signature
                    self._run, self._unsettled = unsettled.settled(arrays), None
                return self._run(arrays)
            return self._run([*arrays, *self._numbers(arrays, numbers)])  # arrays come first
        except NoElements:
            return self.program.unwritten([*arrays, *self._numbers(arrays, numbers)])

    def overtaken(self) -> bool:
        """Whether something that the trace has read beside its arguments is not what it was."""
        return self.around is not None and self.around.moved()

    def own(self, leaves: Leaves | None) -> None:
        """Make the entry hold for the objects of this call only, as long as they live."""
        if leaves is not None:
            self.owner = id(leaves.passed[0]) if leaves.passed else None
            self._objects = tuple([_weak(value) for value in leaves.passed])

    def gone(self) -> bool:
        """Whether an object that it holds for has gone."""
        return any(ref() is None for ref in self._objects)

    def _write(self, arrays: Sequence[mx.array], given: Given) -> None:
        for write in self.trace.writes:
            overwrite(arrays[write.array], given.values[write.output])
        update(self.trace.updates, given)


def _weak(value: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(value)
    except TypeError:  # a list: it lives as long as the object that holds it
        return lambda: True


class PlainEntry(Entry):
    """A function that runs as plain MLX: the trace is for reports only."""

    fn: Callable[..., Any]

    def call(
        self, arrays: Sequence[mx.array], numbers: Sequence[Number], objects: Sequence[Any]
    ) -> Any:
        return self.fn(*arrays)  # a call of arrays alone; Table makes the others


def _shortcut(recipe: Any) -> Callable[[Sequence[mx.array]], Any] | None:
    """A faster `rebuild` of the commonest results: arrays, in tuples, lists and dicts."""
    kind = type(recipe)
    if kind is Output:
        return itemgetter(recipe.index) if recipe.index >= 0 else None
    if recipe is None or kind in (bool, str) or issubclass(kind, Constant):
        return lambda values: recipe
    if kind not in (tuple, list, dict):
        return None
    items = list(recipe.values() if kind is dict else recipe)
    parts = [_shortcut(item) for item in items]
    if None in parts:
        return None
    several: Callable[[Sequence[mx.array]], tuple[Any, ...]]
    if len(items) > 1 and all(type(item) is Output for item in items):
        several = itemgetter(*[item.index for item in items])
    else:
        makers = [part for part in parts if part is not None]
        several = lambda values: tuple([part(values) for part in makers])  # noqa: E731
    if kind is tuple:
        return several
    if kind is list:
        return lambda values: list(several(values))
    keys = tuple(recipe)
    return lambda values: dict(zip(keys, several(values), strict=True))
