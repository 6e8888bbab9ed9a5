"""Reductions: calls of mx.sum, max, argmax, … as reduce nodes, for the tracer.

Comes in: a call by name, with its arguments. Goes out: the traced result, a reduce node, and a
squeeze of its axes where the call does not keep them; None where the call is not of that form.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.ops.reductions import REDUCTIONS
from zmlx.trace import intercept
from zmlx.trace.namespace import folding
from zmlx.trace.proxy import Proxy

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer


def _form(a: Any, /, axis: Any = None, keepdims: Any = False, *, stream: Any = None) -> Any: ...


_FORM = inspect.signature(_form)


def recorded(
    tracer: Tracer,
    name: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> Any:
    """The traced result of `function`, MLX's reduction `name`; None where MLX must run it whole.

    Raises what MLX raises for these arguments.
    """
    if name not in REDUCTIONS or tracer.streams.elsewhere():
        return None
    args, kwargs = tracer.sizes.settled(name, (tuple(args), kwargs))
    form = _bound(args, kwargs)
    if form is None or form["stream"] is not None or type(form["keepdims"]) is not bool:
        return None
    array = form["a"]
    axes = _axes(form["axis"], array.ndim) if type(array) is Proxy else ()
    if not axes:
        return None
    tracer.check(array)
    base = tracer.base(array)
    with intercept.recording(None):
        function(base, *args[1:], **kwargs)  # raises what MLX raises
        result = folding(name, axes)(base)
    folded = tracer.proxy(result, "reduce", (array.node,), known=array.known, op=name, axes=axes)
    if form["keepdims"]:
        return folded
    squeeze = intercept.original("squeeze")
    return tracer.opaque("squeeze", squeeze, (folded,), {"axis": axes}, named=True)


def _bound(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments by name; None where MLX's function takes none such, which it will say."""
    try:
        form = _FORM.bind(*args, **kwargs)
    except TypeError:
        return None
    form.apply_defaults()
    return form.arguments


def _axes(axis: Any, rank: int) -> tuple[int, ...]:
    """The axes in order, none negative; () for what is no axis of an array of that rank."""
    if axis is None:
        return tuple(range(rank))
    several = axis if isinstance(axis, (list, tuple)) else (axis,)
    if not all(type(a) is int and -rank <= a < rank for a in several):
        return ()
    found = tuple(sorted({a % rank for a in several}))
    return found if len(found) == len(several) else ()


def counted(tracer: Tracer, array: Any, axes: tuple[int, ...]) -> Proxy:
    """The traced number of elements that a fold of `axes` of a traced array joins: float32."""
    shape = tracer.base(array).shape
    folded = mx.array(float(prod(shape[axis] for axis in axes)))
    return tracer.proxy(folded, "count", (array.node,), axes=axes)
