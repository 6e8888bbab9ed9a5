"""Trees: what a call passes, as leaves and a hashable structure.

`flatten` takes arrays and numbers out of nested containers and objects of any class;
zmlx.trace.unflatten puts others in their places. Lists and dicts that are arguments are copied,
tuples rebuilt; objects (modules, dataclasses, caches, subclasses of list and dict) and captured
state are used in place: the function gets the very object, with other arrays in it. The tracer and
the fused function's call path are the callers.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import CellType, MethodType
from typing import Any

import mlx.core as mx

from zmlx.trace.endings import random_state
from zmlx.trace.kinds import PROXIES, VIEWS, Kind, content, items, kind_of, parts_of
from zmlx.trace.machines import StandIn, machine_of, refuses
from zmlx.trace.reader import Reader
from zmlx.trace.static import Static
from zmlx.trace.values import has_attributes_of_its_own, is_memory, memory, plain_value

MOST_OBJECTS = 100_000  # a tree of more is a program's whole memory, reached by mistake
_MOST_CLASSES = 1000
_handlers: dict[type, Callable[[Any, Leaves], Any]] = {}
_HASHED_BYTES = 1 << 20  # larger NumPy arrays inside objects are told by identity


class Leaf:
    """What stands for a leaf in a structure. No Enum: hashing a member of one runs Python."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


ARRAY, NUMBER, OBJECT = Leaf("array"), Leaf("number"), Leaf("object")
SAME = Leaf("same")  # a container or object that was met before
CONTENT = Leaf("content")  # an object that is told by a static content
WEAK = Leaf("weak")  # a weak reference, and what it refers to
_ARRAYS = mx.array
_FIXED = {value: (Static, Static(value)) for value in (None, False, True)}


class NumpyArgument(Exception):
    """A NumPy array is an argument, which MLX would take in the type of what stands beside it."""


class _Shared(Exception):
    """A list or dict is met both as an argument and inside an object."""


@dataclass
class Leaves:
    """The leaves of a tree in order, and the containers and objects that they live in."""

    arrays: list[Any] = field(default_factory=list)
    numbers: list[int | float] = field(default_factory=list)
    soft: list[int] = field(default_factory=list)  # numbers that live in objects, by position
    objects: list[Any] = field(default_factory=list)  # every container that can be written
    copied: set[int] = field(default_factory=set)  # which of them the function gets a copy of
    in_place: bool = False  # lists and dicts too are used in place
    frozen: bool = False  # the leaves are no inputs: they are a part of a key
    keys: list[Any] = field(default_factory=list)  # objects that are keys of dicts or in sets
    apart: bool = False  # no two of the arrays are one; False also where nobody looked
    _seen: dict[int, int] = field(default_factory=dict)  # by id

    @property
    def passed(self) -> list[Any]:
        """The objects that the function gets as they are."""
        return [value for i, value in enumerate(self.objects) if i not in self.copied]

    def enter(self, value: Any, copied: bool) -> tuple[Leaf, int] | None:
        """Note a container; where it was met before, the structure that says so."""
        index = self._seen.get(id(value))
        if index is not None:
            if index in self.copied and not copied:
                raise _Shared
            return (SAME, index)
        index = self._seen[id(value)] = len(self._seen)
        if index >= MOST_OBJECTS:
            raise TypeError(
                f"[zmlx.fuse] the arguments hold more than {MOST_OBJECTS} objects, a "
                f"{type(value).__name__} the last. Pass what the function needs of them."
            )
        self.objects.append(value)
        if copied:
            self.copied.add(index)
        return None


def flatten_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], states: Sequence[Any] = ()
) -> tuple[Leaves, Any]:
    """The leaves and the structure of a call's arguments and of captured state."""
    for in_place in (False, True):
        leaves = Leaves(in_place=in_place)
        try:
            given = tuple([flatten(item, leaves) for item in args])
            named = tuple([(key, flatten(item, leaves)) for key, item in kwargs.items()])
            held = tuple([flatten_state(state, leaves) for state in states]) if states else ()
            for key in leaves.keys:  # grows where keys hold more of them
                held += (_keyed(key, leaves),)
            return leaves, (given, named, held)
        except _Shared:
            continue
    raise AssertionError("nothing is copied where everything is used in place")


def flatten(tree: Any, leaves: Leaves) -> Any:
    """Append the leaves of `tree` to `leaves` and return its hashable structure.

    The structure of a number is its type, of a static value the value itself (hashable) or its
    identity, so that two trees of equal structure trace alike.
    """
    kind = type(tree)
    if kind is _ARRAYS:
        leaves.arrays.append(tree)
        return ARRAY
    if kind is bool or tree is None:
        return _FIXED[tree]
    if kind is float or kind is int:
        return _number(tree, leaves)
    if kind is tuple:
        return (tuple, tuple([flatten(item, leaves) for item in tree]))
    if kind is dict and not leaves.in_place:
        return leaves.enter(tree, copied=True) or (
            dict,
            tuple([(_key(key, leaves), flatten(item, leaves)) for key, item in tree.items()]),
        )
    if kind is list and not leaves.in_place:
        return leaves.enter(tree, copied=True) or (
            list,
            tuple([flatten(item, leaves) for item in tree]),
        )
    handler = _handlers.get(kind)
    if handler is None:
        if len(_handlers) >= _MOST_CLASSES:  # a program that makes classes as it runs
            _handlers.clear()
        handler = _handlers[kind] = _RARE[kind_of(tree)]
    return handler(tree, leaves)


def flatten_state(state: Any, leaves: Leaves) -> Any:
    """Like flatten, for captured state (`inputs=` of fuse): all of it is used in place."""
    if state is random_state():
        return _static(state, leaves)
    if kind_of(state) not in (Kind.OBJECT, Kind.COPIED):
        raise TypeError(
            "[zmlx.fuse] captured state must be a list, a dict or an object such as an nn.Module, "
            f"so that it can be updated in place; got {type(state).__name__}."
        )
    return _object(state, leaves)


def _key(key: Any, leaves: Leaves) -> Any:
    """A dict's key, told from one of equal value and another type (1, 1.0, True)."""
    if type(key) is str:
        return key
    _note_objects(key, leaves)
    return Static(key)


def _note_objects(key: Any, leaves: Leaves) -> None:
    """Note what can change in a dict's key or a set's member."""
    kind = kind_of(key)
    if kind is Kind.ROW:
        for item in key:
            _note_objects(item, leaves)
    elif kind in (Kind.OBJECT, Kind.FUNCTION, Kind.VALUED, Kind.WEAK):
        leaves.keys.append(key)


def _keyed(key: Any, leaves: Leaves) -> Any:
    """The structure of an object that is a key; what it is found by must stay as it is."""
    told: Any = type(key).__hash__
    if told is object.__hash__ or kind_of(key) is Kind.WEAK:
        return flatten(key, leaves)
    return (Static, Static(key), *_frozen(key, [content(p) for p in parts_of(key)], leaves))


def _array(tree: Any, leaves: Leaves) -> Any:
    leaves.arrays.append(tree)
    return ARRAY


def _static(tree: Any, leaves: Leaves) -> Any:
    return (Static, Static(tree))


def _object(tree: Any, leaves: Leaves, *value: Any) -> Any:
    """An object; one that has a value beside its parts (a string, a set) with that `value`."""
    if tree is random_state():  # draws read and write it by themselves
        return _static(tree, leaves)
    seen = leaves.enter(tree, copied=False)
    if seen is not None:
        return seen

    before, leaves.in_place = leaves.in_place, True
    try:
        found = [
            tuple([(key, flatten(item, leaves)) for key, item in enumerate(part)])
            if type(part) is list
            else ()
            if value and part is tree  # the members of a set are its value
            else tuple([(_key(key, leaves), flatten(item, leaves)) for key, item in items(part)])
            for part in parts_of(tree)
        ]
    finally:
        leaves.in_place = before
    return (OBJECT, type(tree), tuple(found), *value)


def _row(tree: Any, leaves: Leaves) -> Any:
    if getattr(tree, "__dict__", None):
        raise TypeError(
            f"[zmlx.fuse] a {type(tree).__name__} is passed, a tuple with the attribute "
            f"{next(iter(vars(tree)))!r}. Pass a dataclass."
        )
    return (type(tree), tuple([flatten(item, leaves) for item in tree]))


def _function(tree: Any, leaves: Leaves) -> Any:
    """A function by identity, and by what it holds now: arrays in it are no inputs."""
    parts = [cell.cell_contents for cell in filled_cells(tree)]
    parts += [*(tree.__defaults__ or ()), tree.__kwdefaults__ or (), tree.__dict__ or ()]
    if leaves.frozen:
        seen = leaves.enter(tree, copied=False)
        return seen or (Static, Static(tree), tuple([flatten(part, leaves) for part in parts]))
    if parts == [(), ()]:
        return (Static, Static(tree))
    return (Static, Static(tree), *_frozen(tree, parts, leaves))


def _frozen(owner: Any, parts: Sequence[Any], leaves: Leaves) -> tuple[Any, Any]:
    """What `owner` holds, as a part of a key: arrays by identity, numbers by value."""
    start = len(leaves._seen)
    frozen = Leaves(in_place=True, frozen=True, _seen={**leaves._seen, id(owner): start})
    frozen.objects = [owner] * (start + 1)
    structure = tuple([flatten(part, frozen) for part in parts])
    return structure, tuple([Static(value) for value in (*frozen.arrays, *frozen.numbers)])


def filled_cells(function: Any) -> Iterator[CellType]:
    """The cells of a function's closure, less those that hold nothing yet."""
    closure = getattr(function, "__closure__", None)
    for cell in closure if isinstance(closure, tuple) else ():  # a class has a descriptor
        try:
            cell.cell_contents  # noqa: B018
        except ValueError:
            continue
        yield cell


def _method(tree: Any, leaves: Leaves) -> Any:
    return (MethodType, (flatten(tree.__func__, leaves), flatten(tree.__self__, leaves)))


def _partial(tree: Any, leaves: Leaves) -> Any:
    if type(tree) is not functools.partial:
        raise TypeError(
            f"[zmlx.fuse] a {type(tree).__name__} is passed, a subclass of functools.partial. Pass "
            "a plain functools.partial, or a dataclass with __call__."
        )
    named = [part for held in (tree.keywords, vars(tree)) for part in (held, held.values())]
    parts = (tree.func, tree.args, *map(tuple, named))
    return (functools.partial, tuple([flatten(part, leaves) for part in parts]))


def _iterator(tree: Any, leaves: Leaves) -> Any:
    return (Reader, Static(tree))


def _view(tree: Any, leaves: Leaves) -> Any:
    """A view of a dict, or a mapping that cannot be written: the function gets one of its own."""
    unlike = VIEWS[type(tree)][0]
    return (type(tree), (flatten(unlike(tree), leaves),))


def _slice(tree: Any, leaves: Leaves) -> Any:
    return (slice, tuple([flatten(part, leaves) for part in (tree.start, tree.stop, tree.step)]))


def _number(tree: Any, leaves: Leaves) -> Any:
    if leaves.in_place:
        leaves.soft.append(len(leaves.numbers))
    leaves.numbers.append(tree)
    return (NUMBER, type(tree))


def _set(tree: Any, leaves: Leaves) -> Any:
    if not tree:
        return _told(tree, leaves, ())
    for item in tree:
        _note_objects(item, leaves)
    if any(isinstance(item, mx.array) for item in tree):
        raise TypeError(
            f"[zmlx.fuse] a {type(tree).__name__} of arrays is passed. Make it a list or a dict."
        )
    return _told(tree, leaves, frozenset([Static(item) for item in tree]))


def _bytes(tree: Any, leaves: Leaves) -> Any:
    return _told(tree, leaves, memory(tree))


def _valued(tree: Any, leaves: Leaves) -> Any:
    """A value of a class that allows attributes: by itself, and by those where it has some."""
    is_set = isinstance(tree, (set, frozenset))
    if has_attributes_of_its_own(tree):
        if is_set:
            _set(tree, Leaves())  # refuses arrays
            for item in tree:
                _note_objects(item, leaves)
        return _object(tree, leaves, plain_value(tree))
    if is_set:
        return _set(tree, leaves)
    if isinstance(tree, (int, float)) and not isinstance(tree, enum.Enum):  # told by `is`
        return _number(tree, leaves)
    return _bytes(tree, leaves) if is_memory(tree) else _static(tree, leaves)


def _weak(tree: Any, leaves: Leaves) -> Any:
    """A weak reference: what it refers to is passed as if it were an argument itself."""
    try:
        target = tree.__init__.__self__ if type(tree) in PROXIES else tree()
    except ReferenceError:
        target = None
    if target is None:
        return _static(tree, leaves)
    if isinstance(target, mx.array):
        raise TypeError(
            "[zmlx.fuse] a weak reference to an array is passed. Pass the array, or a weak "
            "reference to what holds it."
        )
    seen = leaves.enter(tree, copied=False)
    return seen or (WEAK, type(tree), flatten(target, leaves))


def _machine(tree: Any, leaves: Leaves) -> Any:
    machine = machine_of(type(tree))
    told = machine.told(tree) if machine is not None and machine.told is not None else ()
    if not refuses(tree):
        return (Static, Static(tree), *_frozen(tree, [told], leaves))
    parts = [content(part) for part in parts_of(tree)]
    return (StandIn, Static(tree), *_frozen(tree, [told, *parts], leaves))


def _told(tree: Any, leaves: Leaves, by: Any) -> Any:
    return leaves.enter(tree, copied=False) or (CONTENT, type(tree), by)


def _numpy(tree: Any, leaves: Leaves) -> Any:
    if not leaves.in_place:
        raise NumpyArgument(tree)
    by = tree.tobytes() if tree.nbytes <= _HASHED_BYTES else Static(tree)
    return _told(tree, leaves, (tree.shape, str(tree.dtype), by))


_RARE: dict[Kind, Callable[[Any, Leaves], Any]] = {
    Kind.ARRAY: _array,
    Kind.NUMBER: _number,
    Kind.COPIED: _object,
    Kind.ROW: _row,
    Kind.OBJECT: _object,
    Kind.FUNCTION: _function,
    Kind.METHOD: _method,
    Kind.PARTIAL: _partial,
    Kind.SLICE: _slice,
    Kind.SET: _set,
    Kind.BYTES: _bytes,
    Kind.VALUED: _valued,
    Kind.WEAK: _weak,
    Kind.MACHINE: _machine,
    Kind.ITERATOR: _iterator,
    Kind.VIEW: _view,
    Kind.NUMPY: _numpy,
    Kind.STATIC: _static,
}
