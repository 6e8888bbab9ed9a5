"""State: the objects and containers of a call while a trace runs.

Traced arrays stand in them in place of the caller's. A call that runs the user's Python under MLX
(a gradient, say) must find plain arrays there instead; and what the function changes in them is
found by comparing with what they held at first. zmlx.trace.run makes it, the tracer and the recipes
of results ask it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.trace.calls import Around
from zmlx.trace.kinds import (
    Kind,
    content,
    items,
    kind_of,
    parts_of,
    refill,
    remove,
    same_content,
    store,
)
from zmlx.trace.leaks import holds, is_traced, reached
from zmlx.trace.moment import LOCK, Late, Moment, parts_around
from zmlx.trace.proxy import Proxy
from zmlx.trace.scalars import ScalarProxy
from zmlx.trace.tree import Leaves, filled_cells, flatten_state
from zmlx.trace.unflatten import row

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

_ABSENT = object()
_ALL = object()  # in place of a key: all that a list, a deque or a set holds


@dataclass(frozen=True, eq=False)
class Part:
    """One container of a call's object: `part` number `place` of object number `index`."""

    index: int
    place: int
    part: Any
    first: Any  # its content when the function began


@dataclass(frozen=True, eq=False)
class Changed:
    """A part that holds something else than at first."""

    index: int
    place: int
    now: Any
    first: Any

    def held(self, key: Any, value: Any) -> bool:
        """Whether `value` was there, under `key`, at first."""
        if isinstance(self.first, dict):
            old = self.first.get(key, _ABSENT)
        else:
            old = self.first[key] if key < len(self.first) else _ABSENT
        return _same(old, value)


def _same(old: Any, new: Any) -> bool:
    if old is new:
        return True
    plain = type(new) in (bool, int, float, str)
    return plain and type(old) is type(new) and bool(old == new)


@dataclass(frozen=True)
class State:
    """The objects of a call, as the function sees them."""

    live: Sequence[Any] = ()
    copied: frozenset[int] = frozenset()  # which are copies of the caller's
    parts: list[Part] = field(default_factory=list)

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
        self, tracer: Tracer, label: str, fn: Callable[..., Any], args: Any, kwargs: Any, **how: Any
    ) -> Any:
        """Record a call of `fn`, Python code that MLX runs, which may meet the caller's objects."""
        own = {id(value) for _, value in self.passed()}
        met = list(reached((fn, args, kwargs)))
        meets_own = own & set(map(id, met))
        closed_over = list(_traced_places(met, own))
        around = list(parts_around(met, own | tracer.older()))
        if not meets_own and not around:
            return tracer.opaque(label, fn, args, kwargs, closed=False, **how)
        tracer.personal = tracer.personal or bool(meets_own)
        call = self._call(tracer, fn, closed_over, meets_own)
        call.around = around
        moment = Moment(call, around, {id(part) for part, _, _ in closed_over})
        tracer.moments.append(moment)
        result, left = tracer.opaque(
            label, moment, (call.values, args, kwargs), {}, closed=False, **how
        )
        for (part, key), array in zip(call.left, left, strict=True):
            store(part, key, array)
        for part, key, value in call.late:
            store(part, key, Late(tracer, value))
        return result

    def meets_traced(self, start: Any) -> bool:
        """Whether Python code can reach a traced value from `start`."""
        met = list(reached(start))
        return any(map(holds, met)) or any(True for _ in _traced_places(met, set()))

    def _call(
        self,
        tracer: Tracer,
        fn: Callable[..., Any],
        closed_over: Sequence[tuple[Any, Any, Any]],
        met: set[int],
    ) -> StateCall:
        """`fn` as a call that finds plain arrays in the objects, and those of this moment.

        `closed_over` are places beside them that hold traced values: part, key and value; `met` are
        the ids of the objects that `fn` is known to reach.
        """
        places = [(part, key) for part, key, _ in closed_over]
        values = [value for _, _, value in closed_over]
        for part in self.parts:
            if part.index in self.copied:
                continue
            now = content(part.part)
            found = Changed(part.index, part.place, now, part.first)
            unmet = id(self.live[part.index]) not in met
            if isinstance(now, dict):
                pairs = list(now.items())
            else:
                pairs = list(enumerate(now)) if len(now) == len(part.first) else [(_ALL, now)]
            for key, value in pairs:
                if type(value) is Late:
                    continue  # the call before this one leaves it there
                moved = isinstance(value, Proxy) and value.node not in tracer.first_nodes
                if key is _ALL or moved or not found.held(key, value):
                    if unmet and not isinstance(value, mx.array) and holds(value):
                        continue  # a new object, which the call would keep
                    places.append((part.part, key))
                    values.append(value)
        return StateCall(fn, places, values, tracer)


def _only_holds(container: Any) -> bool:
    """Whether `container` has other containers in it, and no array."""
    held = [value for part in parts_of(container) for _, value in items(part)]
    return len(held) > 0 and not any(isinstance(value, mx.array) for value in held)


def _traced_places(met: Sequence[Any], own: set[int]) -> Iterator[tuple[Any, Any, Any]]:
    """Where closures, and containers that they lead to, hold traced values."""
    for value in met:
        if id(value) in own:
            continue
        containers = parts_of(value) if kind_of(value) in (Kind.COPIED, Kind.OBJECT) else ()
        for part in (*filled_cells(value), *containers):
            for key, held in items(part):
                if is_traced(held):
                    yield part, key, held


class StateCall(Around):
    """A function that MLX runs, called with the objects as they were at its place in the trace."""

    def __init__(
        self,
        fn: Callable[..., Any],
        places: list[tuple[Any, Any]],
        values: list[Any],
        tracer: Tracer,
    ) -> None:
        self.fn, self.places, self.values = fn, places, values
        self.around: Sequence[Any] = ()  # parts of other containers, and closures' cells
        self.left: list[tuple[Any, Any]] = []  # places where the function put arrays
        self.late: list[tuple[Any, Any, Any]] = []  # part, key, value: what else it put in objects
        self._tracing: Tracer | None = tracer

    def __call__(self, values: Sequence[Any], args: Any, kwargs: Any) -> Any:
        if self._tracing is not None and not self._tracing.finished:
            return self._traced(self._tracing, values, args, kwargs)
        self._tracing = None
        with LOCK, _put(self.places, values):
            result = self.fn(*args, **kwargs)
            return result, [_held(part, key) for part, key in self.left]

    def _traced(self, tracer: Tracer, values: Sequence[Any], args: Any, kwargs: Any) -> Any:
        before = [(each.part, content(each.part)) for each in tracer.state.parts]
        try:
            for part, held in before:
                refill(part, _plain(tracer, held))
            with _put(self.places, values):
                shown = [(part, content(part)) for part, _ in before]
                others = [(part, content(part)) for part in self.around]
                result = self.fn(*args, **kwargs)
                own, other = list(_written(shown)), list(_written(others))
                self.late = [w for w in own if not isinstance(w[2], mx.array)]
                self.left = [(p, k) for p, k, v in (*own, *other) if isinstance(v, mx.array)]
                return result, [_held(part, key) for part, key in self.left]
        finally:
            for part, held in before:
                refill(part, held)
            self.values = []


def _written(shown: Sequence[tuple[Any, Any]]) -> Iterator[tuple[Any, Any, Any]]:
    """Where parts hold something else than what was shown there: part, key and value."""
    for part, first in shown:
        now = content(part)
        found = Changed(0, 0, now, first)
        for key, value in now.items() if isinstance(now, dict) else enumerate(now):
            if not found.held(key, value):
                yield part, key, value


def _plain(tracer: Tracer, content: Any) -> Any:
    """The content of a part without traced values; containers in it have parts of their own."""

    def shown(value: Any) -> Any:
        if isinstance(value, tuple):
            return row(type(value), [shown(item) for item in value])
        if type(value) is Late:
            return value.value
        return tracer.base(value) if type(value) in (Proxy, ScalarProxy) else value

    if isinstance(content, dict):
        return {key: shown(value) for key, value in content.items()}
    return [shown(value) for value in content]


def _held(part: Any, key: Any) -> Any:
    held = content(part)
    return held[key]


@contextmanager
def _put(places: Sequence[tuple[Any, Any]], values: Sequence[Any]) -> Iterator[None]:
    """Within the block `places` hold `values`; after it, what they held before."""
    before = [(part, key, content(part)) for part, key in places]
    try:
        for (part, key), value in zip(places, values, strict=True):
            refill(part, value) if key is _ALL else store(part, key, value)
        yield
    finally:
        for part, key, held in before:
            if key is _ALL:
                refill(part, held)
            elif isinstance(held, list) or key in held:
                store(part, key, held[key])
            elif isinstance(part, dict):
                remove(part, key)
