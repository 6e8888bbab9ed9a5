"""Static: a value that a trace is made for, as a part of its key. zmlx.trace.tree makes them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import mlx.core as mx


class Constant:
    """Base of values of ZMLX's own that nothing changes: told by identity, also by native code."""

    __slots__ = ()


class Static:
    """A static value: told by type and value where it is hashable by value, else by identity.

    A value told by identity is not kept alive; when it has gone, the key fits nothing any more.
    """

    __slots__ = ("_by_identity", "_hash", "_held", "_weak")

    def __init__(self, value: Any) -> None:
        kind = type(value)
        self._by_identity = _by_identity(kind)
        self._held, self._weak = _weakly(value) if self._by_identity else (value, False)
        if not self._by_identity:
            try:
                self._hash = hash((kind, value if value == value else "nan"))
                return
            except (TypeError, ValueError, RuntimeError):  # a tuple of lists, a foreign array
                self._by_identity = True
                self._held, self._weak = _weakly(value)
        self._hash = id(value)

    @property
    def value(self) -> Any:
        return self._held() if self._weak else self._held

    @property
    def gone(self) -> bool:
        """Whether the value was told by identity, and is no more: the key fits nothing."""
        return self._weak and self._held() is None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Static) or self._hash != other._hash:
            return False
        mine, others = self.value, other.value
        if type(mine) is not type(others):
            return False
        if mine is others:
            return mine is not None or not self._weak  # not two that have gone
        if self._by_identity or other._by_identity:
            return False
        same = bool(mine == others) or mine != mine  # one NaN is another
        return same and repr(mine) == repr(others)

    def __repr__(self) -> str:
        return repr(self.value)


def statics(key: Any) -> Iterator[Static]:
    """The static values in a key."""
    if type(key) is Static:
        yield key
    elif isinstance(key, (tuple, frozenset)):
        for item in key:
            yield from statics(item)


def _by_identity(kind: type) -> bool:
    told: Any = kind.__hash__
    return issubclass(kind, mx.array) or told is None or told is object.__hash__


def _weakly(value: Any) -> tuple[Any, bool]:
    """`value`, held weakly where its class allows it, and whether it does."""
    try:
        return weakref.ref(value), True
    except TypeError:
        return value, False
