"""Kinds: how a value of any Python class stands in a tree of arguments, state or results.

Comes in: a class. Goes out: whether its instances are arrays, containers that are copied, objects
that are used in place, or static values; and the containers in which an object keeps its parts.
zmlx.trace.tree, the recipes of results and the search for leaks ask.
"""

from __future__ import annotations

import array
import enum
import functools
import os
import sys
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any
from weakref import WeakKeyDictionary

import mlx.core as mx
import mlx.nn as nn

from zmlx.trace.machines import machine_of


class Kind(enum.Enum):
    """What flatten does with a value."""

    ARRAY = enum.auto()
    NUMBER = enum.auto()
    COPIED = enum.auto()  # list, dict: the function gets one of its own
    ROW = enum.auto()  # tuples: rebuilt as their class
    OBJECT = enum.auto()  # used in place: its arrays are inputs, its other parts are in the key
    FUNCTION = enum.auto()  # a Python function, with what its closure holds
    METHOD = enum.auto()
    PARTIAL = enum.auto()
    SLICE = enum.auto()
    SET = enum.auto()
    BYTES = enum.auto()  # static, and can be written in place: told by its content
    VALUED = enum.auto()  # a value (a str, an enum's member, a date) that may have attributes
    WEAK = enum.auto()  # a weak reference or proxy: told by what it refers to
    MACHINE = enum.auto()  # keeps state where no attribute shows it: zmlx.trace.machines
    NUMPY = enum.auto()
    ITERATOR = enum.auto()  # of Python's own: can be read only once
    VIEW = enum.auto()  # of a dict
    STATIC = enum.auto()


# For each class of views: what it holds as a dict, and the view of such a dict.
VIEWS: dict[type, tuple[Callable[[Any], dict[Any, Any]], Callable[[dict[Any, Any]], Any]]] = {
    MappingProxyType: (dict, MappingProxyType),
    type({}.keys()): (dict.fromkeys, dict.keys),
    type({}.values()): (lambda view: dict(enumerate(view)), dict.values),
    type({}.items()): (dict, dict.items),
    type(OrderedDict().keys()): (dict.fromkeys, dict.keys),
    type(OrderedDict().values()): (lambda view: dict(enumerate(view)), dict.values),
    type(OrderedDict().items()): (dict, dict.items),
}
PROXIES = (weakref.ProxyType, weakref.CallableProxyType)
_KNOWN: dict[type, Kind] = {
    **dict.fromkeys(VIEWS, Kind.VIEW),
    mx.array: Kind.ARRAY,
    list: Kind.COPIED,
    dict: Kind.COPIED,
    tuple: Kind.ROW,
    FunctionType: Kind.FUNCTION,
    MethodType: Kind.METHOD,
    functools.partial: Kind.PARTIAL,
    slice: Kind.SLICE,
    bytearray: Kind.BYTES,
    array.array: Kind.BYTES,
    memoryview: Kind.BYTES,
    **dict.fromkeys(PROXIES, Kind.WEAK),
}
_BASES: tuple[tuple[Any, Kind], ...] = (
    (mx.array, Kind.ARRAY),
    (nn.Module, Kind.OBJECT),
    (tuple, Kind.ROW),
    ((dict, list, deque, BaseException), Kind.OBJECT),
    (functools.partial, Kind.PARTIAL),
    (weakref.ref, Kind.WEAK),
    ((bytearray, array.array), Kind.BYTES),
    ((set, frozenset), Kind.SET),
    ((bool, enum.Enum, type, ModuleType, BuiltinFunctionType), Kind.STATIC),
    ((int, float), Kind.NUMBER),  # an np.float64
    ((complex, str, bytes), Kind.STATIC),
)
_WITH_VALUE = (Kind.SET, Kind.BYTES, Kind.NUMBER)
HOLDERS = (Kind.COPIED, Kind.OBJECT, Kind.VALUED)  # lead to others, and can be written in place
# Classes of the standard library that users hold arrays in; others are machinery.
_HOLDERS = {
    "types.SimpleNamespace",
    "argparse.Namespace",
    "weakref.WeakKeyDictionary",
    "weakref.WeakValueDictionary",
    "weakref.WeakSet",
    "_weakrefset.WeakSet",
}
_ATOMS = set(sys.stdlib_module_names) - {"collections"}
_found: WeakKeyDictionary[type, Kind] = WeakKeyDictionary()
_slots: WeakKeyDictionary[type, list[str]] = WeakKeyDictionary()
_NO_SLOTS = (list, dict)  # the commonest, spared the search


def kind_of(value: Any) -> Kind:
    cls = type(value)
    kind = _KNOWN.get(cls) or _found.get(cls)
    if kind is None:
        kind = _found[cls] = _kind_of_class(cls)
    return kind


def _kind_of_class(cls: type) -> Kind:
    if hasattr(cls, "n_sequence_fields"):  # time.struct_time: has more than a tuple shows
        return Kind.STATIC
    for bases, kind in _BASES:
        if issubclass(cls, bases):
            valued = kind in _WITH_VALUE or issubclass(cls, (enum.Enum, complex, str, bytes))
            return Kind.VALUED if valued and has_attributes(cls) else kind
    if machine_of(cls) is not None:
        return Kind.MACHINE
    if _is_c_data(cls):
        return Kind.VALUED if has_attributes(cls) else Kind.BYTES
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(cls, (numpy.integer, numpy.floating)):
        return Kind.NUMBER
    if numpy is not None and issubclass(cls, numpy.ndarray):
        return Kind.NUMPY
    root = (cls.__module__ or "").partition(".")[0]  # sympy's functions have none
    if root in sys.stdlib_module_names and hasattr(cls, "__next__") and not has_attributes(cls):
        return Kind.ITERATOR
    known = f"{cls.__module__}.{cls.__qualname__}" in _HOLDERS
    if (root in _ATOMS and not known and _is_found(cls)) or root == "zmlx":
        return Kind.STATIC
    if not has_attributes(cls):
        return Kind.STATIC
    return Kind.VALUED if _told_by_library(cls) else Kind.OBJECT


def _told_by_library(cls: type) -> bool:
    """Whether a class of Python's own says what instances equal: of a date's subclass, say."""
    told = next(base for base in cls.__mro__ if "__hash__" in vars(base))
    return told is not object and told.__hash__ is not None and is_library(told.__module__)


def _is_c_data(cls: type) -> bool:
    """Whether instances are memory that C code writes too: ctypes, mmap."""
    c, maps = sys.modules.get("ctypes"), sys.modules.get("mmap")
    held = (c.Structure, c.Union, c.Array, c._SimpleCData) if c is not None else ()
    return issubclass(cls, held) or (maps is not None and issubclass(cls, maps.mmap))


def _is_found(cls: type) -> bool:
    """Whether the module that a class names has it: dataclasses.make_dataclass names `types`."""
    module = sys.modules.get(cls.__module__ or "")
    found: Any = module
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    home, file = os.path.dirname(os.__file__), getattr(module, "__file__", None)
    return found is cls and (file is None or str(file).startswith(home))


def is_library(module: Any) -> bool:
    """Whether a class of `module`, which some have not, is machinery: of Python, MLX or ZMLX."""
    root = module.partition(".")[0] if isinstance(module, str) else ""  # C's may have a descriptor
    return root in {*_ATOMS, "builtins", "collections", "mlx", "numpy", "zmlx"}


def has_attributes(cls: type) -> bool:
    """Whether instances keep attributes where Python code can read and replace them."""
    return bool(getattr(cls, "__dictoffset__", 0)) or bool(slot_names(cls))


def has_slots(cls: type) -> bool:
    """Whether instances keep attributes in __slots__."""
    return bool(slot_names(cls))


def slot_names(cls: type) -> list[str]:
    """The names of what instances keep in __slots__."""
    found = _slots.get(cls)
    if found is None:
        found = _slots[cls] = _find_slots(cls)
    return found


def _find_slots(cls: type) -> list[str]:
    names: list[str] = []
    for base in cls.__mro__:
        if issubclass(base, BaseException) and is_library(base.__module__):
            names += _slots_of_an_exception(base)
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                names.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return names


def _slots_of_an_exception(cls: type) -> list[str]:
    """The attributes that C code keeps for an exception: its `args`, a StopIteration's value."""
    if issubclass(cls, UnicodeError):  # its numbers are C's own, and part of `args` too
        return []
    found = [name for name, member in vars(cls).items() if type(member) is MemberDescriptorType]
    return ["args"] * (cls is BaseException) + [name for name in found if name[:2] != "__"]


class Slots:
    """The attributes that an object keeps in __slots__, as a container like a dict."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def items(self) -> list[tuple[str, Any]]:
        names = slot_names(type(self.owner))
        return [(n, getattr(self.owner, n)) for n in names if hasattr(self.owner, n)]


class Fixed:
    """The defaults of a function, or the arguments that a partial holds, as a container."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def items(self) -> list[tuple[int, Any]]:
        partial = isinstance(self.owner, functools.partial)
        return list(enumerate((self.owner.args if partial else self.owner.__defaults__) or ()))

    def fill(self, values: Iterable[Any]) -> None:
        if isinstance(self.owner, functools.partial):
            whole: Any = self.owner
            function, _, words, attributes = whole.__reduce__()[2]
            whole.__setstate__((function, tuple(values), words, attributes))
        else:
            self.owner.__defaults__ = tuple(values)


def parts_of(value: Any) -> list[Any]:
    """The containers that hold an object's parts: its items, its __dict__, its slots."""
    if type(value) in PROXIES:
        return []
    parts: list[Any] = [value] if isinstance(value, (dict, list, deque, set)) else []
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        parts.append(attributes)
    if type(value) not in _NO_SLOTS and slot_names(type(value)):
        parts.append(Slots(value))
    return parts


def _dict_of(part: Any) -> Any:
    """The class that keeps a dict's items: an OrderedDict has an order of its own."""
    return OrderedDict if isinstance(part, OrderedDict) else dict


def items(part: Any) -> Iterator[tuple[Any, Any]]:
    """Keys (positions, for a sequence) and values of one part; a closure's cell is one too."""
    if isinstance(part, dict):
        return iter(_dict_of(part).items(part))
    if type(part) is CellType:
        try:
            return iter([("cell", part.cell_contents)])
        except ValueError:  # a name that was deleted, or not bound yet
            return iter(())
    return iter(part.items()) if type(part) in (Slots, Fixed) else iter(enumerate(part))


def content(part: Any) -> Any:
    """What a part holds now: a dict, or a list for a sequence.

    A set that is filled again may go through its members in another order: they are sorted.
    """
    if isinstance(part, set):
        return sorted(part, key=id)
    if isinstance(part, (list, deque)):
        return list(part)
    return dict(items(part))


def store(part: Any, key: Any, value: Any) -> None:
    """Put `value` into a part, past whatever a class does when its users write."""
    if isinstance(part, dict):
        _dict_of(part).__setitem__(part, key, value)
    elif isinstance(part, (list, deque)) and key == len(part):
        part.append(value)
    elif isinstance(part, list):
        list.__setitem__(part, key, value)
    elif type(part) is Slots:
        object.__setattr__(part.owner, key, value)
    elif type(part) is CellType:
        part.cell_contents = value
    elif type(part) is Fixed:
        part.fill({**dict(part.items()), key: value}.values())
    else:
        part[key] = value


def remove(part: dict[Any, Any], key: Any) -> None:
    """Take a key out of a dict, if it is there, past whatever its class does."""
    if key in part:
        _dict_of(part).__delitem__(part, key)


def refill(part: Any, wanted: Any) -> None:
    """Make a part hold exactly `wanted`, as `content` gave it."""
    if isinstance(part, dict):
        _dict_of(part).clear(part)
        for key, value in wanted.items():
            _dict_of(part).__setitem__(part, key, value)
    elif isinstance(part, list):
        list.__setitem__(part, slice(None), wanted)
    elif type(part) is Slots:
        for name, _ in part.items():
            if name not in wanted:
                object.__delattr__(part.owner, name)
        for name, value in wanted.items():
            object.__setattr__(part.owner, name, value)
    elif type(part) is CellType:
        if wanted:
            part.cell_contents = wanted["cell"]
        else:
            del part.cell_contents
    elif type(part) is Fixed:
        part.fill(wanted.values())
    else:  # a deque or a set
        part.clear()
        (part.update if isinstance(part, set) else part.extend)(wanted)


def same_content(a: Any, b: Any) -> bool:
    """Whether two contents hold the very same values under the same keys, in order."""
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        return all(i == j and v is w for (i, v), (j, w) in zip(a.items(), b.items(), strict=True))
    return all(v is w for v, w in zip(a, b, strict=True))
