"""Writes: item assignment, in-place operators and `x.at[...]` on traced arrays.

A traced array that is written stands for the new value from then on, under every name that it has.
Proxies and the wrappers of mx.array's methods call these functions with their tracer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.trace import intercept
from zmlx.trace.calls import made_of_mlx

if TYPE_CHECKING:
    from zmlx.trace.proxy import Proxy
    from zmlx.trace.tracer import Tracer

IN_PLACE = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor",
            "lshift", "rshift")  # fmt: skip
_SET_ITEM = mx.array.__setitem__  # while a trace runs there is a wrapper in its place


def set_item(target: Proxy, index: Any, value: Any) -> None:
    """`target[index] = value`."""
    result = target.tracer.opaque("setitem", _with_item, (target, index, value), {}, named=True)

    def overwrite() -> None:  # `x[...] = y` takes over the type of y
        _SET_ITEM(target, Ellipsis, mx.array(result))

    rebind(target, result, overwrite)


@made_of_mlx
def _with_item(array: mx.array, index: Any, value: Any) -> mx.array:
    copy = array[...]
    copy[index] = value
    return copy


def rebind(target: Proxy, result: Proxy, update_base: Callable[[], Any]) -> Proxy:
    """Make `target` stand for `result`, as MLX's in-place operators do.

    `update_base` lets MLX give the proxy's base the shape and type of the result.
    """
    target.node, target.known = result.node, result.known
    with intercept.recording(None):
        update_base()
        target.tracer.unseen.renew(target, target.node)
    return target


def stands_for(target: Proxy, result: Proxy) -> None:
    """`target` was written where no trace saw it, and is `result` since."""
    rebind(target, result, lambda: _SET_ITEM(target, Ellipsis, mx.array(result)))


def updater(name: str) -> Callable[..., Any]:
    """`x.at[index].<name>(value)` as a function of the three."""

    @made_of_mlx
    def update(x: mx.array, index: Any, value: Any) -> Any:
        return getattr(x.at[index], name)(value)

    return update


class At:
    """`x.at[index].add(value)` and its siblings, on a traced array."""

    def __init__(self, array: mx.array, tracer: Tracer, index: Any = None) -> None:
        self.array, self.tracer, self.index = array, tracer, index

    def __getitem__(self, index: Any) -> At:
        return At(self.array, self.tracer, index)

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name not in ("add", "subtract", "multiply", "divide", "maximum", "minimum"):
            raise AttributeError(name)

        update = updater(name)

        def method(value: Any) -> Any:
            operands = (self.array, self.index, value)
            return self.tracer.opaque(f"at.{name}", update, operands, {}, named=True)

        return method
