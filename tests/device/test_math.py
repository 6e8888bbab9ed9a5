"""Transcendental functions and conversions of the host header, against float64 and NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest
from handwritten import kernel
from scipy import special

from zmlx.device import toolchain
from zmlx.device.base import Device, Launcher
from zmlx.msl.helpers import HELPERS, helper_text

Reference = Callable[..., np.ndarray]

UNARY: dict[str, Reference] = {
    "metal::precise::exp(x0)": np.exp,
    "metal::precise::exp2(x0)": np.exp2,
    "metal::precise::exp10(x0)": lambda x: np.power(10.0, x),
    "metal::precise::log(x0)": np.log,
    "metal::precise::log2(x0)": np.log2,
    "metal::precise::log10(x0)": np.log10,
    "metal::precise::sin(x0)": np.sin,
    "metal::precise::cos(x0)": np.cos,
    "metal::precise::tan(x0)": np.tan,
    "metal::precise::asin(x0)": np.arcsin,
    "metal::precise::acos(x0)": np.arccos,
    "metal::precise::atan(x0)": np.arctan,
    "metal::precise::sinh(x0)": np.sinh,
    "metal::precise::cosh(x0)": np.cosh,
    "metal::precise::tanh(x0)": np.tanh,
    "metal::precise::asinh(x0)": np.arcsinh,
    "metal::precise::acosh(x0)": np.arccosh,
    "metal::precise::atanh(x0)": np.arctanh,
    "metal::precise::sqrt(x0)": np.sqrt,
    "metal::precise::rsqrt(x0)": lambda x: 1.0 / np.sqrt(x),
    "metal::fast::exp(x0)": np.exp,
    "metal::exp(x0)": np.exp,
    "exp(x0)": np.exp,
    "zmlx_expm1(x0)": np.expm1,
    "zmlx_log1p(x0)": np.log1p,
    "zmlx_sigmoid(x0)": special.expit,
    "zmlx_erf(x0)": special.erf,
    "zmlx_erfinv(x0)": special.erfinv,
}
BINARY: dict[str, Reference] = {
    "metal::precise::pow(x0, x1)": np.power,
    "metal::powr(metal::abs(x0), x1)": lambda x, y: np.power(np.abs(x), y),
    "metal::precise::atan2(x0, x1)": np.arctan2,
    "metal::fmod(x0, x1)": np.fmod,
    "zmlx_logaddexp(x0, x1)": np.logaddexp,
}
SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, 2, 1e-45, -1e-45, 1e-38, 88.722839, 88.72284,
     -87.33, -103.97, -103.98, -104.0, 128.0, -149.0, -150.0, 3.4028235e38, -3.4028235e38,
     16777217],
    np.float32,
)  # fmt: skip


def samples(seed: int) -> np.ndarray:
    """Any float32 at all, values of ordinary size, and the special ones."""
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, 2**32, 1 << 15, dtype=np.uint64).astype(np.uint32)
    sizes = np.exp2(generator.uniform(-12, 7, 1 << 15))
    ordinary = (generator.normal(size=1 << 15) * sizes).astype(np.float32)
    unit = generator.uniform(-1, 1, 1 << 14).astype(np.float32)
    return np.concatenate([bits.view(np.float32), ordinary, unit, SPECIAL])


@pytest.fixture(scope="module")
def launchers() -> dict[str, Launcher]:
    from zmlx.device.base import device_named

    sources = [
        kernel(
            f"f{i}", text, ["float32"] * (1 + (text in BINARY)), ["float32"], header=helpers(text)
        )
        for i, text in enumerate([*UNARY, *BINARY])
    ]
    return dict(zip([*UNARY, *BINARY], device_named("host").build(sources), strict=True))


def helpers(text: str) -> str:
    return helper_text(name for name in HELPERS if f"zmlx_{name}(" in text)


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance from the exact value in units of float32's last place; inf where kinds differ."""
    with np.errstate(all="ignore"):
        unit = np.exp2(np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-126))) - 23)
        distance = np.abs(got.astype(np.float64) - exact) / unit
        rounded = exact.astype(np.float32)
    same = (got == rounded) | (np.isnan(got) & np.isnan(exact))
    finite = np.isfinite(got) & np.isfinite(exact)
    return np.where(finite, distance, np.where(same, 0.0, np.inf))


def check(launcher: Launcher, reference: Reference, arrays: list[np.ndarray]) -> None:
    with np.errstate(all="ignore"):
        exact = reference(*[a.astype(np.float64) for a in arrays])
    got = np.array(launcher([mx.array(a) for a in arrays])[0])
    distance = ulps(got, exact)
    worst = int(distance.argmax())
    where = [a[worst] for a in arrays]
    assert distance[worst] <= 0.51, (where, got[worst], exact[worst], distance[worst])


@pytest.mark.parametrize("text", UNARY)
def test_unary_function_is_rounded_once(
    launchers: dict[str, Launcher], host_device: Device, text: str
) -> None:
    check(launchers[text], UNARY[text], [samples(0)])


@pytest.mark.parametrize("text", BINARY)
def test_binary_function_is_rounded_once(
    launchers: dict[str, Launcher], host_device: Device, text: str
) -> None:
    first, second = np.meshgrid(SPECIAL, SPECIAL)
    x, y = samples(1), np.random.default_rng(2).permutation(samples(2))
    arrays = [np.concatenate([x, first.ravel()]), np.concatenate([y, second.ravel()])]
    check(launchers[text], BINARY[text], arrays)


@pytest.mark.parametrize("text", ["metal::precise::tanh(x0)", "metal::precise::sinh(x0)",
                                  "zmlx_expm1(x0)", "zmlx_erf(x0)", "zmlx_log1p(x0)"])  # fmt: skip
def test_odd_function_keeps_negative_zero(
    launchers: dict[str, Launcher], host_device: Device, text: str
) -> None:
    got = np.array(launchers[text]([mx.array([-0.0, 0.0])])[0])
    assert np.signbit(got).tolist() == [True, False]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_type_converts_as_numpy_does(host_device: Device, dtype: str) -> None:
    numpy_type = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    store, load = host_device.build(
        [kernel("store", "x0", ["float32"], [dtype]), kernel("load", "x0", [dtype], ["float32"])]
    )
    patterns = np.arange(65536, dtype=np.uint16)
    values = patterns.view(numpy_type).astype(np.float32)
    _equal(np.array(load([mx.array(patterns).view(getattr(mx, dtype))])[0]), values)
    inputs = np.concatenate([near_ties(values), samples(3)])
    got = np.array(store([mx.array(inputs)])[0].view(mx.uint16)).view(numpy_type)
    with np.errstate(all="ignore"):
        expected = inputs.astype(numpy_type)
    _equal(got.astype(np.float32), expected.astype(np.float32))


def near_ties(values: np.ndarray) -> np.ndarray:
    """The finite `values`, the exact middles between neighbours, and the floats on either side."""
    ordered = np.unique(values[np.isfinite(values)])
    middles = ordered[:-1] / 2 + ordered[1:] / 2
    down, up = np.nextafter(middles, np.float32(-np.inf)), np.nextafter(middles, np.float32(np.inf))
    return np.concatenate([values, middles, down, up])


def _equal(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal to the sign of zero; NaN where NaN."""
    same = (got == expected) & (np.signbit(got) == np.signbit(expected))
    same |= np.isnan(got) & np.isnan(expected)
    assert same.all(), (got[~same][:5], expected[~same][:5])


WITHOUT_FMA = """#include "msl_on_host.h"
extern "C" __attribute__((visibility("default"))) void lost(
    const float* a, const float* b, float* out, long count) {
  for (long i = 0; i < count; ++i) {
    const float product = a[i] * b[i];
    out[i] = metal::fma(a[i], b[i], -product);
  }
}
"""


@pytest.mark.skipif(toolchain.MACHINE != "x86_64", reason="other CPUs all have the instruction")
@pytest.mark.parametrize("exact", [False, True])
def test_fma_rounds_once_on_a_cpu_that_lacks_it(
    exact: bool, host_device: Device, tmp_path: Path
) -> None:
    source, library = tmp_path / "lost.cpp", tmp_path / "lost.so"
    source.write_text(("#define ZM_EXACT 1\n" if exact else "") + WITHOUT_FMA)
    flags = [f for f in toolchain.kernel_flags() if not f.startswith(("-march=", "-mprefer-"))]
    flags += ["-march=x86-64", f"-I{toolchain.HEADERS}"]
    toolchain.compile_shared([source], library, flags, toolchain.kernel_libraries())
    a, b = np.random.default_rng(4).normal(size=(2, 1001)).astype(np.float32)
    found = np.empty_like(a)
    arguments = [ctypes.c_void_p(v.ctypes.data) for v in (a, b, found)]
    ctypes.CDLL(str(library)).lost(*arguments, ctypes.c_long(a.size))
    product = a.astype(np.float64) * b  # exact
    wanted = product - (a * b)
    assert wanted.any()
    np.testing.assert_array_equal(found, wanted)
