"""Memos: what a function has made once and keeps where it finds it again.

Comes in: a trace that has ended, and the function's surroundings. Goes out: whether to trace once
more, or a TraceError where a traced value lives on that later calls would not renew.
zmlx.trace.run asks after each run.

A table that a dict or a global keeps (a mask for each length, rotations) is the same at every call:
plain arrays take the places of its traced ones, and the function runs again. Where it then finds
them and writes no more, they are captured arrays like others. What a functools.lru_cache holds of a
trace is forgotten: it is computed again where it is asked for.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx.errors import LostTraceError, TraceError
from zmlx.trace import intercept, leaks, locate
from zmlx.trace.kinds import refill, remove, store
from zmlx.trace.leaks import holds
from zmlx.trace.proxy import Proxy
from zmlx.trace.scalars import SIZES, ScalarProxy, Specialize
from zmlx.trace.tracer import Tracer
from zmlx.trace.undone import NOTHING
from zmlx.trace.unflatten import row

_STEPS = 4  # from a traced value to the cache that holds it: tuples, the cache's own dict


class Memos:
    """What one function keeps, over the runs of one trace; `given` are its call's objects."""

    def __init__(
        self, fn: Callable[..., Any], around: leaks.Surroundings, given: Sequence[Any]
    ) -> None:
        self._fn, self._around = fn, around
        classes = {base for value in given for base in type(value).__mro__}
        self._caches = {*around.caches, *[c for cls in classes for c in leaks.caches_in(cls)]}
        self._places: list[tuple[Any, Any, Any]] = []  # that hold plain arrays now: see `_put`

    def settle(self, tracer: Tracer) -> bool:
        """Whether the function must run once more, as it keeps what is the same at every call."""
        self._refuse_unseen()
        found = leaks.survivor(tracer)
        if found is not None:
            del found
            self._forget()
            found = leaks.survivor(tracer)
        if found is None:
            return False
        first = not self._places
        if first and tracer.sizes.made:
            raise Specialize(frozenset({SIZES}), tracer)
        value, holder = found
        line = tracer.graph[value.node]["loc"] if isinstance(value, Proxy) else ""
        place = self._around.name_of(holder)
        del found, value, holder
        if first and self._put() and leaks.survivor(tracer) is None:
            return True
        self._take_out()
        raise TraceError(
            f"[zmlx.trace] {line or locate.of_function(self._fn)}: a traced value of "
            f"{called(self._fn)}, made here, is kept in {place} that is neither an argument nor "
            "named state, so later calls would not renew it. Return it, pass that object as an "
            "argument, or name it in inputs=."
        )

    def restore(self, again: bool = False) -> None:
        """Leave everything as it was, after a run that failed; what the function wrote of plain
        values stays, as in plain MLX, unless it is to run `again`.
        """
        self._forget()
        self._around.undo() if again else self._around.restore()

    def wrote(self) -> tuple[str, ...]:
        """The names of what the function has written outside of its arguments: not at later calls
        of its trace. What it made once and keeps it finds there.
        """
        kept = {id(part) for part, _, _ in self._places}
        written = self._around.written()
        return tuple(dict.fromkeys(name for name, part, _ in written if id(part) not in kept))

    def _forget(self) -> None:
        for cache in self._caches:
            if _holds_traced(cache):
                cache.cache_clear()

    def _refuse_unseen(self) -> None:
        if self._around.keeps_lost():
            raise LostTraceError(
                f"[zmlx.trace] {locate.of_function(self._fn)}: an array that was computed where "
                "zmlx could not see it is kept where later calls would not renew it. Return it."
            )
        if self._around.written_in_c():
            raise TraceError(
                f"[zmlx.trace] {locate.of_function(self._fn)}: C code, NumPy say, writes into an "
                "array that is no argument, which would happen at the first call only. Write with "
                "MLX, or outside."
            )

    def _put(self) -> bool:
        """Put plain arrays in the places of traced ones that are the same at every call."""
        for part, key, value in list(self._around.stored()):
            try:
                made = _plain(value)
            except _VariesError:
                return False
            self._places.append((part, key, self._around.before(part, key)))
            _store(part, key, made)
        return bool(self._places)

    def _take_out(self) -> None:
        for part, key, old in reversed(self._places):
            if old is not NOTHING:
                _store(part, key, old)
            elif isinstance(part, type):
                delattr(part, key)
            elif isinstance(part, dict):
                remove(part, key)
            elif isinstance(part, list):
                refill(part, part[:key])
        self._places = []


class _VariesError(Exception):
    """A value that is another one at another call."""


def _store(part: Any, key: Any, value: Any) -> None:
    setattr(part, key, value) if isinstance(part, type) else store(part, key, value)


def _plain(value: Any) -> Any:
    """`value` with plain arrays for traced ones; lists and dicts are new, and stay themselves."""
    if type(value) is Proxy:
        if not value.known:
            raise _VariesError
        made = mx.array(value)
        intercept.original("eval")(made)
        return made
    if isinstance(value, tuple):
        return row(type(value), [_plain(item) for item in value])
    if type(value) is list:
        value[:] = [_plain(item) for item in value]
    elif type(value) is dict:
        value.update({key: _plain(item) for key, item in value.items()})
    elif type(value) is ScalarProxy or holds(value):
        raise _VariesError
    return value


def called(fn: Callable[..., Any]) -> str:
    """The name that messages call a function by."""
    return getattr(fn, "__qualname__", type(fn).__name__).rpartition("<locals>.")[2]


def _holds_traced(cache: Any) -> bool:
    """Whether a functools.lru_cache holds a traced value: in its own dict, say, in a tuple."""
    met = [cache]
    for _ in range(_STEPS):
        met = gc.get_referents(*met)
        if any(type(value) in (Proxy, ScalarProxy) for value in met):
            return True
        met = [value for value in met if type(value) in (tuple, dict, list)]
    return False
