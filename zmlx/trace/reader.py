"""Reader: what stands for an iterator in a trace. zmlx.trace.unflatten puts it there."""

from __future__ import annotations

from typing import Any

from zmlx.trace import intercept


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
