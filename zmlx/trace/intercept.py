"""Interception: while a trace runs, MLX's functions report to the tracer of their thread.

The names on mlx.core and its submodules are replaced by wrappers that pass straight through for
other threads and for ZMLX itself. Compiled functions, gradients and custom functions are objects,
not names: their type's `__call__` is replaced, and so are the members of mx.array
(zmlx.trace.plain). Everything is restored when the last trace ends. Several threads may trace at
once: each has its own tracers, the names are shared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.trace import array_name, plain, reach
from zmlx.trace.recorders import current, paused, recorders
from zmlx.trace.wrappers import MethodWrapper, Wrapper, refuse_closures

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

__all__ = [
    "MODULES", "current", "depth", "name_on_module", "original", "paused",
    "recording", "show_everywhere", "show_places", "stand_in", "unwind",
]  # fmt: skip

_LOCK = threading.RLock()  # held while names are replaced, never while a user's function runs
_recorders: dict[int, list[Tracer | None]] = {}  # by thread: who records there, innermost last
_shown: list[reach.Place] = []  # places beside the names that hold wrappers now
_by_function: dict[int, tuple[Any, Any]] = {}  # MLX's own functions and their wrappers, by id
_complete: list[bool] = []  # holds something while all names are replaced
_installed: list[tuple[Any, str, Any]] = []
_made: dict[tuple[int, str], tuple[Any, Any]] = {}  # (owner, name) -> what was there, its wrapper

MODULES = {
    "": mx,
    **{f"{m}.": getattr(mx, m) for m in ("random", "fast", "linalg", "fft", "distributed")},
}
RULES = ("vjp", "jvp", "vmap")  # of a custom function
# Functions that neither take nor make arrays a trace would care about.
_PASS = {
    "default_device", "default_stream", "export_to_dot", "result_type",
    "issubdtype", "can_cast", "isdtype", "einsum_path", "grad",
    "value_and_grad", "compile", "checkpoint", "custom_function", "vmap", "synchronize",
    "metal_kernel", "cuda_kernel", "precompiled_cuda_kernel", "init", "is_available",
}  # fmt: skip


_KNOWN = {
    id(value): value
    for module in (mx, *[m for m in vars(mx).values() if isinstance(m, ModuleType)])
    for value in vars(module).values()
    if type(value) is reach.FUNCTION
}  # other functions of that type are kernels
_METHODS = {id(m): name for name, m in vars(mx.array).items() if type(m) is reach.METHOD}


class recording:
    """Within the block, calls on this thread go to `tracer`; None pauses recording.

    A class and no generator: an interrupted generator would be finished later, in another trace.
    """

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer

    def __enter__(self) -> None:
        stack = recorders()
        self._depth = len(stack)
        try:
            if not stack:
                _enter(stack)
            stack.append(self._tracer)
        except BaseException:
            _leave(stack, self._depth)
            raise

    def __exit__(self, *_: object) -> None:
        _leave(recorders(), self._depth)


def depth() -> int:
    """How deep recordings are nested on this thread."""
    return len(recorders())


def unwind(depth: int) -> None:
    """Go back to that depth, in case an interrupt kept a recording from ending itself."""
    while _LOCK._is_owned():  # type: ignore[attr-defined]  # an interrupt on the way out of `with`
        _LOCK.release()
    stack = recorders()
    if len(stack) > depth or not stack:
        _leave(stack, depth)


def stand_in(function: Any) -> Any:
    """What a trace calls in place of `function`, if it is one of MLX's own."""
    kind, made = type(function), _by_function.get(id(function))
    if made is None or made[0] is not function:
        made = None
        if kind is reach.FUNCTION and id(function) not in _KNOWN:
            made = _by_function[id(function)] = (function, Wrapper("kernel", function))
        elif kind is reach.METHOD and (name := _METHODS.get(id(function))) is not None:
            made = _by_function[id(function)] = (function, MethodWrapper(name, function))
    return function if made is None else made[1]


def _enter(stack: list[Tracer | None]) -> None:
    """This thread records from now on; the first one replaces MLX's names."""
    with _LOCK:
        _recorders[threading.get_ident()] = stack
        if not _complete:
            _restore()  # what an interrupted trace left
            _install()


def _leave(stack: list[Tracer | None], depth: int) -> None:
    del stack[depth:]
    if not stack:
        with _LOCK:
            for thread in [t for t, held in _recorders.items() if not held]:
                del _recorders[thread]
            if not _recorders:
                _restore()


def original(name: str) -> Callable[..., Any]:
    """MLX's own function behind `name` ("exp", "random.normal"), intercepted or not."""
    function = name_on_module(name)
    return getattr(function, "__zmlx_original__", function)


def name_on_module(name: str) -> Any:
    prefix, _, last = name.rpartition(".")
    return getattr(MODULES[prefix + "." if prefix else ""], last)


# -- installing -----------------------------------------------------------------------------------
def _install() -> None:
    """Replace MLX's names; `_complete` says afterwards that no interrupt came between."""
    for prefix, module in MODULES.items():
        named = dict(vars(module))
        for name, function in named.items():
            if name.startswith("_") or name in _PASS or isinstance(function, type):
                continue
            if callable(function):
                first: Any = getattr(function, "__name__", name)  # mx.empty is mx.zeros
                known = first if named.get(first) is function else name
                _replace(module, name, partial(Wrapper, f"{prefix}{known}"))
    for kind in (type(mx.compile(abs)), mx.custom_function):
        _replace(kind, "__call__", _wrap_object)
    for name in RULES:
        _replace(mx.custom_function, name, partial(_wrap_rule, name))
    for name, wrap in plain.wrappers():
        _replace(mx.array, name, wrap)
    array_name.show(current, stand_in)
    _show(reach.in_modules(stand_in))
    _complete.append(True)


def _replace(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    old = vars(owner).get(name)
    if old is None:
        return
    made = _made.get((id(owner), name))
    if made is None or made[0] is not old:
        made = _made[id(owner), name] = (old, wrap(old))
        _by_function[id(old)] = made
        if owner is mx.array:  # called as a function: mx.array.__add__(x, y)
            _by_function[id(made[1])] = (made[1], MethodWrapper(name, old))
    _installed.append((owner, name, old))
    setattr(owner, name, made[1])


def _show(places: Iterable[reach.Place]) -> None:
    for place in places:
        _shown.append(place)
        place.show()


def _restore() -> None:
    _complete.clear()
    array_name.hide()
    while _shown:
        _shown[-1].restore()
        _shown.pop()
    while _installed:
        owner, name, value = _installed[-1]
        setattr(owner, name, value)
        _installed.pop()


def show_places(places: Iterable[reach.Place]) -> None:
    """Put something into these places until the last trace ends; within a recording only."""
    with _LOCK:
        _show(places)


def show_everywhere(fn: Callable[..., Any] | None = None) -> None:
    """Put wrappers wherever memory refers to a function of MLX; within a recording only.

    With `fn` only into its closure and its defaults.
    """
    with _LOCK:
        if fn is not None:
            return _show(reach.of_function(fn, stand_in))
        own: list[Any] = [_made, _by_function, _KNOWN, _installed, _shown]
        own += [*_made.values(), *_by_function.values(), *_installed]
        _show(reach.in_memory(stand_in, {id(item) for item in own}))


# -- wrappers -------------------------------------------------------------------------------------
def _wrap_object(call: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(self: Any, *args: Any, **kwargs: Any) -> Any:
        tracer = current()
        if tracer is None:
            refuse_closures((args, kwargs))
            return call(self, *args, **kwargs)
        return tracer.call_object(call, self, args, kwargs)

    return intercepted


def _wrap_rule(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(self: Any, rule: Any) -> Any:
        tracer = current()
        if tracer is not None:
            tracer.state.rules.setdefault(id(self), (self, {}))[1][name] = rule
        return method(self, rule)

    return intercepted
