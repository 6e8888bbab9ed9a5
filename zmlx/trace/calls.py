"""Calls that MLX runs: what is put around them, while tracing and in the graph. For the tracer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import mlx.core as mx

from zmlx.ops.definitions import DEFINITIONS
from zmlx.trace import intercept
from zmlx.trace.endings import random_state
from zmlx.trace.graph import OpaqueCall
from zmlx.trace.operands import arrays_in


def made_of_mlx(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, which only calls functions of MLX, of its operands and nothing else."""
    vars(fn)["__zmlx_made_of_mlx__"] = True
    return fn


def is_made_of_mlx(fn: Any) -> bool:
    return type(fn) is FunctionType and "__zmlx_made_of_mlx__" in vars(fn)


class Around:
    """What is put around a function that MLX runs."""

    fn: Callable[..., Any]


class Flat(Around):
    """`fn` with the arrays of what it returns in one flat list, in the order of arrays_in."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> list[mx.array]:
        return list(arrays_in(self.fn(*args, **kwargs)))


class OnStream(Around):
    """`fn` run under the stream that was the default one where it was called.

    `stream` is what the user entered: a device's default stream and a thread-local one are those
    of the thread that calls, and a stream made by the function is made again there.
    """

    def __init__(self, fn: Callable[..., Any], stream: Any) -> None:
        self.fn, self.stream = fn, stream

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        stream = self.stream
        enter = intercept.original("stream")
        with enter(stream.here() if type(stream) is MadeStream else stream):
            return self.fn(*args, **kwargs)


def keyed(draw: Callable[..., Any]) -> Callable[..., Any]:
    """`draw`, a function of mx.random, with a key of its own: the random state does not move."""

    def example(*args: Any, **kwargs: Any) -> Any:
        try:
            return draw(*args, **{**kwargs, "key": mx.random.key(0)})
        except TypeError:  # the key came by position
            return draw(*args, **kwargs)

    return example


def opaque(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    label: str,
    outputs: int,
    named: bool,
) -> OpaqueCall:
    """A call, with its definition if `fn` is MLX's own of the name `label`."""
    own = named and not isinstance(fn, Around)
    definition = DEFINITIONS.get(label) if own else None
    return OpaqueCall(fn, args, kwargs, label, outputs, definition)


def unwrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What the caller called, of an opaque call's `fn`."""
    while isinstance(fn, Around):
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


class MadeStream(threading.local):
    """A stream that the traced function made: one for each thread that calls it."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.stream: mx.Stream | None = None

    def here(self) -> mx.Stream:
        if self.stream is None:
            self.stream = intercept.original("new_stream")(self.device)
        return self.stream


class Streams:
    """The streams that a traced function makes and enters."""

    def __init__(self) -> None:
        self.first = default_stream()
        self._defaults = [mx.default_stream(kind) for kind in _device_kinds()]
        self._made: list[tuple[mx.Stream, MadeStream]] = []
        self._entered: list[tuple[mx.Stream, Any]] = []

    def elsewhere(self) -> bool:
        """Whether a call made now would run on another stream than the function's first one."""
        return default_stream() != self.first

    def make(self, device: Any) -> mx.Stream:
        stream: mx.Stream = intercept.original("new_stream")(device)
        self._made.append((stream, MadeStream(device)))
        return stream

    def enter(self, s: Any) -> Entered:
        """The context manager of `with mx.stream(s)`."""
        return Entered(self._entered, s, self.anywhere(s))

    def placed(self, fn: Callable[..., Any], kwargs: dict[str, Any]) -> Callable[..., Any]:
        """`fn` as it runs where it is called now; a stream among its `kwargs` is taken out."""
        if self.elsewhere():
            fn = OnStream(fn, self.current())
        if isinstance(kwargs.get("stream"), mx.Stream):
            fn = OnStream(fn, self.anywhere(kwargs.pop("stream")))
        return fn

    def current(self) -> Any:
        """What OnStream enters to run on the stream that is now the default one."""
        now = default_stream()
        entered = [what for stream, what in self._entered if stream == now]
        return entered[-1] if entered else self.anywhere(now)

    def anywhere(self, stream: Any) -> Any:
        """`stream` as any thread can enter it."""
        if not isinstance(stream, mx.Stream):
            return stream
        made = [again for one, again in self._made if one == stream]
        return made[-1] if made else stream.device if stream in self._defaults else stream


class Entered:
    """`with mx.stream(...)` in a traced function, noted as what the user wrote."""

    def __init__(self, entered: list[tuple[mx.Stream, Any]], what: Any, anywhere: Any) -> None:
        self._entered, self._anywhere = entered, anywhere
        self._context = intercept.original("stream")(what)

    def __enter__(self) -> None:
        self._context.__enter__()
        self._entered.append((default_stream(), self._anywhere))

    def __exit__(self, *error: Any) -> Any:
        self._entered.pop()
        return self._context.__exit__(*error)


def default_stream() -> mx.Stream:
    return mx.default_stream(mx.default_device())


def _device_kinds() -> list[Any]:
    return [kind for kind in (mx.cpu, mx.gpu) if mx.is_available(kind)]


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
    before = random_state()[0]
    try:
        yield lambda: random_state()[0] is not before
    finally:
        if random_state()[0] is not before:
            _restore_random_state(before)


def moved(before: mx.array) -> bool:
    """Whether the random state has another value than `before`, where values can be read."""
    now = random_state()[0]
    try:
        return now is not before and now.tolist() != before.tolist()
    except RuntimeError:
        return False


def _restore_random_state(key: mx.array) -> None:
    try:
        high, low = key.tolist()
    except RuntimeError:
        return
    intercept.original("random.seed")((high << 32) | low)
