"""Operands: what may stand beside a traced array, and the trees that calls take and return.

Pure functions over values and types, called by the tracer. NumPy is recognised only where the user
has loaded it: importing it here would cost every `import zmlx` 40 ms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from zmlx import dtypes
from zmlx.ops.table import OPS

NAMES: dict[mx.Dtype, str] = {getattr(mx, dtypes.attribute(n)): n for n in dtypes.ALL}


def name_of(dtype: mx.Dtype) -> str:
    """MLX's name of a dtype ("float32"; bool is "bool")."""
    return NAMES[dtype]


# -- NumPy ----------------------------------------------------------------------------------------
def is_numpy(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and issubclass(type(value), (numpy.generic, numpy.ndarray))


def is_number(value: Any) -> bool:
    """Whether `value` is a number whose arithmetic gives the same type for all values of a type.

    A traced number is what its class is. NumPy before 2 widens float32 by the other value.
    """
    if isinstance(value, (int, float)):
        return True
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return False
    floats = numpy.__version__[:2] != "1."
    return isinstance(value, (numpy.integer, numpy.floating) if floats else numpy.integer)


def is_whole(value: Any) -> bool:
    """Whether `value` is an integer of NumPy or a plain int: what cuts slices and makes shapes."""
    numpy = sys.modules.get("numpy")
    return type(value) is int or (numpy is not None and isinstance(value, numpy.integer))


def from_numpy(value: Any, strong: Sequence[mx.Dtype]) -> Any:
    """A NumPy operand as MLX takes it: cast to the type of the array beside it.

    Scalars come back as Python numbers, arrays as arrays. np.float64 and np.complex128 are Python
    floats and complex numbers already.
    """
    if isinstance(value, (float, complex)):
        return value.item()  # type: ignore[union-attr]
    array = mx.array(value, strong[0]) if strong else mx.array(value)
    return array if value.shape else array.item() if strong else array


def strong_types(op: str, operands: Sequence[Any]) -> list[mx.Dtype]:
    """The types of the arrays among row `op`'s operands that numbers adopt."""
    others = operands[1:] if OPS[op].operands == "select" else operands
    return [o.dtype for o in others if isinstance(o, mx.array)]


# -- trees ----------------------------------------------------------------------------------------
def arrays_in(tree: Any) -> Iterator[mx.array]:
    """The arrays of nested lists, tuples and dicts, in order."""
    if isinstance(tree, mx.array):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from arrays_in(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from arrays_in(item)


def mapped(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """`tree` with `leaf` applied to whatever is no list, tuple, dict or slice.

    Subclasses of list and dict become plain ones, as in MLX's own trees. A module is a leaf: it
    stays the object that it is, and zmlx.trace.state looks after its arrays.
    """
    kind = type(tree)
    if isinstance(tree, nn.Module):
        return leaf(tree)
    if kind is tuple:
        return tuple([mapped(item, leaf) for item in tree])
    if isinstance(tree, list):
        return [mapped(item, leaf) for item in tree]
    if isinstance(tree, dict):
        return {key: mapped(item, leaf) for key, item in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return kind(*[mapped(item, leaf) for item in tree])
    if kind is slice:
        return slice(*[mapped(part, leaf) for part in (tree.start, tree.stop, tree.step)])
    return leaf(tree)


def children(tree: Any) -> Sequence[Any]:
    """What a container holds; () for a leaf."""
    if isinstance(tree, (list, tuple, set, frozenset)):
        return tree  # type: ignore[return-value]
    if isinstance(tree, dict):
        return list(tree.values())
    return (tree.start, tree.stop, tree.step) if type(tree) is slice else ()
