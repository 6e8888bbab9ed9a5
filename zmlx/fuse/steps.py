"""Steps: each part of a planned graph as a function that makes its values.

Comes in: a graph and a step of its plan, with what runs its kernel. Goes out: a function of the
values so far, one place for each node, which puts its own there. zmlx.fuse.program calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mlx.core as mx

from zmlx import dtypes
from zmlx.device.rules import any_traced, native_or_none
from zmlx.fuse.extract import Ends
from zmlx.fuse.filled import filler, is_fixed
from zmlx.fuse.plan import Native
from zmlx.fuse.replay import count, dtype_of, op_function
from zmlx.fuse.runtime import Run
from zmlx.fuse.splits import anywhere
from zmlx.fuse.together import Together
from zmlx.msl.emit import scalar_type
from zmlx.trace.exprs import Expr, computed
from zmlx.trace.graph import NUMBERS, Graph, OpaqueCall, Ref
from zmlx.trace.namespace import folding
from zmlx.trace.operands import arrays_in

Values = list[Any]  # by node: arrays, Python numbers of scalars, lists of a call's several results
Step = Callable[[Values], None]


def kernel_step(graph: Graph, ends: Ends, outputs: Sequence[int], function: Run) -> Step:
    inputs = ends.inputs
    scalars = [(node, number_maker(graph[node]["dtype"])) for node in ends.scalars]

    def run(values: Values) -> None:
        arrays = [values[node] for node in inputs]
        for node, array_of in scalars:
            arrays.append(array_of(values[node]))
        for node, result in zip(outputs, function(arrays), strict=True):
            values[node] = result

    return run


def together_step(graph: Graph, function: Together, apart: Sequence[Step]) -> Step:
    """One step for several alike; those `apart` where MLX transforms what they read."""
    together = kernel_step(graph, function.ends, function.ends.outputs, function)
    inputs = function.ends.inputs

    def run(values: Values) -> None:
        if native_or_none() is None or any_traced([values[node] for node in inputs]):
            for step in apart:
                step(values)
        else:
            together(values)

    return run


def native_step(graph: Graph, step: Native) -> Step:
    node, data = step.node, graph[step.node]
    if data["kind"] == "item":
        source, index = graph.operands(node)[0], data["index"]

        def pick(values: Values) -> None:
            values[node] = values[source][index]

        return pick
    if data["kind"] == "size":
        return _size_step(node, graph.operands(node), data["expr"])
    if data["kind"] == "reduce":
        fold = folding(data["op"], data["axes"], keepdims=step.squeeze is None)
        return _fold_step(step.result, graph.operands(node)[0], fold)
    if data["kind"] == "count":
        return _fold_step(node, graph.operands(node)[0], partial(count, axes=data["axes"]))
    if data["kind"] == "opaque":
        return _call_step(node, graph.operands(node), data["call"])
    return _op_step(graph, node)


def _size_step(node: int, operands: tuple[int, ...], expr: Expr) -> Step:
    compute = computed((expr,))

    def run(values: Values) -> None:
        given = [values[o] for o in operands]
        (values[node],) = compute(given, given)

    return run


def _fold_step(node: int, source: int, fold: Callable[[mx.array], Any]) -> Step:
    def run(values: Values) -> None:
        values[node] = fold(values[source])

    return run


def _op_step(graph: Graph, node: int) -> Step:
    function = op_function(graph, node)
    operands = graph.operands(node)
    scalars = [(o, graph[o]["dtype"]) for o in operands if graph.kind(o) in NUMBERS]
    makers = {o: (number_maker(dtype), dtype_of(dtype)) for o, dtype in scalars}

    def value(values: Values, operand: int) -> mx.array:
        if operand not in makers:
            return values[operand]
        array_of, dtype = makers[operand]
        return array_of(values[operand]).reshape(()).astype(dtype)

    def run(values: Values) -> None:
        values[node] = function(*[value(values, o) for o in operands])

    return run


def _call_step(node: int, operands: tuple[int, ...], call: OpaqueCall) -> Step:
    fn, several = anywhere(call.fn), call.outputs > 0
    fixed = [*call.kwargs.values(), *[a for a in call.args if type(a) is not Ref]]
    if not all(map(is_fixed, fixed)):
        return _nested_call_step(node, operands, call)
    places = [operands[a.position] if type(a) is Ref else None for a in call.args]
    pairs, kwargs = list(zip(places, call.args, strict=True)), call.kwargs
    first, rest = places[0] if places else None, call.args[1:]
    if first is None or any(place is not None for place in places[1:]):

        def run(values: Values) -> None:
            given = [a if place is None else values[place] for place, a in pairs]
            result = fn(*given, **kwargs)
            values[node] = list(arrays_in(result)) if several else result

        return run

    def run_on_one(values: Values) -> None:
        result = fn(values[first], *rest, **kwargs)
        values[node] = list(arrays_in(result)) if several else result

    return run_on_one


def _nested_call_step(node: int, operands: tuple[int, ...], call: OpaqueCall) -> Step:
    fn, several = anywhere(call.fn), call.outputs > 0
    args, kwargs = filler(call.args), filler(call.kwargs) if call.kwargs else None

    def run(values: Values) -> None:
        given = [values[o] for o in operands]
        result = fn(*args(given)) if kwargs is None else fn(*args(given), **kwargs(given))
        values[node] = list(arrays_in(result)) if several else result

    return run


def number_maker(dtype: str) -> Callable[[Any], mx.array]:
    """What makes a Python number the array of one element in which kernels take it."""
    kind = dtype_of(scalar_type(dtype) if dtypes.has_msl(dtype) else dtype)

    def make(value: Any) -> mx.array:
        if isinstance(value, mx.array):
            return value
        if not dtypes.fits(value, dtype, ()):
            raise ValueError(
                f"[zmlx.fuse] the Python number {value} does not fit {dtype}, the type of the "
                "arrays beside it. Cast the arrays, or pass a smaller number."
            )
        if dtype == "uint64" and value < 0:  # wraps, but not in a list
            return mx.array(value, kind).reshape(1)
        return mx.array([dtypes.adopted(value, dtype)], kind)

    return make
