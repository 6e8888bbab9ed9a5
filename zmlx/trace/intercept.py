"""Interception: while a trace runs, MLX's functions report to the tracer of their thread.

The names on mlx.core and its submodules are replaced by wrappers that pass straight through for
other threads and for calls without proxies. Compiled functions, gradients and custom functions are
objects, not names: their type's `__call__` is replaced. Everything is restored when the last trace
ends; one lock lets one thread trace at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.errors import TraceError

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

LOCK = threading.RLock()
_thread = threading.local()
_installed: list[tuple[Any, str, Any]] = []

MODULES = {"": mx, "random.": mx.random, "fast.": mx.fast, "linalg.": mx.linalg, "fft.": mx.fft}
# Functions that neither take nor make arrays a trace would care about.
_PASS = {
    "array", "stream", "default_device", "default_stream", "set_default_device", "new_stream",
    "set_default_stream", "export_to_dot", "broadcast_shapes", "result_type", "issubdtype", "can_cast",
    "isdtype", "einsum_path", "grad", "value_and_grad", "compile", "checkpoint", "custom_function",
    "vmap", "synchronize", "metal_kernel", "cuda_kernel", "precompiled_cuda_kernel",
}  # fmt: skip
_REFUSED = {
    "eval": "mx.eval", "async_eval": "mx.async_eval", "save": "mx.save", "savez": "mx.savez",
    "save_safetensors": "mx.save_safetensors", "save_gguf": "mx.save_gguf",
    "savez_compressed": "mx.savez_compressed", "random.seed": "mx.random.seed", "export_function": "mx.export_function",
}  # fmt: skip
_IN_PLACE = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor",
             "lshift", "rshift")  # fmt: skip


def current() -> Tracer | None:
    """The tracer that records on this thread, if any (a paused tracer does not record)."""
    stack = getattr(_thread, "stack", None)
    return stack[-1] if stack else None


@contextmanager
def recording(tracer: Tracer | None) -> Iterator[None]:
    """Within the block, calls on this thread go to `tracer`; None pauses recording."""
    with LOCK:
        stack = _thread.__dict__.setdefault("stack", [])
        if not _installed:
            _install()
        stack.append(tracer)
        try:
            yield
        finally:
            stack.pop()
            if not stack:
                _restore()


def original(name: str) -> Callable[..., Any]:
    """MLX's own function behind `name` ("exp", "random.normal"), intercepted or not."""
    function = name_on_module(name)
    return getattr(function, "__zmlx_original__", function)


def name_on_module(name: str) -> Any:
    prefix, _, last = name.rpartition(".")
    return getattr(MODULES[prefix + "." if prefix else ""], last)


def _install() -> None:
    for prefix, module in MODULES.items():
        for name in dir(module):
            function = getattr(module, name)
            if name.startswith("_") or name in _PASS or isinstance(function, type):
                continue
            if callable(function):
                _replace(module, name, _wrap(prefix + name, function))
    for kind in (type(mx.compile(abs)), mx.custom_function):
        _replace(kind, "__call__", _wrap_object(kind.__call__))
    for op in _IN_PLACE:
        name = f"__i{op}__"
        if hasattr(mx.array, name):
            _replace(mx.array, name, _wrap_in_place(getattr(mx.array, name)))
    _replace(mx.array, "__setitem__", _wrap_set_item(mx.array.__setitem__))


def _replace(owner: Any, name: str, replacement: Any) -> None:
    _installed.append((owner, name, getattr(owner, name)))
    setattr(owner, name, replacement)


def _restore() -> None:
    while _installed:
        owner, name, value = _installed.pop()
        setattr(owner, name, value)


def _wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    random = name.startswith("random.") and name not in ("random.key", "random.split")

    @wraps(function, assigned=("__name__", "__doc__"), updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        tracer = current()
        if tracer is None or not (random or tracer.sees((args, kwargs))):
            return function(*args, **kwargs)
        if name in _REFUSED:
            raise TraceError(
                tracer.message(
                    f"{_REFUSED[name]} needs values, which a trace has not.", "Call it outside."
                )
            )
        return tracer.call(name, function, args, kwargs)

    call.__zmlx_original__ = function  # type: ignore[attr-defined]
    return call


def _wrap_object(call: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(self: Any, *args: Any, **kwargs: Any) -> Any:
        tracer = current()
        if tracer is None or not tracer.sees((args, kwargs)):
            return call(self, *args, **kwargs)
        return tracer.call_object(self, args, kwargs)

    return intercepted


def _wrap_in_place(method: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(self: mx.array, other: Any) -> Any:
        tracer = current()
        if tracer is not None and tracer.sees(other):
            return NotImplemented  # Python then asks the proxy, which records
        return method(self, other)

    return intercepted


def _wrap_set_item(method: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(self: mx.array, index: Any, value: Any) -> None:
        tracer = current()
        if tracer is not None and tracer.sees((index, value)):
            raise TraceError(
                tracer.message(
                    "a captured array is written in place with a traced value.",
                    "Pass the array as an argument, or build the result with mx.where or x.at[...].",
                )
            )
        method(self, index, value)

    return intercepted
