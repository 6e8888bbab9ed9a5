"""Wrappers: what stands before MLX's own functions while a trace runs.

zmlx.trace.intercept makes them and puts them there.

They are objects and no functions, since a function in a class would become a method, and equal to
what they stand for, so that a table of functions finds its entry.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from zmlx.trace import array_name, type_name
from zmlx.trace.recorders import current, paused

# Functions that need values, and those with effects that a graph does not hold.
_REFUSED = {
    "eval", "async_eval", "save", "savez", "save_safetensors", "save_gguf", "savez_compressed",
    "export_function", "exporter",
}  # fmt: skip
_EFFECTS = {"random.seed", "set_default_device", "set_default_stream"}
_STREAMS = {"stream": "enter", "new_stream": "make"}  # methods of zmlx.trace.calls.Streams
_CALLS_BACK = {"vjp", "jvp"}
_DRAWS_NOTHING = {"random.key", "random.split", "random.seed"}


class Wrapper:
    """MLX's `function`, for threads that do not record, and for ZMLX itself."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.__zmlx_original__ = function
        self._draws = name.startswith("random.") and name not in _DRAWS_NOTHING
        self._always = self._draws or name in _EFFECTS
        self._waits = name in _REFUSED or name in _CALLS_BACK  # for traced values

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tracer, name, function = current(), self.name, self.__zmlx_original__
        if tracer is None:
            refuse_closures((args, kwargs))
            return function(*args, **kwargs)
        if name in _STREAMS:
            return getattr(tracer.streams, _STREAMS[name])(*args, **kwargs)
        if name in _CALLS_BACK:
            return tracer.call_object(_called, function, args, kwargs)
        recorded = not self._waits and not array_name.by_zmlx(sys._getframe(1))
        if not (self._always or recorded or tracer.sees((args, kwargs))):
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
        return tracer.call(name, function, args, kwargs, self._draws)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__zmlx_original__, name)

    def __eq__(self, other: object) -> bool:
        return other is self or other is self.__zmlx_original__

    def __hash__(self) -> int:
        return hash(self.__zmlx_original__)

    def __repr__(self) -> str:
        return repr(self.__zmlx_original__)


class MethodWrapper(Wrapper):
    """A method of mx.array that is called as a function, the array its first argument."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tracer = current()
        if tracer is None or not tracer.sees((args, kwargs)):
            refuse_closures((args, kwargs))
            return self.__zmlx_original__(*args, **kwargs)
        if args and type(args[0]) in type_name.CLASSES and type(args[0]) is not array_name.ARRAY:
            return getattr(type(args[0]), self.name)(*args, **kwargs)
        return tracer.call(self.name.strip("_"), self.__zmlx_original__, args, kwargs)


def unwrapped(value: Any) -> Any:
    """MLX's own function where `value` is what a trace puts in its place."""
    return value.__zmlx_original__ if isinstance(value, Wrapper) else value


def _called(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def refuse_closures(tree: Any) -> None:
    """Raise where an opaque call reaches a traced value through a closure."""
    tracer = paused()
    if tracer is not None and tracer.sees(tree):
        tracer.refuse_closures(tree)
