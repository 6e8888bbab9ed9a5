"""msl.DEFAULT_HEADER: values against float64, random numbers, reductions, and Metal's rules."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from zmlx import dtypes, metal, metal_check, msl
from zmlx.device.base import Device
from zmlx.device.metal import MetalDevice
from zmlx.msl.spec import Launch

FLOATS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    inner = 0.7978845608028654 * (x + 0.044715 * x**3)
    return x * sigmoid(2 * inner)


# What numpy computes in float64; the derivatives come of MLX, see `slope`.
VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "kk_sigmoid": sigmoid,
    "kk_silu": lambda x: x * sigmoid(x),
    "kk_gelu_tanh": gelu_tanh,
    "kk_softplus": lambda x: np.logaddexp(x, 0),
    "kk_expm1": np.expm1,
    "kk_log1p": np.log1p,
    "kk_mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
}
SLOPES: dict[str, Callable[[mx.array], mx.array]] = {
    "kk_sigmoid_grad": mx.sigmoid,
    "kk_silu_grad": nn.silu,
    "kk_gelu_tanh_grad": nn.gelu_approx,
    "kk_softplus_grad": nn.softplus,
    "kk_mish_grad": nn.mish,
}
NAMES = (*VALUES, *SLOPES)


@cache
def table() -> metal.MetalKernel:
    """All functions at once: one compilation for each type."""
    lines = [f"    out[{k}u * n + i] = {name}(inp[i]);" for k, name in enumerate(NAMES)]
    body = "const uint i = thread_position_in_grid.x;\nconst uint n = uint(inp_shape[0]);\n"
    return metal.kernel(
        name="header_table",
        input_names=["inp"],
        output_names=["out"],
        source=body + "if (i < n) {\n" + "\n".join(lines) + "\n}",
        header=msl.DEFAULT_HEADER,
    )


def computed(x: mx.array) -> dict[str, np.ndarray]:
    (out,) = table()(x, output_shapes=[(len(NAMES), x.size)])
    return dict(zip(NAMES, np.array(out.astype(mx.float32)), strict=True))


def points(kind: mx.Dtype) -> tuple[mx.array, np.ndarray]:
    around = np.concatenate([np.linspace(-12, 12, 481), np.geomspace(1e-4, 1, 40) * 0.9])
    far = np.array([-104.0, -90.0, -60.0, -30.0, 30.0, 60.0, 80.0])
    x = mx.array(np.concatenate([around, -np.geomspace(1e-4, 0.5, 40), far])).astype(kind)
    return x, np.array(x.astype(mx.float32), np.float64)


@pytest.mark.parametrize("name", FLOATS)
def test_values_against_float64(default_device: Device, name: str) -> None:
    x, exact_x = points(FLOATS[name])
    tolerance = dtypes.tolerance(name)
    for function, values in computed(x).items():
        if function not in VALUES:
            continue
        with np.errstate(all="ignore"):
            exact = VALUES[function](exact_x)
        inside = np.abs(exact) < 6e4  # what half can hold; log1p is undefined below -1
        inside &= (exact_x > -0.99) | (function != "kk_log1p")
        # The rounding of an exponent counts as often as its size says.
        slope = 1.6 * exact_x + 0.0714 * exact_x**3 if "gelu" in function else exact_x
        rtol = tolerance.rtol + 2.0**-22 * np.abs(slope)
        with np.errstate(invalid="ignore"):
            bad = np.abs(values - exact) > rtol * np.abs(exact) + tolerance.atol
        assert not np.any(bad & inside), (function, exact_x[bad & inside], values[bad & inside])


@pytest.mark.parametrize("name", FLOATS)
def test_derivatives_against_mlx_in_float64(default_device: Device, name: str) -> None:
    x, exact_x = points(FLOATS[name])
    tolerance = dtypes.tolerance(name)
    found = computed(x)
    with mx.stream(mx.cpu):
        wide = mx.array(exact_x, mx.float64)
        for function, whole in SLOPES.items():
            slopes = mx.grad(lambda z, f=whole: f(z).sum())(wide)
            exact = np.array(slopes.astype(mx.float64))
            near = np.abs(exact_x) < 15
            bad = np.abs(found[function] - exact) > 1e-6 + tolerance.rtol * np.abs(exact)
            assert not np.any(bad & near), (function, exact_x[bad & near])


def test_far_out_nothing_overflows_and_nan_stays(default_device: Device) -> None:
    found = computed(mx.array([-mx.inf, -3e38, -200.0, 200.0, 3e38, mx.inf, mx.nan]))
    for name, values in found.items():
        assert np.isnan(values[6]), name
        # x * sigmoid(x) at -inf is -inf * 0, as in MLX; log1p has no value there.
        for value in values[1:6] if name != "kk_log1p" else values[3:6]:
            assert not np.isnan(value), (name, values)
    for name in SLOPES:
        assert found[name][[0, 1, 4, 5]].tolist() == [0, 0, *([0, 0] if "moid" in name else [1, 1])]
    np.testing.assert_array_equal(
        found["kk_softplus"][:6], np.float32([0, 0, 0, 200, 3e38, np.inf])
    )


def test_half_types_do_not_overflow_inside(default_device: Device) -> None:
    found = computed(mx.array([-60000.0, -300.0, 300.0, 60000.0], mx.float16))
    half = np.float32(np.array([300.0, 60000.0], np.float16))
    for name in ("kk_silu", "kk_gelu_tanh", "kk_softplus", "kk_mish"):
        np.testing.assert_array_equal(found[name][2:], half)
        np.testing.assert_array_equal(found[name][:2], [0, 0])


def reference_hash(seed: int, index: np.ndarray) -> np.ndarray:
    """pcg3d of (low word, high word, seed), then PCG's RXS-M-XS, in uint32."""
    with np.errstate(over="ignore"):
        words = [(index & 0xFFFFFFFF), index >> np.uint64(32), np.full(index.shape, seed)]
        x, y, z = (w.astype(np.uint32) * np.uint32(1664525) + np.uint32(1013904223) for w in words)
        x, y, z = _mixed(x, y, z)
        x, y, z = (w ^ (w >> np.uint32(16)) for w in (x, y, z))
        x, y, z = _mixed(x, y, z)
        x = x ^ z
        x = ((x >> ((x >> np.uint32(28)) + np.uint32(4))) ^ x) * np.uint32(277803737)
        return (x >> np.uint32(22)) ^ x


def _mixed(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, ...]:
    x = x + y * z
    y = y + z * x
    return x, y, z + x * y


@cache
def random_kernel() -> metal.MetalKernel:
    return metal.kernel(
        name="header_random",
        input_names=["seed", "start"],
        output_names=["bits", "uniform"],
        source="""
            const uint i = thread_position_in_grid.x;
            if (i < N) {
              bits[i] = kk_hash_u32(seed[0], start[0] + i);
              uniform[i] = kk_uniform01(seed[0], start[0] + i);
            }
        """,
        header=msl.DEFAULT_HEADER,
    )


def drawn(seed: int, start: int = 0, count: int = 20000) -> tuple[np.ndarray, np.ndarray]:
    bits, uniform = random_kernel()(
        mx.array([seed], mx.uint32), mx.array([start], mx.uint64), template=[("N", 20000)],
        grid=(20000, 1, 1), output_shapes=[(20000,)] * 2, output_dtypes=[mx.uint32, mx.float32],
    )  # fmt: skip
    return np.array(bits)[:count], np.array(uniform)[:count]


@pytest.mark.parametrize("start", [0, 2**32 - 100, 2**40])
def test_random_numbers_are_the_documented_function(default_device: Device, start: int) -> None:
    index = np.arange(start, start + 20000, dtype=np.uint64)
    for seed in (0, 1, 2**32 - 1):
        bits, uniform = drawn(seed, start)
        wanted = reference_hash(seed, index)
        np.testing.assert_array_equal(bits, wanted)
        np.testing.assert_array_equal(uniform, np.float32(wanted >> 8) * np.float32(2.0**-24))


def test_random_numbers_look_random() -> None:
    """Against the peer's fault: neighbours a constant apart, seeds that only shift the pattern."""
    index = np.arange(1 << 16, dtype=np.uint64)
    streams = [reference_hash(s, index) / 2.0**32 for s in (0, 1, 2, 12345, 0x12345678)]
    limit = 5 / np.sqrt(index.size)  # five standard errors
    for u in streams:
        assert abs(u.mean() - 0.5) < limit * 0.29 and abs(u.var() - 1 / 12) < limit * 0.075
        counts = np.bincount((u * 256).astype(int), minlength=256)
        assert ((counts - 256.0) ** 2 / 256).sum() < 255 + 5 * np.sqrt(2 * 255)
        low = np.bincount(np.int64(u * 2.0**32) & 255, minlength=256)
        assert ((low - 256.0) ** 2 / 256).sum() < 255 + 5 * np.sqrt(2 * 255)
        for lag in (1, 2, 3, 64, 1024, 4096):
            assert abs(np.corrcoef(u[lag:], u[:-lag])[0, 1]) < limit
        assert len(np.unique(u)) > index.size - 20
    for i, u in enumerate(streams):
        for v in streams[:i]:
            assert abs(np.corrcoef(u, v)[0, 1]) < limit
            assert abs(np.corrcoef(u[1:], v[:-1])[0, 1]) < limit


REDUCE = """
    threadgroup float shared[32];
    const uint i = thread_position_in_threadgroup.x;
    const uint n = threads_per_threadgroup.x;
    const uint at = threadgroup_position_in_grid.x * n + i;
    const float v = inp[at];
    total[at] = kk_threadgroup_sum(v, shared, i, n);
    highest[at] = kk_threadgroup_max(v, shared, i, n);
    lowest[at] = kk_threadgroup_min(v, shared, i, n);
"""


def reduce_kernel() -> metal.MetalKernel:
    return metal.kernel(
        name="header_reduce",
        input_names=["inp"],
        output_names=["total", "highest", "lowest"],
        source=REDUCE,
        header=msl.DEFAULT_HEADER + msl.REDUCE_HEADER,
    )


@pytest.mark.parametrize("threads", [1, 2, 7, 31, 32, 33, 40, 64, 100, 256, 1000, 1024])
def test_reductions_over_threadgroups_of_any_size(default_device: Device, threads: int) -> None:
    groups = 3
    # Whole numbers, so that sums do not depend on their order.
    x = np.random.default_rng(threads).integers(-1000, 1000, (groups, threads)).astype(np.float32)
    found = reduce_kernel()(
        mx.array(x.ravel()), grid=(groups * threads, 1, 1), threadgroup=(threads, 1, 1)
    )
    for values, join in zip(found, (np.sum, np.max, np.min), strict=True):
        wanted = np.broadcast_to(join(x, axis=1, keepdims=True), x.shape)
        np.testing.assert_array_equal(np.array(values).reshape(x.shape), wanted)


# Metal's rules, without a Mac.


def diagnostics(kernel: metal.MetalKernel, launch: Launch, arrays: list[mx.array]) -> list[object]:
    run = MetalDevice().grid_launcher(kernel.spec)
    return list(metal_check.check_function(lambda given: run(given, launch), arrays))


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("count", [4, 16])
@pytest.mark.usefixtures("metal_check")
def test_metal_takes_every_function(name: str, count: int) -> None:
    arrays = [mx.zeros((count,), FLOATS[name])]
    wide = Launch((count, 1, 1), (count, 1, 1), ((len(NAMES), count),), (name,))
    assert diagnostics(table(), wide, arrays) == []


@pytest.mark.usefixtures("metal_check")
def test_metal_takes_reductions_and_random_numbers() -> None:
    launch = Launch((64, 1, 1), (64, 1, 1), ((64,),) * 3, ("float32",) * 3)
    assert diagnostics(reduce_kernel(), launch, [mx.zeros((64,))]) == []
    kinds = ("uint32", "float32")
    launch = Launch((64, 1, 1), (64, 1, 1), ((64,),) * 2, kinds, (("N", 64),))
    scalars = [mx.array([1], mx.uint32), mx.array([1], mx.uint64)]
    assert diagnostics(random_kernel(), launch, scalars) == []


def test_the_header_names_no_thread_attribute_and_no_global_memory() -> None:
    both = msl.DEFAULT_HEADER + msl.REDUCE_HEADER
    words = set(re.findall(r"\w+", re.sub(r"//[^\n]*", "", both)))
    assert not words & {"device", "constant"}
    assert not [w for w in words if w.startswith(("thread_", "threads_", "threadgroup_pos"))]
    assert {"kk_sigmoid", "kk_silu", "kk_gelu_tanh"} <= words


def test_launch2d_is_frozen_and_the_import_is_cheap() -> None:
    launch = msl.Launch2D((8, 2, 1), (4, 1, 1))
    assert launch == msl.Launch2D(grid=(8, 2, 1), threadgroup=(4, 1, 1))
    with pytest.raises(AttributeError):
        launch.grid = (1, 1, 1)  # type: ignore[misc]
    code = "import sys, zmlx.msl; print({'networkx', 'sympy', 'numpy'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
