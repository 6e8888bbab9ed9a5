"""Taken: gradients that a traced function takes, as nodes of its graph.

Comes in: a call of mx.grad(f) or mx.value_and_grad(f), of mx.vjp or mx.jvp, while a trace runs.
Goes out: what it returns, traced. f is run by the trace itself, over arrays of their own for those
that gradients are wanted of; what leads from these to its results is differentiated, and its graph
and that of the gradients stand among the nodes, so that the planner makes kernels of them and of
what stands beside them. Calls of MLX's that f makes send back by nodes of their own, matrix
products by products: gradients of gradients are nodes as well. Tangents are the gradients of
gradients, which are linear in what they are given.

None where the call stays one that MLX makes. Where f does what a trace cannot, reads a value say,
the trace begins again, and MLX makes that call there. zmlx.trace.through asks.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.device.rules import native_or_none
from zmlx.errors import DeriveError, ZmlxError
from zmlx.fuse.inline import defined, inlined
from zmlx.fuse.joint import joint
from zmlx.fuse.keeping import keeping
from zmlx.fuse.part import Part
from zmlx.fuse.repeats import calls_mlx
from zmlx.fuse.replay import dtype_of
from zmlx.fuse.simplify import simplify
from zmlx.fuse.table import tracing_exactly
from zmlx.trace import intercept
from zmlx.trace.asked import Asked, asked
from zmlx.trace.calls import Around, is_flat
from zmlx.trace.graph import NUMBERS, Graph, OpaqueCall, Ref
from zmlx.trace.moment import Moment
from zmlx.trace.operands import arrays_in, mapped, name_of
from zmlx.trace.proxy import Proxy
from zmlx.trace.scalars import Specialize
from zmlx.trace.spliced import result
from zmlx.trace.statecall import StateCall
from zmlx.trace.tracer import Tracer

_KIND = type(mx.grad(abs))
_VJP, _JVP = mx.vjp, mx.jvp


def taken(
    tracer: Tracer, fn: Callable[..., Any], target: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Any] | None:
    """What `target(*args, **kwargs)` returns; `fn` is MLX's own way to call `target`."""
    if tracer.unseen.reading or tracer.streams.elsewhere() or tracing_exactly() is not False:
        return None
    if target in (_VJP, _JVP):
        return _by_hand(tracer, target, *args, **kwargs)
    inner = _inner(target)
    if inner is None:
        return None
    with intercept.recording(None):
        what = asked(fn, target, inner)
    if what is None or len(args) <= max(what.positions, default=-1):
        return None
    if not {*what.names} <= {*kwargs}:
        return None
    wanted = [args[i] for i in what.positions] + [kwargs[name] for name in what.names]
    if not _all_float(list(arrays_in(wanted))) or not _sees(tracer, target, args, kwargs):
        return None
    token = _token(tracer)
    return None if token is None else _Taken(tracer, inner, token).made(what, tuple(args), kwargs)


def _by_hand(
    tracer: Tracer, target: Any, fun: Any = None, primals: Any = None, cotangents: Any = None,
    tangents: Any = None,
) -> tuple[Any] | None:  # fmt: skip
    """What mx.vjp or mx.jvp returns."""
    known, seeds = (list, tuple), tangents if cotangents is None else cotangents
    if type(primals) not in known or type(seeds) not in known or not callable(fun):
        return None
    if not all(isinstance(a, mx.array) for a in (*primals, *seeds)):
        return None
    if not _all_float(primals) or not _sees(tracer, fun, primals, seeds):
        return None
    token = _token(tracer)
    if token is None:
        return None
    one = _Taken(tracer, fun, token)
    return one.pulled(primals, seeds) if target is _VJP else one.pushed(primals, seeds)


def _all_float(arrays: Sequence[mx.array]) -> bool:
    kinds = [name_of(array.dtype) for array in arrays]
    return len(kinds) > 0 and all(map(dtypes.is_float, kinds))


def _sees(tracer: Tracer, target: Any, args: Any, kwargs: Any) -> bool:
    return tracer.sees((args, kwargs)) or tracer.state.meets_traced((target, args, kwargs))


def _token(tracer: Tracer) -> str | None:
    """What says to another run of the trace that this gradient cannot be taken; None there."""
    token = f"gradient {len(tracer.gradients)}"
    tracer.gradients.append(token)
    return None if token in tracer.static else token


def _inner(target: Any) -> Callable[..., Any] | None:
    """The function of a gradient of MLX's, or of what looks like one."""
    if type(target) is not _KIND:
        return None
    held = [thing for thing in gc.get_referents(target) if thing is not _KIND]
    return held[0] if len(held) == 1 and callable(held[0]) else None


class _Taken:
    """One such call; `token` says to another run of the trace that it cannot be taken."""

    def __init__(self, tracer: Tracer, inner: Callable[..., Any], token: str) -> None:
        self.tracer, self.inner, self.token = tracer, inner, token
        self.moving: list[Proxy] = []
        self.nodes: list[int] = []  # theirs, and below the nodes whose values those have
        self.homes: list[int] = []

    def made(self, what: Asked, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any]:
        given = [mapped(a, self._own) if i in what.positions else a for i, a in enumerate(args)]
        named = {k: mapped(v, self._own) if k in what.names else v for k, v in kwargs.items()}
        told = self._told(*given, **named)
        with intercept.recording(None):
            tree, order = _order(what, args, kwargs, told)
        results, gradients = self._differentiated(list(arrays_in(told)), None)
        parts = iter([gradients[i] for i in order])
        tree = mapped(tree, lambda leaf: next(parts) if isinstance(leaf, mx.array) else leaf)
        if not what.value:
            return (tree,)
        values = chain(results[:1], map(self._stopped, results[1:]))  # as MLX does beside a loss
        value = mapped(told, lambda leaf: next(values) if isinstance(leaf, mx.array) else leaf)
        return ((value, tree),)

    def pulled(self, primals: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any]:
        found = self._listed(primals)
        if not _fits(found, cotangents) or len({id(array) for array in found}) < len(found):
            raise self._not_taken()
        return (self._differentiated(found, cotangents),)

    def pushed(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any]:
        found = self._listed(primals)
        if not _fits(self.moving, tangents):
            raise self._not_taken()
        part, ends = self._part(found)
        if not all(map(calls_mlx, part.calls)):  # a custom function has its own rule for tangents
            raise self._not_taken()
        if not part.outputs:
            return ((found, [self._zeros(array) for array in found]),)
        with intercept.recording(None):
            whole, which = self._joint(part, range(len(part.outputs)))
            whole, moved = self._turned(whole, len(part.outputs), which)
        given = [self._homes().get(end, end) for end in part.outputs]  # any of that shape
        given += [self.tracer.lifted(tangents[i]).node for i in which]
        made = part.spliced(self.tracer, whole, self._homes(), given)
        values, moves = self._by_node(part, made, [part.outputs[i] for i in moved])
        pairs = list(zip(ends, found, strict=True))
        pushed = [moves[e] if e in moves else self._zeros(array) for e, array in pairs]
        return (([values.get(e, array) for e, array in pairs], pushed),)

    def _listed(self, primals: Sequence[Any]) -> list[Any]:
        """The arrays that the function returns."""
        told = self._told(*map(self._own, primals))
        found = [told] if isinstance(told, mx.array) else told
        if not is_flat(found):
            raise self._not_taken()
        return list(found)

    def _told(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        try:
            return intercept.stand_in(self.inner)(*args, **kwargs)
        except Exception as error:  # it is told where MLX makes the call
            raise self._not_taken() from error

    def _not_taken(self) -> Specialize:
        return Specialize(frozenset({self.token}), self.tracer)

    def _own(self, value: Any) -> Any:
        """For an array another one, of a node of its own."""
        if not isinstance(value, mx.array):
            return value
        tracer = self.tracer
        node = tracer.lifted(value).node
        data = {key: tracer.graph[node][key] for key in ("shape", "dtype", "loc")}
        self.nodes.append(tracer.graph.add("op", (node,), **data, op="astype", at=data["dtype"]))
        self.moving.append(result(tracer, self.nodes[-1]))
        self.homes.append(node)
        return self.moving[-1]

    def _differentiated(
        self, found: Sequence[mx.array], seeds: Sequence[mx.array] | None
    ) -> tuple[list[Any], list[Any]]:
        """The arrays `found` as they are now, and the gradients of what moves, where they receive
        `seeds`; None: the first receives one.
        """
        part, ends = self._part(found)
        used = [i for i, end in enumerate(ends) if end in part.outputs]
        used = [i for i in used if i == 0 or seeds is not None]
        if not used:
            return list(found), [self._zeros(proxy) for proxy in self.moving]
        with intercept.recording(None):
            whole, which = self._joint(part, [part.outputs.index(ends[i]) for i in used])
        given = [self._one(ends[i]) if seeds is None else seeds[i] for i in used]
        nodes = [self.tracer.lifted(seed).node for seed in given]
        made = part.spliced(self.tracer, whole, self._homes(), nodes)
        values, gradients = self._by_node(part, made, which)
        return (
            [values.get(end, array) for end, array in zip(ends, found, strict=True)],
            [gradients[i] if i in gradients else self._zeros(p) for i, p in enumerate(self.moving)],
        )

    def _part(self, found: Sequence[mx.array]) -> tuple[Part, list[int]]:
        """What leads from what moves to `found`, and the nodes of these."""
        ends = [self.tracer.lifted(array).node for array in found]
        for proxy, node, home in zip(self.moving, self.nodes, self.homes, strict=True):
            if proxy.node == node:  # not written; somebody may have kept it
                proxy.node = home
        try:
            part = Part(self.tracer.graph, self.nodes, ends)
        except DeriveError:
            raise self._not_taken() from None
        if any(map(_is_personal, part.calls)):
            raise self._not_taken()
        return part, ends

    def _homes(self) -> dict[int, int]:
        return dict(zip(self.nodes, self.homes, strict=True))

    def _by_node(
        self, part: Part, made: Sequence[int], which: Sequence[int]
    ) -> tuple[dict[int, Proxy], dict[int, Proxy]]:
        """The part's results by its nodes, and what follows them by `which`."""
        proxies, count = [result(self.tracer, node) for node in made], len(part.outputs)
        return (
            dict(zip(part.outputs, proxies[:count], strict=True)),
            dict(zip(which, proxies[count:], strict=True)),
        )

    def _one(self, node: int) -> Proxy:
        return self.tracer.constant(mx.ones((), dtype_of(self.tracer.graph[node]["dtype"])))

    def _stopped(self, array: Any) -> Any:
        """The array, through which no gradient goes."""
        traced = type(array) is Proxy
        return self.tracer.elementwise("stop_gradient", (array,)) if traced else array

    def _zeros(self, array: Any) -> Any:
        return self.tracer.elementwise("zeros_like", (array,))

    def _joint(self, part: Part, used: Sequence[int]) -> tuple[Graph, Sequence[int]]:
        """The part and its gradients as one graph, and the arrays that these are of."""
        try:
            graph = simplify(part.graph)
            graph = inlined(graph, [n for n in graph if defined(graph, n)])
            graph = simplify(keeping(graph).graph)
            return joint(graph, range(len(self.moving)), used, _Links(graph))
        except ZmlxError as error:
            raise self._not_taken() from error

    def _turned(
        self, whole: Graph, count: int, which: Sequence[int]
    ) -> tuple[Graph, Sequence[int]]:
        """From results and gradients, which are linear in what results receive, to results and
        tangents: the gradients' own gradients. And the results that have one.
        """
        arrays = [n for n in whole.inputs if whole.kind(n) not in NUMBERS]
        seeds = range(len(arrays) - count, len(arrays))
        used = range(count, count + len(which))
        try:
            made, found = joint(whole, seeds, used, _Links(whole))
        except ZmlxError as error:
            raise self._not_taken() from error
        made.outputs = [*made.outputs[:count], *made.outputs[count + len(which) :]]
        return made, [i - seeds.start for i in found]


def _fits(found: Sequence[mx.array], given: Sequence[mx.array]) -> bool:
    """Whether each array has one of its shape and type."""
    pairs = zip(map(mx.array, found), map(mx.array, given), strict=False)
    alike = all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    return alike and len(found) == len(given)


def _order(what: Asked, args: Sequence[Any], kwargs: Any, told: Any) -> tuple[Any, list[int]]:
    """The tree of gradients, and which of the arrays that move each is of, in the order of these.

    MLX says both, of small arrays; and what it says of the value `told`, if that is no number.
    """
    small = lambda leaf: mx.array(0.0) if isinstance(leaf, mx.array) else leaf  # noqa: E731
    given = [mapped(a, small) if i in what.positions else None for i, a in enumerate(args)]
    named = {name: mapped(kwargs[name], small) for name in what.names}

    def weighted(*args: Any, **kwargs: Any) -> Any:
        inside = [args[i] for i in what.positions] + [kwargs[n] for n in what.names]
        return sum(i * a for i, a in enumerate(arrays_in(inside)))

    value = mapped(told, lambda leaf: _like(leaf) if isinstance(leaf, mx.array) else leaf)
    what.of(lambda *a, **k: value)(*given, **named)  # MLX looks at the value
    made = what.of(weighted)(*given, **named)
    tree = made[1] if what.value else made
    return tree, [int(a.item()) for a in arrays_in(tree)]


def _like(array: mx.array) -> mx.array:
    return mx.zeros(mx.array(array).shape, array.dtype)


def _is_personal(call: OpaqueCall) -> bool:
    """Whether a call finds, or writes, more than its operands and results."""
    fn = call.fn
    while isinstance(fn, Around):
        if isinstance(fn, (Moment, StateCall)):
            return True
        fn = fn.fn
    return False


class _Links:
    """Which results of a call depend on which operands, as MLX has it for arrays like these."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __call__(self, node: int) -> Mapping[int, Sequence[int]]:
        graph, call = self.graph, self.graph[node]["call"]
        operands = graph.operands(node)
        numbers = [p for p, o in enumerate(operands) if graph.kind(o) in ("const", *NUMBERS)]
        arrays = [p for p in range(len(operands)) if p not in numbers]
        native = native_or_none()
        if numbers or native is None:  # Pulled gives zeros where nothing is linked
            return dict.fromkeys(arrays, range(max(1, call.outputs)))
        given = [mx.zeros(graph[o]["shape"], dtype_of(graph[o]["dtype"])) for o in operands]

        def leaf(value: Any) -> Any:
            return given[value.position] if type(value) is Ref else value

        args, kwargs = mapped((call.args, call.kwargs), leaf)
        results = list(arrays_in(call.fn(*args, **kwargs)))
        found = native.reached(given, given, results)
        return {p: r for p, r in zip(arrays, found, strict=True) if r}
