"""Running a function once over proxies: `trace(fn, call)` returns a Trace.

Comes in: the function and a Call (the flattened arguments and captured state). Goes out: a graph
and the recipe to rebuild what the function returned. zmlx.fuse.api is the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from zmlx.errors import LostTraceError, TraceError
from zmlx.trace import intercept, locate
from zmlx.trace.claims import Claim, wait_for
from zmlx.trace.exprs import Expr, Number, evaluate, leaves
from zmlx.trace.graph import Graph
from zmlx.trace.proxy import Proxy
from zmlx.trace.scalars import SIZES, ScalarProxy, Specialize, Token
from zmlx.trace.sizes import Decision
from zmlx.trace.state import State
from zmlx.trace.tracer import Capture, Tracer
from zmlx.trace.tree import Leaves, replaced, store, unflatten

PATIENCE = 60.0  # seconds
_STUCK = (
    "[zmlx.trace] another thread has traced a function over the same module or captured state for "
    f"{PATIENCE:.0f} seconds. Does it wait for this thread? Call the fused function once before."
)


@dataclass
class Call:
    """One call's arguments, flattened, with the containers of captured state."""

    leaves: Leaves
    structure: Any  # of (args, kwargs)
    updates: Sequence[Any] = ()  # containers whose arrays the function replaces (`outputs=`)
    containers: Sequence[Any] = ()  # everything that must be as before after the trace
    given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})  # the arguments, to be named

    def held(self) -> list[Hashable]:
        """What names each container that a trace of the call puts its proxies into."""
        inside = [slot.container for slot in self.leaves.slots]
        return list({id(c) for c in (*inside, *self.containers)})

    def waits(self) -> bool:
        """Whether the call has read proxies of another thread's trace; returns when that ended."""
        tracers = [a.tracer for a in self.leaves.arrays if type(a) is Proxy]
        if not any(intercept.elsewhere(tracer) for tracer in tracers):
            return False
        if not wait_for(self.held(), PATIENCE):
            raise TraceError(_STUCK)
        return True


@dataclass(frozen=True)
class Output:
    """Stands for output number `index` of the graph in a tree that the function returned."""

    index: int


UNCHANGED = Output(-1)  # in the recipe of a container: the array that it holds already


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
    decisions: tuple[Decision, ...]  # sizes that it holds for, where the function read some
    static_numbers: frozenset[int] = frozenset()  # numbers whose value was read
    notes: tuple[tuple[int, str], ...] = ()  # (opaque node, why it is not elementwise)
    plain: str = ""  # why the function must run as plain MLX, unfused

    def settled(self) -> bool:
        """Evaluate captured arrays: a lazy one waits on a stream of the thread that made it.

        False where that was another thread than this one.
        """
        try:
            intercept.original("eval")([self.graph[c.node]["value"] for c in self.captures])
        except RuntimeError:
            return False
        return True


def trace(fn: Callable[..., Any], call: Call) -> Trace:
    """Run `fn` over proxies for the arrays of `call` and return what it did.

    A Python number whose value is read becomes static, and the function is run again.
    Raises TraceError where the function needs values, or leaves the tracer's sight.
    """
    with Claim(call.held(), PATIENCE) as alone:
        if not alone:
            raise TraceError(_STUCK)
        return _traced(fn, call)


def _traced(fn: Callable[..., Any], call: Call) -> Trace:
    """As trace; where an array gets lost, once more with wrappers all over memory."""
    try:
        return _numbers_found(fn, call, spread=False)
    except LostTraceError:
        return _numbers_found(fn, call, spread=True)


def _numbers_found(fn: Callable[..., Any], call: Call, spread: bool) -> Trace:
    static: frozenset[Token] = frozenset()
    depth = intercept.depth()
    while True:
        tracer = Tracer(static=static)
        try:
            return _run(tracer, fn, call, spread)
        except Specialize as need:
            if need.tracer is not tracer or need.tokens <= static:
                raise
            static |= need.tokens
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            refused = _refused(error, tracer, call)
            if refused <= static:
                raise
            static |= refused
        finally:
            tracer.finished = True
            intercept.unwind(depth)


def _refused(error: Exception, tracer: Tracer, call: Call) -> frozenset[Token]:
    """The numbers that C code may have refused, as `error` says: sizes, and then all."""
    if ScalarProxy.__name__ not in str(error) and "std::bad_cast" not in str(error):
        return frozenset()
    if tracer.sizes.made:
        return frozenset({SIZES})
    return frozenset(range(len(call.leaves.numbers)))


def _run(tracer: Tracer, fn: Callable[..., Any], call: Call, spread: bool) -> Trace:
    with _recorded(tracer, call) as (args, kwargs):
        intercept.show_everywhere(None if spread else fn)
        try:
            result = fn(*args, **kwargs)
        except (RuntimeError, TypeError) as error:
            explained = _explained(error)
            if explained is None:
                raise
            raise explained from error
        _look_back(tracer)
        try:
            outputs: dict[int, Output] = {}
            recipe = _recipe(tracer, result, outputs)
            state = tuple(_updates(tracer, container, outputs) for container in call.updates)
        except TraceError as error:
            raise type(error)(_named(str(error), fn, call, tracer.static)) from None
    return Trace(
        tracer.graph,
        recipe,
        state,
        tuple(tracer.captures),
        tuple(tracer.sizes.decisions),
        frozenset([token for token in tracer.static if type(token) is int]),
        tuple(tracer.notes),
    )


def whole(fn: Callable[..., Any], call: Call, why: str) -> Trace:
    """`fn` as one call that MLX runs, for the report of a function that runs as plain MLX."""

    def as_call(*args: Any, **kwargs: Any) -> Any:
        tracer = intercept.current()
        assert tracer is not None
        with tracer.state.shown(tracer):
            return tracer.opaque(name, fn, args, kwargs, why=why, closed=False, runs_always=True)

    name = getattr(fn, "__name__", type(fn).__name__)
    return replace(_numbers_found(as_call, call, spread=False), plain=why)


@contextmanager
def _recorded(tracer: Tracer, call: Call) -> Iterator[Any]:
    """Within the block calls are recorded; yields the arguments to call the function with."""
    proxies = tracer.array_inputs(call.leaves.arrays)
    numbers = [
        value if i in tracer.static else ScalarProxy(("arg", i), value, tracer)
        for i, value in enumerate(call.leaves.numbers)
    ]
    tracer.state = State(call.leaves.slots, proxies, call.containers)
    with intercept.recording(tracer), replaced(call.leaves.slots, proxies, call.containers):
        args, kwargs = unflatten(call.structure, iter(proxies), iter(numbers))
        given = {key: intercept.stand_in(value) for key, value in kwargs.items()}
        yield tuple([intercept.stand_in(value) for value in args]), given


def _look_back(tracer: Tracer) -> None:
    """Raise what the function was told while it ran, in case it caught it and went on."""
    if tracer.refused is not None:
        raise tracer.refused
    if not tracer.wanted <= tracer.static:
        raise Specialize(tracer.wanted, tracer)


def _explained(error: Exception) -> TraceError | None:
    """MLX's refusal to evaluate a placeholder, and NumPy's to take one, in the user's terms."""
    text = str(error)
    what = "something read an array's value, which a trace has not."
    if "__array_ufunc__" in text:
        what = "a NumPy function was called on a traced array."
    elif "without a primitive" not in text and "during function transformations" not in text:
        return None
    explained = LostTraceError(
        f"[zmlx.trace] {locate.of_error(error)}: {what} Do it outside of the fused function."
    )
    explained.needs_values = True
    return explained


def _named(message: str, fn: Callable[..., Any], call: Call, static: frozenset[Token]) -> str:
    """`message` about an array that was returned or stored, with the line that made it.

    The function runs once more, watched line by line.
    """
    tracer = Tracer(static=static)
    watch = locate.Watch(call.updates)
    try:
        with _recorded(tracer, call) as (args, kwargs), locate.watching(watch):
            fn(*args, **kwargs)
    except (Exception, Specialize):  # it raised what it raised before, or went another way
        pass
    finally:
        tracer.finished = True
    place = watch.found or locate.of_function(fn)
    return f"[zmlx.trace] {place}: {message.split(': ', 1)[1]}"


def _recipe(tracer: Tracer, tree: Any, outputs: dict[int, Output]) -> Any:
    """`tree` with its arrays replaced by Outputs; new ones are appended to the graph's outputs."""
    if isinstance(tree, mx.array):
        tracer.check(tree)
        node = tree.node if isinstance(tree, Proxy) else tracer.capture(tree)
        return _output(tracer, node, outputs)
    if type(tree) is ScalarProxy:
        tracer.check(tree)
        if any(leaf[0] == "size" for leaf in leaves(tree.expr)):
            return _output(tracer, tracer.sizes.node(tree, "int32"), outputs)
        return NumberOutput(tree.expr)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[_recipe(tracer, item, outputs) for item in tree])
    if isinstance(tree, (list, tuple)):
        return type(tree)([_recipe(tracer, item, outputs) for item in tree])
    if isinstance(tree, dict):
        return {key: _recipe(tracer, item, outputs) for key, item in tree.items()}
    hidden = list(getattr(tree, "__dict__", {}).values())
    if tracer.sees([tree, hidden]):
        raise tracer.refuse(
            f"a {type(tree).__name__} that holds traced arrays is returned or stored.",
            "Use lists, tuples and dicts.",
        )
    return tree


def _output(tracer: Tracer, node: int, outputs: dict[int, Output]) -> Output:
    """The Output that stands for `node`, which becomes an output of the graph."""
    if node not in outputs:
        outputs[node] = Output(len(outputs))
        tracer.graph.outputs.append(node)
    return outputs[node]


def _updates(tracer: Tracer, container: Any, outputs: dict[int, Output]) -> Any:
    """The recipe of a captured container, which says what the function did not touch."""
    if container is mx.random.state:
        return container
    if not isinstance(container, (dict, list)):
        return _recipe(tracer, container, outputs)
    pairs = container.items() if isinstance(container, dict) else enumerate(container)
    made = {
        key: UNCHANGED
        if tracer.state.unchanged(container, key, value)
        else _updates(tracer, value, outputs)
        for key, value in pairs
    }
    return made if isinstance(container, dict) else list(made.values())


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


def write_state(
    container: Any, recipe: Any, values: Sequence[mx.array], numbers: Sequence[Number] = ()
) -> None:
    """Make `container` what `recipe` says, keeping existing inner containers."""
    if recipe is container:  # mx.random.state: draws have moved it on by themselves
        return
    if isinstance(container, list):
        del container[len(recipe) :]
        container.extend([None] * (len(recipe) - len(container)))
    else:
        for key in [key for key in container if key not in recipe]:
            dict.__delitem__(container, key)
    for key, item in recipe.items() if isinstance(recipe, dict) else enumerate(recipe):
        inner = container.get(key) if isinstance(container, dict) else container[key]
        if item is UNCHANGED:  # a call that MLX ran may have updated it by itself
            continue
        if isinstance(item, (dict, list)) and isinstance(inner, (dict, list)):
            write_state(inner, item, values, numbers)
        else:
            store(container, key, rebuild(item, values, numbers))
