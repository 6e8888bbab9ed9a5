"""Each name of Metal's library that the host header declares, alone, against NumPy."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from handwritten import kernel, numpy_of

from zmlx.device.base import Device, Launcher, device_named
from zmlx.dtypes import ALL, HALVES, INTEGERS, has_msl, value_type
from zmlx.msl.kernel import KernelSource

NAN, INF = np.nan, np.inf
X = np.array(
    [0.0, -0.0, 1.5, -1.5, 2.5, -2.5, 0.49999997, -0.49999997, 0.5, 1e-40, 8388609.0, INF, -INF,
     NAN, 7.25],
    np.float32,
)  # fmt: skip
Y = np.array(
    [-0.0, 0.0, -3.0, 2.0, 2.5, NAN, 1.0, -1.0, 0.25, -1e-40, 3.0, 1.0, INF, 2.0, -7.25], np.float32
)


with np.errstate(all="ignore"):
    QUOTIENT = X / Y
    TIMES_PLUS = (X.astype(np.float64) * Y + 1.0).astype(np.float32)
    HALF = X.astype(np.float16)
    HALF_Y = Y.astype(np.float16)
    TWICE, THRICE = HALF + HALF, HALF * np.float16(3)


def _half_away(x: np.ndarray) -> np.ndarray:
    return np.copysign(np.floor(np.abs(x.astype(np.float64)) + 0.5), x).astype(np.float32)


FLOAT = {
    "metal::floor(x0)": np.floor(X),
    "metal::ceil(x0)": np.ceil(X),
    "metal::trunc(x0)": np.trunc(X),
    "metal::rint(x0)": np.rint(X),
    "metal::round(x0)": _half_away(X),
    "metal::abs(x0)": np.abs(X),
    "metal::fabs(x0)": np.abs(X),
    "metal::copysign(x0, x1)": np.copysign(X, Y),
    "metal::fma(x0, x1, 1.0f)": TIMES_PLUS,
    "metal::fmax(x0, x1)": np.fmax(X, Y),
    "metal::fmin(x0, x1)": np.fmin(X, Y),
    "metal::max(x0, x1)": np.fmax(X, Y),
    "metal::min(x0, x1)": np.fmin(X, Y),
    "metal::clamp(x0, -1.0f, 1.0f)": np.where(np.isnan(X), -1.0, np.clip(X, -1.0, 1.0)),
    "metal::saturate(x0)": np.where(np.isnan(X), 0.0, np.clip(X, 0.0, 1.0)),
    "metal::step(x1, x0)": np.where(X < Y, 0.0, 1.0),
    "metal::select(x0, x1, x0 < x1)": np.where(X < Y, Y, X),
    "metal::sign(x0)": np.where(np.isnan(X), 0.0, np.sign(X)),
    "as_type<float>(as_type<uint>(x0) ^ 0x80000000u)": -X,
    "float(metal::isnan(x0))": np.isnan(X),
    "float(metal::isinf(x0))": np.isinf(X),
    "float(metal::isfinite(x0))": np.isfinite(X),
    "float(metal::signbit(x0))": np.signbit(X),
    "float(metal::isnormal(x0))": np.isfinite(X) & (np.abs(X) >= np.finfo(np.float32).tiny),
    "NAN": np.full_like(X, NAN),
    "-INFINITY": np.full_like(X, -INF),
    "x0 / x1": QUOTIENT,
    "float(half(x0))": HALF.astype(np.float32),
    "float(half(x0) + half(x0))": TWICE.astype(np.float32),
    "half(x0) * 3.0f": HALF.astype(np.float32) * np.float32(3),
    "float(half(x0) * 3)": THRICE.astype(np.float32),
    "float(-half(x0) < half(x1))": -HALF < HALF_Y,
}
TINY = {
    "metal::fract(x0)": (
        lambda x: np.where(np.isfinite(x), np.minimum(x - np.floor(x), 1 - 2.0**-24), NAN)
    ),
    "metal::mix(x0, 3.0f, 0.25f)": lambda x: x + (3 - x) * np.float32(0.25),
}  # fmt: skip
INTEGER = {
    "metal::max(x0, x1)": np.maximum,
    "metal::min(x0, x1)": np.minimum,
    "x0 & x1": np.bitwise_and,
    "x0 | x1": np.bitwise_or,
    "x0 ^ x1": np.bitwise_xor,
    "~x0": lambda x, y: np.bitwise_not(x),
    "x0 + x1": np.add,
    "x0 * x1": np.multiply,
    "metal::select(x0, x1, x0 < x1)": np.maximum,
}


@pytest.fixture(scope="module")
def launchers() -> dict[tuple[str, str], Launcher]:
    keys = [(text, "float32") for text in [*FLOAT, *TINY]]
    keys += [(text, dtype) for text in INTEGER for dtype in INTEGERS]
    sources = [kernel(f"f{i}", text, [d, d], [d]) for i, (text, d) in enumerate(keys)]
    return dict(zip(keys, device_named("host").build(sources), strict=True))


@pytest.fixture(autouse=True)
def _needs_host(host_device: Device) -> None:
    """Every test here runs kernels."""


@pytest.mark.parametrize("text", FLOAT)
def test_float_function(launchers: dict[tuple[str, str], Launcher], text: str) -> None:
    got = np.array(launchers[text, "float32"]([mx.array(X), mx.array(Y)])[0])
    np.testing.assert_array_equal(got, np.asarray(FLOAT[text], np.float32))


@pytest.mark.parametrize("text", TINY)
def test_interpolation(launchers: dict[tuple[str, str], Launcher], text: str) -> None:
    x = X[np.isfinite(X)]
    got = np.array(launchers[text, "float32"]([mx.array(x), mx.array(x)])[0])
    np.testing.assert_allclose(got, TINY[text](x), rtol=1e-6)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("text", INTEGER)
def test_integer_function(
    launchers: dict[tuple[str, str], Launcher], text: str, dtype: str
) -> None:
    limits = np.iinfo(dtype)
    edges = np.array([0, 1, 2, 7, limits.max, limits.min, limits.max // 2], dtype)
    x, y = (a.ravel() for a in np.meshgrid(edges, edges))
    with np.errstate(over="ignore"):
        expected = INTEGER[text](x, y)
    got = np.array(launchers[text, dtype]([mx.array(x), mx.array(y)])[0])
    np.testing.assert_array_equal(got, expected.astype(dtype))


def copies() -> list[KernelSource]:
    names = [d for d in ALL if has_msl(d)]
    return [kernel(f"copy_{d}", "x0", [d], [d]) for d in names]


def test_every_type_loads_and_stores(host_device: Device) -> None:
    sources = copies()
    for source, launcher in zip(sources, host_device.build(sources), strict=True):
        dtype = source.inputs[0].dtype
        patterns = mx.array(np.arange(65536, dtype=np.uint16))
        if dtype == "bool":
            values = patterns > 17
        elif dtype in HALVES:
            values = patterns.view(getattr(mx, dtype))
        else:
            values = (patterns.astype(mx.int32) - 30000).astype(getattr(mx, dtype))
        result = launcher([values])[0]
        assert result.dtype == values.dtype
        np.testing.assert_array_equal(numpy_of(result), numpy_of(values))


def test_conversions_between_types(host_device: Device) -> None:
    """Value types convert as in C: what a cast kernel of the emitter relies on."""
    pairs = [(a, b) for a in INTEGERS for b in INTEGERS]
    sources = [kernel(f"{a}_{b}", f"{value_type(b)}(x0)", [a], [b]) for a, b in pairs]
    for (a, b), launcher in zip(pairs, host_device.build(sources), strict=True):
        limits = np.iinfo(a)
        values = np.array([0, 1, 100, limits.max, limits.min, limits.max // 3], a)
        got = np.array(launcher([mx.array(values)])[0])
        np.testing.assert_array_equal(got, values.astype(b))
