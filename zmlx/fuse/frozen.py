"""Frozen: what a function reads that is no argument, and is therefore fixed in its trace.

Comes in: a function. Goes out: the Python numbers that its code names (of closures, globals,
and attributes or keys of those), names for the arrays that a trace captured, and where all that
stands. zmlx.fuse.explain shows it; zmlx.fuse.rebound looks whether it has changed.
"""

from __future__ import annotations

import dis
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from zmlx.trace import locate
from zmlx.trace.paths import leaves

READS = ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
_CONSTANT = ("math", "mlx", "numpy", "cmath")  # modules whose numbers nobody changes
MISSING: Any = object()
_KEEP = (dict, list, tuple, MappingProxyType)  # others make what an index gives: arrays
TRANSFORMED = type(mx.grad(abs))  # of what mx.grad, mx.compile, mx.checkpoint return


@dataclass(frozen=True)
class Frozen:
    """A Python value that the function read by name: what it becomes later is not seen."""

    name: str
    value: str


@dataclass(frozen=True)
class Place:
    """Where a value stood when the function was traced: a module, an object's dict, a list."""

    holder: Any
    key: Any
    value: Any

    def now(self) -> Any:
        """What stands there now."""
        try:
            return self.holder[self.key]
        except LookupError:
            return MISSING


class Variable(Place):
    """A variable of an enclosing function; `holder` is its cell."""

    def now(self) -> Any:
        try:
            return self.holder.cell_contents
        except ValueError:  # deleted
            return MISSING


class Attribute(Place):
    """An attribute that an object has from its class."""

    def now(self) -> Any:
        return getattr(self.holder, self.key, MISSING)


def frozen(fn: Callable[..., Any]) -> list[Frozen]:
    """The numbers, flags and strings that `fn`, and the user's functions it calls, read by name."""
    found: dict[str, Frozen] = {}
    for function in functions(fn):
        for name, value, _ in reads(function, function.__code__):
            if isinstance(value, (bool, int, float, complex, str)):
                found.setdefault(name, Frozen(name, repr(value)))
    return list(found.values())


def names_of_arrays(fn: Callable[..., Any], arrays: Sequence[mx.array]) -> list[str]:
    """For each captured array the name by which `fn` reaches it, or ""."""
    found: dict[int, str] = {}
    for function in functions(fn):
        for name, value, _ in reads(function, function.__code__):
            for path, leaf in leaves(value, name, locate.NAMED_DEEP):
                if isinstance(leaf, mx.array):
                    found.setdefault(id(leaf), path)
    return [found.get(id(array), "") for array in arrays]


def functions(fn: Any, seen: dict[int, FunctionType] | None = None) -> list[FunctionType]:
    """The user's Python functions behind `fn`: itself, and those that it names, less `seen`."""
    return list(_functions(fn, {} if seen is None else seen))


def _functions(fn: Any, seen: dict[int, FunctionType]) -> Iterator[FunctionType]:
    plain = _plain(fn)
    if plain is None or id(plain) in seen or not locate.is_users(plain.__code__.co_filename):
        return
    seen[id(plain)] = plain
    yield plain
    for _, value, _ in reads(plain, plain.__code__):
        yield from _functions(value, seen)


def _plain(fn: Any) -> FunctionType | None:
    """The Python function of a method, a partial, a fused function, a module, a gradient."""
    for _ in range(8):
        if type(fn) is TRANSFORMED:  # first: it says that it is of its function's class
            fn = next((f for f in gc.get_referents(fn)[1:] if callable(f)), None)
        elif isinstance(fn, FunctionType):
            wrapped = getattr(fn, "__wrapped__", None)  # what zmlx calls in place of a partial
            if wrapped is None or locate.is_users(fn.__code__.co_filename):
                return fn
            fn = wrapped
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        elif isinstance(fn, functools.partial):
            fn = fn.func
        elif "__wrapped__" in getattr(fn, "__dict__", {}):
            fn = fn.__wrapped__
        elif isinstance(fn, nn.Module):
            fn = type(fn).__call__
        else:
            return None
    return None


def reads(function: FunctionType, code: CodeType) -> Iterator[tuple[str, Any, list[Place]]]:
    """What `code` reads from outside: names with their attributes and constant keys, values, and
    where these and all on the way to them stand.
    """
    name, value, key = "", MISSING, MISSING
    places: list[Place] = []
    for step in steps(code):
        held = _next(step, name, value, key)
        if held is None:
            if value is not MISSING:
                yield name, value, places
            name, value, places = "", MISSING, []
            if step.opname in READS:
                place = looked_up(function, step)
                value = MISSING if place is None else place.value
                name, places = (step.argval, [place]) if place is not None else ("", [])
            key = MISSING
        else:
            name, value, key, place = held
            places = places if place is None else [*places, place]
    if value is not MISSING:
        yield name, value, places
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from reads(function, constant)


@functools.lru_cache(maxsize=4096)
def steps(code: CodeType) -> tuple[dis.Instruction, ...]:
    return tuple(dis.get_instructions(code))


def _next(
    step: dis.Instruction, name: str, value: Any, key: Any
) -> tuple[str, Any, Any, Place | None] | None:
    """`name`, `value` and its place after an attribute or a constant key is taken, else None."""
    if value is MISSING:
        return None
    if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
        if isinstance(value, ModuleType) and value.__name__.partition(".")[0] in _CONSTANT:
            return None
        place = _attribute(value, step.argval)
        return None if place is None else (f"{name}.{step.argval}", place.value, MISSING, place)
    if step.opname == "LOAD_CONST" and key is MISSING and isinstance(step.argval, (str, int)):
        return name, value, step.argval, None
    taken = step.opname.startswith("BINARY_SUBSCR") or step.argrepr == "[]"
    if taken and key is not MISSING:
        try:
            inner = value[key]
        except (TypeError, LookupError):
            return None
        place = Place(value, key, inner) if isinstance(value, _KEEP) else None
        return f"{name}[{key!r}]", inner, MISSING, place
    return None


def _attribute(value: Any, name: str) -> Place | None:
    """Where an attribute lies: in a module, an object or its class; no property is run."""
    own = value.__mro__ if isinstance(value, type) else (value,)
    for holder in (*own, *type(value).__mro__):
        held = getattr(holder, "__dict__", {})
        if name in held:
            there = holder is value and isinstance(held, dict)
            return Place(held, name, held[name]) if there else Attribute(value, name, held[name])
    return Place(value, name, value[name]) if isinstance(value, dict) and name in value else None


def looked_up(function: FunctionType, step: dis.Instruction) -> Place | None:
    """Where what a name stands for is found, outside of the function."""
    if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
        held = function.__globals__
        return Place(held, step.argval, held[step.argval]) if step.argval in held else None
    free = function.__code__.co_freevars
    if step.argval not in free:  # a variable of the function itself, read by an inner one
        return None
    cell = (function.__closure__ or ())[free.index(step.argval)]
    try:
        return Variable(cell, step.argval, cell.cell_contents)
    except ValueError:  # not bound yet
        return None
