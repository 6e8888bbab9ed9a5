"""Known structures: written so that a call's values can be told to have them without flattening.

Comes in: a structure that zmlx.trace.tree made of a call. Goes out: the same as nodes for `Known`,
of the native module, or None where only Python can tell. zmlx.fuse.met is the caller.
"""

from __future__ import annotations

import enum
import weakref
from collections import OrderedDict
from types import BuiltinFunctionType, FunctionType, GetSetDescriptorType, WrapperDescriptorType
from typing import Any

import mlx.core as mx

from zmlx.trace.endings import random_state
from zmlx.trace.kinds import has_slots
from zmlx.trace.static import Constant, Static
from zmlx.trace.tree import ARRAY, CONTENT, NUMBER, OBJECT, SAME

Written = tuple[int, Any, int, tuple[Any, ...], tuple[Any, ...], int]


class Code(enum.IntEnum):
    """As in native/known.h."""

    ARRAY = 0
    NUMBER = 1  # of this very type
    IS = 2  # this very value
    WEAK = 3  # the value that a weak reference gives
    FUNCTION = 4  # the same, a function that holds nothing
    SAME = 5  # a container that was met before
    TUPLE = 6
    OBJECT = 7  # a container or an object
    SET = 8


_ITEMS, _ATTRIBUTES = 1, 2
_BY_VALUE = (str, bytes, complex, bool, type(None), mx.Dtype)  # nothing changes these
_KEYS = (str, int)


class _Unsure(Exception):
    """A structure that has a part which only Python can tell."""


def written(structure: Any, states: int) -> tuple[Written, Written, Written] | None:
    """`structure`, of a call with so many captured states, as nodes of `Known`."""
    args, kwargs, held = structure
    if len(held) != states:  # keys of dicts that can change
        return None
    try:
        return (
            _many(args),
            _node(Code.TUPLE, keys=[k for k, _ in kwargs], nodes=[_of(i) for _, i in kwargs]),
            _many(held),
        )
    except _Unsure:
        return None


def _node(
    code: Code, held: Any = None, number: int = 0, keys: Any = (), nodes: Any = (), items: int = 0
) -> Written:
    return int(code), held, number, tuple(keys), tuple(nodes), items


def _many(structures: Any) -> Written:
    return _node(Code.TUPLE, nodes=[_of(item) for item in structures])


def _of(structure: Any) -> Written:
    if structure is ARRAY:
        return _node(Code.ARRAY)
    head = structure[0]
    if head is NUMBER and (structure[1] in (int, float) or structure[1].__module__ == "numpy"):
        return _node(Code.NUMBER, structure[1])
    if head is Static and len(structure) == 2:
        return _static(structure[1])
    if head is SAME:
        return _node(Code.SAME, number=structure[1])
    if head is tuple:
        return _many(structure[1])
    if head is list:
        nodes = [_of(item) for item in structure[1]]
        return _node(Code.OBJECT, list, _ITEMS, [None] * len(nodes), nodes, len(nodes))
    if head is dict:
        return _object(dict, [structure[1]])
    if head is OBJECT and len(structure) == 3:
        return _object(structure[1], structure[2])
    if head is CONTENT and structure[1] in (set, frozenset):
        return _node(Code.SET, structure[1], keys=[_key(member) for member in structure[2]])
    raise _Unsure


def _static(static: Static) -> Written:
    value = static.value
    if type(value) is FunctionType:  # compiled functions say that they are of this class
        return _node(Code.FUNCTION, weakref.ref(value))
    if type(value) in _BY_VALUE or issubclass(type(value), Constant):
        return _node(Code.IS, value)
    if isinstance(value, (type, BuiltinFunctionType)) and not static.gone:
        return _node(Code.WEAK, weakref.ref(value))
    if value is random_state():
        return _node(Code.IS, value)
    raise _Unsure


def _object(cls: type, parts: Any) -> Written:
    """A container or an object: its items, then its attributes, as zmlx.trace.kinds.parts_of."""
    has_items = issubclass(cls, (dict, list))
    attributes = len(parts) - has_items
    if attributes not in (0, 1) or not _is_ordinary(cls, bool(attributes)):
        raise _Unsure
    pairs = [pair for part in parts for pair in part]
    number = has_items * _ITEMS + attributes * _ATTRIBUTES
    in_list = len(parts[0]) if issubclass(cls, list) else 0
    keys = [None] * in_list + [_key(key) for key, _ in pairs[in_list:]]
    items = len(parts[0]) if has_items else 0
    return _node(Code.OBJECT, cls, number, keys, [_of(item) for _, item in pairs], items)


def _key(key: Any) -> Any:
    key = key.value if type(key) is Static else key
    if type(key) not in _KEYS:
        raise _Unsure
    return key


def _is_ordinary(cls: type, attributes: bool) -> bool:
    """Whether instances keep items and attributes where C finds them without running Python."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found.update(vars(base))
    plain = type(found["__getattribute__"]) is WrapperDescriptorType
    if issubclass(cls, OrderedDict):  # has an order of its own
        return False
    own = type(found.get("__dict__")) is GetSetDescriptorType
    return plain and own == attributes and not has_slots(cls)
