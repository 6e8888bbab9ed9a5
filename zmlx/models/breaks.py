"""Breaks: a module's call taken apart where a module below it is given objects: a cache, say.

Comes in: a module and the arguments of a call. Goes out: its result, computed by fused pieces of
the call and, between them, the calls below, which run in Python with the objects themselves. A
fused piece sees a Hole in the place of each object: one that is only handed on is never looked at.
zmlx.models.part calls it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, update_wrapper
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from zmlx.errors import CheckError, DeviceError, SanitizeError
from zmlx.trace.static import Constant

PLAIN_DATA = (mx.array, str, bytes, int, float, complex, bool, type(None), mx.Dtype, nn.Module)
_ASKED = """bool len getitem setitem contains call enter array int float index add radd
sub rsub mul rmul truediv rtruediv matmul rmatmul pow rpow neg lt le gt ge and rand or ror iadd
imul"""


class Touched(BaseException):
    """The call looked into an object that was to be handed on. Not for users' except clauses."""


class Hole(Constant):
    """In the place of argument `index`, an object of class `cls`."""

    __slots__ = ("index", "cls")

    def __init__(self, index: int, cls: Any) -> None:
        self.index, self.cls = index, cls

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what a trace asks of anything
            raise AttributeError(name)
        raise Touched(f"it reads {name!r} of a {self.cls.__name__}")

    @property
    def __class__(self) -> Any:  # isinstance tells what it stands for
        return self.cls

    @__class__.setter
    def __class__(self, cls: type) -> None:
        raise Touched(f"it sets the class of a {self.cls.__name__}")


def _asked(name: str) -> Callable[..., Any]:
    def method(self: Hole, *_: Any) -> Any:
        raise Touched(f"it asks a {self.cls.__name__} for its {name}")

    return method


for _name in _ASKED.split():
    setattr(Hole, f"__{_name}__", _asked(_name))


_holes: dict[tuple[int, Any], Hole] = {}


def hole(index: int, cls: Any) -> Hole:
    """The same for the same, as traces are made for it."""
    found = _holes.get((index, cls))
    if found is None:
        found = _holes.setdefault((index, cls), Hole(index, cls))
    return found


class Reached(BaseException):
    """The piece ends: `call` is the module below, and what it is given."""

    def __init__(self, call: tuple[Any, ...]) -> None:
        self.call = call


@dataclass
class _Break:
    """A piece that runs: what calls below have given so far, and which objects mark such calls."""

    results: list[Any]
    marks: set[int] = field(default_factory=set)  # ids; empty where holes mark them


_local = threading.local()


def answered(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any] | None:
    """Within a piece, what a call below with an object has given; None for any other call."""
    now: _Break | None = getattr(_local, "now", None)
    if now is None:
        return None
    given = (*args, *kwargs.values())
    if not any(type(a) is Hole or id(a) in now.marks for a in given):
        return None
    return [_next(now, module, args, kwargs)]


def _next(now: _Break, module: Any, args: Any, kwargs: Any) -> Any:
    if now.results:
        return now.results.pop(0)
    raise Reached((module, tuple(args), dict(kwargs)))


class _Stopping:
    """A module of such a class ends a piece when it is called, whatever it is given."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        now: _Break | None = getattr(_local, "now", None)
        if now is None:  # a call that a piece hands on runs when the classes are back
            raise RuntimeError("[zmlx.models] a module was called outside its piece")
        return _next(now, self, args, kwargs)


@cache
def _stopping(cls: Any) -> Any:
    return type(cls)(cls.__name__, (_Stopping, cls), {"__module__": cls.__module__})


@contextmanager
def stopping(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block a call of one of `modules` ends the piece that runs."""
    classes = [type(m) for m in modules]
    try:
        for module, cls in zip(modules, classes, strict=True):
            made: Any = cls  # mypy has no hash for a type
            object.__setattr__(module, "__class__", _stopping(made))
        yield
    finally:
        for module, cls in zip(modules, classes, strict=True):
            object.__setattr__(module, "__class__", cls)


@contextmanager
def _piece(now: _Break | None) -> Any:
    before = getattr(_local, "now", None)
    _local.now = now
    try:
        yield
    finally:
        _local.now = before


def outside(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A call that no piece around it takes apart."""
    before = getattr(_local, "now", None)
    if before is None:
        return call(*args, **kwargs)
    with _piece(None):
        return call(*args, **kwargs)


def piece_of(plain: Callable[..., Any]) -> Callable[..., Any]:
    """What is fused: (module, results so far, arguments) -> (whether it is done, value or call)."""

    def piece(module: Any, results: list[Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        return _run(plain, _Break(list(results)), module, args, kwargs)

    return update_wrapper(piece, plain, ("__name__", "__qualname__", "__module__"), ())


def _run(plain: Callable[..., Any], now: _Break, module: Any, args: Any, kwargs: Any) -> Any:
    """The call up to the next break; its own arguments are told by their places, not returned."""
    own = {id(a): _own(i) for i, a in enumerate((*args, *kwargs.values())) if _is_array(a)}
    try:
        with _piece(now):
            return True, plain(module, *args, **kwargs)
    except Reached as reached:
        below, given, named = reached.call
        found = [own.get(id(a), a) for a in given]
        called = _path(module, below)
        return False, (called, found, {name: own.get(id(a), a) for name, a in named.items()})


class _Own(Constant):
    """In a call below: argument `index` of the call itself."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class _Below(Constant):
    """A module below another one, by its path: told so, it costs nothing to find."""

    __slots__ = ("keys",)

    def __init__(self, keys: tuple[Any, ...]) -> None:
        self.keys = keys

    def found(self, module: Any) -> Any:
        for key in self.keys:
            module = module[key]
        return module


_own, _below = cache(_Own), cache(_Below)


def _path(module: nn.Module, below: nn.Module) -> Any:
    """Where a module is held; itself, where `module` does not hold it."""
    found = next((path for path, m in module.named_modules() if m is below), "")
    keys = tuple([int(key) if key.isdigit() else key for key in found.split(".")])
    try:
        return _below(keys) if _below(keys).found(module) is below else below
    except (KeyError, IndexError, TypeError):
        return below


def _is_array(value: Any) -> bool:
    return type(value) is not Hole and isinstance(value, mx.array)


def is_data(value: Any) -> bool:
    """Whether an argument is arrays and plain values all through."""
    if isinstance(value, PLAIN_DATA):
        return True
    if type(value) in (list, tuple):
        return all(is_data(item) for item in value)
    return type(value) is dict and all(is_data(item) for item in value.values())


class Given(NamedTuple):
    """A call's arguments, and the same with holes."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    holed: list[Any]
    named: dict[str, Any]

    @property
    def all(self) -> tuple[Any, ...]:
        return (*self.args, *self.kwargs.values())


def given(args: tuple[Any, ...], kwargs: dict[str, Any], arrays: bool) -> Given:
    """Holes for objects, with `arrays` also for all arrays but the first (masks, say)."""
    holed, first = [], True
    for index, value in enumerate((*args, *kwargs.values())):
        if type(value) is mx.array:
            handed_on, first = arrays and not first, False
        else:
            handed_on = value is not None and type(value) is not Hole and not is_data(value)
        holed.append(hole(index, type(value)) if handed_on else value)
    count = len(args)
    return Given(args, kwargs, holed[:count], dict(zip(kwargs, holed[count:], strict=True)))


def run(
    plain: Callable[..., Any],
    pieces: Callable[..., Any],
    module: Any,
    call: Given,
    refused: Callable[[BaseException], None] | None = None,
    lone: Collection[int] = (),
) -> Any:
    """The call, by fused pieces; those numbered in `lone` are plain Python, as nothing joins there.

    Where a later piece cannot be fused after all, MLX runs it and `refused` is told why: what the
    calls below did to their caches is not done again.

    Raises:
        Touched, TypeError and others: what the first piece cannot do, when nothing has happened
        yet; without `refused`, what any piece cannot do.
    """
    results: list[Any] = []
    while True:
        try:
            if len(results) in lone:
                done, value = _plainly(plain, module, results, call)
            else:
                done, value = pieces(module, results, call.holed, call.named)
        except (SanitizeError, CheckError, DeviceError):
            raise
        except (Exception, Touched) as error:
            if not results or refused is None:
                raise
            done, value = _plainly(plain, module, results, call)
            refused(error)
        if done:
            return value
        below, args, kwargs = value
        args = [_back(a, call) for a in args]
        kwargs = {name: _back(a, call) for name, a in kwargs.items()}
        if type(below) is _Below:
            below = below.found(module)
        results.append(outside(below, *args, **kwargs))


def _plainly(plain: Callable[..., Any], module: Any, results: list[Any], call: Given) -> Any:
    """A piece that Python runs, with the objects themselves."""
    holes = (*call.holed, *call.named.values())
    marks = {id(a) for a, h in zip(call.all, holes, strict=True) if type(h) is Hole}
    try:
        with _piece(_Break(list(results), marks)):
            return True, plain(module, *call.args, **call.kwargs)
    except Reached as reached:
        return False, reached.call


def _back(value: Any, call: Given) -> Any:
    kind = type(value)
    if kind is Hole or kind is _Own:
        return call.all[value.index]
    if kind is mx.array and not mx.issubdtype(value.dtype, mx.inexact):
        return mx.stop_gradient(value)  # MLX has no gradient of what is indexed with it
    return value
