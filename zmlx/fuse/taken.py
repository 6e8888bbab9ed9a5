"""Taken: gradients that a traced function takes, as nodes of its graph.

Comes in: a call of mx.grad(f) or mx.value_and_grad(f) while a trace runs. Goes out: what it
returns, traced: the graph of f and of its gradient stand among the nodes, so that the planner makes
kernels of them and of what stands beside them. None where the call stays one that MLX makes: f
reaches what can be written, captures arrays, or has calls inside that are no views.

f is traced by itself first, which leaves nothing behind. zmlx.trace.through asks.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.errors import ZmlxError
from zmlx.fuse.inline import defined, inlined
from zmlx.fuse.joint import is_view, joint
from zmlx.fuse.keeping import keeping
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.simplify import simplify
from zmlx.fuse.table import tracing_exactly
from zmlx.trace import intercept
from zmlx.trace.asked import Asked, asked, is_closed
from zmlx.trace.exprs import leaves as leaves_of
from zmlx.trace.exprs import replaced
from zmlx.trace.graph import Graph
from zmlx.trace.operands import arrays_in, mapped, name_of
from zmlx.trace.proxy import Proxy
from zmlx.trace.recipe import Given, rebuild
from zmlx.trace.run import Call, Trace, trace
from zmlx.trace.scalars import ScalarProxy
from zmlx.trace.spliced import result
from zmlx.trace.tracer import Tracer
from zmlx.trace.tree import flatten_call

_KIND = type(mx.grad(abs))


def taken(
    tracer: Tracer, fn: Callable[..., Any], target: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Any] | None:
    """What `target(*args, **kwargs)` returns; `fn` is MLX's own way to call `target`."""
    inner = _inner(target)
    if inner is None or tracer.unseen.reading or tracer.streams.elsewhere():
        return None
    if tracing_exactly() is not False:
        return None
    if not is_closed(inner) or not _is_plain((tuple(args), kwargs)):
        return None
    with intercept.recording(None):
        what = asked(fn, target, inner)
    if what is None or len(args) <= max(what.positions, default=-1):
        return None
    if not {*what.names} <= {*kwargs}:
        return None
    wanted = [args[i] for i in what.positions] + [kwargs[name] for name in what.names]
    kinds = [name_of(array.dtype) for array in arrays_in(wanted)]
    if not kinds or not all(map(dtypes.is_float, kinds)):
        return None
    return _Taken(tracer, what, inner, tuple(args), kwargs).made()


def _inner(target: Any) -> Callable[..., Any] | None:
    """The function of a gradient of MLX's, or of what looks like one."""
    if type(target) is not _KIND:
        return None
    held = [thing for thing in gc.get_referents(target) if thing is not _KIND]
    return held[0] if len(held) == 1 and callable(held[0]) else None


def _is_plain(tree: Any) -> bool:
    """Whether there are traced arrays, constants and containers of those, and nothing else."""
    found: list[bool] = []

    def leaf(value: Any) -> Any:
        varies = type(value) is Proxy and not value.known
        found.append(varies or value is None or type(value) in (bool, int, float, str))
        return value

    mapped(tree, leaf)
    return all(found)


class _Taken:
    """One such call."""

    def __init__(
        self, tracer: Tracer, what: Asked, inner: Callable[..., Any], args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:  # fmt: skip
        self.tracer, self.what, self.inner = tracer, what, inner
        self.args, self.kwargs = args, kwargs
        self._proxies: dict[int, tuple[mx.array, Proxy]] = {}  # by id of what stands for each

    def made(self) -> tuple[Any] | None:
        given, named = mapped((self.args, self.kwargs), self._base)
        with intercept.recording(None):
            found = self._traced(given, named)
            if found is None:
                return None
            recorded, call = found
            what = self.what
            moving = [id(a) for a in arrays_in([given[i] for i in what.positions])]
            moving += [id(a) for a in arrays_in([named[n] for n in what.names])]
            places = {id(array): i for i, array in enumerate(call.leaves.arrays)}
            wanted = [places[key] for key in moving]
            graph = simplify(recorded.graph)
            ends = [graph[n] for n in graph.outputs]
            values = [mx.zeros(data["shape"], dtype_of(data["dtype"])) for data in ends]
            told = rebuild(recorded.result, Given(values, (), call.leaves.passed))
            order = self._order(given, named, told)
            first = next(arrays_in(told))
            loss = next(i for i, array in enumerate(values) if array is first)
            try:
                graph = inlined(graph, [n for n in graph if defined(graph, n)])
                graph = simplify(keeping(graph).graph)
                whole, which = joint(graph, wanted, (loss,), _any_link(graph))
            except ZmlxError:
                return None
            if not all(whole.kind(n) != "opaque" or is_view(whole, n) for n in whole):
                return None
        nodes = self._spliced(whole, recorded, call)
        count = len(graph.outputs)
        proxies = [result(self.tracer, node) for node in nodes]
        gradients = dict(zip(which, proxies[count:], strict=True))
        parts = [
            gradients[place] if place in gradients else self._zeros(call.leaves.arrays[place])
            for place in wanted
        ]  # fmt: skip
        gives = iter([parts[i] for i in order[1]])
        tree = mapped(order[0], lambda leaf: next(gives) if isinstance(leaf, mx.array) else leaf)
        if not self.what.value:
            return (tree,)
        value = rebuild(recorded.result, Given(proxies[:count], (), call.leaves.passed))
        return ((value, tree),)

    def _base(self, value: Any) -> Any:
        """Another array in place of each traced one, of its own."""
        if type(value) is not Proxy:
            return value
        base = mx.array(mx.array(value))
        self._proxies[id(base)] = base, value
        return base

    def _zeros(self, base: mx.array) -> Any:
        return self.tracer.elementwise("zeros_like", (self._proxies[id(base)][1],))

    def _traced(self, args: Any, kwargs: Any) -> tuple[Trace, Call] | None:
        """What the function does, and the call that says which arrays are which."""
        flat, structure = flatten_call(args, kwargs)
        call = Call(flat, structure, (args, kwargs))
        try:
            found = trace(self.inner, call, frozenset(range(len(flat.numbers))))
        except Exception:  # it is told where MLX makes the call
            return None
        odd = [found.updates, found.writes, found.captures, found.personal, found.plain]
        odd += [found.exported, not found.graph.outputs, flat.passed]
        return None if any(odd) else (found, call)

    def _order(self, args: Any, kwargs: Any, told: Any) -> tuple[Any, list[int]]:
        """The tree of gradients, and which array, in the order of `moving`, each is of.

        MLX says both, of small arrays; and what it says of the value, if that is no number.
        """
        small = lambda leaf: mx.array(0.0) if isinstance(leaf, mx.array) else leaf  # noqa: E731
        given, named = mapped((args, kwargs), small)

        def weighted(*args: Any, **kwargs: Any) -> Any:
            inside = [args[i] for i in self.what.positions] + [kwargs[n] for n in self.what.names]
            return sum(i * a for i, a in enumerate(arrays_in(inside)))

        self.what.of(lambda *a, **k: told)(*given, **named)  # MLX looks at the value
        made = self.what.of(weighted)(*given, **named)
        tree = made[1] if self.what.value else made
        return tree, [int(a.item()) for a in arrays_in(tree)]

    def _spliced(self, graph: Graph, recorded: Trace, call: Call) -> list[int]:
        """The outputs of `graph`, whose nodes are the tracer's now."""
        tracer, arrays = self.tracer, call.leaves.arrays
        sources = [self._proxies[id(array)][1].node for array in arrays]
        inputs = [n for n in recorded.graph.inputs if recorded.graph.kind(n) == "input"]
        homes = dict(zip(inputs, sources, strict=True))

        def at(expr: Any) -> Any:
            places = {x: ("size", homes[x[1]], *x[2:]) for x in leaves_of(expr) if x[0] == "size"}
            return replaced(expr, places)

        for decision in recorded.decisions:
            tracer.sizes.decide(at(decision.expr), decision.value)
        new: dict[int, int] = {}
        waiting = iter(sources)
        for node in graph:
            data, kind = graph.attributes(node), graph.kind(node)
            if kind == "input":
                source = next(waiting, None)
                new[node] = self._seed(graph, node) if source is None else source
            elif kind == "scalar":
                number = ScalarProxy(at(data["expr"]), 0, tracer)
                new[node] = tracer.sizes.node(number, data["dtype"])
            else:
                operands = [new[o] for o in graph.operands(node)]
                new[node] = tracer.graph.add(kind, operands, **data)
        return [new[n] for n in graph.outputs]

    def _seed(self, graph: Graph, node: int) -> int:
        return self.tracer.constant(mx.ones((), dtype_of(graph[node]["dtype"]))).node


def _any_link(graph: Graph) -> Callable[[int], dict[int, range]]:
    return lambda node: {p: range(1) for p, _ in enumerate(graph.operands(node))}
