"""Plain arrays that a traced function meets: captured ones. What is done with them is recorded.

What is computed from them is thus made anew by each call, and may be written like everything that
is made inside. They themselves may not: a write would happen once, while tracing. Other threads and
ZMLX's own code pass straight through. zmlx.trace.intercept installs the wrappers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mlx.core as mx

from zmlx.ops.table import OPS
from zmlx.trace.array_name import by_zmlx
from zmlx.trace.members import IN_PLACE, READS, SHAPE_READS, recorded
from zmlx.trace.recorders import current, paused
from zmlx.trace.wrappers import refuse_closures

Wrap = Callable[[Any], Any]


def wrappers() -> Iterator[tuple[str, Wrap]]:
    """What replaces each member of mx.array while a trace runs."""
    rows = {f"__{spec.dunder}__": spec.name for spec in OPS.values() if spec.arity == 2}
    for name in recorded():
        yield name, partial(_member, name, rows.get(name))
    for name in (*[f"__i{op}__" for op in IN_PLACE], "__setitem__"):
        yield name, partial(_write, name)
    for name in SHAPE_READS:
        yield name, _size
    for name in (*READS, "__repr__", "__format__"):
        yield name, _value
    yield "__len__", _length
    yield "at", _at


def _member(name: str, row: str | None, member: Any) -> Any:
    if not callable(member):
        return property(partial(_read_property, name, member.fget))

    def intercepted(self: mx.array, *args: Any, **kwargs: Any) -> Any:
        tracer = current()
        if row is not None and (tracer or paused()):
            beside = getattr(type(args[0]), "beside", None)  # a ScalarProxy
            if beside is not None:
                return beside(args[0], row, (self, args[0]))
        if tracer is None:
            refuse_closures((args, kwargs))
            return member(self, *args, **kwargs)
        if by_zmlx(sys._getframe(1)):
            return member(self, *args, **kwargs)
        return getattr(tracer.lifted(self), name)(*args, **kwargs)

    return intercepted


def _read_property(name: str, get: Callable[[Any], Any], self: mx.array) -> Any:
    tracer = current()
    if tracer is None or by_zmlx(sys._getframe(1)):
        return get(self)
    return getattr(tracer.lifted(self), name)


def _size(member: Any) -> property:
    get: Callable[[mx.array], Any] = member.fget
    return property(_length(get))


def _length(get: Callable[[mx.array], Any]) -> Callable[[mx.array], Any]:
    """Reading the size of an array that was computed out of sight: the trace depends on it."""

    def read(self: mx.array) -> Any:
        tracer = current()
        if tracer is not None and not by_zmlx(sys._getframe(1)):
            tracer.unseen.note_size(self)
        return get(self)

    return read


def _value(member: Callable[..., Any]) -> Callable[..., Any]:
    """Reading a value: the trace holds as long as the array is what it was."""

    def read(self: mx.array, *args: Any, **kwargs: Any) -> Any:
        tracer = current()
        if tracer is not None and not by_zmlx(sys._getframe(1)):
            tracer.values_read[id(self)] = self
        return member(self, *args, **kwargs)

    return read


def _write(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(self: mx.array, *args: Any) -> Any:
        tracer = current()
        if tracer is None:
            refuse_closures(args)
        elif not by_zmlx(sys._getframe(1)):
            if tracer.unseen.is_lost(self):
                return tracer.unseen.write(self, name, args)
            if not tracer.lets_write(self, args):
                raise tracer.refuse(
                    "an array that is no argument, and was not made by the function, is written in "
                    "place.",
                    "Name what holds it in inputs= and outputs=, or write into a copy: "
                    "mx.array(it).",
                )
        return method(self, *args)

    return intercepted


def _at(original: property) -> property:
    def at(self: mx.array) -> Any:
        tracer = current()
        if tracer is None or by_zmlx(sys._getframe(1)):
            get: Callable[[mx.array], Any] = original.fget  # type: ignore[assignment]
            return get(self)
        return tracer.lifted(self).at

    return property(at)
