"""Rebound: whether what a trace read and did not take as an argument is something else by now.

Comes in: a function that was traced, and the arrays that its trace captured. Goes out:
Surroundings: the names that the function and the user's functions it calls read, the containers
in which captured arrays stand, and those arrays. A call asks them, and is traced again where one
has changed. zmlx.fuse.table makes and asks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter, getitem, is_
from typing import Any

import mlx.core as mx

from zmlx.device.rules import identities
from zmlx.fuse.frozen import MISSING, Attribute, Place, Variable, functions
from zmlx.fuse.search import SMALL, Search

_VALUES = (bool, int, float, complex, str, bytes, tuple, type(None))
_content = attrgetter("cell_contents")
_inner = attrgetter("__code__", "__defaults__", "__kwdefaults__")  # of a function, to be replaced


class Surroundings:
    """What a trace read, as it was then."""

    def __init__(self, found: Search, arrays: Sequence[mx.array]) -> None:
        named, (stand, sized), told = found.named, found.standing(), found.told()
        self._places = [*[place for _, place in named.values()], *stand]
        self._names = [*[name for name, _ in named.values()], *[""] * len(stand)]
        self._arrays = list({id(a): a for a in (*arrays, *found.arrays())}.values())
        self._copies = [array.__copy__() for array in self._arrays]  # keep what tells arrays apart
        self._identities = identities(self._copies)
        small = [type(c) is dict and len(c) <= SMALL for c in sized]
        self._tables = [c for c, is_small in zip(sized, small, strict=True) if is_small]
        self._orders = list(map(tuple, self._tables))
        self._sized = [c for c, is_small in zip(sized, small, strict=True) if not is_small]
        self._lengths = list(map(len, self._sized))
        self._asks, self._names_told = [ask for _, ask in told], [name for name, _ in told]
        self._told = [ask() for ask in self._asks]
        self._objects, self._functions = found.objects(), found.functions()
        self._classes = list(map(type, self._objects))
        self._inner = list(chain.from_iterable(map(_inner, self._functions)))
        self._take()

    def _take(self) -> None:
        """The places by kind, so that a look at them runs in C."""
        cells = [p for p in self._places if type(p) is Variable]
        keyed = [p for p in self._places if type(p) is Place]
        self._rest = [p for p in self._places if type(p) is Attribute]
        self._cells, self._contents = [p.holder for p in cells], [p.value for p in cells]
        self._holders, self._keys = [p.holder for p in keyed], [p.key for p in keyed]
        self._values = [p.value for p in keyed]

    def __bool__(self) -> bool:
        return bool(self._places or self._arrays or self._functions or self._asks)

    def moved(self) -> bool:
        """Whether anything has changed."""
        try:
            same = (
                (not self._cells or all(map(is_, map(_content, self._cells), self._contents)))
                and (not self._holders or all(map(is_, map(getitem, self._holders, self._keys),
                                                  self._values)))
                and (not self._rest or all([place.now() is place.value for place in self._rest]))
            )  # fmt: skip
        except (LookupError, ValueError, AttributeError):
            same = False
        if not same and not self._equal():
            return True
        if self._sized and list(map(len, self._sized)) != self._lengths:  # a list has grown
            return True
        if self._tables and list(map(tuple, self._tables)) != self._orders:  # other keys, or places
            return True
        if not all(map(is_, map(type, self._objects), self._classes)):
            return True
        if not all(map(is_, chain.from_iterable(map(_inner, self._functions)), self._inner)):
            return True
        if self._asks and [ask() for ask in self._asks] != self._told:
            return True
        return bool(self._identities) and identities(self._arrays) != self._identities

    def _equal(self) -> bool:
        """Whether all places hold equal values; what stands there now is then what is told by."""
        now = [place.now() for place in self._places]
        if not all(map(_same, [place.value for place in self._places], now)):
            return False
        self._places = [
            type(p)(p.holder, p.key, value) for p, value in zip(self._places, now, strict=True)
        ]
        self._take()
        return True

    def changes(self) -> list[str]:
        """The names of what has changed, where it has one."""
        places = zip(self._names, self._places, strict=True)
        found = [name for name, p in places if name and not _same(p.value, p.now())]
        asked = zip(self._names_told, self._asks, self._told, strict=True)
        return found + [name for name, ask, told in asked if ask() != told]


def surroundings(
    fn: Callable[..., Any], arrays: Sequence[mx.array], passed: Sequence[Any], static: Sequence[Any]
) -> Surroundings:
    """What `fn` reads, beside the objects that are `passed`, its arguments and named state; of
    those the classes, and functions and classes among `static` arguments, are looked at too.
    """
    wanted = {id(array) for array in arrays}
    return Surroundings(Search(wanted, passed, functions(fn), static), arrays)


def _same(old: Any, new: Any) -> bool:
    if old is new:
        return True
    if new is MISSING or type(old) is not type(new) or type(old) not in _VALUES:
        return False
    if type(old) is tuple:
        return len(old) == len(new) and all(map(_same, old, new))
    return repr(old) == repr(new)
