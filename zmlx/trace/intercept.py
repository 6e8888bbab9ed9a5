"""Interception: while a trace runs, MLX's functions report to the tracer of their thread.

The names on mlx.core and its submodules are replaced by wrappers that pass straight through for
other threads and for calls without traced values. Compiled functions, gradients and custom
functions are objects, not names: their type's `__call__` is replaced, and so are the methods of
mx.array that a captured array meets traced values in. Everything is restored when the last trace
ends. Several threads may trace at once: each has its own tracers, the names are shared.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.ops.table import OPS
from zmlx.trace import array_name

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

_LOCK = threading.RLock()  # held while names are replaced, never while a user's function runs
_thread = threading.local()
_recorders: dict[int, list[Tracer | None]] = {}  # by thread: who records there, innermost last
_by_function: dict[int, tuple[Any, Any]] = {}  # MLX's own functions and their wrappers, by id
_complete: list[bool] = []  # holds something while all names are replaced
_installed: list[tuple[Any, str, Any]] = []
_made: dict[tuple[int, str], tuple[Any, Any]] = {}  # (owner, name) -> what was there, its wrapper

MODULES = {
    "": mx,
    **{f"{m}.": getattr(mx, m) for m in ("random", "fast", "linalg", "fft", "distributed")},
}
# Functions that neither take nor make arrays a trace would care about.
_PASS = {
    "default_device", "default_stream", "export_to_dot", "result_type",
    "issubdtype", "can_cast", "isdtype", "einsum_path", "grad",
    "value_and_grad", "compile", "checkpoint", "custom_function", "vmap", "synchronize",
    "metal_kernel", "cuda_kernel", "precompiled_cuda_kernel", "init", "is_available",
}  # fmt: skip
# Functions that need values, and those with effects that a graph does not hold.
_REFUSED = {
    "eval", "async_eval", "save", "savez", "save_safetensors", "save_gguf", "savez_compressed",
    "export_function", "exporter",
}  # fmt: skip
_EFFECTS = {"random.seed", "set_default_device", "set_default_stream"}
_STREAMS = {"stream": "enter", "new_stream": "make"}  # methods of zmlx.trace.calls.Streams
_CALLS_BACK = {"vjp", "jvp"}
_DRAWS_NOTHING = {"random.key", "random.split", "random.seed"}
# Functions that make arrays: recorded without traced arguments too, so that each call has its own.
_CREATES = {
    "array", "asarray", "zeros", "ones", "full", "empty", "arange", "eye", "tri", "linspace",
    "identity", "zeros_like", "ones_like", "full_like", "empty_like", "hanning", "hamming",
    "blackman", "bartlett", "fft.fftfreq", "fft.rfftfreq", "random.key",
}  # fmt: skip
_IN_PLACE = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor",
             "lshift", "rshift")  # fmt: skip


def current() -> Tracer | None:
    """The tracer that records on this thread, if any (a paused tracer does not record)."""
    stack = getattr(_thread, "stack", None)
    return stack[-1] if stack else None


def paused() -> Tracer | None:
    """The tracer that waits on this thread while MLX runs an opaque call, if any."""
    stack = getattr(_thread, "stack", None)
    if not stack or stack[-1] is not None:
        return None
    return next((tracer for tracer in reversed(stack) if tracer is not None), None)


class recording:
    """Within the block, calls on this thread go to `tracer`; None pauses recording.

    A class and no generator: an interrupted generator would be finished later, in another trace.
    """

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer

    def __enter__(self) -> None:
        stack = _thread.__dict__.setdefault("stack", [])
        self._depth = len(stack)
        try:
            if not stack:
                _enter(stack)
            stack.append(self._tracer)
        except BaseException:
            _leave(stack, self._depth)
            raise

    def __exit__(self, *_: object) -> None:
        _leave(_thread.stack, self._depth)


def depth() -> int:
    """How deep recordings are nested on this thread."""
    return len(getattr(_thread, "stack", ()))


def unwind(depth: int) -> None:
    """Go back to that depth, in case an interrupt kept a recording from ending itself."""
    while _LOCK._is_owned():  # type: ignore[attr-defined]  # an interrupt on the way out of `with`
        _LOCK.release()
    stack = getattr(_thread, "stack", None)
    if stack is not None and (len(stack) > depth or not stack):
        _leave(stack, depth)


def others_trace() -> bool:
    """Whether another thread traces now."""
    return len(_recorders) > (depth() > 0)


def elsewhere(tracer: Tracer) -> bool:
    """Whether `tracer` belongs to a trace of another thread that still runs."""
    return not tracer.finished and tracer not in getattr(_thread, "stack", ())


def stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a trace calls in place of `function`, which may be MLX's own."""
    made = _by_function.get(id(function))
    return made[1] if made is not None and made[0] is function else function


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
        for name, function in list(vars(module).items()):
            if name.startswith("_") or name in _PASS or isinstance(function, type):
                continue
            if callable(function):
                _replace(module, name, partial(_wrap, prefix + name))
    for kind in (type(mx.compile(abs)), mx.custom_function):
        _replace(kind, "__call__", _wrap_object)
    for op in _IN_PLACE:
        _replace(mx.array, f"__i{op}__", _wrap_in_place)
    for spec in OPS.values():
        if spec.dunder and spec.arity == 2:
            _replace(mx.array, f"__{spec.dunder}__", partial(_wrap_binary, spec.name))
    _replace(mx.array, "__getitem__", _wrap_get_item)
    _replace(mx.array, "__setitem__", _wrap_set_item)
    _replace(mx.array, "at", _wrap_at)
    array_name.show(current)
    _complete.append(True)


def _replace(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    old = vars(owner).get(name)
    if old is None:
        return
    made = _made.get((id(owner), name))
    if made is None or made[0] is not old:
        made = _made[id(owner), name] = (old, wrap(old))
        _by_function[id(old)] = made
    _installed.append((owner, name, old))
    setattr(owner, name, made[1])


def _restore() -> None:
    _complete.clear()
    array_name.hide()
    while _installed:
        owner, name, value = _installed[-1]
        setattr(owner, name, value)
        _installed.pop()


# -- wrappers -------------------------------------------------------------------------------------
def _wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    draws = name.startswith("random.") and name not in _DRAWS_NOTHING
    always = draws or name in _EFFECTS
    creates = name in _CREATES

    @wraps(function, assigned=("__name__", "__doc__"), updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        tracer = current()
        if tracer is None:
            _refuse_closures((args, kwargs))
            return function(*args, **kwargs)
        if name in _STREAMS:
            return getattr(tracer.streams, _STREAMS[name])(*args, **kwargs)
        made = creates and not array_name.by_zmlx(sys._getframe(1))
        if not (always or made) and not tracer.sees((args, kwargs)):
            with recording(None) if name in _CALLS_BACK else nullcontext():
                return function(*args, **kwargs)
        if name in _REFUSED:
            if not tracer.varies((args, kwargs)):
                return tracer.plainly(function, args, kwargs)
            raise tracer.refuse(
                f"mx.{name} needs values, which a trace has not.", "Call it outside."
            )
        if name in _EFFECTS:
            raise tracer.refuse(
                f"mx.{name} has an effect that happens at no later call.", "Call it outside."
            )
        return tracer.call(name, function, args, kwargs, draws)

    call.__zmlx_original__ = function  # type: ignore[attr-defined]
    return call


def _refuse_closures(tree: Any) -> None:
    """Raise where an opaque call reaches a traced value through a closure."""
    tracer = paused()
    if tracer is not None and tracer.sees(tree):
        tracer.refuse_closures(tree)


def _wrap_object(call: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(self: Any, *args: Any, **kwargs: Any) -> Any:
        tracer = current()
        if tracer is None:
            _refuse_closures((args, kwargs))
            return call(self, *args, **kwargs)
        return tracer.call_object(call, self, args, kwargs)

    return intercepted


def _wrap_binary(op: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(self: mx.array, other: Any) -> Any:
        beside = getattr(type(other), "beside", None)  # a ScalarProxy; other arrays come first
        if beside is None or not (current() or paused()):
            return method(self, other)
        return other.beside(op, (self, other))

    return intercepted


def _wrap_in_place(method: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(self: mx.array, other: Any) -> Any:
        tracer = current()
        if tracer is None:
            _refuse_closures(other)
            return method(self, other)
        if tracer.sees(other):
            return NotImplemented  # Python then asks the proxy, which records
        tracer.forget(self)
        return method(self, other)

    return intercepted


def _wrap_get_item(method: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(self: mx.array, index: Any) -> Any:
        tracer = current()
        if tracer is None:
            _refuse_closures(index)
            return method(self, index)
        if not tracer.sees(index):
            return method(self, index)
        return tracer.method("getitem", method, (self, index), {})

    return intercepted


def _wrap_set_item(method: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(self: mx.array, index: Any, value: Any) -> None:
        tracer = current()
        if tracer is None:
            _refuse_closures((index, value))
        elif tracer.sees((index, value)):
            raise tracer.refuse(
                "an array that is no argument is written in place with a traced value.",
                "Pass it as an argument, or build the result with mx.where, mx.stack or x.at[...].",
            )
        else:
            tracer.forget(self)
        method(self, index, value)

    return intercepted


def _wrap_at(original_at: property) -> property:
    def at(self: mx.array) -> Any:
        tracer = current()
        get: Callable[[mx.array], Any] = original_at.fget  # type: ignore[assignment]
        return get(self) if tracer is None else tracer.at(self)

    return property(at)
