"""Search: what a trace read and did not take as an argument, and where that stands.

Comes in: the functions that were traced, the arrays that the trace captured. Goes out: a Search:
places (of names, attributes, items), the containers whose keys or length count, the objects whose
class does, the functions, and ways to ask what has no places. zmlx.fuse.rebound looks at them.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from operator import attrgetter, methodcaller
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary, getweakrefcount, ref

import mlx.core as mx
import mlx.nn as nn

from zmlx.device.rules import any_traced
from zmlx.fuse.frozen import (
    MISSING,
    READS,
    TRANSFORMED,
    Attribute,
    Place,
    functions,
    looked_up,
    reads,
    steps,
)
from zmlx.trace import locate
from zmlx.trace.kinds import Kind, is_library, kind_of, slot_names
from zmlx.trace.machines import machine_of
from zmlx.trace.paths import NOT_ENTERED
from zmlx.trace.tree import filled_cells
from zmlx.trace.values import memory

_MOST_ITEMS = 100_000  # looked at in search of captured arrays
_MOST_FUNCTIONS = 1000  # whose code is read
_STEADY = ModuleType  # nobody replaces these
_OF_LIBRARIES = (type, FunctionType, BuiltinFunctionType, type(mx.exp))  # nor these, in a library
_MAPPINGS = (dict, MappingProxyType)
_WEAK = (WeakKeyDictionary, WeakValueDictionary, WeakSet)
_WHOLE = (nn.Module, ChainMap, UserDict, UserList, *_WEAK)  # all their attributes are content
SMALL = 256  # items of a list, dict or set that are all looked at
_BYTES = 1 << 16  # of a NumPy array or another buffer whose content is looked at
_IMPORTS = "IMPORT_NAME"
_EVALUATES = {"globals", "eval", "exec", "vars"}
_WORD = re.compile(r"[^\W\d]\w*")
_PLAIN: tuple[Any, ...] = (object.__getattribute__, type.__getattribute__)
_SEEN = (FunctionType, bytearray, memoryview)  # though others do not enter them
_CALLED = (FunctionType, MethodType, TRANSFORMED)  # hold what they call


class Search:
    """What some functions read by name, and what that leads to."""

    def __init__(
        self,
        wanted: set[int],
        passed: Sequence[Any],
        given: Sequence[FunctionType],
        static: Sequence[Any],
    ) -> None:
        """`wanted` are the ids of captured arrays, `passed` the objects and `static` the other
        values among the arguments.
        """
        self._wanted = wanted
        self._static = set(map(id, static))
        self._inside = {id(value) for value in passed}
        self._inside |= {id(vars(value)) for value in passed if hasattr(value, "__dict__")}
        self.named: dict[Any, tuple[str, Place]] = {}
        self._roots: list[Any] = list({type(value): None for value in passed})
        self._roots += [value for value in static if isinstance(value, type)]
        # names of attributes that the functions read; an argument may be one: getattr(x, name)
        self._words = {value for value in static if isinstance(value, str)}
        self._seen: dict[int, FunctionType] = {}
        self._walked = {id(function): function for function in given}
        self._add([*given, *[f for value in static for f in functions(value, self._walked)]])
        self._met = list(_met(self._roots, self._words))

    def _add(self, found: Iterable[FunctionType]) -> None:
        """These functions, and the methods that they may call of objects that they reach."""
        new = [f for f in found if id(f) not in self._seen]
        while new and len(self._seen) < _MOST_FUNCTIONS:
            for function in new:
                self._seen[id(function)] = function
                self._read(function)
            self._words.update(w for value in self._roots for w in _getter_words(value))
            met = [value for value, read in _met(self._roots, self._words) if read]
            owners = dict.fromkeys(o if isinstance(o, type) else type(o) for o in met)
            more = [m for cls in owners for m in _methods(cls, self._words)]
            called = [value for value in met if type(value) is FunctionType]
            more += [f for value in called for f in functions(value, self._walked)]
            new = list({id(m): m for m in more if id(m) not in self._seen}.values())

    def functions(self) -> list[FunctionType]:
        """The functions whose code was read, less arguments: those are not kept alive."""
        return [function for i, function in self._seen.items() if i not in self._static]

    def objects(self) -> list[Any]:
        """Those of users' classes, which may be given another one; not those held weakly."""
        found = [v for v, read in self._met if read and _is_own_class(type(v))]
        return [v for v in found if id(v) not in self._inside and not getweakrefcount(v)]

    def told(self) -> list[tuple[str, Callable[[], Any]]]:
        """How to ask what has no places (sets, buffers, context variables) for its content."""
        asks = []
        for value, read in self._met:
            ask = _ask(value) if read and id(value) not in self._inside else None
            if ask is not None:
                asks.append((f"a {type(value).__name__}", ask))
        if not self._words.isdisjoint(("environ", "environb", "getenv")):
            asks.append(("the environment", partial(dict, os.environ)))
        return asks

    def _read(self, function: FunctionType) -> None:
        code = function.__code__
        self._roots += _roots(function, code)
        self._words.update(_words(code))
        for name, _, places in chain(reads(function, code), _by_name(function, code)):
            self._roots += [place.value for place in places]
            for depth, place in enumerate(places):
                key = (id(place.holder), type(place), place.key)
                if id(place.holder) not in self._inside and _is_watched(place):
                    self.named.setdefault(key, (_start(name, places, depth), place))

    def arrays(self) -> list[mx.array]:
        """The arrays that the functions name: their values may have been read."""
        found = [place.value for _, place in self.named.values()]
        return [value for value in found if type(value) is mx.array and not any_traced([value])]

    def standing(self) -> tuple[list[Place], list[Any]]:
        """The places of captured arrays, and of what stands beside or leads to them; containers
        whose length tells that they hold more.
        """
        found: list[Place] = []
        sized: list[Any] = []
        for owner, holder, read in _holders(self._met):
            if id(holder) in self._inside or id(owner) in self._inside:
                continue
            named = isinstance(holder, _MAPPINGS)
            pairs = list(holder.items() if named else enumerate(holder))
            whole = owner is holder and not (named and "__name__" in holder)  # no module's
            every = (whole and len(pairs) <= SMALL) or issubclass(type(owner), _WHOLE)
            keyed = owner is not holder and _is_own_class(
                owner if isinstance(owner, type) else type(owner)
            )
            places = [
                Place(holder, key, item)
                for key, item in pairs
                if id(item) in self._wanted
                or (read and (every or (not whole and self._is_read(key, item))) and _is_kept(item))
            ]
            if (read and keyed) or (whole and ((read and every) or places)):
                sized.append(holder)  # an attribute may come to stand before the class's
            found += places
        return found + self._in_slots(), sized

    def _is_read(self, name: str, item: Any) -> bool:
        """Whether an attribute may be read: by its name, or as what an operator calls."""
        return name in self._words or (name[:2] == "__" and type(item) is FunctionType)

    def _in_slots(self) -> list[Place]:
        """The attributes that objects keep in __slots__."""
        return [
            Attribute(value, name, getattr(value, name, MISSING))
            for value, _ in self._met
            if id(value) not in self._inside
            for name in slot_names(type(value))
        ]


def _by_name(function: FunctionType, code: CodeType) -> Iterator[tuple[str, Any, list[Place]]]:
    """As `frozen.reads`, of modules that `code` imports, and of names that it has as strings."""
    words = list(_words(code))
    for name in dict.fromkeys([*words, *[s.argval for s in steps(code) if s.opname == _IMPORTS]]):
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is not None and not is_library(name):
            held = object.__getattribute__(module, "__dict__")  # a lazy module stays unloaded
            for word in words:
                if word in held:
                    yield f"{name}.{word}", held[word], [Place(held, word, held[word])]
    if not _EVALUATES.isdisjoint(words):
        held = function.__globals__
        for word in [w for text in _texts(code) for w in _WORD.findall(text)]:
            if word in held:
                yield word, held[word], [Place(held, word, held[word])]


def _is_kept(value: Any) -> bool:
    """Whether a value that stands beside captured arrays is looked at."""
    return not isinstance(value, (_STEADY, mx.array))


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
    yield from [word for word in _texts(code) if word.isidentifier()]


def _texts(code: CodeType) -> Iterator[str]:
    """The strings among the constants of `code`."""
    for constant in code.co_consts:
        for text in constant if isinstance(constant, tuple) else (constant,):
            if isinstance(text, str):
                yield text


def _getter_words(value: Any) -> list[str]:
    """The names that an operator.attrgetter or methodcaller asks for."""
    if not isinstance(value, (attrgetter, methodcaller)):
        return []
    asked: Any = value.__reduce__()
    return [w for name in asked[1] if isinstance(name, str) for w in name.split(".")]


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


def _ask(value: Any) -> Callable[[], Any] | None:
    """What tells the content of a value that has neither items nor attributes to look at."""
    kind = kind_of(value)
    if kind is Kind.SET:
        return partial(_members, value) if len(value) <= SMALL else None
    if kind is Kind.NUMPY:
        return value.tobytes if value.nbytes <= _BYTES else None
    if kind is Kind.BYTES:
        return partial(memory, value) if memoryview(value).nbytes <= _BYTES else None
    machine = machine_of(type(value)) if kind is Kind.MACHINE else None
    told = None if machine is None else machine.told
    return None if told is None else partial(told, value)


def _members(value: Any) -> Any:
    """The members of a set, told apart by identity; they stay alive with it."""
    return [*map(id, value)], [*value]


def _holders(met: Iterable[tuple[Any, bool]]) -> Iterator[tuple[Any, Any, bool]]:
    """Of what was met: lists and dicts, each as its own owner, and objects and classes with what
    keeps their attributes.
    """
    for value, read in met:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, _MAPPINGS) and type(value) is not FunctionType:
            yield value, attributes, read
        if issubclass(type(value), (*_MAPPINGS, list, deque)):
            yield value, value, read


def _met(roots: Sequence[Any], words: set[str]) -> Iterator[tuple[Any, bool]]:
    """What `roots` lead to, and whether attributes among `words` alone lead there."""
    near, far, seen, items = deque(roots), deque[Any](), dict[int, Any](), 0
    while (near or far) and items < _MOST_ITEMS:
        read = bool(near)
        value = (near or far).popleft()
        kind = type(value)  # some say that they are of another class: what mx.compile returns
        shut = issubclass(kind, NOT_ENTERED) and kind not in _SEEN and not _is_own_class(value)
        if id(value) in seen or shut:
            continue
        seen[id(value)] = value  # kept, so that no other value gets its id
        yield value, read
        further = near if read else far
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, _MAPPINGS):
            items += len(attributes)
            every = issubclass(kind, _WHOLE)
            for name, item in list(attributes.items()):
                (near if read and (every or name in words) else far).append(item)
        if _is_own_class(value):
            near.extend(value.__bases__)
        if _is_own_class(kind):
            near.append(kind)
            for name in slot_names(kind):
                held = getattr(value, name, None)
                (near if read and name in words else far).append(held)
        if kind in _CALLED:  # the function that checkpoint returns leads to its module
            further.extend(_inside(value))
        elif issubclass(kind, partial):
            further.extend((value.func, value.args, value.keywords))
        elif issubclass(kind, ref):
            further.append(value())
        if issubclass(kind, (*_MAPPINGS, list, tuple, deque)):
            items += len(value)
            further.extend(value.values() if issubclass(kind, _MAPPINGS) else value)


def _inside(value: Any) -> Iterator[Any]:
    """What a function holds: one of a library has its user's functions and modules so."""
    if type(value) is FunctionType:
        yield from [cell.cell_contents for cell in filled_cells(value)]
        yield from (*(value.__defaults__ or ()), value.__kwdefaults__)
    elif type(value) is MethodType:
        yield from (value.__self__, value.__func__)
    else:
        yield from gc.get_referents(value)[1:]


def _is_own_class(value: Any) -> bool:
    return isinstance(value, type) and not is_library(value.__module__)


def _roots(function: FunctionType, code: CodeType) -> Iterator[Any]:
    """What `code` names, and defaults of its parameters."""
    yield from (*(function.__defaults__ or ()), function.__kwdefaults__)
    for step in steps(code):
        if step.opname in READS and (place := looked_up(function, step)) is not None:
            yield place.value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _roots(function, constant)
