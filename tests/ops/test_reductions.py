"""The table of reductions against MLX: types, neutral elements, joins, references."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from zmlx import dtypes
from zmlx.ops.reductions import REDUCTIONS, Reduction
from zmlx.ops.table import OPS
from zmlx.trace.namespace import folding

NAN, INF = float("nan"), float("inf")
VALUES = [
    [1.0, 3.0, 3.0, -2.0], [NAN, 1.0, 2.0], [1.0, 2.0, NAN], [NAN, NAN], [INF, -INF], [-INF, -INF],
    [1.0, INF, NAN], [0.0, -0.0], [-0.0, 0.0], [0.0, 2.0], [5.0], [2.0, 2.0, 1.0, 1.0],
]  # fmt: skip


def mx_dtype(name: str) -> mx.Dtype:
    return getattr(mx, dtypes.attribute(name))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_types_are_mlx_s(name: str) -> None:
    for dtype in dtypes.ALL:
        with mx.stream(mx.cpu):
            got = folding(name, (1,))(mx.ones((2, 3), mx_dtype(dtype)))
            mx.eval(got)
        assert got.dtype == mx_dtype(REDUCTIONS[name].dtype(dtype)), dtype
        assert got.shape == (2, 1)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_without_elements(name: str) -> None:
    """MLX gives the neutral element, or raises."""
    row = REDUCTIONS[name]
    for dtype in ("bool", "int8", "uint16", "int64", "bfloat16", "float32"):
        if row.empty:
            got = folding(name, (0,))(mx.zeros((0, 2), mx_dtype(dtype)))
            assert got.tolist() == [[row.neutral(row.accumulates_in(dtype))] * 2]
        else:
            with pytest.raises(ValueError, match="size"):
                mx.eval(folding(name, (0,))(mx.zeros((0, 2), mx_dtype(dtype))))


def joined(row: Reduction, values: list, dtype: str) -> float | int | bool:
    """What the row's expression makes of `values`, in order, from the neutral element on."""
    kind = row.accumulates_in(dtype)
    total, place = row.neutral(kind), 0
    for i, value in enumerate(values):
        value = bool(value) if kind == "bool" else value
        if row.index:
            if i == 0 or python(row.join, total, value):
                total, place = value, i
        else:
            total = python(row.join, total, value)
    return place if row.index else total


def python(text: str, a: float, b: float) -> float | bool:
    """An expression of the table as Python."""
    if "?" in text:
        condition, rest = text.split("?")
        first, second = rest.split(":")
        text = f"({first}) if ({condition}) else ({second})"
    text = text.replace("||", "or").replace("&&", "and").format(a="a", b="b")
    return eval(text, {"a": a, "b": b})


@pytest.mark.parametrize("name", REDUCTIONS)
def test_joins_are_mlx_s(name: str) -> None:
    row = REDUCTIONS[name]
    for values in VALUES:
        got = folding(name, (0,))(mx.array(values)).item()
        want = joined(row, values, "float32")
        assert got == want or (got != got and want != want), (values, got, want)
        assert np.signbit(got) == np.signbit(want) or got != got
    for dtype in ("int32", "bool", "uint8", "int64"):
        for values in ([3, 1, 3, 2], [0, 0], [7, 0], [1]):
            array = mx.array(values).astype(mx_dtype(dtype))
            got = folding(name, (0,))(array).item()
            assert got == joined(row, array.tolist(), dtype), (dtype, values)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_joining_the_neutral_element_changes_nothing(name: str) -> None:
    row = REDUCTIONS[name]
    for dtype in ("int8", "uint64", "float32", "bool"):
        kind = row.accumulates_in(dtype)
        none = row.neutral(kind)
        for value in (True, False) if kind == "bool" else (0, 1, 5):
            if not row.index:
                assert python(row.join, none, value) == value == python(row.join, value, none)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (0, 1, 2), (2,)], ids=str)
def test_references(name: str, axes: tuple[int, ...]) -> None:
    row = REDUCTIONS[name]
    if row.index and len(axes) == 2:
        return
    x = np.random.default_rng(0).integers(-3, 4, (3, 4, 5)).astype(np.float64)

    def places(function, x, axes):
        return function(x, axis=axes[0] if len(axes) == 1 else None, keepdims=True)

    want = eval(row.ref, {"np": np, "x": x, "axes": axes, "places": places})
    got = np.array(folding(name, axes)(mx.array(x.astype(np.float32))))
    np.testing.assert_array_equal(got, want)


def test_no_reduction_has_the_name_of_a_row() -> None:
    assert not set(REDUCTIONS) & set(OPS)


def test_an_unknown_result_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown result"):
        Reduction("product", "{a} * {b}", "float", "1", None, None, "np.prod(x)")
