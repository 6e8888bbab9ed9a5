"""Asked: which gradients a function made by mx.grad or mx.value_and_grad gives, and of what.

Comes in: MLX's object, which tells nobody what it holds. Goes out: an Asked. It is called with
arguments that MLX refuses before it calls the function inside: what it says tells. zmlx.fuse.taken
asks.
"""

from __future__ import annotations

import dis
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import mlx.core as mx

from zmlx.trace.kinds import Kind, kind_of
from zmlx.trace.leaks import reached

_TAG = r"\[(value_and_grad|grad)\] Can't compute the gradient of "
_POSITION = re.compile(_TAG + r"argument index (\d+)")
_NAME = re.compile(_TAG + r"keyword argument '(.*)'")
_CLOSED = (Kind.FUNCTION, Kind.ROW, Kind.NUMBER, Kind.STATIC, Kind.SLICE)
_WRITES = ("STORE_GLOBAL", "DELETE_GLOBAL")
_NO_ARRAY = "[tree_flatten] The argument should contain only arrays"


@dataclass(frozen=True)
class Asked:
    """The arguments, by position and name, and whether the value is given as well."""

    positions: tuple[int, ...]
    names: tuple[str, ...]
    value: bool

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """MLX's gradient of another function by the same arguments."""
        make = mx.value_and_grad if self.value else mx.grad
        made: Callable[..., Any] = make(function, list(self.positions), list(self.names))
        return made


def asked(call: Callable[..., Any], target: Any, inner: Callable[..., Any]) -> Asked | None:
    """What `target` gives, a function of MLX's around `inner`; None where it is no gradient, or
    `inner` could run while it is asked. `call(target, ...)` calls it.
    """
    try:
        inspect.signature(inner).bind()
    except TypeError:
        pass
    except ValueError:
        return None
    else:
        return None

    def told(*args: Any, **kwargs: Any) -> str:
        try:
            call(target, *args, **kwargs)
        except ValueError as error:
            return str(error)
        except TypeError:
            return ""
        return ""

    first = told()
    found = _POSITION.match(first) or _NAME.match(first)
    if found is None:
        return None
    count = int(found[2]) + 1 if _POSITION.match(first) else 0
    names: list[str] = []
    empty: list[Any] = [[]] * count
    while (name := _NAME.match(told(*empty, **dict.fromkeys(names, [])))) and name[2] not in names:
        names.append(name[2])
    positions = []
    for i in range(count):
        given = [*empty[:i], ["no array"], *empty[i + 1 :]]
        positions += [i] if told(*given, **dict.fromkeys(names, [])) == _NO_ARRAY else []
    return Asked(tuple(positions), tuple(sorted(names)), found[1] == "value_and_grad")


def is_closed(function: Callable[..., Any]) -> bool:
    """Whether nothing that `function` reaches beside its arguments can be written, by it or others:
    what it does is the same at each call.
    """
    return all(map(_is_fixed, reached(function)))


def _is_fixed(value: Any) -> bool:
    if isinstance(value, type):
        root = (value.__module__ or "").partition(".")[0]
        return root in ("mlx", "zmlx") or root in sys.stdlib_module_names
    if isinstance(value, FunctionType):
        free = value.__code__.co_freevars
        return not any(
            one.opname in _WRITES or (one.opname == "STORE_DEREF" and one.argval in free)
            for one in dis.get_instructions(value.__code__)
        )
    return kind_of(value) in _CLOSED
