"""Values: what strings, numbers, sets, enum members, dates and memory are told by in a key.

Comes in: a value whose class may give it attributes of a user's own. Goes out: what it is without
them, and whether it has any. zmlx.trace.tree asks.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from zmlx.trace.kinds import Kind, items, kind_of, parts_of
from zmlx.trace.static import Static

# Classes of values that others derive from, with what gives the plain value.
_PLAIN: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (bytes, lambda value: bytes(memoryview(value))),
    (int, int.__int__),
    (float, float.__float__),
    (complex, lambda value: complex.__add__(value, 0)),
)
_NO_CONTENT = (Kind.STATIC, Kind.NUMBER)  # of an enum's values: what nobody can change


def plain_value(tree: Any) -> Any:
    """What a value is without its attributes, which a key must not keep alive; hashable."""
    if isinstance(tree, (set, frozenset)):
        return frozenset([Static(item) for item in tree])
    if not isinstance(tree, enum.Enum):
        for cls, plain in _PLAIN:
            if isinstance(tree, cls):
                return Static(plain(tree))
        if is_memory(tree):
            return memory(tree)
    return Static(tree)


def is_memory(tree: Any) -> bool:
    """Whether `tree` shows, by the buffer protocol, bytes that can be written."""
    if isinstance(tree, bytes):
        return False
    try:
        memoryview(tree).release()
    except (TypeError, ValueError, BufferError):
        return False
    return True


def memory(tree: Any) -> Any:
    """What an object of the buffer protocol holds; one that was released is told by identity."""
    try:
        with memoryview(tree) as view:
            return (view.format, view.shape, view.tobytes())
    except (ValueError, BufferError):
        return Static(tree)


def has_attributes_of_its_own(tree: Any) -> bool:
    """Whether a value has attributes, beside those that make an enum's member."""
    parts = [part for part in parts_of(tree) if part is not tree]
    found = [key for part in parts for key, _ in items(part)]
    if not isinstance(tree, enum.Enum):
        return bool(found)
    own = [key for key in found if key[0] != "_" or key[-1] != "_"]
    return bool(own) or kind_of(tree._value_) not in _NO_CONTENT
