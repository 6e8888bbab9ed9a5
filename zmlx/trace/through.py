"""Functions that MLX wraps: mx.compile and mx.checkpoint are seen through, gradients may be nodes
(zmlx.fuse.taken), the others are calls.

MLX's objects tell only the garbage collector what they hold: a compiled function refers to its
`inputs`, its `outputs` and the function, all others that wrap one function to that alone. Calls of
such objects reach this module from the tracer; what comes back is what the call returns.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from zmlx.trace import intercept, namespace
from zmlx.trace.calls import keeping_random_state
from zmlx.trace.operands import children, mapped
from zmlx.trace.proxy import Proxy
from zmlx.trace.tree import Leaves, flatten_state
from zmlx.trace.unflatten import restored

if TYPE_CHECKING:
    from zmlx.trace.tracer import Tracer

_KIND = type(mx.compile(abs))  # of gradients, mx.vmap and mx.checkpoint too
RUNS_PYTHON = "a gradient, mx.vmap or a custom function: MLX runs its Python"
# What may record a gradient by its own means: zmlx.fuse, which knows derivatives, puts it here. It
# returns what the call returns, in a tuple, or None.
takers: list[Callable[..., tuple[Any] | None]] = []
_STATE = "compiled with state that the fused function does not name in inputs= and outputs="


def call(
    tracer: Tracer,
    fn: Callable[..., Any],
    target: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> Any:
    """What `target(*args, **kwargs)` does in a trace; `fn` is MLX's own way to call `target`."""
    activation = namespace.activation(target, args, kwargs)
    if activation is not None and tracer.sees((args, kwargs)):
        return tracer.fresh(activation(namespace.Elementwise(tracer), *args, **kwargs), args)
    inner, state = inside(fn, target)
    for take in takers if inner is None else ():
        made = take(tracer, fn, target, args, kwargs)
        if made is not None:
            return made[0]
    if inner is None:
        return _as_call(tracer, fn, target, args, kwargs, RUNS_PYTHON)
    if not all(_is_seen(tracer, held) for held in state):
        held = Leaves()
        for container in state:
            flatten_state(container, held)
        with restored(held.objects):
            return _as_call(tracer, fn, target, args, kwargs, _STATE, runs_always=True)
    copies, named = mapped((tuple(args), kwargs), partial(_copied, tracer))
    return intercept.stand_in(inner)(*copies, **named)


def _is_seen(tracer: Tracer, state: Any) -> bool:
    """Whether the trace may update a container: it is an input, or was made by the function.

    Where it was neither, and reached by nothing that is known, what it holds is found as a leak.
    """
    if tracer.state.covers(state):
        return True
    held = Leaves()
    flatten_state(state, held)
    return any(type(array) is Proxy for array in held.arrays) or id(state) not in tracer.older()


def _copied(tracer: Tracer, leaf: Any) -> Any:
    """Another object for an array, as MLX passes them to a compiled function's Python."""
    if type(leaf) is Proxy:
        return tracer.alias(leaf)
    if not isinstance(leaf, mx.array):
        return leaf
    copy = mx.array(leaf)
    tracer.copies[id(copy)] = (copy, leaf)
    return copy


def inside(fn: Callable[..., Any], target: Any) -> tuple[Callable[..., Any] | None, Sequence[Any]]:
    """The Python function of a compiled or checkpointed one, and the containers of its state.

    None for the function where `target` does more than to call it.
    """
    if type(target) is not _KIND:
        return None, ()
    held = [thing for thing in gc.get_referents(target) if thing is not _KIND]
    if not held or not callable(held[-1]):
        return None, ()
    inner = held[-1]
    if len(held) == 3 and not any(map(_says_axes, held[:2])):
        inputs, outputs = held[:2]
        return inner, [*([inputs] if inputs else []), *([] if outputs is None else [outputs])]
    if len(held) == 1 and _calls_directly(fn, target, inner):
        return inner, ()
    return None, ()


def _says_axes(tree: Any) -> bool:
    """Whether `tree` is what mx.vmap holds: ints and None only."""
    if isinstance(tree, int):
        return True
    held = children(tree)
    return len(held) > 0 and all(item is None or _says_axes(item) for item in held)


def _calls_directly(fn: Callable[..., Any], target: Any, inner: Callable[..., Any]) -> bool:
    """Whether `target` is mx.checkpoint's and no gradient: asked by a call without arguments.

    A gradient refuses it with a ValueError of its own; the other passes it on to `inner`, which
    refuses before its first line runs. Where `inner` would run, the answer is no.
    """
    try:
        inspect.signature(inner).bind()
    except TypeError:
        pass
    except ValueError:
        return False
    else:
        return False
    try:
        with intercept.recording(None):
            fn(target)
    except TypeError:
        return True
    except Exception:  # a gradient's ValueError, or what a decorator makes of it
        return False
    return False


def _as_call(
    tracer: Tracer,
    fn: Callable[..., Any],
    target: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    why: str,
    runs_always: bool = False,
) -> Any:
    """The call as MLX's own; without traced arguments MLX runs it now, unless it draws numbers."""
    label = getattr(target, "__name__", type(target).__name__)
    traced = tracer.sees((args, kwargs)) or tracer.state.meets_traced((target, args, kwargs))
    if not runs_always and not traced:
        tracer.state.note_values(tracer, (target, args, kwargs))
        with intercept.recording(None), keeping_random_state() as drew:
            result = fn(target, *args, **kwargs)
            if not drew():
                return result
    rules = tracer.state.rules.get(id(target))
    remade = None if rules is None else partial(_remade, *rules)
    return tracer.state.run(
        tracer, label, target, args, kwargs, remade, why=why, runs_always=runs_always
    )


def _remade(
    target: Any, rules: dict[str, Callable[..., Any]], within: Callable[[Any], Any]
) -> Callable[..., Any]:
    """A custom function like `target` of functions that are called `within` something: MLX calls
    its rules when the call has ended.
    """
    held = [thing for thing in gc.get_referents(target) if thing is not type(target)]
    function = next(thing for thing in held if all(thing is not rule for rule in rules.values()))
    made: Any = mx.custom_function(within(function))
    for name, rule in rules.items():
        getattr(made, name)(within(rule))
    return made
