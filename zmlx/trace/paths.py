"""Paths: what the arrays and numbers inside arguments are called in the user's own words.

Comes in: a function and what it is called with. Goes out: names such as `x`, `params['w']`,
`model.layers[0].weight`. Reports and the log of new traces are the callers.
"""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

DEEPEST = 12  # containers inside one another
NOT_ENTERED = (str, bytes, bytearray, memoryview, range, type, ModuleType, FunctionType, mx.Dtype)
_OWN = __name__.partition(".")[0]


@dataclass(frozen=True)
class Names:
    """What the leaves of one call are called, by their positions among arrays and numbers."""

    arrays: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()

    def array(self, index: int) -> str:
        return self.arrays[index] if index < len(self.arrays) else f"array {index}"

    def number(self, index: int) -> str:
        return self.numbers[index] if index < len(self.numbers) else f"number {index}"


def names(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    arrays: Sequence[Any],
    numbers: Sequence[Any],
    state: Any = None,
) -> Names:
    """Names for `arrays` and `numbers`, the leaves of a call; those of `state` as of `inputs`."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    plain: list[tuple[str, Any]] = []
    for name, value in [*arguments(fn, args, kwargs), ("inputs", state)]:
        for path, leaf in leaves(value, name):
            if isinstance(leaf, mx.array):
                found[id(leaf)].append(path)
            elif name != "inputs" and type(leaf) is not bool:
                plain.append((path, leaf))
    called = []
    for i, array in enumerate(arrays):
        paths = found[id(array)]
        called.append(paths.pop(0) if len(paths) > 1 else paths[0] if paths else f"array {i}")
    same = len(plain) == len(numbers)
    same = same and all(a is b for (_, a), b in zip(plain, numbers, strict=True))
    return Names(tuple(called), tuple([path for path, _ in plain]) if same else ())


def arguments(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """The arguments of a call by the parameters that take them."""
    try:
        signature = inspect.signature(fn)
        bound = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # a C function, or a call that Python will refuse
        yield from ((f"argument {i}", value) for i, value in enumerate(args))
        yield from kwargs.items()
        return
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value


def leaves(tree: Any, path: str, deepest: int = DEEPEST) -> Iterator[tuple[str, Any]]:
    """The arrays and Python numbers inside `tree`, each with its path from `path`."""
    yield from _leaves(tree, path, deepest, set())


def _leaves(tree: Any, path: str, deepest: int, open_: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, (mx.array, bool, int, float, complex)):
        yield path, tree
    elif deepest > 0 and id(tree) not in open_:
        open_.add(id(tree))
        for step, item in items(tree):
            yield from _leaves(item, path + step, deepest - 1, open_)
        open_.discard(id(tree))


def path_to(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], wanted: Any
) -> str:
    """Where `wanted` stands in the arguments of a call: `params['w']`."""
    waiting = [(name, value, 0) for name, value in arguments(fn, args, kwargs)]
    while waiting:
        path, value, depth = waiting.pop(0)
        if value is wanted:
            return path
        if depth < DEEPEST:
            waiting += [(path + step, item, depth + 1) for step, item in items(value)]
    return "an argument"


def items(tree: Any) -> list[tuple[str, Any]]:
    """What stands directly inside `tree`, with the step that leads there."""
    if tree is None or isinstance(tree, NOT_ENTERED):
        return []
    if isinstance(tree, functools.partial):
        given = [(f".args[{i}]", item) for i, item in enumerate(tree.args)]
        return [*given, *[(f".keywords[{key!r}]", item) for key, item in tree.keywords.items()]]
    if isinstance(tree, nn.Module):
        return [(f".{key}", item) for key, item in tree.items()]
    if isinstance(tree, dict):
        return [(f"[{key!r}]", item) for key, item in tree.items()]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return [(f".{key}", item) for key, item in zip(tree._fields, tree, strict=True)]
    if isinstance(tree, Sequence):
        return [(f"[{i}]", item) for i, item in enumerate(tree)]
    if (type(tree).__module__ or "").partition(".")[0] == _OWN:  # a fused function holds its traces
        return []
    return [(f".{key}", item) for key, item in getattr(tree, "__dict__", {}).items()]
