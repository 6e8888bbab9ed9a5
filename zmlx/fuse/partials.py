"""Partials: a functools.partial as a function of itself, so that what it holds is an argument.

Comes in: the partial that `zmlx.fuse` was given. Goes out: a function whose first argument is the
partial: its arrays are then inputs, what it holds is read at every call, and what the function
writes into that is written at every call. zmlx.fuse.api is the caller.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def applied(fn: functools.partial[Any]) -> Callable[..., Any]:
    """The function that calls the partial, which it gets first."""

    def call(bound: Any, /, *args: Any, **kwargs: Any) -> Any:
        return bound(*args, **kwargs)

    target = getattr(fn.func, "__func__", fn.func)
    functools.update_wrapper(call, target, updated=())
    call.__signature__ = _signature(fn)  # type: ignore[attr-defined]
    return call


def _signature(fn: functools.partial[Any]) -> inspect.Signature:
    """The parameters that the partial leaves open, after itself."""
    first = inspect.Parameter("partial", inspect.Parameter.POSITIONAL_ONLY)
    try:
        left = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # a C function
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names = ("args", "kwargs")
        left = [inspect.Parameter(n, kind) for n, kind in zip(names, kinds, strict=True)]
    return inspect.Signature([first, *left])
