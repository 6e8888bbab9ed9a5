"""Reach: places that refer to a function of MLX itself, so that a trace can put its wrapper there.

`from mlx.core import exp`, `act=mx.tanh`, a table of activations, functools.partial(mx.sum, ...)
and a Metal kernel are objects that no replaced name stands before. Those that modules hold are
found before each trace; all others, anywhere in memory, where a trace has lost an array to one.
zmlx.trace.intercept puts the wrappers in and takes them out again.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from types import CellType, FrameType, FunctionType, ModuleType
from typing import Any

import mlx.core as mx

FUNCTION = type(mx.exp)  # of every function of MLX, and of the kernels that it makes
METHOD = type(vars(mx.array)["exp"])
_ROUNDS = 5  # how deep tuples may be nested
_keys: dict[int, tuple[int, list[str]]] = {}  # of a module's dict, by id: its length, names

StandIn = Callable[[Any], Any]  # gives what a trace calls in place of a function; or the same


class Place:
    """Somewhere `old` is referred to; `put` writes there."""

    __slots__ = ("_get", "_put", "new", "old")

    def __init__(
        self, put: Callable[[Any], Any], get: Callable[[], Any], old: Any, new: Any
    ) -> None:
        self._put, self._get, self.old, self.new = put, get, old, new

    def show(self) -> None:
        self._put(self.new)

    def restore(self) -> None:
        """Put the old reference back, unless the user wrote another there meanwhile."""
        try:
            if self._get() is self.new:
                self._put(self.old)
        except (IndexError, ValueError, AttributeError):  # the list is shorter, the cell empty
            pass


def in_modules(stand_in: StandIn) -> Iterator[Place]:
    """The places in loaded modules' names."""
    for name, module in list(sys.modules.items()):
        if not issubclass(type(module), ModuleType) or _is_own(name):
            continue
        held = object.__getattribute__(module, "__dict__")  # a lazy module stays unloaded
        known = _keys.get(id(held))
        if known is None or known[0] != len(held):
            keys = [k for k, v in list(held.items()) if type(v) is FUNCTION or type(v) is METHOD]
            known = _keys[id(held)] = (len(held), keys)
        for key in known[1]:
            yield from _of_dict(held, key, stand_in)


def of_function(fn: Any, stand_in: StandIn) -> Iterator[Place]:
    """The places in a function's closure and defaults."""
    fn = getattr(fn, "__func__", fn)
    if type(fn) is FunctionType:
        for holder in (fn, *(fn.__closure__ or ()), fn.__kwdefaults__ or {}):
            yield from _places(holder, {}, stand_in)


def in_memory(stand_in: StandIn, skip: set[int]) -> list[Place]:
    """The places in every object that Python's garbage collector knows, but those in `skip`."""
    objects = [o for o in gc.get_objects() if id(o) not in skip and type(o) is not FrameType]
    own = {id(part) for o in objects if _is_own_object(o) for part in _parts(o)}
    # what is set on a type must not be written to its dict
    own |= {id(d) for o in objects if isinstance(o, type) for d in _dicts(o)}
    objects = [o for o in objects if id(o) not in own]
    found: list[Place] = []
    rebuilt: dict[int, tuple[Any, Any]] = {}

    def new_of(value: Any) -> Any:
        pair = rebuilt.get(id(value))
        return pair[1] if pair is not None and pair[0] is value else stand_in(value)

    functions = {id(o) for o in objects if type(o) is FUNCTION or type(o) is METHOD}
    wanted = functions
    for _ in range(_ROUNDS):
        holders = [o for o in objects if _refers(o, wanted)]
        wanted = set()
        for holder in holders:
            if type(holder) is tuple or type(holder) in (staticmethod, classmethod):
                new = _rebuilt(holder, new_of)
                if new is not None:
                    rebuilt[id(holder)] = (holder, new)
                    wanted.add(id(holder))
        if not wanted:
            break
    wanted = functions | set(rebuilt)
    for holder in objects:
        if _refers(holder, wanted):
            found += _places(holder, rebuilt, new_of)
    return found


def _refers(holder: Any, wanted: set[int]) -> bool:
    held = vars(holder).values() if isinstance(holder, type) else gc.get_referents(holder)
    return not wanted.isdisjoint(map(id, held))


def _rebuilt(holder: Any, new_of: StandIn) -> Any:
    if type(holder) is tuple:
        items = [new_of(item) for item in holder]
        return tuple(items) if any(a is not b for a, b in zip(items, holder, strict=True)) else None
    new = new_of(holder.__func__)
    return None if new is holder.__func__ else type(holder)(new)


def _places(holder: Any, rebuilt: dict[int, Any], new_of: StandIn) -> Iterator[Place]:
    """The places directly in one object."""
    kind = type(holder)
    if isinstance(holder, dict):
        for key in list(holder):
            yield from _of_dict(holder, key, new_of)
    elif isinstance(holder, list):
        for i, value in enumerate(holder):
            yield from _one(
                functools.partial(list.__setitem__, holder, i),
                functools.partial(list.__getitem__, holder, i), value, new_of,
            )  # fmt: skip
    elif kind is CellType:
        yield from _of_attribute(holder, "cell_contents", new_of)
    elif kind is FunctionType:
        yield from _of_attribute(holder, "__defaults__", _through_tuples(new_of))
    elif isinstance(holder, functools.partial):
        yield from _of_partial(holder, _through_tuples(new_of))
    elif isinstance(holder, type):
        for name in list(vars(holder)):
            yield from _of_attribute(holder, name, new_of, vars(holder).get(name))
    elif hasattr(kind, "__dict__") and not isinstance(holder, (tuple, FrameType, ModuleType)):
        names = [*getattr(holder, "__dict__", ()), *_slots(kind)]
        for name in names:
            yield from _of_attribute(holder, name, new_of)


def _of_dict(held: dict[Any, Any], key: Any, new_of: StandIn) -> Iterator[Place]:
    yield from _one(
        functools.partial(dict.__setitem__, held, key),
        functools.partial(dict.get, held, key),
        dict.get(held, key),
        new_of,
    )


def _of_attribute(holder: Any, name: str, new_of: StandIn, value: Any = None) -> Iterator[Place]:
    own = isinstance(holder, type)
    try:
        value = value if own else object.__getattribute__(holder, name)
    except (AttributeError, ValueError):  # an empty slot or cell
        return
    put = setattr if own else object.__setattr__
    get = (
        (lambda: vars(holder).get(name))
        if own
        else functools.partial(object.__getattribute__, holder, name)
    )
    yield from _one(functools.partial(put, holder, name), get, value, new_of)


def _of_partial(holder: functools.partial[Any], new_of: StandIn) -> Iterator[Place]:
    whole: Any = holder
    func, args, keywords, extra = state = whole.__reduce__()[2]
    words = {key: new_of(value) for key, value in keywords.items()}
    new = (new_of(func), new_of(args), words, extra)
    same = new[0] is func and new[1] is args and all(words[k] is v for k, v in keywords.items())
    if not same:
        yield Place(whole.__setstate__, lambda: new, state, new)


def _one(
    put: Callable[[Any], Any], get: Callable[[], Any], value: Any, new_of: StandIn
) -> Iterator[Place]:
    new = new_of(value)
    if new is not value:
        yield Place(put, get, value, new)


def _through_tuples(new_of: StandIn) -> StandIn:
    def new(value: Any) -> Any:
        if type(value) is not tuple:
            return new_of(value)
        made = _rebuilt(value, new)
        return value if made is None else made

    return new


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        names = base.__dict__.get("__slots__", ())
        yield from (names,) if isinstance(names, str) else names


def _is_own(module: Any) -> bool:
    """Whether a module of that name is MLX's own, or ZMLX's (its demo is a user's)."""
    if not isinstance(module, str):
        return False
    own = module.startswith("mlx.core") or module.split(".")[0] in ("zmlx", "zmlx_native")
    return own and not module.startswith("zmlx.demo")


def _is_own_object(value: Any) -> bool:
    """Whether ZMLX or MLX keeps the object for itself: what it calls must stay MLX's own."""
    kind = type(value)
    if kind is FunctionType or isinstance(value, type):
        return _is_own(getattr(value, "__module__", None))
    if isinstance(value, ModuleType):
        return _is_own(value.__name__)
    return _is_own(getattr(kind, "__module__", None))


def _parts(value: Any) -> Iterator[Any]:
    """An object and what belongs to it alone: its attributes, a function's closure."""
    yield value
    yield from _dicts(value)
    if type(value) is FunctionType:
        yield from (value.__closure__, *(value.__closure__ or ()), value.__defaults__)


def _dicts(value: Any) -> list[Any]:
    if type(value) is FunctionType:
        return [value.__kwdefaults__]
    return [part for part in gc.get_referents(value) if type(part) is dict]
