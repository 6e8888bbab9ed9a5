"""What the tests of the tracer share: trace, replay over MLX, MLX's own view of a function.

Replay is written here a second time, independently of zmlx.fuse, on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from zmlx.ops.table import OPS
from zmlx.trace.exprs import evaluate
from zmlx.trace.graph import NUMBERS, Graph, Ref
from zmlx.trace.recipe import Given, rebuild
from zmlx.trace.run import Call, Trace, trace
from zmlx.trace.tree import flatten_call

A = mx.array(np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32))
B = mx.array(np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32))
V = mx.array([0.5, -1.0, 2.0, 0.25])
I = mx.array([3, 0, 1, 2])  # noqa: E741
SPD = A @ A.T + 4 * mx.eye(4)


def mx_dtype(name: str) -> mx.Dtype:
    return getattr(mx, "bool_" if name == "bool" else name)


def call_of(args: tuple, kwargs: dict, inputs: Sequence[Any] = (), outputs: Sequence[Any] = ()):
    return Call(*flatten_call(args, kwargs, [*inputs, *outputs]))


def traced(fn: Callable, *args: Any, inputs: Sequence = (), outputs: Sequence = (), **kwargs: Any):
    result = recorded(fn, call_of(args, kwargs, inputs, outputs))
    result.graph.verify()
    return result


def recorded(fn: Callable, call: Call) -> Trace:
    """A trace in which the numbers of objects are static, as at a function's first call."""
    return trace(fn, call, frozenset(call.leaves.soft))


def run(fn: Callable, *args: Any, inputs: Sequence = (), **kwargs: Any) -> Any:
    """Trace `fn`, then replay the graph on the same arguments."""
    call = call_of(args, kwargs, inputs)
    result = recorded(fn, call)
    result.graph.verify()
    return replayed(result, call.leaves.arrays, call.leaves.numbers)


def replayed(found: Trace, arrays: Sequence[mx.array], numbers: Sequence[Any] = ()) -> Any:
    return rebuild(found.result, Given(replay(found.graph, arrays, numbers), numbers))


def replay(graph: Graph, arrays: Sequence[mx.array], numbers: Sequence[Any] = ()) -> list[mx.array]:
    values: dict[int, Any] = {}
    given = iter(arrays)
    for node in graph:
        data = graph[node]
        operands = [values[o] for o in graph.operands(node)]
        kind = data["kind"]
        if kind == "input":
            values[node] = next(given)
        elif kind == "scalar":
            values[node] = evaluate(data["expr"], numbers, arrays)
        elif kind == "size":
            values[node] = evaluate(data["expr"], operands, operands)
        elif kind in ("const", "array"):
            values[node] = data["value"]
        elif kind == "item":
            values[node] = operands[0][data["index"]]
        elif kind == "opaque":
            call = data["call"]
            result = call.fn(*filled(call.args, operands), **filled(call.kwargs, operands))
            values[node] = list(result) if call.outputs else result
            assert not call.outputs or len(result) == call.outputs
        elif kind == "reduce":
            index = data["op"].startswith("arg")  # of one axis, or all
            axes = None if index and len(data["axes"]) > 1 else data["axes"]
            given = {"axis": axes[0] if index and axes else axes, "keepdims": True}
            values[node] = getattr(mx, data["op"])(operands[0], **given)
        else:
            values[node] = op_value(graph, node, operands)
        if kind not in ("const", *NUMBERS) and not (kind == "opaque" and data["call"].outputs):
            assert values[node].dtype == mx_dtype(data["dtype"]), data
            assert len(values[node].shape) == len(data["shape"]), data
    return [values[n] for n in graph.outputs]


def op_value(graph: Graph, node: int, operands: list[Any]) -> mx.array:
    """The op in the type that the node says, on operands cast to it by hand."""
    data = graph[node]
    spec = OPS[data["op"]]
    types = [graph[o]["dtype"] for o in graph.operands(node)]
    arrays = [
        v if isinstance(v, mx.array) else mx.array(v, mx_dtype(t))
        for v, t in zip(operands, types, strict=True)
    ]
    cast = [a.astype(mx_dtype(data["at"])) for a in arrays]
    if spec.operands == "select":
        cast[0] = arrays[0]
    if data["op"] == "astype":
        return cast[0].astype(mx_dtype(data["dtype"]))
    return getattr(mx, spec.mx[0])(*cast)


def filled(template: Any, operands: Sequence[Any]) -> Any:
    if isinstance(template, Ref):
        return operands[template.position]
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return type(template)(*[filled(t, operands) for t in template])
    if isinstance(template, (list, tuple)):
        return type(template)([filled(t, operands) for t in template])
    if isinstance(template, dict):
        return {k: filled(t, operands) for k, t in template.items()}
    if isinstance(template, slice):
        return slice(*filled([template.start, template.stop, template.step], operands))
    return template


def bits(array: mx.array) -> np.ndarray:
    """The array's bits, with every NaN the same one."""
    if array.dtype == mx.bfloat16:
        array = array.astype(mx.float32)
    values = np.array(array)
    if values.dtype.kind in "fc":
        values = values.copy()
        values[np.isnan(values)] = np.nan
    return values


def same(got: Any, want: Any) -> None:
    """Both trees are equal: types, keys, dtypes, shapes and bits."""
    if isinstance(want, mx.array):
        assert isinstance(got, mx.array) and got.dtype == want.dtype, (got, want)
        a, b = bits(got), bits(want)
        assert a.shape == b.shape and a.tobytes() == b.tobytes(), (got, want)
        return
    assert type(got) is type(want), (got, want)
    if isinstance(want, dict):
        assert set(got) == set(want)
        for key in want:
            same(got[key], want[key])
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            same(a, b)
    else:
        assert got == want or (got != got and want != want)


def kinds(graph: Graph) -> list[str]:
    """Row names and, in brackets, labels of opaque calls, in order."""
    found = []
    for node in graph:
        data = graph[node]
        if data["kind"] == "op":
            found.append(data["op"])
        elif data["kind"] == "reduce":
            found.append(f"[{data['op']}]")
        elif data["kind"] == "opaque":
            found.append(f"[{data['call'].label}]")
    return found


def random_state() -> list:
    return mx.random.state[0].tolist()


def exported(fn: Callable, *arrays: mx.array) -> tuple[list[str], list[tuple]]:
    """What mx.export_function sees: primitives in order; (shape, dtype) of each output."""
    names: list[str] = []
    outputs: list[tuple] = []

    def callback(item: dict) -> None:
        if item["type"] == "primitive":
            names.append(item["name"])
        if item["type"] == "outputs":
            outputs.extend((tuple(shape), dtype) for _, shape, dtype in item["outputs"])

    mx.export_function(callback, fn, *arrays)
    return names, outputs
