"""State calls: Python that MLX runs inside a trace, given the caller's objects as they are there.

Comes in: a function, and the places in objects, containers and closures that hold traced values.
Goes out: a function of those values that puts arrays into the places, calls, and tells what was
written: arrays as results, all else as Late. zmlx.trace.state makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.trace import writes
from zmlx.trace.calls import Around
from zmlx.trace.kinds import content, refill, remove, same_content, store
from zmlx.trace.moment import LOCK, Late
from zmlx.trace.operands import mapped
from zmlx.trace.proxy import Proxy
from zmlx.trace.scalars import ScalarProxy
from zmlx.trace.unflatten import row
from zmlx.trace.wrappers import unwrapped

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

_ABSENT = object()
# Makes the function anew, of functions that are called within what it is given.
Remade = Callable[[Callable[[Any], Any]], Callable[..., Any]]
ALL = object()  # in place of a key: all that a list, a deque or a set holds


class Unplaced(Exception):
    """An array was written in place, and there may be other places that it stands in."""


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
    if old is new or old is unwrapped(new):
        return True
    plain = type(new) in (bool, int, float, str)
    return plain and type(old) is type(new) and bool(old == new)


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
        self.remade: Remade | None = None  # where MLX calls parts of `fn` after the call
        self.around: Sequence[Any] = ()  # parts of containers and closures that the trace made
        self.outside: Sequence[Any] = ()  # of older ones: each call writes them by itself
        self.complete = False  # whether all arrays that it reaches stand in places
        self.filled: set[int] = set()  # ids of the parts in `around` that hold traced values
        self._left: list[tuple[Any, Any]] = []  # places where the function put arrays
        self._late: list[tuple[Any, Any, Any]] = []  # part, key, value: what else it put in objects
        self._stays: set[tuple[int, Any]] = set()  # places whose values are the call's to tell
        self._rebound: list[Proxy] = []  # traced arrays that it wrote in place
        self._first: list[int] = []  # of each value, the first one that is the same
        self._written: list[int] = []  # values that it writes in place
        self._tracing: Tracer | None = tracer

    def __call__(self, values: Sequence[Any], args: Any, kwargs: Any) -> Any:
        if self._tracing is not None and not self._tracing.finished:
            return self._traced(self._tracing, args, kwargs)
        self._tracing = None
        if self._written:  # the graph's own values stay as they are
            leaves = [mx.array(v) if isinstance(v, mx.array) else v for v in _leaves(values)]
            copies = iter([leaves[i] for i in self._first])
            values = mapped(values, lambda _: next(copies))
        fn = self.fn if self.remade is None else self.remade(partial(self._within, values))
        with LOCK, _put(self.places, values, self._stays):
            result = fn(*args, **kwargs)
            written = [leaves[i] for i in self._written] if self._written else []
            return result, [_held(part, key) for part, key in self._left], written

    def _within(self, values: Sequence[Any], fn: Callable[..., Any]) -> Callable[..., Any]:
        def placed(*args: Any, **kwargs: Any) -> Any:
            with LOCK, _put(self.places, values, self._stays):
                return fn(*args, **kwargs)

        return placed

    def settle(self, tracer: Tracer, left: Sequence[Any], written: Sequence[Any]) -> None:
        """After the call was recorded: let the trace see what it wrote."""
        for proxy, array in zip(self._rebound, written, strict=True):
            writes.stands_for(proxy, array)
        for (part, key), array in zip(self._left, left, strict=True):
            store(part, key, array)
        for part, key, value in self._late:
            store(part, key, Late(tracer, value))
        self._stays = {(id(part), key) for part, key, _ in self._late}
        self._stays |= {(id(part), ALL) for part, _, _ in self._late}
        self.values, self._rebound, self._late = [], [], []

    def _traced(self, tracer: Tracer, args: Any, kwargs: Any) -> Any:
        before = [(each.part, content(each.part)) for each in tracer.state.parts]
        outside = [(part, content(part)) for part in self.outside]
        shown = Showing(tracer)
        given = list(_leaves(self.values))
        ids = list(map(id, given))
        self._first = list(map(ids.index, ids))
        try:
            for part, held in before:
                refill(part, shown.content(held))
            with _put(self.places, mapped(self.values, shown.value)):
                first = [(part, content(part)) for part, _ in before]
                others = [(part, content(part)) for part in self.around]
                result = self.fn(*args, **kwargs)
                own, other = list(_written(first)), list(_written(others))
                self._late = [w for w in own if not isinstance(w[2], mx.array)]
                self._left = [(p, k) for p, k, v in (*own, *other) if isinstance(v, mx.array)]
                left = [_held(part, key) for part, key in self._left]
        finally:
            for part, held in before:
                refill(part, held)
            for part, held in outside:
                if not same_content(held, content(part)):
                    refill(part, held)
        self._rebound = shown.written()
        if self._rebound and not self.complete:
            raise Unplaced
        if not set(map(id, self._rebound)) <= set(ids):
            raise tracer.refuse(
                "an array is written in place inside a function that MLX runs, which reaches it by "
                "a way that zmlx does not see.",
                "Return the new value from that function.",
            )
        self._written = [ids.index(id(proxy)) for proxy in self._rebound]
        return result, left, [mx.array(shown.value(proxy)) for proxy in self._rebound]


class Shown(mx.array):
    """The array that a function finds in place of a traced one; it knows whether it was written."""

    written = False


def _noting(name: str) -> Callable[..., Any]:
    original = getattr(mx.array, name)

    def method(self: Shown, *args: Any) -> Any:
        self.written = True
        original(self, *args)
        return self if name != "__setitem__" else None

    return method


for _name in ("setitem", *[f"i{n}" for n in writes.IN_PLACE]):
    setattr(Shown, f"__{_name}__", _noting(f"__{_name}__"))


class Showing:
    """Plain arrays and numbers in place of traced ones; one for each."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._made: dict[int, tuple[Proxy, Shown]] = {}

    def value(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return row(type(value), [self.value(item) for item in value])
        if type(value) is Late:
            return value.value
        if type(value) is ScalarProxy:
            return self._tracer.base(value)
        if type(value) is not Proxy:
            return value
        if id(value) not in self._made:
            self._made[id(value)] = value, Shown(self._tracer.base(value))
        return self._made[id(value)][1]

    def content(self, held: Any) -> Any:
        """The content of a part without traced values; containers in it have parts of their own."""
        if isinstance(held, dict):
            return {key: self.value(value) for key, value in held.items()}
        return [self.value(value) for value in held]

    def written(self) -> list[Proxy]:
        """The traced arrays whose stand-ins were written in place."""
        return [proxy for proxy, shown in self._made.values() if shown.written]


def _leaves(tree: Any) -> Iterator[Any]:
    """What `mapped` maps, in its order."""
    found: list[Any] = []
    mapped(tree, found.append)
    return iter(found)


def _written(shown: Sequence[tuple[Any, Any]]) -> Iterator[tuple[Any, Any, Any]]:
    """Where parts hold something else than what was shown there: part, key and value."""
    for part, first in shown:
        now = content(part)
        found = Changed(0, 0, now, first)
        for key, value in now.items() if isinstance(now, dict) else enumerate(now):
            if not found.held(key, value):
                yield part, key, value


def _held(part: Any, key: Any) -> Any:
    held = content(part)
    return held[key]


@contextmanager
def _put(
    places: Sequence[tuple[Any, Any]], values: Sequence[Any], stays: Collection[Any] = ()
) -> Iterator[None]:
    """Within the block `places` hold `values`; after it, what they held before, less `stays`."""
    before = [(part, key, content(part)) for part, key in places]
    try:
        for (part, key), value in zip(places, values, strict=True):
            refill(part, value) if key is ALL else store(part, key, value)
        yield
    finally:
        for part, key, held in before:
            if (id(part), key) in stays:
                continue
            if key is ALL:
                refill(part, held)
            elif isinstance(held, list) or key in held:
                store(part, key, held[key])
            elif isinstance(part, dict):
                remove(part, key)
