"""Recorders: which tracer records on a thread. For zmlx.trace.intercept and its wrappers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

_thread = threading.local()


def recorders() -> list[Tracer | None]:
    """This thread's tracers, innermost last; None where recording pauses."""
    stack: list[Tracer | None] = _thread.__dict__.setdefault("stack", [])
    return stack


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
