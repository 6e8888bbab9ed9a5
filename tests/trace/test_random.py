"""Generated programs: any mix of rows, numbers, types and shapes, replayed to plain MLX's bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracing import call_of, replayed, same

from zmlx.ops.table import NAMED
from zmlx.trace.run import trace

Step = tuple[str, list[int], Any, str]

NAMES = [name for name in NAMED if name != "astype"]
NUMBERS = [0, 1, -2, 3, 0.5, -1.5, 0.0, -0.0, True, 2.5e-3]
SHAPES = [(), (1,), (3,), (2, 1), (2, 3), (0, 3)]
TYPES = ["bool", "uint8", "int16", "int32", "float16", "bfloat16", "float32", "complex64"]


def made(shape: tuple[int, ...], dtype: str, seed: int) -> mx.array:
    values = np.random.default_rng(seed).uniform(0.1, 3.0, shape).astype(np.float32)
    return mx.array(values).astype(getattr(mx, "bool_" if dtype == "bool" else dtype))


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[mx.array], list[Any], Callable[..., Any]]:
    arrays = [
        made(draw(st.sampled_from(SHAPES)), draw(st.sampled_from(TYPES)), seed)
        for seed in range(draw(st.integers(1, 3)))
    ]
    captured = made((3,), draw(st.sampled_from(TYPES)), 9)
    numbers = draw(st.lists(st.sampled_from([2, 0.75, 3, -1.25]), max_size=2))
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from([*NAMES, "astype", "in place", "sum", "slice"]),
                st.lists(st.integers(0, 30), min_size=3, max_size=3),
                st.sampled_from(NUMBERS),
                st.sampled_from(TYPES),
            ),
            min_size=1,
            max_size=10,
        )
    )

    kept = valid(steps, [*arrays, captured], numbers)

    def program(values: list[mx.array], given_numbers: list[Any]) -> list[mx.array]:
        values = [*values, captured]
        for item in kept:
            values.append(step(item, values, given_numbers))
        return values

    return arrays, numbers, program


def valid(steps: list[Step], values: list[mx.array], numbers: list[Any]) -> list[Step]:
    """Those of the steps that plain MLX takes."""
    kept = []
    for item in steps:
        try:
            result = step(item, values, numbers)
            mx.eval(result)
        except (ValueError, RuntimeError):
            continue
        kept.append(item)
        values = [*values, result]
    return kept


def step(item: Step, values: list[mx.array], numbers: list[Any]) -> mx.array:
    name, picks, number, dtype = item
    pool = [*values, *numbers, number]
    first, *others = values[picks[0] % len(values)], *[pool[p % len(pool)] for p in picks[1:]]
    if name == "astype":
        return first.astype(getattr(mx, "bool_" if dtype == "bool" else dtype))
    if name == "in place":
        copy = first * 1
        copy += others[0]
        return copy
    if name == "sum":
        return mx.sum(first, axis=tuple(range(len(first.shape))), keepdims=True)
    if name == "slice":
        return first[..., :1] if first.ndim else first
    return getattr(mx, NAMED[name].mx[0])(first, *others[: NAMED[name].arity - 1])


@given(programs())
def test_generated_programs(case):
    arrays, numbers, program = case
    want = program([mx.array(a) for a in arrays], numbers)
    found = trace(program, call_of(([mx.array(a) for a in arrays], numbers), {}))
    found.graph.verify()
    same(replayed(found, arrays, numbers), want)


@pytest.mark.exhaustive
@given(programs())
def test_many_generated_programs(case):
    test_generated_programs.hypothesis.inner_test(case)
