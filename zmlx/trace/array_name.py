"""The name mx.array while a trace runs: what a user's code on the tracing thread finds there.

`mx.array` is a class that cannot be told to record its calls, so that the name gives a stand-in
for it, Array: it answers isinstance, issubclass and == as mx.array does, has its attributes, and
records when it is called. Other threads, MLX's own transformations and ZMLX itself go on finding
the class. zmlx.trace.intercept shows and hides it.
"""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.trace import type_name
from zmlx.trace.operands import arrays_in
from zmlx.trace.stands_for import StandsFor
from zmlx.trace.type_name import CLASSES

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

ARRAY = mx.array
_METHODS_TOO = sys.version_info >= (3, 12)  # LOAD_ATTR does what LOAD_METHOD did
_current: list[Callable[[], Tracer | None]] = []
_stand_in: list[Callable[[Any], Any]] = []


def show(current: Callable[[], Tracer | None], stand_in: Callable[[Any], Any]) -> None:
    """From now on the name gives Array where `current` knows a tracer.

    Methods that are called through it are what `stand_in` makes of them.
    """
    _current[:], _stand_in[:] = [current], [stand_in]
    mx.__class__ = _Module


def hide() -> None:
    mx.__class__ = types.ModuleType


def by_zmlx(frame: FrameType) -> bool:
    """Whether ZMLX's own code runs in `frame`: what it makes for itself is no part of a trace."""
    name = frame.f_globals.get("__name__") or ""
    return name.startswith("zmlx.") and not name.startswith("zmlx.demo")


class _Module(types.ModuleType):
    """mlx.core, whose name `array` depends on who asks."""

    @property
    def array(self) -> type:
        caller = sys._getframe(1)
        tracer = _current[0]()
        if tracer is None or by_zmlx(caller):
            return ARRAY
        if _tested_by_is(caller):
            if _of_class_attribute(caller) or type_name.is_shown(caller):
                return ARRAY
            raise tracer.refuse(
                "`type(x) is mx.array` is False for a traced array.",
                "Write isinstance(x, mx.array).",
            )
        return Array


def _tested_by_is(frame: FrameType) -> bool:
    """Whether the value that `frame` asks for is a side of `is` or `is not`."""
    steps = [s for s in dis.get_instructions(frame.f_code) if s.offset >= frame.f_lasti]
    if steps[0].opname == "LOAD_METHOD" or (_METHODS_TOO and (steps[0].arg or 0) & 1):
        return False  # it is called
    depth = 1  # how far above the top of the stack the value lies
    for step in steps[1:]:
        if step.opname == "IS_OP" and depth <= 2:
            return True
        argument = step.arg if step.opcode >= dis.HAVE_ARGUMENT else None
        depth += dis.stack_effect(step.opcode, argument, jump=False)
        if depth < 2:
            return False
    return False


def _of_class_attribute(frame: FrameType) -> bool:
    """Whether its left side is `x.__class__`, which is mx.array for a traced array too."""
    steps = [s for s in dis.get_instructions(frame.f_code) if s.offset < frame.f_lasti]
    return any(step.argval == "__class__" for step in steps[-3:])


def _called(*args: Any, **kwargs: Any) -> Any:
    tracer = _current[0]()
    return ARRAY(*args, **kwargs) if tracer is None else _made(tracer, args, kwargs)


def _made(tracer: Tracer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `mx.array(*args, **kwargs)` records."""
    value = args[0] if args else kwargs.get("val")
    if not tracer.sees((args, kwargs)) and next(arrays_in(value), None) is None:
        return tracer.constant(ARRAY(*args, **kwargs))
    if len(args) + len(kwargs) == 1 and tracer.sees(value) and isinstance(value, ARRAY):
        return tracer.alias(value)
    return tracer.opaque("array", ARRAY, args, kwargs, named=True)


class Array(
    metaclass=StandsFor, real=ARRAY, call=_called, alike=CLASSES,
    attribute=lambda value: _stand_in[0](value),
):  # fmt: skip
    """What the name mx.array gives to a traced function."""
