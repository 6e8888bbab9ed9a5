"""Every row of the op table through the emitter: float64 references, MLX's integers, MLX's bits."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from derive_cases import F, mx_dtype, name_of, record
from msl_cases import FLOATS, TYPES, build, row_graph, row_types, rows, same_bits
from scipy import special

from zmlx import dtypes
from zmlx.device.base import Device, Launcher
from zmlx.ops.spec import OPERANDS, OpSpec
from zmlx.ops.table import NAMED, OPS

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0, 1e4, -1e4, 1e30, 1e-30, 1e-40, -1e-40, 3.4e38]
SPECIAL += [np.inf, -np.inf, np.nan, 89.0, -104.0, 17.5, 6e-8, 65504.0]
# From where on a result rounds to infinity, for the type that overflows inside the rows' domains.
LARGEST = {"float32": np.inf, "bfloat16": np.inf, "float16": 65520.0}
Kernels = dict[tuple[str, str], Launcher]
ROWS = {spec.name: spec for spec in rows()}


def kernels(types: tuple[str, ...], exact: bool) -> Kernels:
    graphs = {
        (name, dtype): graph
        for name, spec in ROWS.items()
        for dtype in types
        if (graph := row_graph(spec, row_types(spec, dtype))) is not None
    }
    return dict(zip(graphs, build(list(graphs.values()), exact), strict=True))


RARE = [
    pytest.param(d, marks=pytest.mark.exhaustive) for d in ("int16", "uint16", "uint32", "int64")
]


@pytest.fixture(scope="module", params=["int8", "int32", "uint8", "uint64", "bool", *RARE])
def plain(request: pytest.FixtureRequest) -> tuple[str, Kernels]:
    return request.param, kernels((request.param,), exact=False)


@pytest.fixture(scope="module", params=[*FLOATS, "int32", "bool"])
def exact(request: pytest.FixtureRequest) -> tuple[str, Kernels]:
    return request.param, kernels((request.param,), exact=True)


def sampled(spec: OpSpec, dtype: str) -> list[mx.array]:
    """Operands inside the row's domain, as arrays of `dtype`."""
    generator = np.random.default_rng(8)
    values = [generator.uniform(low, high, 4001).astype(np.float32) for low, high in spec.domain]
    if spec.name == "logaddexp":  # away from the zero of log(e^x + e^y), where digits cancel
        values = [np.abs(v) for v in values]
    arrays = [mx.array(v).astype(mx_dtype(dtype)) for v in values]
    return [arrays[0] > 0, *arrays[1:]] if spec.name == "where" else arrays


def reference(spec: OpSpec, operands: list[mx.array]) -> np.ndarray:
    names = {"np": np, "special": special}
    for name, operand in zip(OPERANDS, operands, strict=False):
        wide = operand if operand.dtype == mx.bool_ else operand.astype(mx.float32)
        names[name] = np.array(wide).astype(bool if wide.dtype == mx.bool_ else np.float64)
        if spec.operands == "bool":
            names[name] = names[name] != 0
    with np.errstate(all="ignore"):
        return np.broadcast_to(eval(spec.ref, names), operands[0].shape)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [n for n, s in ROWS.items() if s.msl is not None])
def test_float_rows_are_within_tolerance(
    float_kernels: Kernels, host_device: Device, name: str, dtype: str
) -> None:
    spec = ROWS[name]
    operands = sampled(spec, dtype)
    (got,) = float_kernels[name, dtype](operands)
    want = reference(spec, operands)
    if got.dtype == mx.bool_:
        np.testing.assert_array_equal(np.array(got), want)
        return
    limit = dtypes.tolerance(dtype)
    want = np.where(np.abs(want) >= LARGEST[dtype], np.copysign(np.inf, want), want)
    infinite = np.isinf(want)
    np.testing.assert_array_equal(np.array(got.astype(mx.float32))[infinite], want[infinite])
    got, want = got[mx.array(np.flatnonzero(~infinite))], want[~infinite]
    error = np.abs(np.array(got.astype(mx.float32)).astype(np.float64) - want)
    excess = error - (limit.atol + spec.tol * limit.rtol * np.abs(want))
    worst = int(excess.argmax())
    assert excess[worst] <= 0, (got[worst], want[worst])


@pytest.fixture(scope="module")
def float_kernels() -> Kernels:
    return kernels(FLOATS, exact=False)


def special_values(dtype: str, arity: int) -> list[mx.array]:
    """All combinations of special values, and random ones, of `dtype`."""
    generator = np.random.default_rng(4)
    if dtype in FLOATS:
        values = np.array([*SPECIAL, *generator.normal(0, 6, 30)], np.float32)
        arrays = mx.array(values).astype(mx_dtype(dtype))
    elif dtype == "bool":
        arrays = mx.array([False, True])
    else:
        info = np.iinfo(dtype)
        edge = [info.min, info.max, info.max - 1, info.max // 2, 0, 1, 2, 3, 7]
        edge += [-1, -2, -7] if info.min else []
        small = generator.integers(-9 if info.min else 0, 10, 30)
        arrays = mx.array(np.array([*edge, *small], dtype))
    places = np.meshgrid(*[np.arange(arrays.size)] * arity)
    return [arrays[mx.array(p.ravel().astype(np.uint32))] for p in places]


def operands_of(spec: OpSpec, dtype: str) -> list[mx.array]:
    operands = special_values(dtype, spec.arity)
    if spec.name == "where":
        operands[0] = operands[0] != 0
    if spec.operands == "shift" and dtype != "bool":  # MLX leaves other counts open
        operands[1] = operands[1] & (8 * operands[1].dtype.size - 1)
    if dtype in dtypes.SIGNED and spec.name in ("remainder", "floor_divide"):
        lowest, minus = mx.array(np.iinfo(dtype).min, operands[0].dtype), operands[1] == -1
        operands[1] = mx.where((operands[0] == lowest) & minus, 1, operands[1])  # MLX traps
    return operands


def test_integer_and_bool_rows_equal_mlx(plain: tuple[str, Kernels], host_device: Device) -> None:
    dtype, launchers = plain
    for name in (name for name, _ in launchers if name in NAMED):
        spec = ROWS[name]
        operands = operands_of(spec, dtype)
        want = getattr(mx, spec.mx[0])(*operands)
        if name_of(want.dtype) in FLOATS:  # computes in float32: see the float rows
            continue
        wrong = np.flatnonzero(~same_bits(launchers[name, dtype](operands)[0], want))
        assert wrong.size == 0, (name, [o[int(wrong[0])].item() for o in operands])


def test_exact_rows_equal_mlx_bitwise(exact: tuple[str, Kernels], host_device: Device) -> None:
    dtype, launchers = exact
    for name in (name for name, _ in launchers if name in NAMED):
        spec = ROWS[name]
        operands = operands_of(spec, dtype)
        want = getattr(mx, spec.mx[0])(*operands)
        wrong = np.flatnonzero(~same_bits(launchers[name, dtype](operands)[0], want))
        assert wrong.size == 0, (name, dtype, [o[int(wrong[0])].item() for o in operands])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["fma", "ldexp"])
def test_rows_that_mlx_lacks_round_once(name: str, dtype: str, host_device: Device) -> None:
    """With numerics="mlx" too, where half types are rounded once more to their own type."""
    graph = row_graph(ROWS[name], row_types(ROWS[name], dtype))
    operands = sampled(ROWS[name], dtype)
    if name == "fma":  # what the product loses
        operands[2] = -(operands[0].astype(mx.float32) * operands[1].astype(mx.float32))
        operands[2] = operands[2].astype(operands[0].dtype)
    want = mx.array(reference(ROWS[name], operands).astype(np.float32)).astype(mx_dtype(dtype))
    assert name != "fma" or int((want != 0).sum().item()) > 1000
    for launcher in (build([graph])[0], build([graph], exact=True)[0]):
        assert same_bits(launcher(operands)[0], want).all()


def _rounds_nothing(name: str) -> bool:
    spec = ROWS[name]
    return spec.cost <= 2 and spec.msl is not None and name != "square"


def test_comparisons_and_selections_keep_special_values(
    float_kernels: Kernels, host_device: Device
) -> None:
    """Rows that round nothing give MLX's bits without exact=True as well."""
    for dtype in FLOATS:
        for name in (n for n in NAMED if n in ROWS and _rounds_nothing(n)):
            operands = operands_of(ROWS[name], dtype)
            want = getattr(mx, ROWS[name].mx[0])(*operands)
            got = float_kernels[name, dtype](operands)[0]
            assert same_bits(got, want).all(), (name, dtype)


@pytest.mark.parametrize("exactly", [False, True])
def test_casts_equal_mlx(host_device: Device, exactly: bool) -> None:
    """Every pair of types, with values outside the target's range: MLX's host casts wrap them."""
    pairs = [(a, b) for a in TYPES for b in TYPES if not exactly or {a, b} & set(FLOATS)]
    graphs = [row_graph(OPS["astype"], [a], b) for a, b in pairs]
    for (source, target), launcher in zip(pairs, build(graphs, exactly), strict=True):
        (values,) = special_values(source, 1)
        if source in FLOATS:
            more = [-1.5, -2.0, 200.9, 255.9, 300.0, -129.0, 4e4, -4e4, 2**31, 3e9, 9.3e18, 1e19]
            values = mx.concatenate([values, mx.array(more).astype(values.dtype)])
            if target == "uint32":  # MLX's own answer depends on the element's place
                values = mx.where(mx.abs(values) < 2.0**31, values, 1)
        values = mx.tile(values, 4)  # long enough for vector instructions
        want = values.astype(mx_dtype(target))
        wrong = np.flatnonzero(~same_bits(launcher([values])[0], want))
        assert wrong.size == 0, (source, target, values[int(wrong[0])].item())


@pytest.mark.parametrize("target", dtypes.INTEGERS)
def test_casts_inside_a_kernel_equal_mlx(host_device: Device, target: str) -> None:
    """Compilers make trunc(x) of float(int(x)), which differs out of range and has a -0."""
    x = mx.array([*SPECIAL, -0.5, -1.5, 300.0, -129.0, 2147483520.0, -(2.0**31), 9e18, -9.2e18] * 3)
    if target == "uint32":
        x = mx.where(mx.abs(x) < 2.0**31, x, 1)

    def function(F, x):
        whole = F.astype(x, target)
        return F.astype(whole, "float32"), F.divide(1.0, whole), F.arccos(whole)

    wants = [v for v in function(F, x)]
    for launcher in build([record(function, ((4,), "float32"))], exact=True):
        for got, want in zip(launcher([x]), wants, strict=True):
            assert same_bits(got, want).all(), (got, want)


CONSTANTS = [(s.name, c) for s in ROWS.values() for c, _ in s.msl_const]


@pytest.mark.parametrize("dtype", FLOATS)
def test_constant_forms(host_device: Device, dtype: str) -> None:
    """A constant last operand takes the cheap form, and it alone; exact=True takes it never."""
    cases = [(name, kind(c)) for name, c in CONSTANTS for kind in (int, float)]
    graphs = [
        record(lambda F, x, n=name, c=c: getattr(F, n)(x, c), ((4,), dtype)) for name, c in cases
    ]
    exact_too = build(graphs, exact=True)
    for (name, c), plain, exact in zip(cases, build(graphs), exact_too, strict=True):
        x = mx.array(np.linspace(-9, 9, 1001).astype(np.float32)).astype(mx_dtype(dtype))
        want = reference(ROWS[name], [x, mx.full(x.shape, c)])
        got = np.array(plain([x])[0].astype(mx.float32))
        limit = dtypes.tolerance(dtype)
        np.testing.assert_allclose(got, want, rtol=limit.rtol, atol=limit.atol)
        assert same_bits(exact([x])[0], getattr(mx, ROWS[name].mx[0])(x, c)).all()
