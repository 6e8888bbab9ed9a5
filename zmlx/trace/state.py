"""State: the objects and containers of a call while a trace runs.

Traced arrays stand in them in place of the caller's. A call that runs the user's Python under MLX
(a gradient, say) must find plain arrays there instead; and what the function changes in them is
found by comparing with what they held at first. zmlx.trace.run makes it, the tracer and the recipes
of results ask it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.trace.kinds import (
    HOLDERS,
    content,
    items,
    kind_of,
    parts_of,
    same_content,
)
from zmlx.trace.leaks import holds, is_traced, reached
from zmlx.trace.moment import Late, Moment, parts_around, parts_of_callable
from zmlx.trace.proxy import Proxy
from zmlx.trace.statecall import ALL, Changed, Remade, StateCall, Unplaced
from zmlx.trace.tree import Leaves, flatten_state

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer


@dataclass(frozen=True, eq=False)
class Part:
    """One container of a call's object: `part` number `place` of object number `index`."""

    index: int
    place: int
    part: Any
    first: Any  # its content when the function began


@dataclass(frozen=True)
class State:
    """The objects of a call, as the function sees them."""

    live: Sequence[Any] = ()
    copied: frozenset[int] = frozenset()  # which are copies of the caller's
    parts: list[Part] = field(default_factory=list)
    # Custom functions that the function has given rules, by id, with these.
    rules: dict[int, tuple[Any, dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, live: Sequence[Any], copied: frozenset[int]) -> State:
        parts = [
            Part(index, place, part, content(part))
            for index, value in enumerate(live)
            for place, part in enumerate(parts_of(value))
        ]
        return cls(live, copied, parts)

    def passed(self) -> Iterator[tuple[int, Any]]:
        """The caller's own objects, by number."""
        return ((i, value) for i, value in enumerate(self.live) if i not in self.copied)

    def changed(self) -> Iterator[Changed]:
        for part in self.parts:
            now = content(part.part)
            if not same_content(part.first, now):
                found = Changed(part.index, part.place, now, part.first)
                pairs = now.items() if isinstance(now, dict) else enumerate(now)
                moved = len(now) != len(part.first)
                if isinstance(now, dict):  # the order of its keys counts too
                    moved = list(now) != list(part.first)
                if moved or not all(found.held(k, v) for k, v in pairs):
                    yield found

    def covers(self, state: Any) -> bool:
        """Whether every container of arrays in `state` is one that the trace takes as input."""
        known, leaves = {id(value) for value in self.live}, Leaves()
        flatten_state(state, leaves)
        return all(id(inner) in known or _only_holds(inner) for inner in leaves.objects)

    def run(
        self,
        tracer: Tracer,
        label: str,
        fn: Callable[..., Any],
        args: Any,
        kwargs: Any,
        remade: Remade | None = None,
        **how: Any,
    ) -> Any:
        """Record a call of `fn`, Python code that MLX runs, which may meet the caller's objects."""
        met = list(reached((fn, args, kwargs)))
        everything = False
        while True:
            call = self._call(tracer, fn, met, everything)
            if call is None:
                return tracer.opaque(label, fn, args, kwargs, closed=False, **how)
            call.remade = remade
            moment = Moment(call, call.around, call.filled)
            try:
                result, left, written = tracer.opaque(
                    label, moment, (call.values, args, kwargs), {}, closed=False, **how
                )
            except Unplaced:
                everything = True
                continue
            tracer.moments.append(moment)
            call.settle(tracer, left, written)
            return result

    def meets_traced(self, start: Any) -> bool:
        """Whether Python code can reach a traced value from `start`."""
        met = list(reached(start))
        return any(map(holds, met)) or any(True for _ in _traced_places(met, set()))

    def note_values(self, tracer: Tracer, start: Any) -> None:
        """Note the arrays that Python code can reach from `start` as read: MLX runs it now."""
        found = [value for value in reached(start) if type(value) is mx.array]
        tracer.values_read.update({id(array): array for array in found})

    def _call(
        self, tracer: Tracer, fn: Callable[..., Any], met: Sequence[Any], everything: bool
    ) -> StateCall | None:
        """`fn`, which reaches `met`, as a call that finds plain arrays there, and those of now.

        With `everything` it brings all arrays of the objects that it meets, not those alone that
        changed. None where it meets nothing.
        """
        own = {id(value) for _, value in self.passed()}
        meets_own = own & set(map(id, met))
        closed_over = list(_traced_places(met, own))
        around = list(parts_around(met, own | tracer.older()))
        beside = list(parts_around(met, own))
        if not meets_own and not beside:
            return None
        tracer.personal = tracer.personal or bool(meets_own)
        places = [(part, key) for part, key, _ in closed_over]
        values = [value for _, _, value in closed_over]
        for part, key, value in self._moved(tracer, meets_own, everything):
            places.append((part, key))
            values.append(value)
        call = StateCall(fn, places, values, tracer)
        call.filled, call.around = {id(part) for part, _, _ in closed_over}, around
        known = set(map(id, around))
        call.complete = everything
        call.outside = [part for part in beside if id(part) not in known]
        return call

    def _moved(
        self, tracer: Tracer, met: set[int], everything: bool
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Where the call's objects hold something else than at first: part, key and value."""
        for part in self.parts:
            if part.index in self.copied:
                continue
            now = content(part.part)
            found = Changed(part.index, part.place, now, part.first)
            unmet = id(self.live[part.index]) not in met
            if isinstance(now, dict):
                pairs = list(now.items())
            else:
                pairs = list(enumerate(now)) if len(now) == len(part.first) else [(ALL, now)]
            for key, value in pairs:
                if type(value) is Late:
                    continue  # the call before this one leaves it there
                moved = isinstance(value, Proxy) and value.node not in tracer.first_nodes
                wanted = everything and not unmet and is_traced(value)
                if key is ALL or moved or wanted or not found.held(key, value):
                    if unmet and not isinstance(value, mx.array) and holds(value):
                        continue  # a new object, which the call would keep
                    yield part.part, key, value


def _only_holds(container: Any) -> bool:
    """Whether `container` has other containers in it, and no array."""
    held = [value for part in parts_of(container) for _, value in items(part)]
    return len(held) > 0 and not any(isinstance(value, mx.array) for value in held)


def _traced_places(met: Sequence[Any], own: set[int]) -> Iterator[tuple[Any, Any, Any]]:
    """Where callables, and containers that they lead to, hold traced values."""
    for value in met:
        if id(value) in own:
            continue
        containers = parts_of(value) if kind_of(value) in HOLDERS else ()
        for part in (*parts_of_callable(value), *containers):
            for key, held in items(part):
                if is_traced(held):
                    yield part, key, held
