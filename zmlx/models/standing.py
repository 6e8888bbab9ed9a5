"""Stand-ins: a module and arguments of the same shapes, to try a call on without touching anything.

Comes in: a module and a call's arguments, perhaps in a transformation of MLX, without values. Goes
out: copies over random numbers. zmlx.models.deciding tries and measures with them.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from zmlx.models import breaks

SPREAD = 0.05  # of random numbers
_SHARED = ("nanobind", "mlx.core")  # where classes of what is not copied are defined


@dataclass(frozen=True)
class StandIn:
    """A module and the arguments of a call of it."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def fresh(self) -> StandIn:
        """The same with objects (caches) of its own."""
        made = [_own_objects(a) for a in self.args]
        return StandIn(
            self.module, tuple(made), {n: _own_objects(a) for n, a in self.kwargs.items()}
        )


def standing_in(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StandIn:
    """Copies; every array that the module or an argument shows is one of random numbers."""
    found = [leaf for _, leaf in tree_flatten([_held(module), args, kwargs])]
    arrays = {id(a): a for a in found if type(a) is mx.array}
    memo: dict[int, Any] = {i: like(a, n) for n, (i, a) in enumerate(arrays.items())}
    return StandIn(*copied((module, args, kwargs), module, memo))


def copied(value: Any, module: nn.Module, memo: dict[int, Any]) -> Any:
    """A deep copy of what holds `module`; what nothing copies (functions of MLX, types of arrays,
    Python's modules) is shared.
    """
    inside = list(module.modules())
    waiting: list[Any] = [value, *map(dict, inside), *map(vars, inside)]
    seen = dict[int, Any]()  # kept, so that no other value gets its id
    while waiting:
        inner = waiting.pop()
        if id(inner) in seen or isinstance(inner, (nn.Module, mx.array)):
            continue
        seen[id(inner)] = inner
        if isinstance(inner, functools.partial):
            waiting += [inner.func, inner.args, inner.keywords]
        elif isinstance(inner, (list, tuple, dict)):
            waiting += inner.values() if isinstance(inner, dict) else inner
        elif type(inner).__module__.startswith(_SHARED) or isinstance(inner, ModuleType):
            memo[id(inner)] = inner
    return copy.deepcopy(value, memo)


def like(array: mx.array, seed: int = 0) -> mx.array:
    """An array of the same shape and type; drawn without MLX's own state of random numbers."""
    if mx.issubdtype(array.dtype, mx.floating):
        drawn = mx.random.normal(array.shape, scale=SPREAD, key=mx.random.key(seed))
        return drawn.astype(array.dtype)
    return (mx.ones if array.dtype == mx.bool_ else mx.zeros)(array.shape, array.dtype)


def gradient_of(call: Callable[..., Any], stand_in: StandIn) -> Callable[[], Any]:
    """What gives the gradient of the call's sum, for the weights that train and the first array."""
    module, args, kwargs = stand_in.module, list(stand_in.args), dict(stand_in.kwargs)
    place: Any
    arrays: Any = args
    place = next((i for i, a in enumerate(args) if isinstance(a, mx.array)), None)
    if place is None:
        arrays, place = (
            kwargs,
            next((n for n, a in kwargs.items() if isinstance(a, mx.array)), None),
        )
    first = arrays[place] if place is not None else mx.zeros(())
    differentiable = mx.issubdtype(first.dtype, mx.floating)

    def total(weights: Any, x: mx.array) -> mx.array:
        module.update(weights)
        if place is not None:
            arrays[place] = x
        return summed(leaf for _, leaf in tree_flatten([call(module, tuple(args), kwargs)]))

    weights = module.trainable_parameters()
    argnums = [n for n, given in enumerate((tree_flatten(weights), differentiable)) if given]
    if not argnums:
        return lambda: total(weights, first)
    gradient = mx.grad(total, argnums)

    def run() -> Any:
        found = gradient(weights, first)
        module.update(weights)
        return found

    return run


def summed(leaves: Iterable[Any]) -> mx.array:
    """The sum of all floats, in float32."""
    total = mx.zeros(())
    for leaf in leaves:
        if isinstance(leaf, mx.array) and mx.issubdtype(leaf.dtype, mx.floating):
            total = total + leaf.astype(mx.float32).sum()
    return total


def _held(module: nn.Module) -> Any:
    """All that a module holds in its dict, those below too."""
    return [dict(m) for m in module.modules()]


def _own_objects(value: Any) -> Any:
    return value if breaks.is_data(value) else copy.deepcopy(value)
