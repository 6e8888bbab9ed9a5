"""The names `type` and `len` while a trace runs: what a user's code finds in place of the builtins.

`type(x)` of a traced array or number is a class of ZMLX's, so that `type(x) is mx.array`, `type(n)
is float` and tables keyed by type would miss. In the modules that a function reaches the name gives
a stand-in, Type: it answers with the class that the value has in plain MLX, and is `type` itself in
all else. `len(x)` must be an int, and would fix the size; the stand-in gives `x.shape[0]` as it is
known in a trace. zmlx.trace.run gives the modules; zmlx.trace.intercept puts the names there and
takes them away.
"""

from __future__ import annotations

import builtins
import dis
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from types import FrameType, FunctionType
from typing import Any

import mlx.core as mx

from zmlx.trace.kinds import is_library
from zmlx.trace.reach import Place
from zmlx.trace.stands_for import StandsFor, real_of

_NAME = "type"
CLASSES: set[type] = {mx.array}  # of arrays, plain and traced
NUMBERS: set[type] = set()  # traced ones, which say themselves of what class they are
_ARRAY = mx.array
_LOADS = ("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_DEREF", "LOAD_GLOBAL",
          "LOAD_NAME")  # fmt: skip
_MISSING: Any = object()


def _class_of(*args: Any, **kwargs: Any) -> Any:
    """What `type(...)` gives to a traced function, which is two frames away."""
    if len(args) != 1 or kwargs:
        return type(*args, **kwargs)
    kind = type(real_of(args[0]))
    if kind in CLASSES:
        kind = _ARRAY
    elif kind in NUMBERS:
        kind = args[0].__class__
    if kind is not _ARRAY and kind is not type:
        return kind
    other = _compared_with(sys._getframe(2))  # by `is`
    return other if real_of(other) is kind else kind


class Type(metaclass=StandsFor, real=type, call=_class_of):
    """What the name `type` gives to a traced function."""


def length(value: Any) -> Any:
    """What the name `len` gives to a traced function."""
    traced = type(value) in CLASSES and type(value) is not _ARRAY
    if traced:
        return value.shape[0] if value.ndim else len(_ARRAY(value))  # MLX says what is wrong
    return len(value)


_STANDS = {_NAME: (type, Type), "len": (len, length)}


def places(values: Iterable[Any]) -> Iterator[Place]:
    """Where the names go: the modules of these functions, and of these values' classes."""
    seen = set[int]()
    for held in _namespaces(values):
        if id(held) in seen:
            continue
        seen.add(id(held))
        for first, (real, stand_in) in _STANDS.items():
            for name in {first, *[name for name, value in list(held.items()) if value is real]}:
                old = held.get(name, _MISSING)
                if old is _MISSING or old is real:
                    yield Place(partial(_put, held, name), partial(held.get, name), old, stand_in)


def _namespaces(values: Iterable[Any]) -> Iterator[dict[str, Any]]:
    classes = dict[type, None]()
    for value in values:
        if isinstance(value, FunctionType):
            if not is_library(value.__globals__.get("__name__")):
                yield value.__globals__
        else:
            own = value if isinstance(value, type) else type(value)
            classes.update(dict.fromkeys(own.__mro__))
    for name in {cls.__module__ for cls in classes}:
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is not None and not is_library(name):
            yield object.__getattribute__(module, "__dict__")


def _put(held: dict[str, Any], name: str, value: Any) -> None:
    held.pop(name, None) if value is _MISSING else held.__setitem__(name, value)


def is_shown(frame: FrameType) -> bool:
    """Whether the code of `frame` finds the stand-in."""
    return frame.f_globals.get(_NAME) is Type


def _compared_with(frame: FrameType) -> Any:
    """What the value that `frame` waits for is compared with by `is`, where that has a name."""
    steps = list(dis.get_instructions(frame.f_code))
    place = next(i for i, step in enumerate(steps) if step.offset == frame.f_lasti)
    after = [step.opname for step in steps[place + 1 : place + 3]]
    if after[:1] == ["IS_OP"]:  # `kind is type(x)`
        before = [s for s in steps[:place] if s.opname != "PUSH_NULL"]
        calls = [i for i, step in enumerate(before) if step.argval == _NAME]
        load = before[calls[-1] - 1] if calls and calls[-1] > 0 else None
    else:
        load = steps[place + 1] if after[1:] == ["IS_OP"] else None
    if load is None or load.opname not in _LOADS:
        return None
    for held in (frame.f_locals, frame.f_globals, vars(builtins)):
        if load.argval in held:
            return held[load.argval]
    return None
