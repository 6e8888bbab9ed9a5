"""Drawn: whether a function has drawn Python's or NumPy's own random numbers.

Comes in: what the function reaches. Goes out: their states before it ran, to be compared and put
back. zmlx.trace.leaks asks.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, MethodType
from typing import Any

_METHODS = (MethodType, BuiltinFunctionType)
NAME = "the state of Python's or NumPy's random numbers"


class Drawn:
    """The states as they are now; of a function that names none of them, nothing."""

    def __init__(self, names: set[str], values: Iterable[Any]) -> None:
        sources: list[tuple[Any, Callable[[], Any], Callable[[Any], Any]]] = [
            (random.random.__self__, random.getstate, random.setstate)  # type: ignore[attr-defined]
        ]
        numpy = sys.modules.get("numpy.random")
        if numpy is not None:
            sources.append((numpy.mtrand._rand, _state, numpy.set_state))
        owners = {
            id(getattr(value, "__self__", None)) for value in values
        }  # from random import gauss
        self._held = [
            (get(), get, put)
            for owner, get, put in sources
            if "random" in names or id(owner) in owners
        ]

    def moved(self) -> bool:
        return any(get() != held for held, get, _ in self._held)

    def undo(self) -> None:
        for held, get, put in self._held:
            if get() != held:
                put(held)


def _state() -> Any:
    name, keys, *rest = sys.modules["numpy.random"].get_state()
    return (name, tuple(keys.tolist()), *rest)
