"""Told: what a trace depends on, in the user's words, and what of it has changed.

Comes in: a call's function, arguments and leaves. Goes out: words by name, and the changes between
two calls. zmlx.fuse.table logs them when it traces again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from zmlx.trace.paths import arguments, items, names
from zmlx.trace.tracer import name_of

LONGEST = 60  # characters of a static value's repr
MOST = 8  # changes that a line of the log names


def described(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    arrays: Sequence[mx.array],
    numbers: Sequence[Any],
    state: Any = None,
) -> dict[str, str]:
    """What the trace of a call may depend on, in words, by the names of the function."""
    words = {name: _shown(value) for name, value in arguments(fn, args, kwargs)}
    called = names(fn, args, kwargs, arrays, numbers, state)
    for i, array in enumerate(arrays):
        words[called.array(i)] = f"{name_of(array.dtype)}{list(array.shape)}"
    for i, number in enumerate(numbers):
        words[called.number(i)] = f"{type(number).__name__} {number!r}"
    words["device"] = str(mx.default_device())
    return words


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs, as "x: float32[3] -> float32[4]; …"; "" where nothing does."""
    pairs = [(k, before.get(k, "absent"), now.get(k, "absent")) for k in {**before, **now}]
    found = [f"{k}: {a} -> {b}" for k, a, b in pairs if a != b]
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return "; ".join([*found[:MOST], *more])


def _shown(value: Any, deepest: int = 4) -> str:
    """An argument in short: its containers and static values; arrays and numbers by their kinds."""
    if isinstance(value, mx.array):
        return "array"
    if type(value) in (int, float):
        return type(value).__name__
    inside = items(value)
    if inside:
        shown = [f"{step}={_shown(item, deepest - 1)}" for step, item in inside] if deepest else []
        return _short(f"{type(value).__name__}({', '.join(shown) or '…'})")
    return _short(repr(value))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
