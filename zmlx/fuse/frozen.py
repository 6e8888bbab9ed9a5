"""Frozen: what a function reads that is no argument, and is therefore fixed in its trace.

Comes in: a function. Goes out: the Python numbers that its code names (of closures, globals,
and attributes or keys of those), and names for the arrays that a trace captured.
zmlx.fuse.explain shows both.
"""

from __future__ import annotations

import dis
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from zmlx.trace import locate
from zmlx.trace.paths import leaves

_READS = ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
_CONSTANT = ("math", "mlx", "numpy", "cmath")  # modules whose numbers nobody changes
_MISSING: Any = object()
_TRANSFORMED = type(mx.grad(abs))  # of what mx.grad, mx.compile, mx.checkpoint return


@dataclass(frozen=True)
class Frozen:
    """A Python value that the function read by name: what it becomes later is not seen."""

    name: str
    value: str


def frozen(fn: Callable[..., Any]) -> list[Frozen]:
    """The numbers, flags and strings that `fn`, and the user's functions it calls, read by name."""
    found: dict[str, Frozen] = {}
    for function in _functions(fn, {}):
        for name, value in _reads(function, function.__code__):
            if isinstance(value, (bool, int, float, complex, str)):
                found.setdefault(name, Frozen(name, repr(value)))
    return list(found.values())


def names_of_arrays(fn: Callable[..., Any], arrays: Sequence[mx.array]) -> list[str]:
    """For each captured array the name by which `fn` reaches it, or ""."""
    found: dict[int, str] = {}
    for function in _functions(fn, {}):
        for name, value in _reads(function, function.__code__):
            for path, leaf in leaves(value, name, locate.NAMED_DEEP):
                if isinstance(leaf, mx.array):
                    found.setdefault(id(leaf), path)
    return [found.get(id(array), "") for array in arrays]


def _functions(fn: Any, seen: dict[int, FunctionType]) -> Iterator[FunctionType]:
    """The user's Python functions behind `fn`: itself, and those that it names."""
    plain = _plain(fn)
    if plain is None or id(plain) in seen or not locate.is_users(plain.__code__.co_filename):
        return
    seen[id(plain)] = plain
    yield plain
    for _, value in _reads(plain, plain.__code__):
        yield from _functions(value, seen)


def _plain(fn: Any) -> FunctionType | None:
    """The Python function of a method, a partial, a fused function, a module, a gradient."""
    for _ in range(8):
        if type(fn) is _TRANSFORMED:  # first: it says that it is of its function's class
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


def _reads(function: FunctionType, code: CodeType) -> Iterator[tuple[str, Any]]:
    """What `code` reads from outside: names with their attributes and constant keys, and values."""
    name, value, key = "", _MISSING, _MISSING
    for step in dis.get_instructions(code):
        held = _step(step, name, value, key)
        if held is None:
            if value is not _MISSING:
                yield name, value
            name, value = "", _MISSING
            if step.opname in _READS:
                value = _looked_up(function, step)
                name = step.argval if value is not _MISSING else ""
            key = _MISSING
        else:
            name, value, key = held
    if value is not _MISSING:
        yield name, value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _reads(function, constant)


def _step(step: dis.Instruction, name: str, value: Any, key: Any) -> tuple[str, Any, Any] | None:
    """`name` and `value` after an attribute or a constant key is taken of them, else None."""
    if value is _MISSING:
        return None
    if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
        if isinstance(value, ModuleType) and value.__name__.partition(".")[0] in _CONSTANT:
            return None
        inner = _attribute(value, step.argval)
        return None if inner is _MISSING else (f"{name}.{step.argval}", inner, _MISSING)
    if step.opname == "LOAD_CONST" and key is _MISSING and isinstance(step.argval, (str, int)):
        return name, value, step.argval
    taken = step.opname.startswith("BINARY_SUBSCR") or step.argrepr == "[]"
    if taken and key is not _MISSING:
        try:
            return f"{name}[{key!r}]", value[key], _MISSING
        except (TypeError, LookupError):
            return None
    return None


def _attribute(value: Any, name: str) -> Any:
    """An attribute that lies in a module, an object or its class; no property is run."""
    for holder in (value, *type(value).__mro__):
        held = getattr(holder, "__dict__", {})
        if name in held:
            return held[name]
    return value[name] if isinstance(value, dict) and name in value else _MISSING


def _looked_up(function: FunctionType, step: dis.Instruction) -> Any:
    """What a name stands for outside of the function now."""
    if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
        return function.__globals__.get(step.argval, _MISSING)
    free = function.__code__.co_freevars
    if step.argval not in free:  # a variable of the function itself, read by an inner one
        return _MISSING
    try:
        return (function.__closure__ or ())[free.index(step.argval)].cell_contents
    except ValueError:  # not bound yet
        return _MISSING
