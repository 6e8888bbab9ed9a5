"""Reader: what stands for an iterator in a trace.

zmlx.trace.unflatten puts it there for one that is an argument, zmlx.trace.run for one that the
function finds by itself: `places` says where those are, and machines that must not be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from zmlx.trace import intercept
from zmlx.trace.kinds import Kind, items, kind_of, store
from zmlx.trace.machines import StandIn, refuses
from zmlx.trace.reach import Place


class Reader:
    """An iterator that must not be read: the trace would go on with what it gave then."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> Any:
        name, tracer = type(self._iterator).__name__, intercept.current()
        if tracer is None:
            return next(self._iterator)
        raise tracer.refuse(
            f"a {name} is read, which would happen at the first call only.",
            "Read it before the call, and pass what it gives or a list.",
        )

    def __getattr__(self, name: str) -> Any:
        if name in ("send", "throw", "__length_hint__"):
            return self.__next__
        return getattr(self._iterator, name)


def places(around: Iterable[tuple[Any, Any, Any]]) -> Iterator[Place]:
    """Where stand-ins go, of these containers, keys and values."""
    for part, key, value in around:
        one = Reader if kind_of(value) is Kind.ITERATOR else StandIn if refuses(value) else None
        if one is not None:
            yield Place(partial(store, part, key), partial(_item, part, key), value, one(value))


def _item(part: Any, key: Any) -> Any:
    return dict(items(part)).get(key)
