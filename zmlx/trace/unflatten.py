"""Trees rebuilt: leaves put into a structure that zmlx.trace.tree made.

Comes in: a structure, other arrays and numbers, the objects of a call. Goes out: what to call the
function with; objects are filled in place, and `restored` gives back what they held. zmlx.trace.run
is the caller.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from zmlx.trace.kinds import VIEWS, content, items, parts_of, refill, store
from zmlx.trace.machines import StandIn
from zmlx.trace.reader import Reader
from zmlx.trace.static import Static
from zmlx.trace.tree import ARRAY, CONTENT, NUMBER, OBJECT, SAME, WEAK
from zmlx.trace.wrappers import unwrapped


@dataclass
class Source:
    """What `unflatten` fills a structure with."""

    arrays: Iterator[Any]
    numbers: Iterator[Any]
    objects: Sequence[Any]  # of the call: Leaves.objects
    live: list[Any] = field(default_factory=list)  # what stands for each of them


def unflatten(structure: Any, source: Source) -> Any:
    """Rebuild a tree from its structure; objects are returned as they are, filled in place."""
    if structure is ARRAY:
        return next(source.arrays)
    head = structure[0]
    if head is NUMBER:
        return next(source.numbers)
    if head is Static:
        return structure[1].value
    if head is Reader or head is StandIn:
        return head(structure[1].value)
    if head is SAME:
        return source.live[structure[1]]
    if head is OBJECT:
        return _filled(structure, source)
    if head is CONTENT:
        source.live.append(source.objects[len(source.live)])
        return source.live[-1]
    if head is WEAK:
        weak = source.objects[len(source.live)]
        source.live.append(weak)
        unflatten(structure[2], source)
        return weak
    if head in VIEWS:
        return VIEWS[head][1](unflatten(structure[1][0], source))
    return _REBUILT.get(head, _rebuilt_row)(structure, source)


def _filled(structure: Any, source: Source) -> Any:
    value = source.objects[len(source.live)]
    source.live.append(value)
    for part, pairs in zip(parts_of(value), structure[2], strict=True):
        if not pairs:  # the members of a set, say, which are in the key
            continue
        for (key, item), (_, old) in zip(pairs, list(items(part)), strict=True):
            new = unflatten(item, source)
            if new is not old:
                store(part, key.value if type(key) is Static else key, new)
    return value


def _rebuilt_dict(structure: Any, source: Source) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    source.live.append(made)
    for key, item in structure[1]:
        made[key.value if type(key) is Static else key] = unflatten(item, source)
    return made


def _rebuilt_list(structure: Any, source: Source) -> list[Any]:
    made: list[Any] = []
    source.live.append(made)
    made.extend([unflatten(item, source) for item in structure[1]])
    return made


def _rebuilt_row(structure: Any, source: Source) -> Any:
    return row(structure[0], [unflatten(item, source) for item in structure[1]])


def row(cls: type, values: Sequence[Any]) -> Any:
    """A tuple of class `cls`, a named one included."""
    return tuple.__new__(cls, values)


def _rebuilt_method(structure: Any, source: Source) -> Any:
    return MethodType(*[unflatten(item, source) for item in structure[1]])


def _rebuilt_partial(structure: Any, source: Source) -> Any:
    func, args, *named = [unflatten(item, source) for item in structure[1]]
    keywords, attributes = [
        dict(zip(names, values, strict=True)) for names, values in (named[:2], named[2:])
    ]
    made = functools.partial(func, *args, **keywords)
    vars(made).update(attributes)
    return made


def _rebuilt_slice(structure: Any, source: Source) -> slice:
    return slice(*[unflatten(part, source) for part in structure[1]])


_REBUILT: dict[Any, Callable[[Any, Source], Any]] = {
    dict: _rebuilt_dict,
    list: _rebuilt_list,
    MethodType: _rebuilt_method,
    functools.partial: _rebuilt_partial,
    slice: _rebuilt_slice,
}


@contextmanager
def restored(values: Sequence[Any]) -> Iterator[None]:
    """After the block, the objects and containers `values` hold what they held before it."""
    before = [(part, content(part)) for value in values for part in parts_of(value)]
    shown = {id(v) for _, held in before for v in _values(held) if unwrapped(v) is not v}
    try:
        yield
    finally:
        for part, held in before:
            refill(part, _as_it_was(held, shown))


def _values(held: Any) -> Any:
    return held.values() if isinstance(held, dict) else held


def _as_it_was(held: Any, shown: set[int]) -> Any:
    """A kept content without what a trace has put, meanwhile, in place of functions of MLX."""
    if all(unwrapped(v) is v or id(v) in shown for v in _values(held)):
        return held
    if isinstance(held, dict):
        return {k: v if id(v) in shown else unwrapped(v) for k, v in held.items()}
    return type(held)([v if id(v) in shown else unwrapped(v) for v in held])
