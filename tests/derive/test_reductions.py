"""Derivatives of graphs with reductions, by replay: against MLX's own, and float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from derive_cases import arrays, close, mx_dtype, name_of, run, run_float64

from zmlx import dtypes
from zmlx.derive.accumulate import derive_jvp, derive_vjp
from zmlx.derive.builder import Builder
from zmlx.derive.factor import factored
from zmlx.fuse.replay import replay
from zmlx.fuse.simplify import simplify
from zmlx.trace.graph import Graph, OpaqueCall, Ref

NAN, INF = float("nan"), float("inf")


class B(Builder):
    """A Builder with one method a row, for numbers too."""

    def input(self, shape: tuple[int, ...], dtype: str) -> int:
        return self.graph.add("input", shape=shape, dtype=dtype)

    def fold(self, op: str, x: int, *axes: int) -> int:
        return self.reduce(op, x, axes or tuple(range(len(self.graph[x]["shape"]))), "")

    def mean(self, x: int, *axes: int) -> int:
        axes = axes or tuple(range(len(self.graph[x]["shape"])))
        return self.divide(self.reduce("sum", x, axes, ""), self.count(x, axes, ""))

    def __getattr__(self, op: str) -> Callable[..., int]:
        def plant(*operands: int | float) -> int:
            kind = next(self.graph[o]["dtype"] for o in operands if type(o) is int)
            nodes = [o if type(o) is int else self.const(o, kind) for o in operands]
            return self.op(op, nodes, "")

        return plant


def built(function: Callable[..., Any], specs: list[tuple[tuple[int, ...], str]]) -> Graph:
    b = B()
    result = function(b, *[b.input(*spec) for spec in specs])
    b.graph.outputs = list(result) if isinstance(result, tuple) else [result]
    b.graph.verify()
    return b.graph


def softmax(b: B, x: int) -> int:
    e = b.exp(b.subtract(x, b.stop_gradient(b.fold("max", x, 1))))
    return b.divide(e, b.fold("sum", e, 1))


def softmax_through_max(b: B, x: int) -> int:
    e = b.exp(b.subtract(x, b.fold("max", x, 1)))
    return b.divide(e, b.fold("sum", e, 1))


def logsumexp(b: B, x: int) -> int:
    m = b.stop_gradient(b.fold("max", x, 1))
    return b.add(b.log(b.fold("sum", b.exp(b.subtract(x, m)), 1)), m)


def layer_norm(b: B, x: int, w: int, c: int) -> int:
    moved = b.subtract(x, b.mean(x, 1))
    scale = b.rsqrt(b.add(b.mean(b.square(moved), 1), 1e-5))
    return b.add(b.multiply(b.multiply(moved, scale), w), c)


def rms_norm(b: B, x: int, w: int) -> int:
    return b.multiply(b.multiply(x, b.rsqrt(b.add(b.mean(b.square(x), 1), 1e-5))), w)


def mx_layer_norm(x, w, c):
    moved = x - x.mean(1, keepdims=True)
    return moved * mx.rsqrt(moved.square().mean(1, keepdims=True) + 1e-5) * w + c


def mx_rms_norm(x, w):
    return x * mx.rsqrt(x.square().mean(1, keepdims=True) + 1e-5) * w


X, ROW, ALL = (5, 7), (1, 7), (1, 1)
CASES: dict[str, tuple[Callable, Callable, list[tuple[int, ...]]]] = {
    "sum": (lambda b, x: b.fold("sum", x, 1), lambda x: x.sum(1, keepdims=True), [X]),
    "sum of a sum": (
        lambda b, x: b.fold("sum", b.square(b.fold("sum", x, 1)), 0),
        lambda x: x.sum(1, keepdims=True).square().sum(0, keepdims=True), [X],
    ),
    "sum of what is broadcast": (
        lambda b, x, r: b.fold("sum", b.add(x, r)), lambda x, r: (x + r).sum(keepdims=True),
        [X, ROW],
    ),
    "sum of an outer sum": (
        lambda b, x, y: b.fold("sum", b.add(x, y), 0),
        lambda x, y: (x + y).sum(0, keepdims=True), [(5, 1), (1, 7)],
    ),
    "used twice": (
        lambda b, x: b.multiply(b.add(x, b.fold("sum", b.sin(x), 0)), x),
        lambda x: (x + mx.sin(x).sum(0, keepdims=True)) * x, [X],
    ),
    "mean": (lambda b, x: b.mean(x, 0), lambda x: x.mean(0, keepdims=True), [X]),
    "mean of all": (
        lambda b, x, y: b.mean(b.square(b.subtract(x, y))),
        lambda x, y: (x - y).square().mean(keepdims=True), [X, X],
    ),
    "max": (
        lambda b, x: b.multiply(x, b.fold("max", b.sin(x), 1)),
        lambda x: x * mx.sin(x).max(1, keepdims=True), [X],
    ),
    "min of two axes": (
        lambda b, x: b.multiply(x, b.fold("min", x, 0, 2)),
        lambda x: x * x.min((0, 2), keepdims=True), [(3, 4, 5)],
    ),
    "prod": (
        lambda b, x: b.multiply(x, b.fold("prod", x, 1)), lambda x: x * x.prod(1, keepdims=True),
        [X],
    ),
    "prod of two axes": (
        lambda b, x: b.fold("prod", b.sin(x), 0, 1),
        lambda x: mx.sin(x).prod((0, 1), keepdims=True), [(3, 2, 4)],
    ),
    "softmax": (softmax, lambda x: mx.softmax(x, 1), [X]),
    "softmax, through the max": (softmax_through_max, lambda x: mx.softmax(x, 1), [X]),
    "log-softmax": (
        lambda b, x: b.subtract(x, logsumexp(b, x)),
        lambda x: x - mx.logsumexp(x, 1, keepdims=True), [X],
    ),
    "logsumexp": (logsumexp, lambda x: mx.logsumexp(x, 1, keepdims=True), [X]),
    "layer norm": (layer_norm, mx_layer_norm, [X, ROW, ROW]),
    "rms norm": (rms_norm, mx_rms_norm, [X, ROW]),
    "one of each size": (rms_norm, mx_rms_norm, [(1, 1), (1, 1)]),
    "an index beside": (
        lambda b, x: b.multiply(x, b.astype(b.fold("argmax", x, 1), "float32", "")),
        lambda x: x * mx.stop_gradient(mx.argmax(x, 1, keepdims=True)).astype(mx.float32), [X],
    ),
    "any and all beside": (
        lambda b, x: b.where(b.fold("any", b.greater(x, 2.0), 1), x, b.fold("all", x, 0)),
        lambda x: mx.where(
            mx.any(x > 2.0, 1, keepdims=True), x, mx.stop_gradient(mx.all(x, 0, keepdims=True))
        ),
        [X],
    ),
}  # fmt: skip
ORDERS = [n for n in CASES if not n.startswith("prod")]  # whose derivatives are regions too
TOLERANCE = {"float32": 2e-5, "bfloat16": 6e-2, "float16": 8e-3}


def case(name: str, dtype: str) -> tuple[Graph, Callable, list[mx.array]]:
    function, plain, shapes = CASES[name]
    specs = [(s, dtype) for s in shapes]
    return built(function, specs), plain, arrays(specs)


def in_float32(arrays: list[mx.array]) -> list[mx.array]:
    return [a.astype(mx.float32) for a in arrays]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_values_and_both_modes(name: str, dtype: str) -> None:
    region, plain, values = case(name, dtype)
    (value,), tolerance = replay(region, values), TOLERANCE[dtype]
    wide = in_float32(values)
    want = plain(*wide).astype(value.dtype)
    close(value, want, tolerance, tolerance)

    cotangent = arrays([(value.shape, name_of(value.dtype))], seed=9)[0]
    pulled = derive_vjp(region)
    pulled.graph.verify()
    got = run(simplify(factored(pulled.graph, pulled.seeds)), [*values, cotangent])
    expected = mx.vjp(plain, wide, [cotangent.astype(mx.float32)])[1]
    for gradient, target in zip(got, pulled.targets, strict=True):
        close(gradient, expected[target].astype(mx_dtype(dtype)), tolerance, tolerance)

    pushed, tangents = derive_jvp(region), arrays([(v.shape, dtype) for v in values], seed=4)
    pushed.graph.verify()
    moved = run(simplify(pushed.graph), [*values, *tangents])
    expected = mx.jvp(plain, wide, in_float32(tangents))[1]
    close(moved[0], expected[0].astype(value.dtype), tolerance, tolerance)


@pytest.mark.parametrize("name", ORDERS)
def test_against_differences_in_float64(name: str) -> None:
    region, _, values = case(name, "float32")
    given = [np.array(v, np.float64) for v in values]
    ways = [np.array(v, np.float64) for v in arrays([(v.shape, "float32") for v in values], 4)]
    seed = np.array(arrays([(region[region.outputs[0]]["shape"], "float32")], seed=9)[0])

    def moved(step: float) -> np.ndarray:
        return run_float64(region, [v + step * w for v, w in zip(given, ways, strict=True)])[0]

    want = ((moved(1e-5) - moved(-1e-5)) / 2e-5 * seed).sum()
    derivative = derive_vjp(region)
    gradients = run_float64(derivative.graph, [*given, seed])
    pairs = zip(gradients, derivative.targets, strict=True)
    got = sum((g * ways[t]).sum() for g, t in pairs)
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ORDERS)
def test_second_order(name: str) -> None:
    region, plain, values = case(name, "float32")
    first = derive_vjp(region)
    second = derive_vjp(first.graph)
    cotangents = arrays([(region[region.outputs[0]]["shape"], "float32")], seed=9)
    seeds = arrays([(values[t].shape, "float32") for t in first.targets], seed=3)

    def gradient(*given: mx.array) -> list[mx.array]:
        found = mx.vjp(plain, list(given[:-1]), [given[-1]])[1]
        return [found[t] for t in first.targets]

    want = mx.vjp(gradient, [*values, *cotangents], seeds)[1]
    got = run(simplify(second.graph), [*values, *cotangents, *seeds])
    for found, target in zip(got, second.targets, strict=True):
        close(found, want[target], 1e-4, 1e-4)
    untouched = set(range(len(want))) - set(second.targets)
    assert not any(np.array(want[i]).any() for i in untouched)


@pytest.mark.parametrize("shape", [(3, 5), (1, 5), (3, 1), (1, 1), (0, 4)], ids=str)
@pytest.mark.parametrize("name", ["sum", "mean", "rms norm", "layer norm", "softmax", "prod"])
def test_sizes_one_and_none(name: str, shape: tuple[int, int]) -> None:
    """A graph holds for its pattern of ones; a mean counts what is there."""
    function, plain, shapes = CASES[name]
    sizes = [shape, *[(1, shape[1])] * (len(shapes) - 1)]
    example = [tuple(9 if n != 1 else 1 for n in s) for s in sizes]
    region = built(function, [(s, "float32") for s in example])
    values = arrays([(s, "float32") for s in sizes])
    (value,) = replay(region, values)
    cotangent = mx.ones(value.shape)
    derivative = derive_vjp(region)
    if 0 in shape:  # plain MLX reads past a shape there, and may never end
        right = mx.array(run_float64(region, values)[0].astype(np.float32))
        want = [mx.zeros_like(v) for v in values]
    else:
        right, want = plain(*values), mx.vjp(plain, values, [cotangent])[1]
    close(value, right, 2e-5, 2e-5)
    got = run(simplify(derivative.graph), [*values, cotangent])
    for gradient, target in zip(got, derivative.targets, strict=True):
        close(gradient, want[target], 2e-5, 2e-5)


SPECIAL = [
    [1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [NAN, 1.0, 2.0], [NAN, NAN, 1.0], [INF, -INF, 1.0],
    [-INF, -INF, -INF], [0.0, 3.0, 4.0], [0.0, 0.0, 4.0], [INF, 2.0, 0.0], [-1.0, 2.0, -0.0],
    [1e30, 1e30, 1e-30],
]  # fmt: skip


@pytest.mark.parametrize("op", ["sum", "prod", "max", "min"])
def test_ties_zeros_and_what_is_not_finite(op: str) -> None:
    """Bit for bit, as MLX's own rules: ties share, zeros leave the product of the others."""
    for values in SPECIAL:
        x, g = mx.array([values]), mx.array([[0.7]])
        region = built(lambda b, x: b.fold(op, x, 1), [((1, 3), "float32")])
        fold = lambda x: getattr(mx, op)(x, 1, True)  # noqa: E731
        got = run(derive_vjp(region).graph, [x, g])[0]
        assert np.array_equal(got, mx.vjp(fold, [x], [g])[1][0], equal_nan=True), values
        tangent = mx.array([[10.0, 1.0, 2.0]])
        got = run(derive_jvp(region).graph, [x, tangent])[0]
        assert np.array_equal(got, mx.jvp(fold, [x], [tangent])[1][0], equal_nan=True), values


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "uint64"])
@pytest.mark.parametrize("op", ["sum", "prod", "max", "min", "any", "argmin"])
def test_integers(op: str, dtype: str) -> None:
    """A cast passes the gradient through, as MLX's does, and a fold of integers as one of floats.

    MLX itself raises where the fold's type is not its operand's.
    """

    def function(b: B, x: int) -> int:
        folded = b.fold(op, b.astype(x, dtype, ""), 1)
        return b.multiply(b.astype(folded, "float32", ""), x)

    def plain(x: mx.array, cast: bool = True) -> mx.array:
        inner = x.astype(mx_dtype(dtype)) if cast else x
        folded = getattr(mx, op)(inner, axis=1, keepdims=True)
        return folded.astype(mx.float32) * x

    x = mx.array([[1.0, 4.0, 2.0], [3.0, 1.0, 5.0]])
    cotangent = mx.array([[1.0, 2.0, 4.0], [3.0, 5.0, 8.0]])
    region = built(function, [(x.shape, "float32")])
    assert region[region.outputs[0]]["dtype"] == "float32"
    assert np.array_equal(replay(region, [x])[0], plain(x))
    if dtype == "bool" and op in ("prod", "max", "min"):
        return  # these depend on more than whether an element is zero
    if op == "sum":
        want = plain(x) / x * cotangent + (x * cotangent).sum(1, keepdims=True)
    elif op in ("prod", "max", "min"):
        want = mx.vjp(lambda x: plain(x, cast=False), [x], [cotangent])[1][0]
    else:
        want = mx.vjp(lambda x: mx.stop_gradient(plain(x) / x) * x, [x], [cotangent])[1][0]
    got = run(derive_vjp(region).graph, [x, cotangent])[0]
    close(got, want, 1e-6, 1e-6)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("op", ["sum", "max", "prod"])
def test_axes(op: str, axes: tuple[int, ...]) -> None:
    shape = (3, 4, 5)
    region = built(lambda b, x: b.multiply(b.fold(op, b.sin(x), *axes), x), [(shape, "float32")])
    plain = lambda x: getattr(mx, op)(mx.sin(x), axes, True) * x  # noqa: E731
    x, cotangent = arrays([(shape, "float32")] * 2)
    (got,) = run(derive_vjp(region).graph, [x, cotangent])
    close(got, mx.vjp(plain, [x], [cotangent])[1][0], 2e-5, 2e-5)


def test_half_types_are_summed_in_float32() -> None:
    """Over 4096 rows: in bfloat16 a running sum would stop at 256."""
    region = built(
        lambda b, x, r: b.multiply(x, r), [((4096, 3), "bfloat16"), ((1, 3), "bfloat16")]
    )
    graph = derive_vjp(region).graph
    assert {graph[n]["dtype"] for n in graph if graph.kind(n) == "reduce"} == {"float32"}
    ones = mx.ones((4096, 3), mx.bfloat16)
    got = replay(graph, [ones, mx.ones((1, 3), mx.bfloat16), ones])
    assert got[1].tolist() == [[4096.0] * 3]


def test_what_nothing_flows_through_has_no_gradient() -> None:
    for op in ("any", "all", "argmax", "argmin"):
        region = built(lambda b, x, op=op: b.fold(op, x, 1), [(X, "float32")])
        assert derive_vjp(region).targets == () and derive_jvp(region).outputs == ()
    region = built(lambda b, x: b.multiply(b.count(x, (0,), ""), 2.0), [(X, "float32")])
    assert derive_vjp(region).targets == ()


def test_a_derivative_holds_for_other_sizes() -> None:
    region = built(layer_norm, [((3, 5), "float32"), ((1, 5), "float32"), ((1, 5), "float32")])
    values = arrays([((8, 2), "float32"), ((1, 2), "float32"), ((1, 2), "float32")])
    cotangent = mx.ones((8, 2))
    want = mx.vjp(mx_layer_norm, values, [cotangent])[1]
    for got, expected in zip(
        run(derive_vjp(region).graph, [*values, cotangent]), want, strict=True
    ):
        close(got, expected, 1e-5, 1e-5)


def test_a_call_in_a_region_is_refused_still() -> None:
    graph = Graph()
    x = graph.add("input", shape=(3,))
    call = OpaqueCall(mx.cumsum, (Ref(0),), {}, "cumsum")
    graph.outputs = [graph.add("opaque", (x,), shape=(3,), call=call, pure=True)]
    with pytest.raises(Exception, match="is opaque"):
        derive_vjp(graph)


def test_types_of_folds_are_the_table_s() -> None:
    for dtype in dtypes.ALL:
        b = B()
        x = b.input((2, 3), dtype)
        for op in ("sum", "max", "any", "argmin"):
            with mx.stream(mx.cpu):
                values = replay(_of(b, op, x), [mx.zeros((2, 3), mx_dtype(dtype))])
                assert name_of(values[0].dtype) == b.graph[b.fold(op, x, 1)]["dtype"]


def _of(b: B, op: str, x: int) -> Graph:
    b.graph.outputs = [b.fold(op, x, 1)]
    return b.graph
