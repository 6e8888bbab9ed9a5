"""Calls of MLX written out as ops and reductions: against float64, and MLX's own gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from derive_cases import run
from fuse_cases import array, numpy
from scipy import special

import zmlx
from zmlx.derive.accumulate import derive_vjp
from zmlx.device import signature
from zmlx.errors import PlanError
from zmlx.fuse.inline import defined, inlined
from zmlx.fuse.program import make_program
from zmlx.fuse.runtime import Runtime
from zmlx.fuse.simplify import simplify
from zmlx.ops.definitions import DEFINITIONS, PRODUCTS
from zmlx.trace.graph import Graph

INF, NAN = float("inf"), float("nan")
Exact = Callable[..., np.ndarray]


def normed(x: np.ndarray, weight: Any = None, bias: Any = None, centred: bool = False) -> Any:
    moved = x - x.mean(-1, keepdims=True) if centred else x
    result = moved / np.sqrt((moved**2).mean(-1, keepdims=True) + 1e-5)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def norm(x: np.ndarray, order: Any) -> np.ndarray:
    return np.linalg.norm(x, ord=order, axis=1, keepdims=True)


X, ROW = (6, 33), (33,)
# A function, what it is in float64, and the shapes of its arrays.
CASES: dict[str, tuple[Callable[..., mx.array], Exact, list[tuple[int, ...]]]] = {
    "mean": (lambda x: mx.mean(x, 1, True), lambda x: x.mean(1, keepdims=True), [X]),
    "mean of all": (lambda x: x.mean(keepdims=True), lambda x: x.mean(keepdims=True), [X]),
    "mean of two axes": (
        lambda x: mx.mean(x, axis=[0, -1], keepdims=True),
        lambda x: x.mean((0, 2), keepdims=True), [(3, 4, 5)],
    ),
    "var": (lambda x: x.var(0, keepdims=True), lambda x: x.var(0, keepdims=True), [X]),
    "var, ddof": (
        lambda x: mx.var(x, -1, keepdims=True, ddof=1), lambda x: x.var(1, keepdims=True, ddof=1),
        [X],
    ),
    "std": (lambda x: mx.std(x, 1, True), lambda x: x.std(1, keepdims=True), [X]),
    "std, ddof": (
        lambda x: x.std(keepdims=True, ddof=2), lambda x: x.std(keepdims=True, ddof=2), [X],
    ),
    "softmax": (lambda x: mx.softmax(x, -1), lambda x: special.softmax(x, 1), [X]),
    "softmax, precise": (
        lambda x: mx.softmax(x, axis=0, precise=True), lambda x: special.softmax(x, 0), [X],
    ),
    "softmax of all": (lambda x: mx.softmax(x), lambda x: special.softmax(x), [X]),
    "logsumexp": (
        lambda x: mx.logsumexp(x, 1, keepdims=True),
        lambda x: special.logsumexp(x, 1, keepdims=True), [X],
    ),
    "log_softmax": (lambda x: nn.log_softmax(x, axis=1), lambda x: special.log_softmax(x, 1), [X]),
    "norm": (
        lambda x: mx.linalg.norm(x, axis=1, keepdims=True), lambda x: norm(x, None), [X],
    ),
    "norm of all": (
        lambda x: mx.linalg.norm(x, keepdims=True),
        lambda x: np.sqrt((x**2).sum(keepdims=True)), [X],
    ),
    "norm, 1": (lambda x: mx.linalg.norm(x, 1, 1, True), lambda x: norm(x, 1), [X]),
    "norm, 2": (lambda x: mx.linalg.norm(x, 2, [1], True), lambda x: norm(x, 2), [X]),
    "norm, inf": (lambda x: mx.linalg.norm(x, INF, -1, True), lambda x: norm(x, INF), [X]),
    "matmul": (lambda x, w: x @ w, lambda x, w: x @ w, [(1, 33), (33, 6)]),
    "addmm": (
        lambda c, x, w: mx.addmm(c, x, w), lambda c, x, w: c + x @ w, [(6,), (1, 33), (33, 6)],
    ),
    "rms_norm": (lambda x, w: mx.fast.rms_norm(x, w, 1e-5), normed, [X, ROW]),
    "rms_norm, no weight": (lambda x: mx.fast.rms_norm(x, None, 1e-5), normed, [X]),
    "layer_norm": (
        lambda x, w, b: mx.fast.layer_norm(x, w, b, 1e-5),
        lambda x, w, b: normed(x, w, b, True), [X, ROW, ROW],
    ),
    "layer_norm, no bias": (
        lambda x, w: mx.fast.layer_norm(x, weight=w, bias=None, eps=1e-5),
        lambda x, w: normed(x, w, None, True), [X, ROW],
    ),
    "layer_norm, no weight": (
        lambda x, b: mx.fast.layer_norm(x, None, b, 1e-5),
        lambda x, b: normed(x, None, b, True), [X, ROW],
    ),
    "layer_norm, bare": (
        lambda x: mx.fast.layer_norm(x, None, None, 1e-5),
        lambda x: normed(x, None, None, True), [X],
    ),
}  # fmt: skip


# What takes an index of each row; tests/fuse/test_definitions.py compares it.
INDEXED: list[tuple[Callable[..., mx.array], tuple[int, ...]]] = [
    (lambda x, i: mx.take_along_axis(x, i, 1), (6, 1)), (mx.fast.cross_entropy, (6,)),
]  # fmt: skip


def graph_of(fn: Callable[..., Any], *args: Any) -> Graph:
    with zmlx.config(device="replay"):  # nothing is compiled
        return zmlx.fuse(fn).entry(*args).trace.graph


def written_out(fn: Callable[..., Any], *args: Any) -> Graph:
    """The trace with every call that has a definition written out, one at least."""
    graph = graph_of(fn, *args)
    which = [n for n in graph if defined(graph, n)]
    assert which
    made = inlined(graph, which)
    made.verify()
    return made


def inputs(shapes: list[tuple[int, ...]], dtype: mx.Dtype, scale: float = 1.5) -> list[mx.array]:
    return [array(i, *shape, dtype=dtype, scale=scale) for i, shape in enumerate(shapes)]


def wide(arrays: list[mx.array]) -> list[np.ndarray]:
    return [numpy(a).astype(np.float64) for a in arrays]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_values_are_as_close_to_float64_as_mlx_s(name: str, dtype: mx.Dtype) -> None:
    fn, exact, shapes = CASES[name]
    arrays = inputs(shapes, dtype)
    (got,), plain, want = run(written_out(fn, *arrays), arrays), fn(*arrays), exact(*wide(arrays))
    assert got.dtype == plain.dtype and got.shape == plain.shape
    unit = {mx.float32: 2.0**-23, mx.bfloat16: 2.0**-8, mx.float16: 2.0**-11}[dtype]
    errors = [np.abs(numpy(a).astype(np.float64) - want).max() for a in (got, plain)]
    assert errors[0] <= errors[1] + 2 * unit * np.abs(want).max()


# Products hold views, which are apart from regions: test_products has their gradients.
@pytest.mark.parametrize("name", [name for name in CASES if name not in PRODUCTS])
def test_gradients_are_mlx_s(name: str) -> None:
    fn, _, shapes = CASES[name]
    arrays = inputs(shapes, mx.float32)
    cotangent = array(9, *fn(*arrays).shape)
    with mx.stream(mx.cpu):  # MLX's gradient of a layer norm over rows of 33 is wrong on CUDA
        want = mx.vjp(fn, arrays, [cotangent])[1]
    derivative = derive_vjp(simplify(written_out(fn, *arrays)))
    assert derivative.targets == tuple(range(len(arrays)))
    got = run(derivative.graph, [*arrays, cotangent])
    for mine, theirs in zip(got, want, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        scale = np.abs(np.array(theirs)).max()
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-5 * max(1.0, scale))


@pytest.mark.parametrize("dtype", [mx.bool_, mx.int8, mx.uint16, mx.int32], ids=str)
@pytest.mark.parametrize("name", ["mean", "var", "std", "softmax", "logsumexp"])
def test_integers(name: str, dtype: mx.Dtype) -> None:
    fn, exact, _ = CASES[name]
    x = mx.array([[3, 0, 1], [2, 2, 7]]).astype(dtype)
    (got,) = run(written_out(fn, x), [x])
    assert got.dtype == fn(x).dtype
    np.testing.assert_allclose(got, exact(wide([x])[0]), rtol=1e-6, atol=1e-6)


SPECIAL = [
    [1.0, -INF, 2.0], [-INF, -INF, -INF], [INF, 1.0, 2.0], [NAN, 1.0, 2.0], [INF, NAN, -INF],
    [1e30, -1e30, 3e38], [88.0, 89.0, 1000.0], [0.0, -0.0, 0.0],
]  # fmt: skip


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if len(c[2]) == 1])
def test_what_is_not_finite(name: str) -> None:
    """NaN where MLX gives NaN, infinity where it gives that: but nothing overflows on the way."""
    fn, exact, shapes = CASES[name]
    if len(shapes[0]) == 3:
        return
    for values in SPECIAL:
        x = mx.array([values])
        (got,) = run(written_out(fn, x), [x])
        with np.errstate(all="ignore"):
            want = exact(wide([x])[0]).astype(np.float32)
        for mine, theirs, right in zip(
            np.array(got).flat, np.array(fn(x)).flat, want.flat, strict=True
        ):
            near = [
                np.isclose(mine, v, rtol=1e-5, atol=1e-6, equal_nan=True) for v in (theirs, right)
            ]
            assert any(near), (values, mine, theirs, right)


def test_axes_that_are_not_kept_are_squeezed() -> None:
    x = array(0, 3, 4, 5)
    for fn in (
        lambda x: mx.mean(x, 1), lambda x: x.var((0, 2)), lambda x: mx.std(x),
        lambda x: mx.logsumexp(x, axis=-1), lambda x: mx.linalg.norm(x, axis=2),
    ):  # fmt: skip
        (got,) = run(written_out(fn, x), [x])
        assert got.shape == fn(x).shape
        np.testing.assert_allclose(got, fn(x), rtol=1e-5)


def test_a_variance_is_that_of_the_differences() -> None:
    x = array(0, 8, 4096, scale=0.01) + 1000
    (got,) = run(written_out(lambda x: mx.var(x, 1), x), [x])
    np.testing.assert_allclose(got, wide([x])[0].var(1), rtol=1e-3)  # of the mean's rounding


@pytest.mark.parametrize("ddof", [1, 2, 3, 4, 9])
def test_more_degrees_of_freedom_than_elements(ddof: int) -> None:
    x = mx.array([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0]])
    fn = lambda x: mx.var(x, 1, ddof=ddof)  # noqa: E731
    (got,) = run(written_out(fn, x), [x])
    np.testing.assert_allclose(got, fn(x), rtol=1e-6)


def test_half_types_do_not_overflow_inside() -> None:
    x = mx.full((2, 4096), 60000.0, mx.float16)
    for fn, want in ((lambda x: mx.mean(x, 1), 60000), (lambda x: mx.fast.rms_norm(x, None, 0), 1)):
        got = run(written_out(fn, x), [x])[0]
        assert (got == want).all() and got.dtype == mx.float16


def test_a_definition_holds_for_every_length() -> None:
    def fn(x: mx.array, eps: float) -> mx.array:
        return mx.fast.rms_norm(x, None, eps) + mx.mean(x, 1, True)

    made = simplify(written_out(lambda x: fn(x, 1e-5), array(0, 3, 5)))
    for shape in ((3, 5), (7, 2), (2, 129)):
        x = array(1, *shape)
        np.testing.assert_allclose(run(made, [x])[0], fn(x, 1e-5), rtol=1e-5, atol=1e-6)
    assert {made.kind(n) for n in made} <= {"input", "const", "op", "reduce", "count"}
    counted = {made.operands(n) for n in made if made.kind(n) == "count"}
    assert counted == {(made.inputs[0],)}  # no value is kept to count it


def test_lines_of_the_calls_survive() -> None:
    made = written_out(lambda x: mx.softmax(x, 1), array(0, 3, 5))
    lines = {made[n]["loc"].partition(":")[0] for n in made if made.kind(n) in ("op", "reduce")}
    assert lines == {"test_inline.py"}


def mean(x: mx.array) -> mx.array:
    return mx.cumsum(x, 1)


UNDEFINED: dict[str, Callable[[mx.array], Any]] = {
    "no axis": lambda x: mx.mean(x, []),
    "a number": lambda x: mx.softmax(x[0, 0]) * mx.mean(x[0, 0]),
    "complex numbers": lambda x: mx.mean(x.astype(mx.complex64), 1),
    "a stream": lambda x: mx.mean(x, 1, stream=mx.cpu),
    "a matrix norm": lambda x: mx.linalg.norm(x, axis=[0, 1], ord="fro"),
    "another order": lambda x: mx.linalg.norm(x, 3, 1),
    "a norm of integers": lambda x: mx.linalg.norm(x.astype(mx.int32), axis=1),
    "nothing like it": lambda x: mx.cumsum(x, 1),
    "a function of that name": lambda x: mx.vmap(mean)(x[None]),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_what_no_definition_says(name: str) -> None:
    x = array(0, 3, 4)
    with mx.stream(mx.cpu):
        graph = graph_of(UNDEFINED[name], x)
    assert not [n for n in graph if defined(graph, n)]
    node = next(n for n in graph if graph.kind(n) == "opaque")
    with pytest.raises(PlanError, match="has no definition"):
        inlined(graph, [node])


def test_every_definition_is_tried() -> None:
    tried = set()
    graphs = [graph_of(fn, *inputs(shapes, mx.float32)) for fn, _, shapes in CASES.values()]
    graphs += [graph_of(fn, array(0, *X), mx.zeros(s, mx.int32)) for fn, s in INDEXED]
    for graph in graphs:
        tried |= {graph[n]["call"].definition for n in graph if defined(graph, n)}
    assert tried == set(DEFINITIONS.values())


def test_only_the_calls_chosen_are_written_out() -> None:
    x = array(0, 3, 4)
    graph = graph_of(lambda x: mx.softmax(x, 1) + mx.mean(x, 1, True), x)
    first, second = [n for n in graph if defined(graph, n)]
    labels = [
        [made[n]["call"].label for n in made if made.kind(n) == "opaque"]
        for made in (inlined(graph, [first]), inlined(graph, [second]), inlined(graph, []))
    ]
    assert labels == [["mean"], ["softmax"], ["softmax", "mean"]]


@pytest.mark.usefixtures("default_device")
@pytest.mark.usefixtures("on_cpu")  # MLX's gradient of a layer norm of 33 is wrong on CUDA
def test_a_program_runs_what_is_written_out() -> None:
    """Kernels between reductions that MLX runs; a mean counts what is there at each call."""

    def plain(x: mx.array, w: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, w, None, 1e-5) * mx.softmax(x, 1) + mx.var(x, 1, True)

    x, w = array(0, 6, 33), array(1, 33)
    runtime = Runtime(False, False, signature.fastest(), make_program)
    program = make_program(written_out(plain, x, w), runtime, "written out")
    run_one = lambda x, w: program([x, w])[0]  # noqa: E731
    ways: dict[str, Callable[[Any], Any]] = {
        "call": lambda f: f,
        "grad": lambda f: mx.grad(lambda x, w: f(x, w).square().sum()),
        "vmap": lambda f: mx.vmap(f, (0, None)),
        "shapeless": lambda f: mx.compile(f, shapeless=True),
    }
    for name, way in ways.items():
        mine, theirs = way(run_one), way(plain)
        for shape in ((6, 33), (3, 5)):
            full = (2, *shape) if name == "vmap" else shape
            given, row = array(2, *full), array(3, shape[-1])
            np.testing.assert_allclose(mine(given, row), theirs(given, row), rtol=1e-4, atol=1e-5)
