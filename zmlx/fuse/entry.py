"""Entries: what one trace of a function became, ready to be called, and where it is found again.

A Site holds the traces for one key (structure, ranks, dtypes, sizes of one); they differ in what
those traces found out that they depend on: sizes and numbers whose value was read.
zmlx.fuse.table makes both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from zmlx.fuse.decided import Decided
from zmlx.fuse.program import Program
from zmlx.fuse.region import RegionFunction
from zmlx.fuse.runtime import Run
from zmlx.trace.exprs import Compute, Number, computed
from zmlx.trace.run import Output, Trace, rebuild, write_state


@dataclass(eq=False)
class Entry:
    """One trace, its program, and how to turn the program's values into the function's result."""

    trace: Trace
    program: Program
    used: int = 0  # when it was last called, for the cache's bound
    _run: Run = field(init=False)
    _unsettled: RegionFunction | None = field(init=False)
    _numbers: Compute = field(init=False)
    _plain: bool = field(init=False)
    _result: Callable[[Sequence[mx.array]], Any] | None = field(init=False)

    def __post_init__(self) -> None:
        graph = self.trace.graph
        simple = self.program.simple()
        self._run = simple or self.program
        self._unsettled = simple if isinstance(simple, RegionFunction) else None
        scalars = [graph[n]["expr"] for n in graph.inputs if graph.kind(n) == "scalar"]
        self._numbers, self._plain = computed(scalars), not scalars
        self._result = _shortcut(self.trace.result)

    def __call__(self, arrays: Sequence[mx.array], numbers: Sequence[Number]) -> Any:
        values = self.values(arrays, numbers)
        if self._result is not None:
            return self._result(values)
        return rebuild(self.trace.result, values, numbers)

    def values(self, arrays: Sequence[mx.array], numbers: Sequence[Number]) -> list[mx.array]:
        """The values of the graph's outputs."""
        if self._plain:
            unsettled = self._unsettled
            if unsettled is not None:  # a site holds entries for one signature
                self._run, self._unsettled = unsettled.settled(arrays), None
            return self._run(arrays)
        return self._run([*arrays, *self._numbers(arrays, numbers)])  # a graph has arrays first

    def update(
        self, states: Sequence[Any], arrays: Sequence[mx.array], numbers: Sequence[Number]
    ) -> Any:
        """The function's result; the containers of `outputs=` get their new arrays."""
        values = self.values(arrays, numbers)
        for container, recipe in zip(states, self.trace.state, strict=True):
            write_state(container, recipe, values, numbers)
        return rebuild(self.trace.result, values, numbers)


class PlainEntry(Entry):
    """A function that runs as plain MLX: the trace is for reports only."""

    fn: Callable[..., Any]

    def __call__(self, arrays: Sequence[mx.array], numbers: Sequence[Number]) -> Any:
        return self.fn(*arrays)


def _shortcut(recipe: Any) -> Callable[[Sequence[mx.array]], Any] | None:
    """A faster `rebuild` for the two commonest results: one array, a flat tuple of arrays."""
    if type(recipe) is Output and recipe.index == 0:
        return lambda values: values[0]
    if type(recipe) is tuple and all(type(item) is Output for item in recipe):
        indices = [item.index for item in recipe]
        return lambda values: tuple([values[i] for i in indices])
    return None


@dataclass(eq=False)
class Site:
    """The entries for one key, told apart by what their traces depend on beyond it."""

    decided: Decided | None = None  # the sizes whose values traces read
    static: frozenset[int] = frozenset()  # numbers whose value a trace read
    entries: dict[Any, Entry] = field(default_factory=dict)

    def find(self, arrays: Sequence[mx.array], numbers: Sequence[Number]) -> Entry | None:
        return self.entries.get(self.key(arrays, numbers))

    def add(self, entry: Entry, arrays: Sequence[mx.array], numbers: Sequence[Number]) -> None:
        """Keep `entry`; where it depends on more than earlier ones, those are traced again."""
        if not entry.trace.static_numbers <= self.static:
            self.entries.clear()
            self.static |= entry.trace.static_numbers
        if entry.trace.decisions and self.decided is None:
            self.decided = Decided()
        key = self._numbers(numbers)
        if self.decided is not None:
            key = self.decided.add(key, entry.trace.decisions)
            self.decided.keep(list(self.entries))
        self.entries[key] = entry

    def key(self, arrays: Sequence[mx.array], numbers: Sequence[Number]) -> Any:
        if self.decided is not None:
            return self.decided.path(self._numbers(numbers), arrays, numbers)
        return self._numbers(numbers)

    def _numbers(self, numbers: Sequence[Number]) -> tuple[str, ...]:
        return tuple([repr(numbers[i]) for i in sorted(self.static)]) if self.static else ()
