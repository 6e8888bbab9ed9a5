"""Trees: nested lists, tuples, dicts and modules of arrays, numbers and static values.

`flatten` turns what a user passes into leaves and a hashable structure; `unflatten` is its inverse.
mlx.nn modules are trees whose arrays live inside the module: they are read and replaced in place
through Slots. The tracer and the fused function's call path are the callers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from zmlx.trace.operands import is_numpy_number, is_python_number


class Leaf(Enum):
    """What stands for a leaf in a structure."""

    ARRAY = "array"
    NUMBER = "number"


ARRAY, NUMBER = Leaf.ARRAY, Leaf.NUMBER


@dataclass
class Leaves:
    """The leaves of a tree in order: arrays, Python numbers, and where module arrays live."""

    arrays: list[Any] = field(default_factory=list)
    numbers: list[int | float] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)  # arrays[slot.index] lives in slot.container


@dataclass(frozen=True)
class Slot:
    """The place of one array inside a module or a captured container."""

    container: Any  # dict or list
    key: Any
    index: int


def flatten(tree: Any, leaves: Leaves) -> Any:
    """Append the leaves of `tree` to `leaves` and return its hashable structure.

    The structure of a number is its type, of a static value the value itself (hashable) or its
    identity, so that two trees of equal structure trace alike.
    """
    kind = type(tree)
    if kind is mx.array:
        leaves.arrays.append(tree)
        return ARRAY
    if kind is float or kind is int:
        leaves.numbers.append(tree)
        return (NUMBER, kind)
    if kind in (list, tuple):
        return (kind, tuple([flatten(item, leaves) for item in tree]))
    if kind is dict:
        return (dict, tuple([(_key(key), flatten(item, leaves)) for key, item in tree.items()]))
    return _flatten_rare(tree, leaves)


def _key(key: Any) -> Any:
    """A dict's key, told from one of equal value and another type (1, 1.0, True)."""
    return key if type(key) is str else Static(key)


def _flatten_rare(tree: Any, leaves: Leaves) -> Any:
    if isinstance(tree, mx.array):
        leaves.arrays.append(tree)
        return ARRAY
    if isinstance(tree, nn.Module):
        return (nn.Module, Static(tree), _flatten_container(tree, leaves), _settings(tree))
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return (type(tree), tuple([flatten(item, leaves) for item in tree]))
    if is_python_number(tree) or is_numpy_number(tree):
        leaves.numbers.append(tree)
        return (NUMBER, type(tree))
    if type(tree) is slice:
        parts = (tree.start, tree.stop, tree.step)
        return (slice, tuple([flatten(part, leaves) for part in parts]))
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(tree, numpy.ndarray):
        raise TypeError("[zmlx.fuse] an argument is a NumPy array. Pass mx.array(it).")
    return (Static, Static(tree))


def _flatten_container(tree: Any, leaves: Leaves) -> Any:
    """Structure of a container whose arrays stay in place; each array becomes a Slot."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    structure: list[Any] = []
    for key, value in pairs:
        if isinstance(value, mx.array):
            leaves.slots.append(Slot(tree, key, len(leaves.arrays)))
            leaves.arrays.append(value)
            structure.append((_key(key), ARRAY))
        elif isinstance(value, nn.Module):
            inner = (Static(value), _flatten_container(value, leaves), _settings(value))
            structure.append((_key(key), inner))
        elif isinstance(value, (dict, list)) and value is not mx.random.state:
            structure.append((_key(key), type(value), _flatten_container(value, leaves)))
        else:  # mx.random.state too: draws read and write it by themselves
            _refuse_arrays(key, value)
            structure.append((_key(key), Static(value)))
    return tuple(structure)


def _refuse_arrays(key: Any, value: Any) -> None:
    if isinstance(value, tuple) and any(isinstance(item, mx.array) for item in value):
        raise TypeError(
            f"[zmlx.fuse] {key!r} is a tuple of arrays inside a module or captured state, which "
            "cannot be replaced in place. Make it a list."
        )


def flatten_state(state: Any, leaves: Leaves) -> Any:
    """Like flatten, for captured state (`inputs=` of fuse): arrays are replaced in place."""
    if isinstance(state, nn.Module):
        return flatten(state, leaves)
    if state is mx.random.state:
        return (Static, Static(state))
    if not isinstance(state, (dict, list)):
        raise TypeError(
            "[zmlx.fuse] captured state must be a list, a dict or an nn.Module, "
            f"so that it can be updated in place; got {type(state).__name__}."
        )
    return (type(state), _flatten_container(state, leaves))


def _settings(module: nn.Module) -> Any:
    """A module's plain attributes (eps, training, dims): static values of the trace."""
    return tuple([(key, Static(value)) for key, value in vars(module).items()])


class Static:
    """A static value as a key: by type and value where hashable, else by identity (kept alive)."""

    __slots__ = ("_hash", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        try:
            self._hash = hash((type(value), value if value == value else "nan"))
        except TypeError:
            self._hash = id(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Static) or type(self.value) is not type(other.value):
            return False
        if self.value is other.value:
            return True
        if isinstance(self.value, (mx.array, nn.Module)) or self._hash != other._hash:
            return False
        same = bool(self.value == other.value) or self.value != self.value  # one NaN is another
        return same and repr(self.value) == repr(other.value)

    def __repr__(self) -> str:
        return repr(self.value)


def unflatten(structure: Any, arrays: Iterator[Any], numbers: Iterator[Any]) -> Any:
    """Rebuild a tree from its structure; modules are returned as they are, in place."""
    if structure is ARRAY:
        return next(arrays)
    head = structure[0]
    if head is NUMBER:
        return next(numbers)
    if head is Static:
        return structure[1].value
    if head is nn.Module:
        for _ in range(_count(structure)):
            next(arrays)
        return structure[1].value
    if head is dict:
        return {
            key.value if type(key) is Static else key: unflatten(item, arrays, numbers)
            for key, item in structure[1]
        }
    items = [unflatten(item, arrays, numbers) for item in structure[1]]
    if head in (list, tuple):
        return head(items)
    return head(*items)


def _count(structure: Any) -> int:
    if isinstance(structure, tuple):
        return sum(_count(item) for item in structure)
    return int(structure is ARRAY)


def containers(state: Any) -> list[Any]:
    """Every list, dict and module inside `state`, itself included."""
    if not isinstance(state, (dict, list)) or state is mx.random.state:
        return []
    items = list(state.values()) if isinstance(state, dict) else list(state)
    return [state] + [inner for item in items for inner in containers(item)]


@contextmanager
def replaced(
    slots: Sequence[Slot], values: Sequence[Any] | dict[int, Any], also: Sequence[Any] = ()
) -> Iterator[None]:
    """Within the block, each slot holds values[slot.index].

    Afterwards the slots' containers, and those in `also`, are as they were.
    """
    touched = {id(c): c for c in [*[slot.container for slot in slots], *also]}
    before = [(c, dict(c) if isinstance(c, dict) else list(c)) for c in touched.values()]
    try:
        for slot in slots:
            store(slot.container, slot.key, values[slot.index])
        yield
    finally:
        for container, content in before:
            _restore(container, content)


def store(container: Any, key: Any, value: Any) -> None:
    """Put `value` into a dict, module or list."""
    if isinstance(container, dict):
        dict.__setitem__(container, key, value)
    else:
        container[key] = value


def _restore(container: Any, content: Any) -> None:
    if isinstance(container, dict):
        dict.clear(container)
        dict.update(container, content)
    else:
        container[:] = content
