"""Generated functions: random graphs over the op table, as plain MLX functions, from a seed.

A function takes three arrays and returns one. Operands are brought into the domain that the row
states, and steps (floor, comparisons, ...) act on inputs only: a rounding error must not be able
to change the result by more than itself, times the slope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from zmlx import dtypes
from zmlx.ops.spec import OpSpec
from zmlx.ops.table import NAMED

Function = Callable[..., mx.array]
SQUARE = ((4, 4), (4, 4), (4, 4))
BROADCAST = ((4, 4), (4,), (4, 1))
WIDE = 12.0  # an operand interval at least this wide on both sides of 0 needs no squashing
STEEP = {"exp": (-3, 3), "expm1": (-3, 3), "sinh": (-3, 3), "cosh": (-3, 3)}
APART = ("astype", "where", "stop_gradient", "zeros_like", "ones_like")


def _is_step(spec: OpSpec) -> bool:
    return spec.grad == "zero" or spec.name == "remainder"


FLOAT_ROWS = [s for s in NAMED.values() if s.msl and s.name not in APART]
INT_ROWS = [
    s
    for s in NAMED.values()
    if s.msl_int is not None and s.name not in (*APART, "power", "left_shift", "right_shift")
]


def call(spec: OpSpec, operands: Sequence[Any]) -> mx.array:
    return getattr(mx, spec.mx[0])(*operands)


def float_function(seed: int, most: int = 6) -> Function:
    """Float arithmetic over three inputs: 2 to `most` rows, then something bounded."""
    rng = np.random.default_rng(seed)
    steps = []
    for step in range(int(rng.integers(2, most + 1))):
        kind = str(rng.choice(["row", "number", "where"], p=[0.8, 0.1, 0.1]))
        spec = FLOAT_ROWS[int(rng.integers(len(FLOAT_ROWS)))]
        picks = rng.integers(0, 3 if _is_step(spec) else 3 + step, 3).tolist()
        steps.append((kind, spec, picks, round(float(rng.normal()), 2)))

    def function(*arrays: mx.array) -> mx.array:
        values = list(arrays)
        for kind, spec, picks, number in steps:
            values.append(_step(values, kind, spec, picks, number))
        total = values[-1] * 0.3 + values[len(values) // 2] * 0.1
        return total / (mx.abs(total) + 1)  # tanh's slope has no digits left far out

    return function


def _step(
    values: Sequence[mx.array], kind: str, spec: OpSpec, picks: Sequence[int], number: float
) -> mx.array:
    if kind == "where":
        test = values[picks[0] % 3] > number
        return mx.where(test, values[picks[1]], values[picks[2]] * number)
    operands: list[Any] = [_within(values[p], spec, i) for i, p in enumerate(picks[: spec.arity])]
    if kind == "number" and spec.arity == 2 and not _is_step(spec):
        operands[1] = abs(number) + 0.5
    result = call(spec, operands)
    return mx.where(result, values[picks[2]], number) if result.dtype == mx.bool_ else result


def _within(value: mx.array, spec: OpSpec, position: int) -> mx.array:
    """`value` brought into the row's domain."""
    low, high = STEEP.get(spec.name, spec.domain[position] if spec.domain else (-WIDE, WIDE))
    if low <= -WIDE and high >= WIDE:
        return value
    return mx.sin(value) * ((high - low) / 2) + (high + low) / 2


def int_function(seed: int) -> Function:
    """Integer and bool arithmetic over three inputs of any such types, 2 to 10 rows."""
    rng = np.random.default_rng(seed)
    steps = []
    for step in range(int(rng.integers(2, 11))):
        spec = INT_ROWS[int(rng.integers(len(INT_ROWS)))]
        steps.append((spec, rng.integers(0, 3 + step, 3).tolist()))

    def function(*arrays: mx.array) -> mx.array:
        values = list(arrays)
        for spec, picks in steps:
            operands = [values[p] for p in picks[: spec.arity]]
            values.append(call(spec, _allowed(spec, operands)))
        return mx.where(values[-2] > 0, values[-1], values[len(values) // 2])

    return function


def _allowed(spec: OpSpec, operands: Sequence[mx.array]) -> list[mx.array]:
    """`operands`, cast where MLX refuses their type: bits of float, minus of bool."""
    common = operands[0].dtype
    for operand in operands[1:]:
        common = mx.result_type(common, operand.dtype)
    name = str(common).removeprefix("mlx.core.").rstrip("_")
    return [o.astype(mx.int32) for o in operands] if name in spec.refuses else list(operands)


def inputs(seed: int, shapes: Sequence[tuple] = SQUARE, dtype: mx.Dtype = mx.float32) -> list:
    rng = np.random.default_rng(seed)
    return [mx.array(rng.normal(0, 1.5, s).astype(np.float32)).astype(dtype) for s in shapes]


def int_inputs(seed: int, kinds: Sequence[str]) -> list[mx.array]:
    rng = np.random.default_rng(seed)
    return [_integers(rng, s, k) for s, k in zip(BROADCAST, kinds, strict=True)]


def _integers(rng: np.random.Generator, shape: tuple, kind: str) -> mx.array:
    if kind == "bool":
        return mx.array(rng.integers(0, 2, shape).astype(bool))
    small = rng.integers(-4, 5, shape) if kind in dtypes.SIGNED else rng.integers(0, 9, shape)
    limits = np.iinfo(kind)
    large = rng.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
    return mx.array(np.where(rng.random(shape) < 0.7, small.astype(kind), large))


def together(functions: Sequence[Function]) -> Callable[..., list[mx.array]]:
    """One function that returns what all of them do."""
    return lambda *arrays: [function(*arrays) for function in functions]
