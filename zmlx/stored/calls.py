"""Calls: the functions that a trace has MLX run, by name.

Comes in: the `fn` of an OpaqueCall. Goes out: JSON that names a function of MLX, or one of ZMLX's
own little ones. Only what a traced function may call is written or read: no name reaches files,
devices or the process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import mlx.core as mx

from zmlx.errors import StoredError
from zmlx.ops.definitions import DEFINITIONS
from zmlx.ops.table import OPS
from zmlx.stored.values import Unwritable, read, written
from zmlx.trace import intercept, namespace, primitives, proxy, writes
from zmlx.trace.array_name import ARRAY
from zmlx.trace.calls import Flat, OnStream
from zmlx.trace.graph import OpaqueCall
from zmlx.trace.reach import FUNCTION, METHOD

# Of MLX's functions those that do more than compute arrays of arrays, or call back.
DENIED = {
    *("set_default_device", "device_count", "device_info", "set_default_stream", "new_stream"),
    *("new_thread_unsafe_stream", "new_thread_local_stream", "clear_streams", "stream"),
    *("get_active_memory", "get_array_buffer_size", "get_peak_memory", "reset_peak_memory"),
    *("get_cache_memory", "set_memory_limit", "get_memory_limit", "set_cache_limit"),
    *("set_wired_limit", "clear_cache", "save", "savez", "savez_compressed", "load"),
    *("save_safetensors", "save_gguf", "eval", "async_eval", "jvp", "vjp", "disable_compile"),
    *("enable_compile", "export_function", "import_function", "exporter", "set_printoptions"),
    *("get_printoptions", "printoptions", "from_dlpack", "random.seed"),
    *("distributed.send", "distributed.recv", "distributed.recv_like"),
}
_METHODS = {
    name: method
    for name, method in vars(mx.array).items()
    if type(method) is METHOD and (name == "__getitem__" or not name.startswith("__"))
    and name not in ("item", "tolist")
}  # fmt: skip
_DUNDERS = {
    name: method
    for name, method in vars(mx.array).items()
    if type(method) is METHOD and name in ("__matmul__", "__abs__", "__copy__")
}
_OWN: dict[str, Callable[..., Any]] = {
    "with_item": writes._with_item,
    "indexed": primitives._indexed,
    "array": ARRAY,
}
_PROPERTIES = ("real", "imag")


def functions() -> dict[str, Callable[..., Any]]:
    """MLX's functions that a stored function may call, by name."""
    found = {}
    for prefix, module in intercept.MODULES.items():
        for name in vars(module):
            full = prefix + name
            if name.startswith("_") or name in intercept._PASS or full in DENIED:
                continue
            function = intercept.original(full)
            if type(function) is FUNCTION:
                found[full] = function
    return found


def call_written(call: OpaqueCall, dtype: str) -> dict[str, Any]:
    """A call as JSON; `dtype` is that of its result. Raises Unwritable."""
    return {
        "fn": _fn_written(call.fn, call.label, dtype),
        "args": written(tuple(call.args)),
        "kwargs": written(dict(call.kwargs)),
        "label": call.label,
        "outputs": call.outputs,
        "defined": call.definition is not None,
    }


def call_read(text: dict[str, Any]) -> OpaqueCall:
    """The call; raises StoredError."""
    definition = DEFINITIONS.get(text["label"]) if text["defined"] else None
    fn, args, kwargs = _fn_read(text["fn"]), read(text["args"]), read(text["kwargs"])
    return OpaqueCall(fn, args, kwargs, text["label"], int(text["outputs"]), definition)


def _fn_written(fn: Any, label: str, dtype: str) -> list[Any]:
    fn = getattr(fn, "__zmlx_original__", fn)
    if type(fn) is Flat:
        return ["flat", _fn_written(fn.fn, label, dtype)]
    if type(fn) is OnStream:
        stream = fn.stream
        if isinstance(stream, (mx.Device, mx.DeviceType)):
            return ["on", written(stream), _fn_written(fn.fn, label, dtype)]
        raise Unwritable("a stream of its own; name a device (stream=mx.cpu) instead")
    for tag, known in (("mlx", functions()), ("method", {**_METHODS, **_DUNDERS}), ("own", _OWN)):
        for name, function in known.items():
            if function is fn:
                return [tag, name]
    return _closure_written(fn, label, dtype)


def _closure_written(fn: Any, label: str, dtype: str) -> list[Any]:
    """A function of ZMLX's that was made for one call."""
    made = getattr(fn, "__module__", ""), getattr(fn, "__qualname__", "")
    if made == (writes.__name__, "updater.<locals>.update"):
        return ["at", label.removeprefix("at.")]
    if made == (primitives.__name__, "_updating.<locals>.update"):
        return ["updated", label]
    if made == (proxy.__name__, "reader.<locals>.read") and label in _PROPERTIES:
        return ["property", label]
    if made == (namespace.__name__, "function.<locals>.<lambda>"):
        return ["row", "astype", dtype]
    if type(fn) is partial and fn.args == (namespace._MLX,) and label in OPS:
        return ["row", label, dtype]
    if type(fn) is FunctionType and fn.__closure__ is not None and made[0] == namespace.__name__:
        raise Unwritable(f"a call of {label}")
    raise Unwritable(f"a call of {label or 'Python'}, which runs Python at each call")


def _fn_read(text: list[Any]) -> Callable[..., Any]:
    tag, *rest = text
    if tag == "flat":
        return Flat(_fn_read(rest[0]))
    if tag == "on":
        return OnStream(_fn_read(rest[1]), read(rest[0]))
    found = _MAKERS[tag](rest) if tag in _MAKERS else None
    if found is None:
        raise StoredError(f"[zmlx.load] {text!r} is no function that a stored function may call.")
    return found


def _mlx(rest: list[Any]) -> Any:
    name = rest[0]
    allowed = type(name) is str and name in functions()
    return intercept.original(name) if allowed else None


def _row(rest: list[Any]) -> Any:
    name, dtype = rest
    return namespace.function(name, read(["dtype", dtype])) if name in OPS else None


def _at(rest: list[Any]) -> Any:
    known = ("add", "subtract", "multiply", "divide", "maximum", "minimum")
    return writes.updater(rest[0]) if rest[0] in known else None


def _updated(rest: list[Any]) -> Any:
    names = [*[f"at.{name}" for name in primitives._UPDATES], "setitem"]
    return primitives._updating(names.index(rest[0])) if rest[0] in names else None


_MAKERS: dict[str, Callable[[list[Any]], Any]] = {
    "mlx": _mlx,
    "method": lambda rest: {**_METHODS, **_DUNDERS}.get(rest[0]),
    "own": lambda rest: _OWN.get(rest[0]),
    "property": lambda rest: proxy.reader(rest[0]) if rest[0] in _PROPERTIES else None,
    "row": _row,
    "at": _at,
    "updated": _updated,
}
