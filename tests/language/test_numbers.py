"""Metal's functions of float, half and bfloat on the host, against float64.

Of half and bfloat every number is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest

from zmlx import metal

KINDS = {
    "float32": (mx.float32, np.float32, 24, -149),
    "float16": (mx.float16, np.float16, 11, -24),
    "bfloat16": (mx.bfloat16, ml_dtypes.bfloat16, 8, -133),
}
Reference = Callable[..., np.ndarray]


def _away(x: np.ndarray) -> np.ndarray:
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


def _turns(x: np.ndarray) -> np.ndarray:
    return x - 2 * np.rint(x / 2)  # exact


def _sinpi(x: np.ndarray) -> np.ndarray:
    r = _turns(x)
    r = np.where(np.abs(r) > 0.5, np.copysign(1, r) - r, r)
    y = np.sin(np.pi * r)
    return np.where(y == 0, np.copysign(0.0, x), y)


def _cospi(x: np.ndarray) -> np.ndarray:
    return np.sin(np.pi * (0.5 - np.abs(_turns(x))))


def _sign(x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), 0.0, np.where(x == 0, x, np.sign(x)))


ONE: dict[str, Reference] = {
    "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin, "asinh": np.arcsinh,
    "atan": np.arctan, "atanh": np.arctanh, "ceil": np.ceil, "cos": np.cos, "cosh": np.cosh,
    "cospi": _cospi, "exp": np.exp, "exp10": lambda x: np.power(10.0, x), "exp2": np.exp2,
    "fabs": np.abs, "abs": np.abs, "floor": np.floor, "log": np.log, "log10": np.log10,
    "log2": np.log2, "rint": np.rint, "round": _away, "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin, "sinh": np.sinh, "sinpi": _sinpi, "sqrt": np.sqrt, "tan": np.tan,
    "tanh": np.tanh, "trunc": np.trunc, "sign": _sign,
    "saturate": lambda x: np.where(np.isnan(x), 0.0, np.clip(x, 0, 1)),
}  # fmt: skip
# Expressions in x and y, with what they are.
TWO: dict[str, Reference] = {
    "max(x, y)": np.fmax, "min(x, y)": np.fmin, "fmax(x, y)": np.fmax, "fmin(x, y)": np.fmin,
    "fmod(x, y)": np.fmod, "copysign(x, y)": np.copysign, "divide(x, y)": np.divide,
    "atan2(x, y)": np.arctan2, "pow(fabs(x), y)": lambda x, y: np.power(np.abs(x), y),
    "fdim(x, y)": lambda x, y: np.where(x <= y, 0.0, x - y),
    "max3(x, y, T(1))": lambda x, y: np.fmax(np.fmax(x, y), 1),
    "min3(x, y, T(1))": lambda x, y: np.fmin(np.fmin(x, y), 1),
    "T(isordered(float(x), float(y)))": lambda x, y: 1.0 * ~(np.isnan(x) | np.isnan(y)),
    "T(isnormal(x))": lambda x, y: np.isfinite(x) & (np.abs(x) >= LEAST[0]),
    "clamp(x, T(-1), T(1))": lambda x, y: np.where(np.isnan(x), -1.0, np.clip(x, -1, 1)),
    "vec<T, 4>(exp(vec<T, 4>(x))).w": lambda x, y: np.exp(x),
    "fmod(vec<T, 2>(x), y).y": np.fmod,
    "max(vec<T, 3>(x), vec<T, 3>(y)).z": np.fmax,
}  # fmt: skip
LEAST = [0.0]


@cache
def kernel(one: bool, exact: bool = False) -> metal.MetalKernel:
    texts = [f"{name}(x)" for name in ONE] if one else list(TWO)
    lines = "\n".join(f"out[{k}u * n + i] = T({text});" for k, text in enumerate(texts))
    body = "const uint i = thread_position_in_grid.x, n = uint(a_shape[0]);\n"
    made = metal.kernel(
        name=f"language_numbers_{one}",
        input_names=["a", "b"],
        output_names=["out"],
        source=f"{body}const T x = a[i], y = b[i];\n{lines}",
    )
    made.spec = replace(made.spec, exact=exact)
    return made


def points(name: str) -> np.ndarray:
    kind = KINDS[name][1]
    if name != "float32":
        return np.arange(65536, dtype=np.uint16).view(kind)
    generator = np.random.default_rng(1)
    bits = generator.integers(0, 2**32, 40000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = (generator.normal(size=25000) * np.exp2(generator.uniform(-9, 5, 25000))).astype(kind)
    steps = np.arange(-260, 276, dtype=np.float32) / 4
    return np.concatenate([bits, near, steps])[:65536]


def doubled(x: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # of NaN that signal
        return x.astype(np.float64)


def computed(
    name: str, one: bool, x: np.ndarray, y: np.ndarray, exact: bool = False
) -> np.ndarray:
    dtype = KINDS[name][0]
    bits = np.uint32 if name == "float32" else np.uint16
    a, b = (mx.array(v.view(bits)).view(dtype) for v in (x, y))
    rows = len(ONE) if one else len(TWO)
    (out,) = kernel(one, exact)(
        a, b, template=[("T", dtype)], grid=(x.size, 1, 1), threadgroup=(256, 1, 1),
        output_shapes=[(rows, x.size)], output_dtypes=[dtype],
    )  # fmt: skip
    return doubled(np.array(out.astype(mx.float32)))


def compare(what: str, name: str, got: np.ndarray, exact: np.ndarray, x: np.ndarray) -> None:
    """Within 0.51 units in the last place; infinities, NaN and the signs of zero as they are."""
    _, kind, digits, lowest = KINDS[name]
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32).astype(kind).astype(np.float64)
        size = np.frexp(np.where(np.isfinite(exact), exact, 0.0))[1]
        unit = np.exp2(np.maximum(size - digits, lowest).astype(np.float64))
        same = (got == rounded) & (np.signbit(got) == np.signbit(rounded))
        near = np.isfinite(got) & np.isfinite(exact) & (np.abs(got - exact) <= 0.51 * unit)
        fine = same | near | (np.isnan(got) & np.isnan(exact))
    assert np.all(fine), (what, x[~fine][:5], got[~fine][:5], exact[~fine][:5], np.sum(~fine))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.usefixtures("quick_compiler", "host_device")
def test_functions_of_one_number(name: str) -> None:
    x = points(name)
    wide = doubled(x)
    for function, got in zip(ONE, computed(name, True, x, x), strict=True):
        with np.errstate(all="ignore"):
            exact = ONE[function](wide)
        compare(function, name, got, exact, wide)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.usefixtures("quick_compiler", "host_device")
def test_functions_of_two_numbers(name: str) -> None:
    x = points(name)
    y = np.random.default_rng(2).permutation(x)
    y[::7] = x[::7]
    least = {"float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}
    LEAST[0] = least[name]
    a, b = doubled(x), doubled(y)
    for text, got in zip(TWO, computed(name, False, x, y), strict=True):
        with np.errstate(all="ignore"):
            exact = np.asarray(TWO[text](a, b), np.float64)
        compare(text, name, got, exact, np.stack([a, b], 1))
