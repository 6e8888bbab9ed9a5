"""Random graphs through the emitter: exact=True gives plain MLX's bits, else float64's values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from derive_cases import F, Recorder, Value, mx_dtype, name_of, record, run_float64
from hypothesis import given, settings
from hypothesis import strategies as st
from msl_cases import FLOATS, TYPES, build, same_bits

from zmlx import dtypes
from zmlx.ops.table import NAMED, OPS
from zmlx.trace.graph import Graph

pytestmark = pytest.mark.usefixtures("host_device")

FULL = (3, 5)
SHAPES = [FULL, (5,), (3, 1), (1, 5), (1, 1), (1,), ()]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.3, -2.5, 3.0, 40.0, -90.0, 1e-40, 1e30, np.inf, -np.inf, np.nan]
NUMBERS = [0, 1, 2, 3, 0.5, -1.5, 0.1, 1e-3, True, float("inf")]
# MLX leaves their results open for some of the values that turn up here, or traps.
LEFT_OUT = {"left_shift", "right_shift", "floor_divide", "remainder"}
NAMES = sorted(set(NAMED) - LEFT_OUT)
# Well-conditioned ops, for graphs whose result is compared with float64.
SMOOTH = ["add", "subtract", "maximum", "minimum", "tanh", "sigmoid", "sin", "erf", "abs", "square"]
MAX_OUTPUTS = 6


@dataclass(frozen=True)
class Case:
    """A graph, its inputs as (shape, dtype, kind) and the steps that made it."""

    graph: Graph
    inputs: list[tuple[tuple[int, ...], str, str]]
    steps: list[tuple[str, list[Any]]]
    outputs: list[int]  # positions among inputs and steps' results

    def values(self, seed: int) -> list[mx.array]:
        generator = np.random.default_rng(seed)
        return [self._value(generator, *spec) for spec in self.inputs]

    def arguments(self, arrays: list[mx.array]) -> list[mx.array]:
        """In the kernel's order: run-time numbers last."""
        kinds = [kind for _, _, kind in self.inputs]
        return [
            a
            for k in ("input", "scalar")
            for a, kind in zip(arrays, kinds, strict=True)
            if kind == k
        ]

    def by_mlx(self, arrays: list[mx.array]) -> list[mx.array]:
        values: list[Any] = list(arrays)
        for i, (_, dtype, kind) in enumerate(self.inputs):
            if kind == "scalar":
                values[i] = mx.array(arrays[i].item(), dtype=mx_dtype(dtype))
        for op, picks in self.steps:
            values.append(applied(F, op, values, picks))
        return [values[o] for o in self.outputs]

    @staticmethod
    def _value(generator: Any, shape: tuple[int, ...], dtype: str, kind: str) -> mx.array:
        count = int(np.prod(shape))
        if dtype in FLOATS:
            values = np.where(
                generator.random(count) < 0.3,
                generator.choice(SPECIAL, count),
                generator.normal(0, 3, count),
            )
            shape = (1,) if kind == "scalar" else shape
            dtype = "float32" if kind == "scalar" else dtype
            return mx.array(values.astype(np.float32)).reshape(shape).astype(mx_dtype(dtype))
        values = generator.integers(-3 if dtype in dtypes.SIGNED else 0, 6, count)
        array = mx.array(values.astype(np.int32)).astype(mx_dtype(dtype))
        return array.reshape((1,) if kind == "scalar" else shape)


def applied(F: Any, op: str, values: list[Any], picks: list[Any]) -> Any:
    """One step; a pick is a position among the values, or a tuple of a number or a type."""
    return getattr(F, op)(*[p[0] if isinstance(p, tuple) else values[p] for p in picks])


@st.composite
def cases(
    draw: Callable[..., Any], types: tuple[str, ...] = TYPES, names: list[str] = NAMES
) -> Case:
    recorder, values, inputs = Recorder(), [], []
    for i in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(types))
        kind = "scalar" if i > 1 and draw(st.booleans()) else "input"
        shape = FULL if i == 0 else () if kind == "scalar" else draw(st.sampled_from(SHAPES))
        inputs.append((shape, dtype, kind))
        values.append(recorder.input(shape, dtype, kind))
    steps = []
    for _ in range(draw(st.integers(1, 12))):
        step = drawn_step(draw, names, len(values))
        try:
            result = applied(recorder, step[0], values, step[1])
        except ValueError:  # MLX refuses these types
            continue
        if unsettled(step, values):
            continue
        steps.append(step)
        values.append(result)
    shapes = [recorder.graph[v.node]["shape"] for v in values]
    full = [i for i, shape in enumerate(shapes) if shape == FULL]
    outputs = full[-MAX_OUTPUTS:]
    recorder.graph.outputs = [values[i].node for i in outputs]
    return Case(recorder.graph, inputs, steps, outputs)


def drawn_step(draw: Callable[..., Any], names: list[str], count: int) -> tuple[str, list[Any]]:
    op = draw(st.sampled_from(names))
    picks = [draw(st.integers(0, count - 1)) for _ in range(OPS[op].arity)]
    if op == "astype":
        return op, [*picks, (draw(st.sampled_from(TYPES)),)]
    if len(picks) > 1 and draw(st.booleans()):
        picks[draw(st.integers(0, len(picks) - 1))] = (draw(st.sampled_from(NUMBERS)),)
    return op, picks


def unsettled(step: tuple[str, list[Any]], values: list[Value]) -> bool:
    """A cast for which MLX's own answer depends on the element's place."""
    op, picks = step
    return op == "astype" and picks[1][0] == "uint32" and name_of(values[picks[0]].dtype) in FLOATS


def check_bits(some: list[Case]) -> None:
    for case, launcher in zip(some, build([c.graph for c in some], exact=True), strict=True):
        for seed in range(3):
            arrays = case.values(seed)
            for got, want in zip(
                launcher(case.arguments(arrays)), case.by_mlx(arrays), strict=True
            ):
                assert same_bits(got, want).all(), (case.inputs, case.steps, arrays)


@given(st.lists(cases(), min_size=3, max_size=6))
@settings(max_examples=20)
def test_exact_graphs_equal_mlx_bitwise(some: list[Case]) -> None:
    check_bits(some)


@pytest.mark.exhaustive
@given(st.lists(cases(), min_size=10, max_size=20))
@settings(max_examples=100)
def test_many_exact_graphs_equal_mlx_bitwise(some: list[Case]) -> None:
    check_bits(some)


def check_values(some: list[Case]) -> None:
    for case, launcher in zip(some, build([c.graph for c in some]), strict=True):
        generator = np.random.default_rng(1)
        numbers = [generator.normal(0, 1, s) for s, _, _ in case.inputs]
        arrays = [
            mx.array(n.reshape((1,) if kind == "scalar" else n.shape).astype(np.float32))
            for n, (_, _, kind) in zip(numbers, case.inputs, strict=True)
        ]
        wants = run_float64(case.graph, [n.astype(np.float32) for n in numbers])
        for got, want in zip(launcher(case.arguments(arrays)), wants, strict=True):
            note = f"{case.inputs} {case.steps}"
            np.testing.assert_allclose(np.array(got), want, rtol=2e-5, atol=2e-5, err_msg=note)


@given(st.lists(cases(("float32",), SMOOTH), min_size=3, max_size=6))
@settings(max_examples=10)
def test_graphs_equal_float64(some: list[Case]) -> None:
    check_values(some)


@pytest.mark.parametrize("dtype", FLOATS)
def test_exact_conversions_round_as_mlx(dtype: str) -> None:
    """Large integers, run-time numbers and constants beside half types; bits of plain MLX."""

    def function(F: Any, x: Any, n: Any, wide: Any, s: Any) -> tuple[Any, ...]:
        return F.multiply(x, n), F.add(x, wide), F.subtract(x, s), F.multiply(F.add(x, 0.1), 1 / 3)

    inputs = [((4,), dtype), ((4,), "int32"), ((4,), "uint64"), ((), dtype, "scalar")]
    (launcher,) = build([record(function, *inputs)], exact=True)
    generator = np.random.default_rng(0)
    x = mx.array(generator.normal(0, 1, 999).astype(np.float32)).astype(mx_dtype(dtype))
    n = mx.array(generator.integers(-(2**31), 2**31, 999).astype(np.int32))
    wide = mx.array(generator.integers(0, 2**64, 999, np.uint64) >> np.uint64(3))
    for number in (0.1, -1 / 3, 1e-6, 70000.0):
        weak = mx.array(number, dtype=mx_dtype(dtype))
        for got, want in zip(
            launcher([x, n, wide, mx.array([number])]), function(F, x, n, wide, weak), strict=True
        ):
            assert same_bits(got, want).all()
