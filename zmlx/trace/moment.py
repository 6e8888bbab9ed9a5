"""Moments: what Python that MLX runs finds around it, as it was at its place in the trace.

MLX runs the function of a gradient or of mx.vmap again at every call, long after the trace: by then
the variable of a loop holds its last value, and a list is longer. A Moment gives closures and
containers back what they held. A Late stands for what such a function wrote and no trace can know.
zmlx.trace.state makes both.
"""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any

from zmlx.trace.calls import Around
from zmlx.trace.kinds import (
    HOLDERS,
    Fixed,
    Kind,
    content,
    items,
    kind_of,
    parts_of,
    refill,
    same_content,
    store,
)
from zmlx.trace.leaks import holds, is_traced
from zmlx.trace.tree import filled_cells

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

LOCK = threading.RLock()  # for places that calls on several threads fill in turn
_CONTAINERS = (*HOLDERS, Kind.SET)


def parts_of_callable(value: Any) -> Iterator[Any]:
    """Where a function or a partial keeps values: closure, and traced defaults and arguments."""
    yield from filled_cells(value)
    parts: list[Any] = []
    if isinstance(value, FunctionType) and type(value) is not FunctionType:  # MLX's, around one
        value = next((f for f in gc.get_referents(value) if type(f) is FunctionType), None)
    if type(value) is FunctionType:
        parts = [Fixed(value), value.__kwdefaults__ or {}, value.__dict__]
    elif isinstance(value, functools.partial):
        parts = [Fixed(value)]
    yield from [part for part in parts if any(holds(held) for _, held in items(part))]


def parts_around(met: Sequence[Any], others: set[int]) -> Iterator[Any]:
    """What callables and containers among `met` keep, less those of `others`' ids.

    What is older than the trace and no argument is not among them: it is what it is at each call.
    """
    for value in met:
        if id(value) not in others:
            yield from [part for part in parts_of_callable(value) if id(part) not in others]
            yield from parts_of(value) if kind_of(value) in _CONTAINERS else ()


class Moment(Around):
    """`fn`, called with `parts` as they are now; `fn` fills those whose ids are in `filled`."""

    def __init__(self, fn: Callable[..., Any], parts: Sequence[Any], filled: set[int]) -> None:
        self.fn, self._filled = fn, filled
        self._parts = [(part, content(part)) for part in parts]
        self._written: set[int] = set()  # by the function itself, by position
        self._traces = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._traces:
            result = self.fn(*args, **kwargs)
            self._written |= set(self._changed())
            return result
        if not self._parts:
            return self.fn(*args, **kwargs)
        with LOCK:
            before = [(part, content(part)) for part, _ in self._parts]
            try:
                for part, held in self._parts:
                    refill(part, held)
                return self.fn(*args, **kwargs)
            finally:
                for part, held in before:
                    refill(part, held)

    def settle(self) -> list[Any]:
        """The trace has ended: keep what has changed since, or is filled; returns all parts.

        Traced values are left out: the call brings what stands for them.
        """
        parts, self._traces = self._parts, False
        keep = {*self._written, *self._changed()}
        keep |= {i for i, (part, _) in enumerate(parts) if id(part) in self._filled}
        self._parts = [(part, _untraced(held)) for part, held in map(parts.__getitem__, keep)]
        return [part for part, _ in parts]

    def _changed(self) -> list[int]:
        pairs = enumerate(self._parts)
        return [i for i, (part, held) in pairs if not same_content(held, content(part))]


def settle(moments: Sequence[Moment]) -> None:
    """At the end of a trace: settle each, then take traced values out of their parts."""
    parts = [part for moment in moments for part in moment.settle()]
    ids = set(map(id, parts))
    for part in parts:
        for key, value in list(items(part)):
            known = any(id(inner) in ids for inner in parts_of(value))
            if is_traced(value) or (not known and holds(value)):
                store(part, key, None)


def _untraced(held: Any) -> Any:
    if isinstance(held, dict):
        return {key: None if is_traced(value) else value for key, value in held.items()}
    return [None if is_traced(value) else value for value in held]


class Late:
    """What a function that MLX runs put into an object of the call: a call's value, not a trace's.

    It may stay where it is; to read it is an error.
    """

    __slots__ = ("_tracer", "value")

    def __init__(self, tracer: Tracer, value: Any) -> None:
        self._tracer, self.value = tracer, value

    def refused(self, *_: Any, **__: Any) -> Any:
        raise self._tracer.refuse(
            f"a value ({type(self.value).__name__}) is read that was written inside a gradient, "
            "mx.vmap or another function that runs as one call, at every call anew.",
            "Return it from that function, or write it outside.",
        )

    __bool__ = __int__ = __float__ = __index__ = __len__ = __iter__ = __call__ = refused
    __str__ = __repr__ = __format__ = __hash__ = __eq__ = __ne__ = refused
    __getitem__ = __contains__ = refused
    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __pos__ = __abs__ = __invert__ = refused
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = refused
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = refused
    __pow__ = __rpow__ = __matmul__ = __rmatmul__ = refused
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = refused
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = refused

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what ZMLX asks of every value
            raise AttributeError(name)
        return self.refused()

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.value)
