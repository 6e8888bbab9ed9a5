"""The MSL text of every row, run as C++: integers and bools equal MLX's CPU, floats float64."""

from __future__ import annotations

import ctypes

import ml_dtypes
import mlx.core as mx
import msl_host
import numpy as np
import pytest
from scipy import special

from zmlx import dtypes
from zmlx.msl.helpers import HELPERS, helper_text
from zmlx.ops.spec import OPERANDS
from zmlx.ops.table import NAMED, OPS

# The compiled text runs on the CPU: MLX's GPUs divide by zero and round functions otherwise.
pytestmark = pytest.mark.usefixtures("on_cpu")

ULP = 2.0**-23
TINY = np.float32(2.0**-126)  # the smallest normal number: below it, units stay the same
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.0, 1e4, -1e4, 1e30, -1e30, 1e-30, 1e-40, -1e-40]
SPECIAL += [3.4028235e38, -3.4028235e38, np.inf, -np.inf, np.nan, 89.0, -88.0, -104.0, 17.5]
# Rows whose accuracy is that of the C++ library behind the test's header, within this many units.
LIBRARY = {
    "power": 2,
    "tan": 2,
    "sinh": 3,
    "cosh": 2,
    "tanh": 3,
    "arctan2": 2,
    "arcsinh": 4,
    "arccosh": 4,
}
LIBRARY |= {"log10": 2, "arctanh": 2}
HALVES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> ctypes.CDLL:
    return msl_host.build(tmp_path_factory.mktemp("msl"), exact=False)


@pytest.fixture(scope="session")
def exact_library(tmp_path_factory) -> ctypes.CDLL:
    return msl_host.build(tmp_path_factory.mktemp("msl_exact"), exact=True)


def numpy_type(dtype: str) -> np.dtype:
    return np.dtype(HALVES.get(dtype, dtype))


def samples(spec, count: int = 20000) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.uniform(low, high, count).astype(np.float32) for low, high in spec.domain]


def reference(spec, operands: list[np.ndarray]) -> np.ndarray:
    names = {"np": np, "special": special}
    names |= {o: a.astype(np.float64) for o, a in zip(OPERANDS, operands, strict=False)}
    if spec.name == "where":
        names["x"] = operands[0] != 0
    with np.errstate(all="ignore"):
        return np.broadcast_to(eval(spec.ref, names), operands[0].shape)


def units(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Error in units in the last place of float32; equal infinities and NaNs have none."""
    with np.errstate(all="ignore"):
        rounded = want.astype(np.float32)
        error = np.abs(got.astype(np.float64) - want) / np.spacing(
            np.maximum(np.abs(rounded), TINY)
        )
        same = (got == rounded) | (np.isnan(got) & np.isnan(want))
    return np.where(same, 0.0, error)


FLOAT_ROWS = [s for s in OPS.values() if s.msl is not None and s.name != "astype"]


def run(library, spec, operands: list[np.ndarray], at: str = "float32") -> np.ndarray:
    if spec.name == "where":
        operands = [operands[0] != 0, *operands[1:]]
    result = numpy_type(msl_host.result_type(spec, at))
    return msl_host.call(library, f"row_{spec.name}_{at}", operands, result)


@pytest.mark.parametrize("spec", FLOAT_ROWS, ids=lambda s: s.name)
def test_float_rows_are_accurate(library, spec):
    operands = samples(spec)
    if spec.name == "logaddexp":
        operands = [np.abs(o) for o in operands]
    limit = LIBRARY.get(spec.name, 1.5 * spec.tol)
    error = units(run(library, spec, operands), reference(spec, operands))
    assert error.max() <= limit, [o[error.argmax()] for o in operands]


@pytest.mark.parametrize("spec", [s for s in FLOAT_ROWS if s.mx], ids=lambda s: s.name)
def test_float_rows_at_special_values(library, spec):
    grid = np.meshgrid(*[np.array(SPECIAL, np.float32)] * spec.arity)
    operands = [g.ravel() for g in grid]
    got, want = (
        run(library, spec, operands),
        np.array(getattr(mx, spec.mx[0])(*map(mx.array, operands))),
    )
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    if spec.name in ("cos", "sin", "tan"):  # MLX's own are wrong beyond 2**23
        return
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    both = np.isfinite(want)
    floor = 1e-37 if spec.cost > 4 else 0  # MLX's exponential flushes to zero
    floor = 3e-7 if spec.name == "erf" else floor  # MLX's host form is good to 1.5e-7
    np.testing.assert_allclose(got[both], want[both], rtol=2e-5, atol=floor)


HELPER_ROWS = [s for s in FLOAT_ROWS if s.helpers and s.arity == 1]


@pytest.mark.parametrize("spec", HELPER_ROWS, ids=lambda s: s.name)
def test_helpers_over_the_whole_range(library, spec):
    """Every magnitude from the smallest number to the largest, both signs."""
    bits = np.linspace(1, 0x7F7FFFFF, 400_001).astype(np.uint32)
    x = np.concatenate([bits.view(np.float32), -bits.view(np.float32)])
    want = reference(spec, [x])
    error = units(run(library, spec, [x]), want)
    assert error.max() <= 1.5 * spec.tol, x[error.argmax()]


def test_logaddexp_keeps_its_digits(library):
    spec, rng = OPS["logaddexp"], np.random.default_rng(1)
    x = rng.uniform(-60, 60, 50000).astype(np.float32)
    y = (x + rng.normal(0, 8, 50000)).astype(np.float32)
    want = reference(spec, [x, y])
    got = run(library, spec, [x, y])
    # Where the sum passes through zero, no float32 algorithm without extra digits is relative.
    scale = np.maximum(np.abs(want), np.maximum(np.abs(x), np.abs(y)))
    assert (np.abs(got - want) / scale).max() <= 2 * ULP


@pytest.mark.parametrize("at", [*dtypes.INTEGERS, "bool"])
@pytest.mark.parametrize("op", [o for o in NAMED if o != "astype"])
def test_integer_rows_equal_mlx(library, op, at):
    spec = OPS[op]
    if not msl_host.supported(spec, at):
        return
    operands = integer_samples(op, spec.arity, at)
    if spec.name == "where":
        operands[0] = operands[0] != 0
    want = getattr(mx, spec.mx[0])(*map(mx.array, operands))
    if str(want.dtype).split(".")[-1].rstrip("_") != msl_host.result_type(spec, at):
        return  # computes in float32
    got = msl_host.call(
        library, f"row_{op}_{at}", operands, numpy_type(msl_host.result_type(spec, at))
    )
    np.testing.assert_array_equal(got, np.array(want))


def integer_samples(op: str, arity: int, at: str) -> list[np.ndarray]:
    kind, rng = np.dtype(at), np.random.default_rng(3)
    if at == "bool":
        return [g.ravel() for g in np.meshgrid(*[np.array([False, True])] * arity)]
    info = np.iinfo(kind)
    edge = [info.min, info.max, 0, 1, 2, 3, 7, info.max // 2, info.max - 1]
    edge += [-1, -2, -7] if info.min < 0 else []
    values = np.concatenate(
        [np.array(edge, kind), rng.integers(-9 if info.min else 0, 10, 40).astype(kind)]
    )
    operands = [g.ravel() for g in np.meshgrid(*[values] * arity)]
    if op in ("left_shift", "right_shift"):
        operands[1] = (np.abs(operands[1].astype(np.int64)) % (8 * kind.itemsize)).astype(kind)
    if op in ("floor_divide", "remainder"):  # MLX itself traps on lowest / -1
        fine = ~((operands[0] == info.min) & (operands[1].astype(np.int64) == -1))
        operands = [o[fine] for o in operands]
    return operands


@pytest.mark.parametrize("at", dtypes.INTEGERS)
def test_integer_division_never_traps(library, at):
    info = np.iinfo(at)
    x = np.array([info.min, info.max, 5, info.min], at)
    y = np.array([-1 if info.min else 0, 0, 0, 0]).astype(at)
    quotient, rest = (
        msl_host.call(library, f"row_{op}_{at}", [x, y], np.dtype(at))
        for op in ("floor_divide", "remainder")
    )
    assert quotient[1:].tolist() == [0, 0, 0] and rest[1:].tolist() == x[1:].tolist()
    assert quotient[0] == info.min and rest[0] == 0  # wraps; unsigned: 0 / 0


CONSTANTS = [(s, n) for s in OPS.values() for n in range(len(s.msl_const))]


@pytest.mark.parametrize(("spec", "number"), CONSTANTS, ids=lambda v: getattr(v, "name", v))
def test_constant_forms(library, spec, number):
    value = spec.msl_const[number][0]
    x = np.concatenate([np.linspace(-50, 50, 9999), SPECIAL]).astype(np.float32)
    got = msl_host.call(library, f"row_{spec.name}_const{number}", [x], np.dtype(np.float32))
    want = reference(spec, [x, np.full_like(x, value)])
    assert units(got, want).max() <= (2.0 if value == 4 else 1.5)  # three, two roundings


EXACT = [s for s in OPS.values() if s.msl_exact]


@pytest.mark.parametrize("at", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("spec", EXACT, ids=lambda s: s.name)
def test_exact_forms_equal_mlx_bitwise(exact_library, spec, at):
    rng = np.random.default_rng(2)
    operands = [
        np.concatenate(
            [np.abs(rng.normal(0, 6, 5000)) if spec.name == "rsqrt" else rng.normal(0, 6, 5000)]
        )
        for _ in range(spec.arity)
    ]
    grid = np.meshgrid(
        *[np.array([0.0, -0.0, 1.0, -1.0, 1e4, -1e4, np.inf, -np.inf, np.nan])] * spec.arity
    )
    operands = [
        np.concatenate([o, g.ravel()]).astype(HALVES[at])
        for o, g in zip(operands, grid, strict=True)
    ]
    got = run(exact_library, spec, operands, at).astype(np.float32)
    kind = getattr(mx, at)
    want = getattr(mx, spec.mx[0])(*[mx.array(o.astype(np.float32)).astype(kind) for o in operands])
    np.testing.assert_array_equal(got, np.array(want.astype(mx.float32)))


def test_helper_text_has_callees_first_and_once():
    text = helper_text(["logaddexp", "log1p", "logaddexp"])
    assert text.count("inline float zmlx_log1p(") == 1
    assert text.index("inline float zmlx_log1p(") < text.index("inline float zmlx_logaddexp(")


@pytest.mark.parametrize("name", HELPERS)
def test_a_device_may_bring_its_own_helper(name):
    text = helper_text([name])
    assert f"#ifndef ZMLX_NATIVE_{name.upper()}\n" in text
    assert text.count("#ifndef") == text.count("#endif") - text.count("#ifdef")


def test_every_row_names_known_helpers():
    for spec in OPS.values():
        assert set(spec.helpers) | set(spec.exact_helpers) <= set(HELPERS), spec.name
