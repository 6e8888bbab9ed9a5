"""Leaks: traced arrays that outlive their trace, and what a function reaches beside its arguments.

Comes in: the function, before it is traced. `Surroundings` remembers what closures, globals and
defaults hold, so that a trace that fails leaves them as they were; `survivor` finds an array that
was stored where the caller could meet it. zmlx.trace.run is the caller.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import CodeType, FrameType, FunctionType, ModuleType, NoneType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.trace import placeholders
from zmlx.trace.drawn import NAME, Drawn
from zmlx.trace.endings import random_state
from zmlx.trace.kinds import (
    HOLDERS,
    Kind,
    content,
    is_library,
    items,
    kind_of,
    parts_of,
    refill,
)
from zmlx.trace.proxy import Proxy
from zmlx.trace.scalars import ScalarProxy
from zmlx.trace.tree import Leaves, filled_cells
from zmlx.trace.undone import NOTHING, changed, put_back, reset

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

_MOST = 20_000  # containers that are remembered
_MOST_ARRAYS, _SMALL = 64, 1 << 16  # arrays whose bytes are compared after the trace, by bytes
_MOMENT = 0.5  # seconds that another thread may take to read its arguments
_HOLDERS = (*HOLDERS, Kind.ROW)
_CACHE: type = functools._lru_cache_wrapper


def holds(tree: Any) -> bool:
    """Whether a traced value is in `tree` or in the objects that it leads to."""
    return _leads_to(tree, _is_one)


def is_traced(value: Any) -> bool:
    """Whether `value` is a traced one, or a tuple of some."""
    return _is_one(value) or (isinstance(value, tuple) and holds(value))


def _is_one(value: Any) -> bool:
    return type(value) is Proxy or type(value) is ScalarProxy


def _is_lost(value: Any) -> bool:
    """Whether a plain array was computed from traced ones out of sight."""
    return type(value) is mx.array and placeholders.depends_on_one(value)


def _leads_to(tree: Any, wanted: Callable[[Any], bool]) -> bool:
    waiting, seen = [tree], {id(tree)}
    while waiting:
        value = waiting.pop()
        if wanted(value):
            return True
        rows = [enumerate(value)] if isinstance(value, tuple) else map(items, parts_of(value))
        for pairs in rows:
            found = [v for _, v in pairs]
            waiting += [v for v in found if id(v) not in seen]
            seen.update(map(id, found))
    return False


class Surroundings:
    """What a function reaches through its closure, its globals and its defaults, as it is now."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._parts: list[tuple[Any, Any]] = []
        self._globals: dict[int, set[str]] = {}  # names that functions use, by their module's dict
        self._variables: dict[int, str] = {}  # names of cells
        self._classes: list[tuple[type, dict[str, Any]]] = []
        self.values = list(reached(fn))
        self.caches = [value for value in self.values if type(value) is _CACHE]
        self._known: set[int] | None = None
        arrays = [v for v in self.values if type(v) is mx.array and v.nbytes <= _SMALL]
        self._bytes = [(array, _bytes_of(array)) for array in arrays[:_MOST_ARRAYS]]
        for value in self.values:
            if isinstance(value, FunctionType):
                self._remember(value)
            elif isinstance(value, type):
                if not is_library(value.__module__):
                    self._classes.append((value, dict(vars(value))))
            elif kind_of(value) in HOLDERS:
                self._parts += [(part, content(part)) for part in parts_of(value)]
        self._drawn = Drawn(set().union(*self._globals.values()), self.values)

    def known(self) -> set[int]:
        """The ids of what was there before the trace, modules' and classes' values included."""
        if self._known is None:
            self._known = self._find_known()
        return self._known

    def _find_known(self) -> set[int]:
        found = {*map(id, self.values), *[id(part) for part, _ in self._parts]}
        own = [m for n, m in list(sys.modules.items()) if m is not None and not is_library(n)]
        classes = [v for v in self.values if isinstance(v, type) and not is_library(v.__module__)]
        for module in own:
            values = list(getattr(module, "__dict__", {}).values())
            found.update(map(id, values))
            classes += [v for v in values if isinstance(v, type)]
        for cls in classes:
            found.update(map(id, vars(cls).values()))
        return found

    def places(self) -> Iterator[tuple[Any, Any, Any]]:
        """Where the function finds what it reads: a container, the key, and what stands there."""
        for part, held in self._parts:
            names = self._globals.get(id(part))
            for key in held if isinstance(held, dict) else range(len(held)):
                if names is None or key in names:
                    yield part, key, held[key]

    def _remember(self, fn: FunctionType) -> None:
        own = () if is_library(fn.__module__) else _names(fn.__code__)
        self._parts.append((fn.__dict__, dict(fn.__dict__)))
        if id(fn.__globals__) not in self._globals:
            self._parts.append((fn.__globals__, dict(fn.__globals__)))
        self._globals.setdefault(id(fn.__globals__), set()).update(own)
        self._parts += [(cell, content(cell)) for cell in filled_cells(fn)]
        names = zip(map(id, fn.__closure__ or ()), fn.__code__.co_freevars, strict=True)
        self._variables.update(names)

    def written_in_c(self) -> bool:
        """Whether C code (NumPy, by the buffer protocol) has written into an array held here."""
        return any(_bytes_of(array) != held for array, held in self._bytes)

    def keeps_lost(self) -> bool:
        """Whether an array that was computed from traced ones out of sight is stored here."""
        parts: list[tuple[Any, Any]] = [(list(items(part)), held) for part, held in self._parts]
        parts += [(list(vars(cls).items()), held) for cls, held in self._classes]
        return any(True for now, held in parts for _ in _new(now, held, _is_lost))

    def stored(self) -> Iterator[tuple[Any, Any, Any]]:
        """Where the function has put something new that holds a traced value: part, key, value."""
        for part, held in self._parts:
            for key, value in _new(list(items(part)), held, _is_one):
                yield part, key, value
        for cls, held in self._classes:
            for name, value in _new(list(vars(cls).items()), held, _is_one):
                yield cls, name, value

    def before(self, part: Any, key: Any) -> Any:
        """What stood at `key` of a part (or class) before the trace; NOTHING where nothing did."""
        held = next(held for known, held in (*self._parts, *self._classes) if known is part)
        if isinstance(held, dict):
            return held.get(key, NOTHING)
        return held[key] if key < len(held) else NOTHING

    def written(self) -> list[tuple[str, Any, Any]]:
        """What holds another value than before the trace: a name of the place, the part (or
        class) that has it, and what that held.
        """
        found = [
            (self.name_of(part, key), part, held)
            for part, held in self._parts
            if part is not random_state()
            for key in changed(held, content(part))
            if id(part) not in self._globals or key in self._globals[id(part)]
        ]
        for cls, held in self._classes:
            keys = changed(held, dict(vars(cls)))
            found += [(f"{cls.__qualname__}.{key}", cls, held) for key in keys]
        return [*found, (NAME, self._drawn, None)] if self._drawn.moved() else found

    def name_of(self, part: Any, key: Any = 0) -> str:
        """What messages call a place: by a variable's or attribute's name, or what holds it."""
        named = self._variables.get(id(part), key)
        return named if isinstance(named, str) else f"a {type(part).__name__}"

    def undo(self) -> None:
        """Put back what the function has written, as it runs once more."""
        self.restore()
        for _, part, held in self.written():
            if part is self._drawn:
                part.undo()
            elif isinstance(part, type) or id(part) in self._globals:
                now = vars(part) if isinstance(part, type) else part
                names = self._globals.get(id(part), {*now, *held})
                for key in [key for key in changed(held, dict(now)) if key in names]:
                    reset(part, key, held)
            else:
                refill(part, held)

    def restore(self) -> None:
        """Undo the run where it has stored a traced value, or a lost array, here.

        All that it wrote is undone then: what says that the value is there (`ready = True`) too.
        """
        stored = [
            *[(part, held, dict(_traced(list(items(part)), held))) for part, held in self._parts],
            *[(c, held, dict(_traced(list(vars(c).items()), held))) for c, held in self._classes],
        ]
        if not any(traced for _, _, traced in stored):
            return
        for part, held, traced in stored:
            if isinstance(part, type):
                for name in traced:
                    setattr(part, name, held[name]) if name in held else delattr(part, name)
            elif isinstance(part, dict):
                put_back(part, held, traced, id(part) in self._globals)
            elif changed(held, content(part)):
                refill(part, held)


def _bytes_of(array: mx.array) -> bytes | None:
    """What an array holds; None where it has no bytes yet, or none that Python can read."""
    try:
        with memoryview(array) as view:
            return view.tobytes()
    except (TypeError, ValueError, RuntimeError, BufferError):
        return None


def _new(
    now: list[tuple[Any, Any]], held: Any, *wanted: Callable[[Any], bool]
) -> Iterator[tuple[Any, Any]]:
    """What is new since `held` was taken, and leads to something that is `wanted`."""
    for key, value in now:
        known = held.get(key) if isinstance(held, dict) else held[key] if key < len(held) else None
        if value is not known and any(_leads_to(value, one) for one in wanted):
            yield key, value


def _traced(now: list[tuple[Any, Any]], held: Any) -> Iterator[tuple[Any, Any]]:
    """What is new since `held` was taken, and holds a traced value, or what was made of one."""
    return _new(now, held, _is_one, _is_lost)


def reached(start: Any) -> Iterator[Any]:
    """`start` and what Python code can reach from it, nearest first; at most _MOST values."""
    waiting, seen = deque([start]), dict[int, Any]()
    while waiting and len(seen) < _MOST:
        value = waiting.popleft()
        if id(value) not in seen:
            seen[id(value)] = value  # kept, so that no other value gets its id
            yield value
            waiting.extend(_below(value))


def _below(value: Any) -> Iterator[Any]:
    kind = kind_of(value)
    if _is_ours(value):  # a fused function, less its traces
        held = getattr(value, "__dict__", {})
        yield from [held[name] for name in ("__wrapped__", "_bound") if name in held]
    elif isinstance(value, FunctionType):
        yield from [cell.cell_contents for cell in filled_cells(value)]
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        named = [value.__globals__.get(name) for name in _names(value.__code__)]
        yield from (v for v in named if not isinstance(v, (ModuleType, NoneType)))
        yield from _of_modules([v for v in named if isinstance(v, ModuleType)], value.__code__)
        yield getattr(value, "__wrapped__", None)
    elif isinstance(value, type):
        yield from [v for v in list(vars(value).values()) if getattr(v, "__closure__", None)]
        yield from caches_in(value)
    elif kind in _HOLDERS:
        for part in parts_of(value) or [value]:
            yield from [item for _, item in list(items(part))]
        yield from (vars(type(value)).get("__call__"), type(value))
    elif callable(value) and not isinstance(value, type):  # methods, partials, MLX's own objects
        yield from gc.get_referents(value)


def caches_in(cls: type) -> list[Any]:
    """Methods of a class under functools.lru_cache."""
    return [value for value in list(vars(cls).values()) if type(value) is _CACHE]


def _of_modules(modules: Sequence[ModuleType], code: CodeType) -> Iterator[Any]:
    """What a function finds in the user's own modules: helpers.table, helpers.mask(n)."""
    for module in modules:
        if not is_library(module.__name__):
            held = object.__getattribute__(module, "__dict__")  # a lazy module stays unloaded
            yield from [held[name] for name in _names(code) if name in held]


def _is_ours(value: Any) -> bool:
    """Whether ZMLX keeps `value` for itself: its machinery is none of a user's surroundings."""
    owner = value if isinstance(value, (FunctionType, type)) else type(value)
    module = getattr(owner, "__module__", "")
    return isinstance(module, str) and f"{module}.".startswith("zmlx.") and "demo" not in module


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def survivor(tracer: Tracer) -> tuple[Any, Any] | None:
    """A traced array that still lives, and the object that holds it; None where none does.

    Other threads that read the same objects hold arrays for a moment: that is no leak.
    """
    found, until = _survivor(tracer), time.monotonic() + _MOMENT
    while found is not None and threading.active_count() > 1 and time.monotonic() < until:
        found = None
        time.sleep(0.002)
        found = _survivor(tracer)
    return found


def _survivor(tracer: Tracer) -> tuple[Any, Any] | None:
    alive = tracer.living.found()
    if alive:  # cycles (a function that calls itself) go with a collection
        del alive
        gc.collect()
        alive = tracer.living.found()
    for array in alive:
        holder = _holder(array, alive)
        if holder is not None:
            return array, holder
    return None


def _of_a_call(referrer: Any) -> bool:
    """Whether `referrer` is the list of a call of another thread, which waits for this trace."""
    if not isinstance(referrer, list):
        return False
    owners = gc.get_referrers(referrer)
    return any(type(owner) is Leaves for owner in owners) or any(
        type(owner) is dict and any(type(o) is Leaves for o in gc.get_referrers(owner))
        for owner in owners
    )


def _holder(array: Any, alive: Sequence[Any]) -> Any:
    """What holds `array`, frames apart: those of an error that somebody keeps read nothing."""
    for referrer in gc.get_referrers(array):
        if referrer is alive or isinstance(referrer, FrameType) or _of_a_call(referrer):
            continue
        if isinstance(referrer, dict):  # the attributes of an object, rather than the object
            owners = [
                o for o in gc.get_referrers(referrer) if getattr(o, "__dict__", None) is referrer
            ]
            return owners[0] if owners else referrer
        return referrer
    return None
