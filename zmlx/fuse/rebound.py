"""Rebound: whether what a trace read and did not take as an argument is something else by now.

Comes in: a function that was traced, and the arrays that its trace captured. Goes out:
Surroundings: the names that the function and the user's functions it calls read, the containers
in which captured arrays stand, and those arrays. A call asks them, and is traced again where one
has changed. zmlx.fuse.table makes and asks them.
"""

from __future__ import annotations

from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter, getitem, is_
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from zmlx.device.rules import identities
from zmlx.fuse.frozen import (
    MISSING,
    READS,
    Attribute,
    Place,
    Variable,
    functions,
    looked_up,
    reads,
    steps,
)
from zmlx.trace import locate
from zmlx.trace.kinds import is_library
from zmlx.trace.paths import NOT_ENTERED

_MOST_ITEMS = 100_000  # looked at in search of captured arrays
_STEADY = (ModuleType, property)  # nobody replaces these
_OF_LIBRARIES = (type, FunctionType, BuiltinFunctionType, type(mx.exp))  # nor these, in a library
_VALUES = (bool, int, float, complex, str, bytes, tuple, type(None))
_MAPPINGS = (dict, MappingProxyType)
_WHOLE = (nn.Module, ChainMap, UserDict, UserList)  # all their attributes are content
_SMALL = 256  # items of a list or dict that are all looked at
_PLAIN: tuple[Any, ...] = (object.__getattribute__, type.__getattribute__)
_content = attrgetter("cell_contents")


class Surroundings:
    """What a trace read, as it was then."""

    def __init__(
        self,
        named: dict[Any, tuple[str, Place]],
        stand: Sequence[Place],
        sized: Sequence[Any],
        arrays: Sequence[mx.array],
    ) -> None:
        self._places = [*[place for _, place in named.values()], *stand]
        self._names = [*[name for name, _ in named.values()], *[""] * len(stand)]
        self._arrays = list(arrays)
        self._copies = [array.__copy__() for array in arrays]  # keep what tells arrays apart
        self._identities = identities(self._copies)
        small = [type(c) is dict and len(c) <= _SMALL for c in sized]
        self._tables = [c for c, is_small in zip(sized, small, strict=True) if is_small]
        self._orders = list(map(tuple, self._tables))
        self._sized = [c for c, is_small in zip(sized, small, strict=True) if not is_small]
        self._lengths = list(map(len, self._sized))
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
        return bool(self._places or self._arrays)

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
        return [
            name
            for name, place in zip(self._names, self._places, strict=True)
            if name and not _same(place.value, place.now())
        ]


def surroundings(
    fn: Callable[..., Any], arrays: Sequence[mx.array], passed: Iterable[Any]
) -> Surroundings:
    """What `fn` reads, beside the objects that are `passed`, its arguments and named state."""
    found = _Search({id(array) for array in arrays}, passed)
    found.add(functions(fn))
    return Surroundings(found.named, *found.standing(), arrays)


class _Search:
    """What some functions read by name, and what that leads to."""

    def __init__(self, wanted: set[int], passed: Iterable[Any]) -> None:
        self._wanted = wanted  # captured arrays, by id
        self._inside = {id(value) for value in passed}
        self._inside |= {id(vars(value)) for value in passed if hasattr(value, "__dict__")}
        self.named: dict[Any, tuple[str, Place]] = {}
        self._roots: list[Any] = []
        self._words: set[str] = set()  # names of attributes that the functions read
        self._seen: dict[int, FunctionType] = {}

    def add(self, found: Iterable[FunctionType]) -> None:
        """These functions, and the methods that they may call of objects that they reach."""
        new = [f for f in found if id(f) not in self._seen]
        while new:
            for function in new:
                self._seen[id(function)] = function
                self._read(function)
            owners = dict.fromkeys(
                o if isinstance(o, type) else type(o)
                for o, _, _ in _holders(self._roots, self._words)
            )
            methods = [m for cls in owners for m in _methods(cls, self._words)]
            new = [m for m in methods if id(m) not in self._seen]

    def _read(self, function: FunctionType) -> None:
        code = function.__code__
        self._roots += _roots(function, code)
        self._words.update(_words(code))
        for name, _, places in reads(function, code):
            self._roots += [place.value for place in places]
            for depth, place in enumerate(places):
                key = (id(place.holder), type(place), place.key)
                if id(place.holder) not in self._inside and _is_watched(place):
                    self.named.setdefault(key, (_start(name, places, depth), place))

    def standing(self) -> tuple[list[Place], list[Any]]:
        """The places of captured arrays, and of what stands beside or leads to them; containers
        whose length tells that they hold more.
        """
        found: list[Place] = []
        sized: list[Any] = []
        for owner, holder, read in _holders(self._roots, self._words):
            if id(holder) in self._inside or id(owner) in self._inside:
                continue
            named = isinstance(holder, _MAPPINGS)
            pairs = list(holder.items() if named else enumerate(holder))
            whole = owner is holder and not (named and "__name__" in holder)  # no module's
            every = (whole and len(pairs) <= _SMALL) or issubclass(type(owner), _WHOLE)
            places = [
                Place(holder, key, item)
                for key, item in pairs
                if id(item) in self._wanted
                or (read and (every or (not whole and key in self._words)) and _is_kept(item))
            ]
            if whole and ((read and every) or places):
                sized.append(holder)
            found += places
        return found, sized


def _is_kept(value: Any) -> bool:
    """Whether a value that stands beside captured arrays is looked at."""
    return not isinstance(value, (*_STEADY, mx.array))


def _methods(cls: type, words: set[str]) -> Iterator[FunctionType]:
    """The methods and properties of a user's class by these names, and its special methods."""
    for base in cls.__mro__:
        for name, member in list(vars(base).items()) if _is_own_class(base) else ():
            if name in words or name.startswith("__"):
                inner = getattr(member, "fget", None) or getattr(member, "__func__", member)
                inner = getattr(inner, "__wrapped__", inner)
                if isinstance(inner, FunctionType) and locate.is_users(inner.__code__.co_filename):
                    yield inner


def _words(code: CodeType) -> Iterator[str]:
    """Names that `code` says: attributes, and strings, as in `getattr(x, "n")`, `vars(x)["n"]`."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _words(constant)
        for word in constant if isinstance(constant, tuple) else (constant,):
            if isinstance(word, str) and word.isidentifier():
                yield word


def _start(name: str, places: Sequence[Place], depth: int) -> str:
    """The part of `name` that leads to one of its places."""
    for place in reversed(places[depth + 1 :]):
        name = name.removesuffix(f".{place.key}").removesuffix(f"[{place.key!r}]")
    return name


def _is_watched(place: Place) -> bool:
    """Whether a place is looked at: not those whose values nobody changes, or that run code."""
    value = place.value
    if isinstance(value, _STEADY) or (type(value).__module__ or "").startswith("zmlx.trace"):
        return False
    if isinstance(value, _OF_LIBRARIES) and _is_librarys(place.holder):
        return False
    if type(place) is not Attribute:
        return True
    owner = place.holder if isinstance(place.holder, type) else type(place.holder)
    plain = any(owner.__getattribute__ is own for own in _PLAIN)
    return plain and not hasattr(type(value), "__get__")  # a method, a slot


def _is_librarys(holder: Any) -> bool:
    """Whether `holder` is a module of a library, or what keeps its names."""
    name = holder.get("__name__") if isinstance(holder, dict) else getattr(holder, "__name__", None)
    return isinstance(name, str) and is_library(name)


def _holders(roots: Sequence[Any], words: set[str]) -> Iterator[tuple[Any, Any, bool]]:
    """What `roots` lead to: lists and dicts, each as its own owner, and objects and classes with
    what keeps their attributes; last, with False, what only attributes not among `words` lead to.
    """
    near, far, seen, items = deque(roots), deque[Any](), dict[int, Any](), 0
    while (near or far) and items < _MOST_ITEMS:
        read = bool(near)
        value = (near or far).popleft()
        kind = type(value)  # some say that they are of another class: what mx.compile returns
        if id(value) in seen or (issubclass(kind, NOT_ENTERED) and not _is_own_class(value)):
            continue
        seen[id(value)] = value  # kept, so that no other value gets its id
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, _MAPPINGS):
            yield value, attributes, read
            items += len(attributes)
            every = issubclass(kind, _WHOLE)
            for name, item in list(attributes.items()):
                (near if read and (every or name in words) else far).append(item)
        if _is_own_class(kind):
            near.append(kind)
        if issubclass(kind, partial):
            (near if read else far).extend((value.func, value.args, value.keywords))
        if issubclass(kind, (*_MAPPINGS, list, tuple, deque)):
            if not issubclass(kind, tuple):
                yield value, value, read
            items += len(value)
            (near if read else far).extend(value.values() if issubclass(kind, _MAPPINGS) else value)


def _is_own_class(value: Any) -> bool:
    return isinstance(value, type) and not is_library(value.__module__)


def _roots(function: FunctionType, code: CodeType) -> Iterator[Any]:
    """What `code` names, and defaults of its parameters."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for step in steps(code):
        if step.opname in READS and (place := looked_up(function, step)) is not None:
            yield place.value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _roots(function, constant)


def _same(old: Any, new: Any) -> bool:
    if old is new:
        return True
    if new is MISSING or type(old) is not type(new) or type(old) not in _VALUES:
        return False
    if type(old) is tuple:
        return len(old) == len(new) and all(map(_same, old, new))
    return repr(old) == repr(new)
