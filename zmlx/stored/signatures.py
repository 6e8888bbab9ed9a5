"""Signatures: what a stored function's arguments are called, and which calls are alike.

Comes in: a function, a call. Goes out: the call with its arguments in one order, and words for
messages. zmlx.stored.write and zmlx.stored.loaded share it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from zmlx.device import signature as signatures
from zmlx.errors import StoredError
from zmlx.stored import values
from zmlx.trace.operands import name_of
from zmlx.trace.paths import Names
from zmlx.trace.tree import Leaves

_KINDS = {kind.name: kind for kind in inspect._ParameterKind}


def of(f: Callable[..., Any]) -> inspect.Signature | None:
    """The signature of `f`; None where Python does not know it."""
    try:
        return inspect.signature(f)
    except (TypeError, ValueError):
        return None


def written(signature: inspect.Signature | None) -> list[Any] | None:
    """Names, kinds and defaults: none, one that is in the file, or one that the function has."""
    if signature is None:
        return None
    found = signature.parameters.values()
    return [[p.name, p.kind.name, *_default(p)] for p in found]


def _default(parameter: inspect.Parameter) -> list[Any]:
    if parameter.default is parameter.empty:
        return []
    return [values.written(parameter.default)] if _is_plain(parameter) else [["..."]]


def _is_plain(parameter: inspect.Parameter) -> bool:
    """Whether the default can be passed like any other argument."""
    return type(parameter.default) in (bool, int, float, str, type(None))


def read(text: list[Any] | None) -> inspect.Signature | None:
    if text is None:
        return None
    try:
        return inspect.Signature(
            [
                inspect.Parameter(name, _KINDS[kind], default=_read(default))
                for name, kind, *default in text
            ]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoredError(f"[zmlx.load] the file's signature is none: {error}.") from error


def _read(default: list[Any]) -> Any:
    return values.read(default[0]) if default else inspect.Parameter.empty


def bound(
    signature: inspect.Signature | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call with each argument in its place, and with defaults that are constants.

    A name in front of an argument makes no difference then.

    Raises TypeError, as Python does, for a call that the function does not take.
    """
    if signature is None:
        return args, kwargs
    found = signature.bind(*args, **kwargs)
    given = {*found.arguments}
    found.apply_defaults()
    for name, parameter in signature.parameters.items():
        if name not in given and not _is_plain(parameter):
            del found.arguments[name]
    return found.args, found.kwargs


def portable(arrays: Sequence[Any]) -> bytes:
    """dtypes, ranks and sizes of one, whatever the device."""
    found = signatures.portable(arrays)
    assert found is not None
    return found[1:]


def told(called: Names, leaves: Leaves) -> dict[str, str]:
    """Arrays and numbers by name, in words: "float32[n, 1]" is of any size but one, and one."""
    words = {}
    for i, array in enumerate(leaves.arrays):
        sizes = ", ".join("1" if size == 1 else "n" for size in array.shape)
        words[called.array(i)] = f"{name_of(array.dtype)}[{sizes}]"
    for i, number in enumerate(leaves.numbers):
        words[called.number(i)] = type(number).__name__
    return words
