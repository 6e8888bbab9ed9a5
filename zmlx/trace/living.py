"""Living: the traced values of one trace that somebody still holds. The tracer has one."""

from __future__ import annotations

import weakref
from typing import Any


class Living:
    """Weak references to every traced array and number of a trace."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[Any]] = []

    def note(self, traced: Any) -> None:
        """Take note of a traced value that comes to life."""
        self._made.append(weakref.ref(traced))

    def found(self) -> list[Any]:
        """Those that are still held."""
        values = [ref() for ref in self._made]
        return [value for value in values if value is not None]
