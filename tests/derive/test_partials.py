"""Partial derivatives of every row: finite differences, MLX, stable forms, refusals."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import sympy as sp
from derive_cases import Recorder, Value, run_float64, run_mlx

from zmlx.derive import partials as module
from zmlx.derive.accumulate import derive_vjp
from zmlx.derive.lower import chain_rule
from zmlx.derive.partials import OUT, SYMBOLS, partials, sech2, sigmoid
from zmlx.errors import DeriveError
from zmlx.ops.spec import OpSpec
from zmlx.ops.table import OPS
from zmlx.trace import namespace

x, y = SYMBOLS["x"], SYMBOLS["y"]
SMOOTH = [s for s in OPS.values() if s.grad == "auto" and s.name != "astype"]
CONSTANT = [s for s in OPS.values() if s.grad == "zero" and s.msl is not None]


def row_graph(spec: OpSpec, count: int):
    recorder = Recorder()
    inputs = [recorder.input((count,)) for _ in range(spec.arity)]
    recorder.graph.outputs = [getattr(recorder, spec.name)(*inputs).node]
    return recorder.graph


def samples(spec: OpSpec, count: int = 400) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    values = [rng.uniform(*d, count) for d in spec.domain]
    for kink in spec.kinks:
        values = [np.where(np.abs(v - kink) < 1e-2, kink + 0.1, v) for v in values]
    if spec.name == "remainder":  # stay away from the jumps
        ratio = values[0] / values[1]
        values[0] = np.where(
            np.abs(ratio - np.round(ratio)) < 1e-2, values[0] + 0.2 * values[1], values[0]
        )
    if spec.name in ("maximum", "minimum"):
        values[1] = np.where(np.abs(values[0] - values[1]) < 1e-2, values[0] + 1, values[1])
    return values


@pytest.mark.parametrize("spec", SMOOTH, ids=lambda s: s.name)
def test_gradients_equal_finite_differences(spec):
    graph, values = row_graph(spec, 400), samples(spec)
    derivative = derive_vjp(graph)
    flat = {"where": [0], "ldexp": [1]}.get(spec.name, [])
    assert derivative.targets == tuple(i for i in range(spec.arity) if i not in flat)
    got = run_float64(derivative.graph, [*values, np.ones(400)])
    for gradient, target in zip(got, derivative.targets, strict=True):
        h = 1e-6 * np.maximum(1.0, np.abs(values[target]))
        up, down = (
            [v + s * h if i == target else v for i, v in enumerate(values)] for s in (1, -1)
        )
        slope = (run_float64(graph, up)[0] - run_float64(graph, down)[0]) / (2 * h)
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-6 * np.abs(slope).max())


@pytest.mark.parametrize("spec", SMOOTH, ids=lambda s: s.name)
def test_gradients_equal_mlx(spec):
    values = [v.astype(np.float32) for v in samples(spec)]
    if spec.arity > 1 and spec.name not in ("power", "divide", "remainder", "arctan2"):
        for value in values:
            value[:20] = 2.0  # ties
    if spec.arity == 1 and all(low < 0 < high for low, high in spec.domain):
        values[0][:2] = 0.0
    derivative = derive_vjp(row_graph(spec, 400))
    arrays = [mx.array(v) for v in values]
    weights = mx.array(np.random.default_rng(1).normal(size=400).astype(np.float32))
    want = mx.vjp(namespace.function(spec.name), arrays, [weights])[1]
    got = run_mlx(derivative.graph, [*arrays, weights])
    for gradient, target in zip(got, derivative.targets, strict=True):
        reference = np.array(want[target])
        scale = np.abs(reference[np.isfinite(reference)]).max()
        np.testing.assert_allclose(np.array(gradient), reference, rtol=2e-5, atol=2e-6 * scale)


@pytest.mark.parametrize("spec", CONSTANT, ids=lambda s: s.name)
def test_locally_constant_rows_have_no_targets(spec):
    assert derive_vjp(row_graph(spec, 5)).targets == ()
    assert partials(spec.name) == (0,) * spec.arity


CONVENTIONS = [
    ("abs", [0.0, 1.0, -1.0, np.inf], [[0.0, 1.0, -1.0, 1.0]]),
    ("sqrt", [0.0, 4.0], [[np.inf, 0.25]]),
    ("maximum", [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0)], [[0, 1, 0], [1, 0, 1]]),
    ("minimum", [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0)], [[0, 0, 1], [1, 1, 0]]),
    ("remainder", [(5.0, 3.0), (-5.0, 3.0), (5.0, -3.0)], [[1, 1, 1], [-1, 2, 2]]),
    ("power", [(0.0, 2.0), (0.0, 1.0), (0.0, 0.5)], [[0, 1, np.inf], [0, 0, 0]]),
    ("logaddexp", [(-np.inf, 0.0), (np.inf, 0.0), (0.0, 0.0)], [[0, 1, 0.5], [1, 0, 0.5]]),
    ("arctan2", [(0.0, 0.0), (0.0, 1.0)], [[np.nan, 1], [np.nan, 0]]),
]


@pytest.mark.parametrize(
    ("op", "points", "want"), CONVENTIONS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_conventions_of_mlx(op, points, want):
    spec = OPS[op]
    values = np.array(points, np.float32).reshape(len(points), -1).T
    arrays, ones = [mx.array(v) for v in values], mx.ones((len(points),))
    got = run_mlx(derive_vjp(row_graph(spec, len(points))).graph, [*arrays, ones])
    mlx = mx.vjp(getattr(mx, spec.mx[0]), arrays, [ones])[1]
    for gradient, expected, by_mlx in zip(got, want, mlx, strict=True):
        np.testing.assert_array_equal(np.array(gradient), np.array(expected, np.float32))
        np.testing.assert_array_equal(np.array(by_mlx), np.array(expected, np.float32))


def test_ties_at_infinity_share_the_gradient():
    inf = float("inf")
    arrays = [mx.array([inf, -inf]), mx.array([inf, -inf]), mx.array([1.0, 1.0])]
    for gradient in run_mlx(derive_vjp(row_graph(OPS["logaddexp"], 2)).graph, arrays):
        assert gradient.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("op", "want"),
    [
        ("sigmoid", (OUT * (1 - OUT),)),
        ("tanh", (sech2(x),)),
        ("sech2", (-2 * OUT * sp.tanh(x),)),
        ("exp", (OUT,)),
        ("sqrt", (1 / (2 * OUT),)),
        ("rsqrt", (-(OUT**3) / 2,)),
        ("reciprocal", (-(OUT**2),)),
        ("divide", (1 / y, -OUT / y)),
        ("erfinv", (sp.sqrt(sp.pi) * sp.exp(OUT**2) / 2,)),
        ("square", (2 * x,)),
    ],
)
def test_stable_forms_are_found(op, want):
    assert partials(op) == want


@pytest.mark.smoke
def test_exponentials_become_a_sigmoid():
    assert [p.args[-1].expr for p in partials("logaddexp")] == [sigmoid(x - y), sigmoid(y - x)]
    assert not any(p.has(sp.exp) for p in partials("logaddexp"))


def test_power_keeps_no_division_by_its_base():
    assert partials("power")[0] == y * x ** (y - 1)


@pytest.fixture
def row(monkeypatch):
    """Adds a row to the table for one test."""

    def add(**fields):
        spec = OpSpec("trial", 1, ("trial",), "float", msl="{x}", **fields)
        monkeypatch.setitem(OPS, "trial", spec)
        return spec

    yield add
    for cached in (module.partials, module.formula, chain_rule):
        cached.cache_clear()


def test_what_sympy_cannot_derive_is_refused(row):
    row(sym="Max(x, 0)")
    with pytest.raises(DeriveError, match="Heaviside"):
        partials("trial")


def test_a_row_may_refuse_derivatives(row):
    row(grad="none")
    with pytest.raises(DeriveError, match="cannot be differentiated"):
        partials("trial")


def test_a_formula_without_rows_is_refused(row):
    row(sym="gamma(x)")
    with pytest.raises(DeriveError, match="no row"):
        chain_rule("trial")


def test_a_new_row_needs_nothing_but_itself(row):
    row(sym="1/(1 + x**2)")
    recorder = Recorder()
    value = recorder.input((3,))
    assert isinstance(value, Value)
    recorder.graph.outputs = [recorder.trial(value).node]
    derivative = derive_vjp(recorder.graph)
    assert derivative.targets == (0,)
