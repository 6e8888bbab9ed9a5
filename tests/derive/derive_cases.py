"""Graphs written as functions, their interpreters (MLX; NumPy in float64), and checks."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from scipy import special

from zmlx import dtypes
from zmlx.derive.accumulate import Derivative, derive_vjp
from zmlx.fuse.replay import replay
from zmlx.ops.infer import infer
from zmlx.ops.reductions import REDUCTIONS
from zmlx.ops.table import OPS
from zmlx.trace import namespace
from zmlx.trace.graph import Graph, Ref, broadcast


def mx_dtype(name: str) -> mx.Dtype:
    return getattr(mx, "bool_" if name == "bool" else name)


def name_of(dtype: mx.Dtype | str) -> str:
    return str(dtype).rsplit(".", 1)[-1].rstrip("_")


class Value:
    """A node being recorded; its dtype is what composites ask for."""

    def __init__(self, node: int, dtype: str) -> None:
        self.node, self.dtype = node, mx_dtype(dtype)


class Recorder:
    """`F` for composites and tests: records rows into a Graph."""

    def __init__(self) -> None:
        self.graph = Graph()

    def input(self, shape: tuple[int, ...], dtype: str = "float32", kind: str = "input") -> Value:
        return Value(self.graph.add(kind, shape=shape, dtype=dtype), dtype)

    def __getattr__(self, op: str) -> Any:
        if op not in OPS:
            raise AttributeError(op)
        if op == "astype":
            return lambda x, dtype: self._record(op, (x,), name_of(dtype))
        return lambda *operands: self._record(op, operands, None)

    def _record(self, op: str, operands: Any, param: str | None) -> Value:
        strong = [name_of(o.dtype) for o in operands if isinstance(o, Value)]
        strong = strong[1:] if op == "where" and isinstance(operands[0], Value) else strong
        nodes = []
        for operand in operands:
            if not isinstance(operand, Value):
                dtype = dtypes.weak(operand, strong)
                operand = Value(self.graph.add("const", dtype=dtype, value=operand), dtype)
            nodes.append(operand.node)
        at, dtype = infer(op, [self.graph[n]["dtype"] for n in nodes], param)
        shape = broadcast([self.graph[n]["shape"] for n in nodes])
        return Value(self.graph.add("op", nodes, shape=shape, dtype=dtype, op=op, at=at), dtype)


def record(function: Any, *inputs: Any) -> Graph:
    """The graph of function(F, *inputs); inputs are (shape, dtype[, kind])."""
    recorder = Recorder()
    result = function(recorder, *[recorder.input(*spec) for spec in inputs])
    results = result if isinstance(result, tuple) else (result,)
    recorder.graph.outputs = [r.node for r in results]
    return recorder.graph


class MlxNamespace:
    """F over mlx.core itself: the same function, run by MLX."""

    def __getattr__(self, op: str) -> Any:
        if op == "astype":
            return lambda x, dtype: mx.array.astype(x, mx_dtype(name_of(dtype)))
        return namespace.function(op)


F = MlxNamespace()


def run_mlx(graph: Graph, inputs: list[Any]) -> list[mx.array]:
    """Every node by MLX; values of half types are kept in float32, as kernels do."""
    values: dict[int, Any] = {}
    for node in graph:
        data = graph[node]
        if data["kind"] in ("input", "scalar"):
            values[node] = mx.array(inputs[data["index"]]).astype(mx_dtype(data["dtype"]))
        elif data["kind"] == "const":
            values[node] = mx.array(data["value"], dtype=mx_dtype(_held(data["dtype"])))
        elif data["kind"] == "opaque":
            call, operands = data["call"], [values[o] for o in graph.operands(node)]
            args = [operands[a.position] if isinstance(a, Ref) else a for a in call.args]
            values[node] = call.fn(*args, **call.kwargs)
            assert name_of(values[node].dtype) == _held(data["dtype"]), data
        elif data["kind"] == "reduce":
            values[node] = reduced(data, values[data["operands"][0]])
            assert name_of(values[node].dtype) == _held(data["dtype"]), data
        elif data["kind"] == "count":
            source = values[data["operands"][0]]
            values[node] = mx.array(float(np.prod([source.shape[a] for a in data["axes"]])))
        else:
            values[node] = _op_mlx(graph, node, values)
    return [values[n].astype(mx_dtype(graph[n]["dtype"])) for n in graph.outputs]


def reduced(data: dict[str, Any], x: mx.array) -> mx.array:
    """A reduce node by MLX's function of that name."""
    if "arg" in data["op"]:
        axis = data["axes"][0] if len(data["axes"]) == 1 else None
        return getattr(mx, data["op"])(x, axis=axis, keepdims=True)
    return getattr(mx, data["op"])(x, axis=data["axes"], keepdims=True)


def _held(dtype: str) -> str:
    return "float32" if dtype in dtypes.HALVES else dtype


def _op_mlx(graph: Graph, node: int, values: dict[int, Any]) -> mx.array:
    data = graph[node]
    kinds = [data["at"]] * len(data["operands"])
    if data["op"] == "where":
        kinds[0] = "bool"
    operands = [
        values[o].astype(mx_dtype(_held(k))) for o, k in zip(data["operands"], kinds, strict=True)
    ]
    if data["op"] == "astype":
        return operands[0].astype(mx_dtype(data["dtype"])).astype(mx_dtype(_held(data["dtype"])))
    result = namespace.function(data["op"])(*operands)
    assert name_of(result.dtype) == _held(data["dtype"]), data
    return result


def run(graph: Graph, values: list[mx.array]) -> list[mx.array]:
    """`replay`, node by node, and the calls of MLX among them."""
    found: list[mx.array] = []
    given = iter(values)
    for node in graph:
        data = graph[node]
        operands = [found[o] for o in data["operands"]]
        if data["kind"] == "input":
            found.append(next(given))
        elif data["kind"] == "opaque":
            call = data["call"]
            args = [operands[a.position] for a in call.args]
            found.append(call.fn(*args, **call.kwargs))
        else:
            alone = Graph()
            kinds = [{k: graph[o][k] for k in ("shape", "dtype")} for o in data["operands"]]
            inputs = [alone.add("input", **kind) for kind in kinds]
            alone.outputs = [alone.add(data["kind"], inputs, **graph.attributes(node))]
            found += replay(alone, operands)
    return [found[n] for n in graph.outputs]


def run_float64(graph: Graph, inputs: list[Any]) -> list[np.ndarray]:
    """Every node by its NumPy reference; float types are float64 throughout."""
    values: dict[int, Any] = {}
    for node in graph:
        data = graph[node]
        if data["kind"] in ("input", "scalar"):
            values[node] = np.asarray(inputs[data["index"]], _numpy(data["dtype"]))
        elif data["kind"] == "const":
            values[node] = np.asarray(data["value"], _numpy(data["dtype"]))
        elif data["kind"] == "opaque":
            assert data["call"].label == "squeeze"
            values[node] = np.squeeze(values[graph.operands(node)[0]], **data["call"].kwargs)
        elif data["kind"] == "reduce":
            given = {"np": np, "x": values[data["operands"][0]], "axes": data["axes"]}
            values[node] = eval(REDUCTIONS[data["op"]].ref, {**given, "places": places})
        elif data["kind"] == "count":
            source = values[data["operands"][0]]
            values[node] = np.float64(np.prod([source.shape[a] for a in data["axes"]]))
        else:
            operands = [values[o] for o in data["operands"]]
            values[node] = np.asarray(_op_float64(data, operands), _numpy(data["dtype"]))
    return [values[n] for n in graph.outputs]


def places(function: Any, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """argmax or argmin over one axis or all, which stay with size one."""
    return function(x, axis=axes[0] if len(axes) == 1 else None, keepdims=True)


def _op_float64(data: dict[str, Any], operands: list[np.ndarray]) -> Any:
    names: dict[str, Any] = {"np": np, "special": special}
    first = 1 if data["op"] == "where" else 0
    for i, (name, value) in enumerate(zip("xyz", operands, strict=False)):
        names[name] = np.asarray(value, _numpy(data["at"]) if i >= first else np.bool_)
    with np.errstate(all="ignore"):
        return eval(OPS[data["op"]].ref, names)


def _numpy(dtype: str) -> Any:
    return np.float64 if dtypes.is_float(dtype) else np.dtype(dtype)


def arrays(specs, seed=0, scale=1.5):
    rng = np.random.default_rng(seed)
    return [
        mx.array(rng.normal(0, scale, s).astype(np.float32)).astype(mx_dtype(d))
        for s, d, *_ in specs
    ]


def check_vjp(function, specs, values=None, rtol=2e-5, atol=2e-5) -> Derivative:
    """derive_vjp of `function` against mx.vjp; returns the derivative."""
    values = arrays(specs) if values is None else values
    region = record(function, *specs)
    derivative = derive_vjp(region)
    cotangents = arrays([(o.shape, name_of(o.dtype)) for o in _tuple(function(F, *values))], seed=9)
    want = mx.vjp(lambda *a: list(_tuple(function(F, *a))), values, cotangents)[1]
    got = run_mlx(derivative.graph, [*values, *cotangents])
    assert len(got) == len(derivative.targets)
    for gradient, target in zip(got, derivative.targets, strict=True):
        close(gradient, want[target], rtol, atol)
    for i, (_, dtype) in enumerate(specs):
        if i not in derivative.targets and "float" in dtype:
            assert not np.array(want[i].astype(mx.float32)).any(), f"input {i} has a gradient"
    return derivative


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


def close(got, want, rtol, atol):
    assert got.dtype == want.dtype and got.shape == want.shape
    a, b = (np.array(v.astype(mx.float32)) for v in (got, want))
    finite = np.abs(b[np.isfinite(b)])
    np.testing.assert_allclose(
        a, b, rtol=rtol, atol=atol * max(1.0, finite.max() if finite.size else 1.0)
    )
