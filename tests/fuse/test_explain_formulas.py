"""The formulas that explain shows: evaluated in float64 they are the function and its gradient."""

from __future__ import annotations

import inspect
import operator
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
import sympy as sp

import zmlx
from zmlx.fuse.explain import RegionReport
from zmlx.fuse.formulas import WIDEST, Formulas
from zmlx.trace.graph import Graph


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here runs a kernel."""
    monkeypatch.setenv("ZMLX_DEVICE", "replay")


def total(value: Any, axes: tuple[int, ...], keepdims: Any = False) -> np.ndarray:
    """`sum` as the formulas write it: sum(value, axes) or sum(value, axes, keepdims)."""
    return np.sum(value, axis=tuple(axes), keepdims=keepdims is not False)


RTOL = 1e-6  # a Python number beside an array is float32 even where the array is float64
MEANINGS = {
    **{name: getattr(np, name) for name in ("greater", "less", "equal", "not_equal")},
    **{name: getattr(np, name) for name in ("logical_and", "logical_or", "logical_not")},
    "sum": total,
    "squeeze": np.squeeze,
    "inf": np.inf,
    "nan": np.nan,
    "int32": np.trunc,
    "bool": lambda x: x != 0,
    "bitwise_and": lambda x, y: np.bitwise_and(x.astype(int), y),
    "floor_divide": lambda x, y: np.floor(x / y),
    "stop_gradient": lambda x: x,
}


def evaluated(expression: sp.Expr, known: Mapping[str, Any]) -> Any:
    names = sorted(str(s) for s in expression.free_symbols if str(s) in known)
    function = sp.lambdify(names, expression, modules=[MEANINGS, "scipy", "numpy"])
    with np.errstate(all="ignore"):  # the branches of a Piecewise that are not taken
        return function(*[known[name] for name in names])


def all_values(region: RegionReport, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of temporaries, formulas ("out0") and derivatives ("in0'")."""
    known = dict(given)
    for symbol, expression in region.temporaries.items():
        known[str(symbol)] = evaluated(expression, known)
    found = {name: evaluated(e, known) for name, e in region.formulas.items()}
    found |= {f"{name}'": evaluated(e, known) for name, e in region.vjp.items()}
    return found


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + mx.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


def chain(x: Any, length: int = 10) -> Any:
    for _ in range(length):  # 6 ops each
        x = mx.sin(x) * 1.01 + mx.exp(-x * x)
    return x


def branches(x: Any, mask: Any) -> Any:
    inner = mx.where(mask, x * mx.maximum(x, 0.25), mx.clip(x, -0.5, 0.5))
    return mx.where((x > -1) & (inner < 1.25), inner, -inner), mx.where(mx.isnan(x), 0.0, x * x)


def several(x: Any, y: Any) -> Any:
    shared = mx.sigmoid(x + y)
    return shared * x, mx.log1p(mx.square(shared)) - y, x > y


def powers(x: Any, y: Any) -> Any:
    return mx.abs(x) ** y + mx.rsqrt(mx.abs(x) + 1) ** 3 / mx.sqrt(y * y + 2)


def rare(x: Any) -> Any:
    a = mx.erf(x) + mx.arctan2(x, 2.0) + mx.remainder(x, 0.75) + mx.floor(x) * x
    return a + mx.logaddexp(x, 0.5) + mx.stop_gradient(x) * mx.logaddexp(0.0, x) + mx.expm1(x)


class Case(NamedTuple):
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    numbers: tuple[float, ...] = ()
    masks: int = 0  # this many of the last arrays are bool


CASES = {
    "gelu": Case(gelu, ((3, 4),)),
    "silu, broadcast": Case(
        lambda x, b, w: (x + b) * mx.sigmoid(x + b) * w, ((5, 4), (4,), (5, 1))
    ),
    "inner and outer sums": Case(lambda x, y: mx.tanh(x * y) * y, ((2, 3, 4), (3, 1))),
    "numbers": Case(lambda x, y, a, b: mx.exp(-x * a) / b + y * (a + b), ((4,), (4,)), (0.7, 2.5)),
    "branches": Case(branches, ((6, 7), (6, 7)), masks=1),
    "several outputs": Case(several, ((6,), (2, 6))),
    "powers": Case(powers, ((20,), (20,))),
    "rare": Case(rare, ((40,),)),
    "a chain of 60 ops": Case(chain, ((5,),)),
    "a used output": Case(lambda x: (mx.exp(x), mx.exp(x) * x, mx.exp(-mx.exp(x))), ((5,),)),
    "casts": Case(lambda x, m: x * m + mx.where(m, 2, x.astype(mx.int32)), ((9,), (9,)), masks=1),
    "no gradient but one": Case(lambda x: (mx.sign(x) + (x > 0.5), x // 2, x * 3.0), ((9,),)),
}


@pytest.mark.parametrize("name", CASES)
def test_formula_and_derivative_are_the_functions_own(name: str) -> None:
    case = CASES[name]
    rng = np.random.default_rng(3)
    arrays = [rng.uniform(-2, 2, shape) for shape in case.shapes]
    for i in range(len(arrays) - case.masks, len(arrays)):
        arrays[i] = arrays[i] > 0
    kinds = [mx.bool_ if a.dtype == bool else mx.float32 for a in arrays]
    examples = [mx.array(a, kind) for a, kind in zip(arrays, kinds, strict=True)]
    explanation = zmlx.explain(case.function, *examples, *case.numbers)
    (region,) = explanation.regions

    given: dict[str, Any] = {}
    place: dict[str, int] = {}
    parameters = list(inspect.signature(case.function).parameters)
    values = dict(zip(parameters, [*arrays, *case.numbers], strict=False))
    for port in region.inputs:  # "x", "rate", "add(rate, shift)"
        if port.source in parameters[: len(arrays)]:
            place[port.name] = parameters.index(port.source)
        given[port.name] = eval(port.source, {**vars(operator), **values})
    order = [explanation.outputs.index(port.node) for port in region.outputs]
    wide = [mx.array(a, mx.bool_ if a.dtype == bool else mx.float64) for a in arrays]
    varied = list(region.vjp)

    def plain(*chosen: mx.array) -> list[mx.array]:
        """The plain function of `varied`, in float64; results in the order of the formulas."""
        given = dict(zip((place[name] for name in varied), chosen, strict=True))
        result = case.function(*[given.get(i, w) for i, w in enumerate(wide)], *case.numbers)
        results = list(result) if isinstance(result, tuple) else [result]
        return [results[i].astype(mx.float64) for i in order]

    with mx.stream(mx.cpu):
        at = [wide[place[name]] for name in varied]
        results = plain(*at)
        seeds = [rng.uniform(-1, 1, r.shape) for r in results]
        gradients = mx.vjp(plain, at, [mx.array(s, mx.float64) for s in seeds])[1]
        wanted = [np.array(r) for r in (*results, *gradients)]
    given |= {f"g{i}": seed for i, seed in enumerate(seeds)}
    found = all_values(region, given)
    names = [*region.formulas, *(f"{name}'" for name in varied)]
    for name, value in zip(names, wanted, strict=True):
        ours = np.broadcast_to(found[name], value.shape)
        np.testing.assert_allclose(ours, value, rtol=RTOL, atol=1e-7, err_msg=name)


def test_a_derivative_is_the_slope_of_its_formula() -> None:
    """Finite differences of the shown formula itself, without MLX."""
    for function in (gelu, powers, lambda x: chain(x, 3)):
        count = function.__code__.co_argcount
        (region,) = zmlx.explain(function, *[mx.ones((4,))] * count).regions
        rng = np.random.default_rng(5)
        point: dict[str, Any] = {f"in{i}": rng.uniform(0.2, 1.5, 4) for i in range(count)}
        point["g0"] = np.ones(4)
        for name in region.vjp:
            step = 1e-6
            up, down = (
                all_values(region, point | {name: point[name] + s})["out0"] for s in (step, -step)
            )
            slope = (up - down) / (2 * step)
            np.testing.assert_allclose(all_values(region, point)[f"{name}'"], slope, rtol=1e-6)


def test_a_cast_is_shown_where_it_changes_the_value() -> None:
    def casts(x: Any) -> Any:
        small = x.astype(mx.bfloat16).astype(mx.float32)
        return small * x, (x * 3).astype(mx.int32), x.astype(mx.float16) * 2

    (region,) = zmlx.explain(casts, mx.ones((3,))).regions
    shown = sorted(str(e) for e in region.formulas.values())
    assert shown == ["2*float16(in0)", "in0*bfloat16(in0)", "int32(3*in0)"]


def test_numbers_and_structure_stay_as_written() -> None:
    (region,) = zmlx.explain(
        lambda x, y, s: 2.0 * (x + y) * 0.1 - s, mx.ones(3), mx.ones(3), 0.5
    ).regions
    assert str(region.formulas["out0"]) == "-s0 + 0.2*(in0 + in1)"
    (region,) = zmlx.explain(lambda x: mx.where(x > 0, x, -mx.inf) * 3, mx.ones(3)).regions
    assert str(region.formulas["out0"]) == "3*Piecewise((in0, in0 > 0), (-inf, True))"


def test_what_is_used_twice_gets_a_name() -> None:
    def f(x: Any) -> Any:
        t = mx.exp(mx.sin(x))
        return t / (1 + t)

    (region,) = zmlx.explain(f, mx.ones(3)).regions
    assert list(map(str, region.formula_lines.values())) == ["exp(sin(in0))", "u0/(u0 + 1)"]
    assert "u0" not in region.vjp_lines  # named above


def test_a_test_for_nan_is_not_simplified_away() -> None:
    (region,) = zmlx.explain(lambda x: mx.where(mx.isnan(x), 0.0, x) + 1, mx.ones(3)).regions
    values = np.array([1.0, np.nan, 2.0])
    np.testing.assert_array_equal(
        all_values(region, {"in0": values, "g0": np.ones(3)})["out0"], [2.0, 1.0, 3.0]
    )


def test_a_long_chain_stays_readable() -> None:
    """60 ops; every line short, each temporary used, nothing exponential."""
    x = mx.ones((8,))
    zmlx.explain(chain, x)  # derives each op once
    start = time.perf_counter()
    (region,) = zmlx.explain(chain, x).regions
    assert time.perf_counter() - start < 2  # 0.1 s on an idle machine
    assert len(region.ops) == 60
    lines = [*region.temporaries.values(), *region.formulas.values(), *region.vjp.values()]
    assert max(sp.count_ops(line) for line in lines) <= 2 * WIDEST
    assert len(region.temporaries) < 60
    used = set().union(*[line.free_symbols for line in lines])
    assert set(region.temporaries) <= used
    before: set[sp.Symbol] = set()
    for symbol, value in region.temporaries.items():
        assert {s for s in value.free_symbols if str(s).startswith("u")} <= before
        before.add(symbol)


def test_a_sum_without_end_is_cut_into_lines() -> None:
    graph = Graph()
    total_ = graph.add("input", shape=(3,))
    names = ["in0"]
    for i in range(1, 100):
        other = graph.add("input", shape=(3,))
        names.append(f"in{i}")
        total_ = graph.add("op", (total_, other), shape=(3,), op="add", at="float32")
    graph.outputs = [total_]
    formulas = Formulas()
    (result,) = formulas.of(graph, names)
    assert all(len(e.free_symbols) <= WIDEST + 2 for e in (*formulas.temporaries.values(), result))
    for symbol, value in reversed(formulas.temporaries.items()):
        result = result.subs(symbol, value)
    assert result == sp.Add(*[sp.Symbol(name, real=True) for name in names])
