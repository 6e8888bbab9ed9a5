"""Promotion and weak scalars against MLX itself, pair by pair."""

from __future__ import annotations

import itertools

import mlx.core as mx
import pytest

from zmlx import dtypes

pytestmark = pytest.mark.usefixtures("on_cpu")  # float64 exists there only


def mx_dtype(name: str) -> mx.Dtype:
    return getattr(mx, "bool_" if name == "bool" else name)


def name_of(dtype: mx.Dtype) -> str:
    return str(dtype).rsplit(".", 1)[-1].rstrip("_")


def test_all_names_are_mlx_dtypes():
    known = {name_of(v) for v in vars(mx).values() if isinstance(v, mx.Dtype)}
    assert set(dtypes.ALL) == known


@pytest.mark.parametrize("a", dtypes.ALL)
def test_promote_equals_result_type(a):
    for b in dtypes.ALL:
        assert dtypes.promote(a, b) == name_of(mx.result_type(mx_dtype(a), mx_dtype(b))), (a, b)


@pytest.mark.parametrize("dtype", dtypes.ALL)
@pytest.mark.parametrize("value", [True, False, 3, -1, 2**31, 2**40, 1.5, float("inf"), 1j])
def test_weak_scalar_beside_an_array(value, dtype):
    array = mx.ones((2,), dtype=mx.float32).astype(mx_dtype(dtype))
    try:
        want = mx.add(array, value).dtype
    except ValueError as error:
        assert "overflow" in str(error)
        return
    assert dtypes.promote(dtypes.weak(value, dtype), dtype) == name_of(want)


@pytest.mark.parametrize("pair", list(itertools.product([True, 3, 2**31, 1.5], repeat=2)))
def test_weak_scalars_alone(pair):
    want = mx.where(mx.array([True]), *pair).dtype
    assert dtypes.promote(*map(dtypes.weak, pair)) == name_of(want)


def test_weak_takes_several_arrays():
    assert dtypes.weak(1.5, ["float16", "int32"]) == "float16"
    assert dtypes.weak(1, ["bool", "int8"]) == "int8"


@pytest.mark.smoke
def test_msl_types():
    assert not dtypes.has_msl("float64") and not dtypes.has_msl("complex64")
    assert {dtypes.value_type(d) for d in dtypes.FLOATS if dtypes.has_msl(d)} == {"float"}
    assert dtypes.msl_type("bfloat16") == "bfloat16_t" and dtypes.msl_type("float16") == "half"
    for name in dtypes.INTEGERS:
        assert dtypes.value_type(name) == dtypes.msl_type(name)


def test_tolerances_are_a_few_units_in_the_last_place():
    for name in ("float16", "bfloat16", "float32"):
        epsilon = mx.finfo(mx_dtype(name)).eps
        assert epsilon <= dtypes.tolerance(name).rtol <= 4 * epsilon
    assert dtypes.tolerance("int32") == dtypes.EXACT
