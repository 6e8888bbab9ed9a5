"""Machines: objects of the standard library whose state no attribute shows.

Comes in: a class. Goes out: how its instances tell what they hold now, as a part of the key, and
which of their members a trace must not use, as that would happen at the first call only.
zmlx.trace.kinds and zmlx.trace.tree ask; a StandIn takes the place of such an object in a trace.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zmlx.trace.recorders import current

_DRAW = "Draw before the call and pass the number, or use mx.random."
_READ = "Do it before or after the call, and pass what is read."
_TELL = "Do it after the call, or pass what it tells."


@dataclass(frozen=True)
class Machine:
    """What a trace may do with instances of a class."""

    told: Callable[[Any], Any] | None = None  # a part of the key: what instances hold now
    refused: Callable[[str], bool] | None = None  # members that a trace must not use
    way_out: str = ""


def _public(name: str) -> bool:
    return not name.startswith("_")


_FILE = frozenset(
    [
        "__enter__", "__exit__", "__iter__", "__next__", "detach", "getbuffer", "getvalue", "read",
        "read1", "readall", "readinto", "readinto1", "readline", "readlines", "seek", "tell",
        "truncate", "write", "writelines",
    ]
)  # fmt: skip
_SIGNALS = frozenset(["set", "clear", "wait"])
_QUEUE = frozenset(
    [
        "empty", "full", "get", "get_nowait", "join", "put", "put_nowait", "qsize", "queue",
        "task_done",
    ]
)  # fmt: skip
_DRAWS = Machine(None, _public, _DRAW)
_QUEUES = Machine(None, _QUEUE.__contains__, _READ)
_EVENT = Machine(lambda event: event.is_set(), _SIGNALS.__contains__, _TELL)
_BY_NAME = {
    "random.Random": _DRAWS,
    "numpy.random._generator.Generator": _DRAWS,
    "numpy.random.mtrand.RandomState": _DRAWS,
    "_io._IOBase": Machine(None, _FILE.__contains__, _READ),
    "queue.Queue": _QUEUES,
    "_queue.SimpleQueue": _QUEUES,
    "asyncio.queues.Queue": _QUEUES,
    "threading.Event": _EVENT,
    "asyncio.locks.Event": _EVENT,
    "threading.Semaphore": Machine(lambda semaphore: semaphore._value),
    "threading.BoundedSemaphore": Machine(lambda semaphore: semaphore._value),
    "logging.Logger": Machine(
        lambda log: (log.level, log.getEffectiveLevel(), log.disabled, log.manager.disable)
    ),
    "logging.RootLogger": Machine(lambda log: (log.level, log.disabled, log.manager.disable)),
    "logging.LoggerAdapter": Machine(lambda adapter: (adapter.logger, adapter.extra)),
    "configparser.ConfigParser": Machine(lambda parser: {s: dict(parser[s]) for s in parser}),
    "configparser.RawConfigParser": Machine(lambda parser: {s: dict(parser[s]) for s in parser}),
    "string.Template": Machine(lambda template: template.template),
    "decimal.Context": Machine(repr),
    "_contextvars.ContextVar": Machine(lambda variable: variable.get(None)),
}
_STREAMS = ("stdout", "stderr", "__stdout__", "__stderr__")


def machine_of(cls: type) -> Machine | None:
    """What is known of a class: of its own, or of one that says what a trace must not use."""
    for base in cls.__mro__:
        found = _BY_NAME.get(f"{base.__module__}.{base.__qualname__}")
        if found is not None and (base is cls or found.refused is not None):
            return found
    return None


class StandIn:
    """An object in a trace that must not be used in the ways that its Machine refuses."""

    __slots__ = ("_machine", "_value")

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_machine", machine_of(type(value)))

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._value)

    def __getattr__(self, name: str) -> Any:
        value, machine = self._value, self._machine
        tracer = current()
        if tracer is not None and machine.refused is not None and machine.refused(name):
            raise tracer.refuse(
                f"`{name}` of a {type(value).__name__} is used, which would happen at the first "
                "call only.",
                machine.way_out,
            )
        return getattr(value, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__getattr__(name)
        setattr(self._value, name, value)

    def __iter__(self) -> Any:
        return self.__getattr__("__iter__")()

    def __next__(self) -> Any:
        return self.__getattr__("__next__")()

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()

    def __exit__(self, *error: Any) -> Any:
        return self.__getattr__("__exit__")(*error)


def refuses(value: Any) -> bool:
    """Whether a StandIn takes the place of `value` in a trace; printing is of the first call."""
    machine = machine_of(type(value))
    stream = any(value is getattr(sys, name, None) for name in _STREAMS)
    return machine is not None and machine.refused is not None and not stream


def stood_for(value: Any) -> Any:
    """The object that a StandIn stands for, else `value`."""
    return object.__getattribute__(value, "_value") if type(value) is StandIn else value
