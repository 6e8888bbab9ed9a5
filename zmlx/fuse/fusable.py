"""What `fuse` takes: refused with words at once, where a call would fail later or give nonsense.

Comes in: what a user decorates, and how. Goes out: nothing, or a TypeError that tells the way out.
zmlx.fuse and zmlx.fuse.api call it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

_NEEDLESS = "new sizes need no new kernel, so leave it out"
_KINDS = (
    (inspect.iscoroutinefunction, "an async function", "what it awaits"),
    (inspect.isasyncgenfunction, "an async generator function", "what it yields"),
    (inspect.isgeneratorfunction, "a generator function", "what it yields"),
)


def check(fn: Any) -> None:
    """TypeError for what is no function of arrays that returns its results."""
    if inspect.isclass(fn):
        raise TypeError(
            f"[zmlx.fuse] fn is the class {fn.__qualname__}, and calling it makes an object. Fuse "
            f"an object, zmlx.fuse({fn.__name__}(...)), or put @zmlx.fuse above its __call__."
        )
    if not callable(fn):
        raise TypeError(
            f"[zmlx.fuse] fn is a {type(fn).__name__}; wanted a function, method or nn.Module. "
            'Options go by name: @zmlx.fuse(numerics="mlx").'
        )
    for holds, kind, what in _KINDS:
        if holds(fn) or holds(type(fn).__call__):
            name = getattr(fn, "__qualname__", type(fn).__qualname__)
            raise TypeError(
                f"[zmlx.fuse] fn is {kind} ({name}), which runs piece by piece; a trace runs a "
                f"function once, whole. Fuse a plain function that computes {what}, and call it "
                "there."
            )


def check_call(more: tuple[Any, ...], options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """TypeError for arguments of mx.compile that `fuse` takes otherwise, or not at all."""
    if more:
        raise TypeError(
            f"[zmlx.fuse] {1 + len(more)} arguments by position; wanted one, the function. State "
            "goes by name: zmlx.fuse(f, inputs=state, outputs=state)."
        )
    for name in options:
        if name not in known:
            way = _NEEDLESS if name == "shapeless" else f"wanted {', '.join([*known][1:])}"
            raise TypeError(f"[zmlx.fuse] fuse has no option {name!r}: {way}.")
