"""Undone: how contents of containers differ from those before a trace, and these put back.

Comes in: contents as zmlx.trace.leaks keeps them. Goes out: where they differ, and the old content
in its place. What a trace puts in the place of MLX's functions is no difference.
"""

from __future__ import annotations

from itertools import zip_longest
from types import ModuleType
from typing import Any

from zmlx.trace.kinds import remove, store
from zmlx.trace.wrappers import unwrapped

NOTHING: Any = object()  # where a name was not there


def put_back(part: dict[Any, Any], held: dict[Any, Any], traced: Any, shared: bool) -> None:
    """Write what differs, key by key: other threads read. Of a module's names `shared` says that
    traces, of other threads too, put functions there.
    """
    for key in [*part, *[key for key in held if key not in part]]:
        old, new = held.get(key, NOTHING), part.get(key, NOTHING)
        put = shared and any(isinstance(v, ModuleType) or callable(v) for v in (old, new))
        if not _differ(old, new) or (put and key not in traced):
            continue
        remove(part, key) if old is NOTHING else store(part, key, old)


def changed(before: Any, now: Any) -> list[Any]:
    """The keys, or positions, at which two contents of one part differ."""
    if isinstance(before, dict):
        keys = [
            k for k in {**before, **now} if _differ(before.get(k, NOTHING), now.get(k, NOTHING))
        ]
        return keys or ([] if list(before) == list(now) else [next(iter(now))])
    pairs = enumerate(zip_longest(before, now, fillvalue=NOTHING))
    return [i for i, (old, new) in pairs if _differ(old, new)]


def _differ(old: Any, new: Any) -> bool:
    return unwrapped(old) is not unwrapped(new)


def reset(part: Any, key: Any, held: dict[Any, Any]) -> None:
    """Give a name of a class or a dict what it held."""
    if isinstance(part, type):
        setattr(part, key, held[key]) if key in held else delattr(part, key)
    else:
        store(part, key, held[key]) if key in held else remove(part, key)
