"""Running a function once over proxies: `trace(fn, call)` returns a Trace.

Comes in: the function and a Call (the flattened arguments and captured state). Goes out: a graph
and the recipe to rebuild what the function returned. zmlx.fuse.api is the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from zmlx.errors import TraceError
from zmlx.trace import intercept
from zmlx.trace.graph import Graph
from zmlx.trace.scalars import Expr, Number, ScalarProxy, Specialize, evaluate
from zmlx.trace.tracer import Capture, Tracer
from zmlx.trace.tree import Leaves, replaced, store, unflatten


@dataclass
class Call:
    """One call's arguments, flattened, with the containers of captured state."""

    leaves: Leaves
    structure: Any  # of (args, kwargs)
    updates: Sequence[Any] = ()  # containers whose arrays the function replaces (`outputs=`)
    containers: Sequence[Any] = ()  # everything that must be as before after the trace


@dataclass(frozen=True)
class Output:
    """Stands for output number `index` of the graph in a tree that the function returned."""

    index: int


@dataclass(frozen=True)
class NumberOutput:
    """Stands for a Python number that the function computed from its arguments' numbers."""

    expr: Expr


@dataclass(frozen=True)
class Trace:
    """What one run of a function recorded."""

    graph: Graph
    result: Any  # the returned tree, with Output and NumberOutput leaves
    state: tuple[Any, ...]  # likewise, one for each container of Call.updates
    captures: tuple[Capture, ...]
    shape_reads: tuple[str, ...]  # lines that read a size: the trace holds for its sizes only
    static_numbers: frozenset[int] = field(default=frozenset())  # numbers whose value was read


def trace(fn: Callable[..., Any], call: Call) -> Trace:
    """Run `fn` over proxies for the arrays of `call` and return what it did.

    A Python number whose value is read becomes static, and the function is run again.
    Raises TraceError where the function needs values, or leaves the tracer's sight.
    """
    static: frozenset[int] = frozenset()
    with intercept.LOCK:
        while True:
            try:
                return _run(fn, call, static)
            except Specialize as need:
                if need.positions <= static:
                    raise TraceError(
                        "[zmlx.trace] a static number was read as a traced one."
                    ) from None
                static |= need.positions


def _run(fn: Callable[..., Any], call: Call, static: frozenset[int]) -> Trace:
    tracer = Tracer()
    proxies = tracer.array_inputs(call.leaves.arrays)
    numbers = [
        value if i in static else ScalarProxy(("arg", i), value)
        for i, value in enumerate(call.leaves.numbers)
    ]
    with intercept.recording(tracer), replaced(call.leaves.slots, proxies, call.containers):
        args, kwargs = unflatten(call.structure, iter(proxies), iter(numbers))
        try:
            result = fn(*args, **kwargs)
        except RuntimeError as error:
            raise _explained(tracer, error) from error
        outputs: dict[int, Output] = {}
        recipe = _recipe(tracer, result, outputs)
        state = tuple(_recipe(tracer, container, outputs) for container in call.updates)
    return Trace(
        tracer.graph,
        recipe,
        state,
        tuple(tracer.captures.values()),
        tuple(tracer.shape_reads),
        static,
    )


def _explained(tracer: Tracer, error: RuntimeError) -> Exception:
    """MLX's refusal to evaluate a placeholder, in the user's terms."""
    if "without a primitive" not in str(error) and "during function transformations" not in str(
        error
    ):
        return error
    return TraceError(
        tracer.message(
            "something read an array's value, which a trace has not.", "Read it outside."
        )
    )


def _recipe(tracer: Tracer, tree: Any, outputs: dict[int, Output]) -> Any:
    """`tree` with its arrays replaced by Outputs; new ones are appended to the graph's outputs."""
    if isinstance(tree, mx.array):
        node = getattr(tree, "node", None)
        if node is None or getattr(tree, "tracer", None) is not tracer:
            node = tracer.capture(tree)
        if node not in outputs:
            outputs[node] = Output(len(outputs))
            tracer.graph.outputs.append(node)
        return outputs[node]
    if isinstance(tree, ScalarProxy):
        return NumberOutput(tree.expr)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[_recipe(tracer, item, outputs) for item in tree])
    if isinstance(tree, (list, tuple)):
        return type(tree)([_recipe(tracer, item, outputs) for item in tree])
    if isinstance(tree, dict):
        return {key: _recipe(tracer, item, outputs) for key, item in tree.items()}
    return tree


def rebuild(recipe: Any, values: Sequence[mx.array], numbers: Sequence[Number]) -> Any:
    """The tree that the function returns, from the graph's output values."""
    kind = type(recipe)
    if kind is Output:
        return values[recipe.index]
    if kind is NumberOutput:
        return evaluate(recipe.expr, numbers)
    if isinstance(recipe, tuple) and hasattr(recipe, "_fields"):
        return kind(*[rebuild(item, values, numbers) for item in recipe])
    if isinstance(recipe, (list, tuple)):
        return kind([rebuild(item, values, numbers) for item in recipe])
    if kind is dict:
        return {key: rebuild(item, values, numbers) for key, item in recipe.items()}
    return recipe


def write_state(container: Any, recipe: Any, values: Sequence[mx.array]) -> None:
    """Store the new arrays of `recipe` into `container`, keeping existing inner containers."""
    pairs = recipe.items() if isinstance(recipe, dict) else enumerate(recipe)
    if isinstance(container, list):
        del container[len(recipe) :]
        container.extend([None] * (len(recipe) - len(container)))
    for key, item in pairs:
        inner = container.get(key) if isinstance(container, dict) else container[key]
        if isinstance(item, (dict, list)) and isinstance(inner, (dict, list)):
            write_state(inner, item, values)
        else:
            store(container, key, rebuild(item, values, ()))
