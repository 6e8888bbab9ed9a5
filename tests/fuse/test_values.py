"""Values: fused against MLX and against float64, over types, layouts, sizes, special values."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from fuse_cases import array, close, equal, kernels, numpy, on_gpu, primitives, same_bits

import zmlx
from zmlx import dtypes
from zmlx.device.base import device_named
from zmlx.device.host import _key as key_of

pytestmark = pytest.mark.usefixtures("default_device")

# Written for any namespace with NumPy's names: MLX itself, and NumPy in float64. Numbers adopt the
# arrays' type, so these are numbers of every type.
FLOAT: dict[str, Any] = {
    "polynomial": lambda F, x, y: ((x * 0.3125 + 0.203125) * x - y) * x + 1.5,
    "silu * y": lambda F, x, y: x / (1 + F.exp(-x)) * y,
    "gelu": lambda F, x, y: 0.5 * x * (1 + F.tanh(0.796875 * (x + 183 / 4096 * x * x * x))),
    "softplus": lambda F, x, y: F.logaddexp(x, y * 0),
    "hypot": lambda F, x, y: F.sqrt(x * x + y * y + 0.5),
    "leaky": lambda F, x, y: F.where(x > 0, x, 0.125 * x) + F.maximum(x, y) - F.minimum(x, 0.25),
    "waves": lambda F, x, y: F.sin(x * 2) * F.cos(y) + F.arctan2(x, F.abs(y) + 1),
    "ratio": lambda F, x, y: (x - y) / (F.abs(x) + F.abs(y) + 1),
}
KINDS = [mx.float32, mx.float16, mx.bfloat16]


def all_of(F: Any, x: Any, y: Any) -> list[Any]:
    return [function(F, x, y) for function in FLOAT.values()]


def plain(x: mx.array, y: mx.array) -> list[mx.array]:
    return all_of(mx, x, y)


FUSED = zmlx.fuse(plain)
EXACT = zmlx.fuse(plain, numerics="mlx")


def truth(x: mx.array, y: mx.array) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return all_of(np, numpy(x).astype(np.float64), numpy(y).astype(np.float64))


def pair(shape: tuple, other: tuple, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    return array(1, *shape, dtype=dtype), array(2, *other, dtype=dtype)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_one_rounding_is_nearer_to_the_truth_than_many(dtype):
    """float32 inside, one rounding at the end: half a unit of the output type, no more."""
    x, y = pair((64, 33), (64, 33), dtype)
    unit = {mx.float32: 2.0**-23, mx.float16: 2.0**-10, mx.bfloat16: 2.0**-7}[dtype]
    for name, mine, theirs, exact in zip(FLOAT, FUSED(x, y), plain(x, y), truth(x, y), strict=True):
        error, rival = (np.abs(numpy(v) - exact) for v in (mine, theirs))
        size = np.abs(exact) + 0.25  # what cancels in float32 is lost
        assert (error <= 0.51 * unit * size + 2e-6 * size).all(), name
        if dtype != mx.float32:
            assert error.mean() <= rival.mean() and error.max() <= rival.max(), name
        else:
            assert error.mean() <= 1.25 * rival.mean() + 1e-8, name


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_numerics_mlx_gives_the_bits_of_plain_mlx(dtype):
    x, y = pair((64, 33), (64, 33), dtype)
    same_bits(EXACT(x, y), plain(x, y))


def test_one_kernel_computes_all_eight():
    got = FUSED(*pair((64, 33), (64, 33), mx.float32))
    assert len(primitives(*got)) == len(kernels(*got)) == 1


@pytest.mark.usefixtures("on_cpu")
def test_the_kernel_ran_on_the_host_device(monkeypatch):
    """What MLX evaluates is our primitive with the kernel's name, no replay of MLX ops."""
    monkeypatch.setenv("ZMLX_SANITIZE", "0")  # watched kernels are kept elsewhere
    host = device_named("host")
    assert host.unavailable() is None
    results = FUSED(*pair((5, 3), (5, 3), mx.float32))
    (name,) = kernels(*results)
    assert not {"Exp", "Tanh", "Multiply", "Select"} & set(primitives(*results))
    kernel = FUSED._table().entry(pair((5, 3), (5, 3), mx.float32), {}).program.functions[0]
    source = kernel.specialized([(5, 3), (5, 3)]).kernel
    assert source.name == name
    assert host.cache.find(key_of(source)) is not None
    assert host.cache.statistics()[1] > 0, "no compiled kernel in the cache"


# -- layouts --------------------------------------------------------------------------------------
def layouts(dtype: mx.Dtype) -> dict[str, tuple[mx.array, mx.array]]:
    """Pairs of arrays that mean the same kernel, held in memory in different ways."""
    a, b = array(3, 24, 18, dtype=dtype), array(4, 24, 18, dtype=dtype)
    big = array(5, 50, 40, dtype=dtype)
    return {
        "contiguous": (a, b),
        "transposed": (array(6, 18, 24, dtype=dtype).T, b),
        "both transposed": (array(6, 18, 24, dtype=dtype).T, array(7, 18, 24, dtype=dtype).T),
        "sliced": (big[3:27, 5:23], b),
        "strided": (big[1:49:2, 3:39:2], a),
        "reversed": (a[::-1], b[:, ::-1]),
        "broadcast": (mx.broadcast_to(array(8, 18, dtype=dtype), (24, 18)), a),
        "broadcast column": (mx.broadcast_to(array(8, 24, 1, dtype=dtype), (24, 18)), b[::-1]),
        "a slice of a transpose": (big.T[2:26, 30:48:1], b),
    }


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_layouts(dtype):
    for name, (x, y) in layouts(dtype).items():
        same_bits(EXACT(x, y), plain(x, y))
        contiguous = [mx.contiguous(v) for v in (x, y)]
        same_bits(FUSED(x, y), FUSED(*contiguous)), name


BROADCASTS = [
    ((24, 18), (18,)), ((24, 1), (18,)), ((1, 18), (24, 1)), ((), (7,)), ((3, 1, 5), (4, 1)),
    ((2, 3, 4, 5), (4, 1)), ((2, 1, 2, 1, 2), (3, 1, 3, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), BROADCASTS)
def test_broadcasts(first, second):
    x, y = pair(first, second, mx.float32)
    plain = lambda x, y: mx.tanh(x * 0.5 - y) * y + x  # noqa: E731
    fused = zmlx.fuse(plain)
    close(fused(x, y), plain(x, y))
    close(fused(y, x), plain(y, x))


SIZES = [(0,), (1,), (2,), (3,), (7,), (31,), (1023,), (1025,), (3_000_001,)]


def test_sizes():
    plain = lambda x, y: (mx.sin(x) * y + 0.5, x * x - y)  # noqa: E731
    fused = zmlx.fuse(plain)
    for shape in SIZES:
        x, y = pair(shape, shape, mx.float32)
        close(fused(x, y), plain(x, y))
    assert fused.cache_info().misses == 2, "one for a size of one, one for all others"
    for shape in [(0, 4), (4, 0), (0, 0), (1, 0), (0, 1), (5, 0, 3)]:
        x, y = pair(shape, shape, mx.float32)
        assert [v.shape for v in fused(x, y)] == [shape, shape]
        gradients = mx.grad(lambda x, y: fused(x, y)[0].sum(), argnums=(0, 1))(x, y)
        assert [g.shape for g in gradients] == [shape, shape]


@pytest.mark.exhaustive
def test_more_than_two_to_the_31_elements(tally):
    """An index that wrapped around would write the end of the array over its start."""
    shape = (2, 2**30 + 77)  # MLX takes no dimension above 2**31
    x = mx.broadcast_to(mx.array([[1], [2]], mx.uint8), shape)
    y = zmlx.fuse(lambda x: (x * 2 + 1) ^ 4)(x)
    assert y.shape == shape
    for row, value in ((0, 7), (1, 1)):
        for part in (slice(0, 100), slice(2**30 - 100, None)):
            assert mx.all(y[row, part] == value).item()
    tally("elements of the largest array", y.size)


# -- special values -------------------------------------------------------------------------------
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e4, -1e4, 65504.0, 6e-8, 1e-40, float("inf"), -float("inf"),
           float("nan"), 3e38, -3e38]  # fmt: skip


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_special_values(dtype):
    grid = mx.array(SPECIAL).astype(dtype)
    x, y = grid[:, None] + mx.zeros_like(grid), mx.broadcast_to(grid, (len(SPECIAL),) * 2)
    same_bits(EXACT(x, y), plain(x, y))
    if (
        dtype == mx.float32 and not on_gpu()
    ):  # a fma of a GPU overflows later; elsewhere classes agree as well
        for name, mine, theirs in zip(FLOAT, FUSED(x, y), plain(x, y), strict=True):
            a, b = numpy(mine), numpy(theirs)
            assert (np.isnan(a) == np.isnan(b)).all(), name
            same = np.isinf(b) | (b == 0)
            assert (a[same] == b[same]).all(), name
            if name != "softplus":  # logaddexp(-inf, -0.0) is -0.0 in MLX
                assert (np.signbit(a) == np.signbit(b))[same].all(), name


# -- integers and bool ----------------------------------------------------------------------------
def integer_work(x: mx.array, y: mx.array) -> list[mx.array]:
    return [
        (x * 3 + y) * x - 2,
        mx.maximum(x, y) + mx.minimum(x, 3),
        (x & y) | (x ^ 7),
        ~x + (y << 2) + (y >> 1),
        x // mx.maximum(y, 1) + x % mx.maximum(y, 1),
        mx.where(x > y, x, y * 2),
        mx.abs(x) + mx.sign(y),
        (x == y) | (x < 3),
        mx.exp(x * 0.01) + y,
        x / (y + 1),
        x.astype(mx.float32) * 0.5 + y,
        (x + y).astype(mx.int8) * 2,
    ]


@pytest.mark.parametrize("kind", dtypes.INTEGERS)
def test_integers(kind):
    rng = np.random.default_rng(0)
    limits = np.iinfo(kind)
    x = mx.array(rng.integers(limits.min, limits.max, (9, 11), kind, endpoint=True))
    y = mx.array(rng.integers(0, 9, (9, 11)).astype(kind))
    got, want = zmlx.fuse(integer_work, numerics="mlx")(x, y), integer_work(x, y)
    equal(got, want)
    exact = [i for i, w in enumerate(want) if not mx.issubdtype(w.dtype, mx.floating)]
    default = zmlx.fuse(lambda x, y: [integer_work(x, y)[i] for i in exact])(x, y)
    equal(default, [want[i] for i in exact])


def test_bools():
    def work(x, y):
        return [x & y, x | ~y, x ^ y, x + y, x * 2 + y, mx.where(x, y, ~y), x == y, x * 0.5,
                mx.logical_not(x) | y, mx.maximum(x, y) & x, mx.exp(x) - y, x < y]  # fmt: skip

    rng = np.random.default_rng(0)
    x, y = (mx.array(rng.integers(0, 2, (7, 5)).astype(bool)) for _ in range(2))
    equal(zmlx.fuse(work, numerics="mlx")(x, y), work(x, y))


MIXED = [
    (mx.float16, mx.bfloat16), (mx.bfloat16, mx.float32), (mx.int32, mx.float16),
    (mx.uint8, mx.int8), (mx.uint32, mx.int16), (mx.bool_, mx.float16), (mx.int64, mx.bfloat16),
]  # fmt: skip


@pytest.mark.parametrize("kinds", MIXED, ids=str)
def test_mixed_types_promote_as_in_mlx(kinds):
    x, y = (mx.arange(-4, 8).astype(kind) for kind in kinds)
    plain = lambda x, y: [x + y, x * y - 1, mx.maximum(x, y) * 2, x > y, (x + 0.5) * y]  # noqa: E731
    equal(zmlx.fuse(plain, numerics="mlx")(x, y), plain(x, y))
    assert [v.dtype for v in zmlx.fuse(plain)(x, y)] == [v.dtype for v in plain(x, y)]


def test_an_explicit_cast_rounds_under_both_numerics():
    x = array(0, 100)
    plain = lambda x: (x.astype(mx.bfloat16).astype(mx.float32) - x) * 2  # noqa: E731
    equal(zmlx.fuse(plain)(x), plain(x))
    plain = lambda x: (x * 300).astype(mx.float16) * 2 + 1  # noqa: E731
    equal(zmlx.fuse(plain, numerics="mlx")(x), plain(x))


def test_python_numbers_keep_all_their_digits():
    """MLX's own compiled kernels print 7 digits; here the float32 nearest to the number arrives."""
    x = mx.array([1.0, 3.0])
    plain = lambda x: x * 0.7978845608028654 + 1.1920928955078125e-07  # noqa: E731
    equal(zmlx.fuse(plain)(x), plain(x))
    given = lambda x, k: x * k + 1  # noqa: E731
    equal(zmlx.fuse(given)(x, 0.7978845608028654), given(x, 0.7978845608028654))


ACTIVATIONS = [nn.relu, nn.silu, nn.gelu, nn.gelu_approx, nn.gelu_fast_approx, nn.mish, nn.elu,
               nn.selu, nn.softplus, nn.softsign, nn.log_sigmoid, nn.hardswish, nn.celu, nn.relu6,
               nn.leaky_relu, nn.sigmoid, nn.tanh, nn.step, nn.hard_tanh, nn.hard_shrink,
               nn.softshrink]  # fmt: skip


def test_activations():
    x = array(0, 40, 25, scale=4)
    plain = lambda x: [f(x) for f in ACTIVATIONS]  # noqa: E731
    fused = zmlx.fuse(plain)
    got = fused(x)
    assert set(primitives(*got)) == set(kernels(*got))
    close(got, plain(x))
