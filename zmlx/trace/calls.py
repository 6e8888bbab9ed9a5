"""Calls that MLX runs: what is put around them, while tracing and in the graph. For the tracer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from zmlx.trace import intercept
from zmlx.trace.operands import arrays_in


class Flat:
    """`fn` with the arrays of what it returns in one flat list, in the order of arrays_in."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> list[mx.array]:
        return list(arrays_in(self.fn(*args, **kwargs)))


class OnStream:
    """`fn` run under the stream that was the default one where it was called."""

    def __init__(self, fn: Callable[..., Any], stream: mx.Stream) -> None:
        self.fn, self.stream = fn, stream

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with mx.stream(self.stream):
            return self.fn(*args, **kwargs)


def unwrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What the caller called, of an opaque call's `fn`."""
    while isinstance(fn, (Flat, OnStream)):
        fn = fn.fn
    return fn


_observers = threading.local()


@contextmanager
def observed_by(called: Callable[..., None]) -> Iterator[None]:
    """Within the block `called` is told of each opaque call that a trace of this thread records."""
    before = getattr(_observers, "called", None)
    _observers.called = called
    try:
        yield
    finally:
        _observers.called = before


def tell(call: Any, fn: Callable[..., Any], given: tuple[Any, dict[str, Any]], result: Any) -> None:
    """Tell the observer, if any, that `fn`, of the opaque `call`, gave `result` for `given`."""
    called = getattr(_observers, "called", None)
    if called is not None:
        args, kwargs = given
        with intercept.recording(None), keeping_random_state():
            called(call, lambda: fn(*args, **kwargs), list(arrays_in(given)), result)


def default_stream() -> mx.Stream:
    return mx.default_stream(mx.default_device())


def is_flat(result: Any) -> bool:
    """Whether `result` is one array or a list or tuple of nothing but arrays."""
    if isinstance(result, (list, tuple)):
        return all(isinstance(item, mx.array) for item in result)
    return isinstance(result, mx.array)


@contextmanager
def keeping_random_state() -> Iterator[Callable[[], bool]]:
    """Undo what draws inside an opaque call do to the random state; yields whether there were any.

    Within a transformation that traces the state itself it cannot be read, and moves on.
    """
    before = mx.random.state[0]
    try:
        yield lambda: mx.random.state[0] is not before
    finally:
        if mx.random.state[0] is not before:
            _restore_random_state(before)


def _restore_random_state(key: mx.array) -> None:
    try:
        high, low = key.tolist()
    except RuntimeError:
        return
    intercept.original("random.seed")((high << 32) | low)
