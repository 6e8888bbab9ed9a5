"""Functions that fold rows: one kernel each, right over lengths, types and layouts."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from fuse_cases import array, close, flat, kernels, numpy, program_of
from row_cases import (
    CASES,
    RowCase,
    allowed,
    distance,
    doubles,
    layer_norm,
    logsumexp,
    pulled,
    rms_norm,
    softmax,
)

import zmlx
from zmlx.errors import CheckError
from zmlx.fuse import walked

pytestmark = pytest.mark.usefixtures("default_device")

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
SHAPES = ((5, 33), (3, 4, 128), (1, 4096), (2, 3, 1000), (130, 16), (2, 20000))


def inputs(case: RowCase, shape: tuple[int, ...], dtype: mx.Dtype) -> list[mx.array]:
    return [array(i, *s, dtype=dtype, scale=1.5) for i, s in enumerate(case.shapes(shape))]


# -- values ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    case = CASES[name]
    fused = zmlx.fuse(case.fn)
    for shape in SHAPES[:3]:
        for dtype in FLOATS[:: 2 if shape[-1] == 33 else 1]:
            arrays = inputs(case, shape, dtype)
            got, want = fused(*arrays), case.reference(*doubles(arrays))
            assert len(kernels(*flat(got))) == case.kernels
            plain = distance(case.fn(*arrays), want)
            assert distance(got, want) <= allowed(plain, dtype), (shape, dtype)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_values_over_all_shapes(name: str, dtype: mx.Dtype) -> None:
    case = CASES[name]
    fused = zmlx.fuse(case.fn)
    for shape in (*SHAPES, (4, 1), (1, 1), (7, 2), (1, 3), (3, 60000)):  # a float16 counts to 65504
        arrays = inputs(case, shape, dtype)
        got, want = fused(*arrays), case.reference(*doubles(arrays))
        plain = distance(case.fn(*arrays), want)
        assert distance(got, want) <= allowed(plain, dtype), shape


@pytest.mark.parametrize("name", ["rms_norm", "softmax", "layer_norm", "gated_norm"])
def test_layouts(name: str) -> None:
    """Transposed, sliced, reversed and broadcast inputs."""
    case = CASES[name]
    fused = zmlx.fuse(case.fn)
    first, *rest = inputs(case, (6, 40), mx.float32)
    wide = array(9, 12, 80)
    for x in (
        array(7, 40, 6).T, wide[::2, 1::2], wide[:6, 40:], first[::-1], first[:, ::-1],
        mx.broadcast_to(array(8, 40), (6, 40)), mx.broadcast_to(array(8, 6, 1), (6, 40)),
    ):  # fmt: skip
        arrays = [x, *rest]
        want = case.reference(*doubles(arrays))
        assert distance(fused(*arrays), want) <= max(2 * distance(case.fn(*arrays), want), 2e-6)


def test_folds_over_several_trailing_axes_and_over_broadcast_operands() -> None:
    def norm(x: Any, w: Any) -> Any:
        mean = x.mean((1, 2), keepdims=True)
        return (x - mean) * w / mx.sqrt(((x - mean) ** 2).sum((1, 2), keepdims=True) + 1.0)

    x = array(0, 5, 6, 7)
    for w in (array(1, 7), array(1, 6, 1), array(1, 6, 7), array(1, 5, 1, 1), array(1, 1)):
        got = zmlx.fuse(norm)(x, w)
        assert len(kernels(got)) == 1
        close(got, norm(x, w), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_folds_over_other_axes_are_right(axis: int) -> None:
    def norm(x: Any) -> Any:
        e = mx.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    x = array(0, 5, 6, 7)
    close(zmlx.fuse(norm)(x), norm(x), rtol=1e-5)


@pytest.mark.parametrize("length", [5, 16, 33, 64])
def test_many_short_rows(length: int) -> None:
    """A kernel is made for their length."""

    def fn(x: Any, w: Any) -> Any:
        y = rms_norm(x, w)
        return y - y.max(-1, keepdims=True), y.argmin(-1), (y > 1).any(-1), (1 + y / 99).prod(-1)

    x, w = array(0, (1 << 19) // length, length), array(1, length)
    x[5, 2], x[6, 3] = mx.nan, mx.inf
    for one, other in zip(zmlx.fuse(fn)(x, w), fn(x, w), strict=True):
        close(one, other, rtol=1e-5)
    weight = array(2, *x.shape)
    loss = lambda f: lambda x, w: (f(x, w)[0] * weight).sum()  # noqa: E731
    x = array(3, *x.shape)
    got, want = (mx.grad(loss(f), argnums=(0, 1))(x, w) for f in (zmlx.fuse(fn), fn))
    close(got[0], want[0], rtol=1e-3, atol=1e-5)
    close(got[1], want[1], rtol=1e-3, atol=1e-4)


def test_integers_and_truth() -> None:
    def count(x: Any, y: Any) -> Any:
        large = (x > y).any(-1, keepdims=True)
        whole = x.sum(-1, keepdims=True)
        return mx.where(large, x + whole, x - x.max(-1, keepdims=True)), (x == x).all(-1)

    for dtype in (mx.int32, mx.uint32, mx.int8, mx.uint16):
        x = (mx.abs(array(0, 4, 37)) * 9).astype(dtype)
        y = mx.full((4, 1), 20).astype(dtype)
        close(zmlx.fuse(count)(x, y), count(x, y), rtol=0, atol=0)


def test_nan_and_infinity() -> None:
    x = array(0, 6, 50)
    x[0, 3], x[1, 4], x[2, 5] = mx.nan, mx.inf, -mx.inf
    x[3, :] = -mx.inf
    for fn in (softmax, logsumexp, lambda x: x - x.max(-1, keepdims=True), CASES["scaled"].fn):
        close(zmlx.fuse(fn)(x), fn(x), rtol=1e-5)


def test_rows_far_from_zero() -> None:
    x = 1000 + array(0, 8, 4096, scale=0.01)
    w, b = mx.ones(4096), mx.zeros(4096)
    want = CASES["layer_norm"].reference(*doubles([x, w, b]))
    assert distance(zmlx.fuse(layer_norm)(x, w, b), want) < 1e-2  # as float32 allows at 1000
    assert distance(zmlx.fuse(layer_norm)(x, w, b), want) <= 2 * distance(layer_norm(x, w, b), want)


def test_empty_arrays() -> None:
    close(zmlx.fuse(softmax)(mx.zeros((0, 5))), softmax(mx.zeros((0, 5))))
    fused = zmlx.fuse(rms_norm)
    fused(array(0, 3, 5), array(1, 5))
    close(fused(mx.zeros((0, 5)), array(1, 5)), mx.zeros((0, 5)))
    with pytest.raises(ValueError):
        zmlx.fuse(softmax)(mx.zeros((5, 0)))


def test_runs_give_the_same_bits() -> None:
    case = CASES["layer_norm"]
    arrays = inputs(case, (300, 700), mx.bfloat16)
    fused = zmlx.fuse(case.fn)
    first = numpy(fused(*arrays))
    assert all((numpy(fused(*arrays)) == first).all() for _ in range(5))


# -- gradients ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    case = CASES[name]
    fused = zmlx.fuse(case.fn)
    for shape in ((5, 33), (3, 4, 128)):
        arrays = inputs(case, shape, mx.float32)
        close(pulled(fused, arrays), pulled(case.fn, arrays), rtol=1e-4, atol=1e-5)
    halves = inputs(case, (6, 64), mx.bfloat16)
    want = pulled(case.fn, [a.astype(mx.float32) for a in halves])
    for mine, right in zip(pulled(fused, halves), want, strict=True):
        close(mine.astype(mx.float32), right, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["rms_norm", "softmax", "log_softmax", "layer_norm"])
def test_a_gradient_is_one_kernel(name: str) -> None:
    case = CASES[name]
    arrays = inputs(case, (8, 128), mx.float32)
    got = pulled(zmlx.fuse(case.fn), arrays)
    assert len(kernels(*got)) == 1


@pytest.mark.parametrize("name", ["rms_norm", "softmax", "masked_softmax"])
def test_second_order_jvp_and_vmap(name: str) -> None:
    case = CASES[name]
    arrays = inputs(case, (3, 4, 20), mx.float32)
    fused = zmlx.fuse(case.fn)
    weight = array(77, 3, 4, 20)

    def slope(f: Any) -> Any:
        return lambda x: (mx.grad(lambda v: (f(v, *arrays[1:]) * weight).sum())(x) ** 2).sum()

    close(mx.grad(slope(fused))(arrays[0]), mx.grad(slope(case.fn))(arrays[0]), 1e-3, 1e-4)
    tangents = [array(60 + i, *a.shape) for i, a in enumerate(arrays)]
    got, want = mx.jvp(fused, arrays, tangents), mx.jvp(case.fn, arrays, tangents)
    close(got[1], want[1], rtol=1e-4, atol=1e-5)
    if name != "masked_softmax":
        axes = (0, *[None] * (len(arrays) - 1))
        close(mx.vmap(fused, axes)(*arrays), case.fn(*arrays), rtol=1e-5)


# -- services -------------------------------------------------------------------------------------
def test_new_lengths_need_no_new_trace() -> None:
    fused = zmlx.fuse(softmax)
    for length in (5, 64, 129, 1000):
        x = array(1, 4, length)
        close(fused(x), softmax(x), rtol=1e-5)
    assert fused.cache_info().misses == 1


def test_numerics_mlx_leaves_folds_to_mlx() -> None:
    x = array(0, 4, 50)
    fused = zmlx.fuse(softmax, numerics="mlx")
    assert (numpy(fused(x)) == numpy(softmax(x))).all()


def test_compiled() -> None:
    x = array(0, 4, 50)
    close(mx.compile(zmlx.fuse(softmax))(x), softmax(x), rtol=1e-5)


@pytest.mark.usefixtures("on_cpu")  # MLX's custom kernels, which GPUs run, have shapes built in
def test_shapeless_compile() -> None:
    fused = zmlx.fuse(softmax)
    shapeless = mx.compile(fused, shapeless=True)
    for rows in (4, 9):
        close(shapeless(array(0, rows, 50)), softmax(array(0, rows, 50)), rtol=1e-5)


def test_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_CHECK", "1")
    x = array(0, 4, 50)
    close(zmlx.fuse(softmax)(x), softmax(x), rtol=1e-5)
    real = walked.Made.finished
    monkeypatch.setattr(
        walked.Made, "finished", lambda self, raw: [a + 0.5 for a in real(self, raw)]
    )
    with pytest.raises(CheckError, match="kernel and MLX ops part"):
        zmlx.fuse(softmax)(x)


def test_the_plan_is_one_region() -> None:
    program = program_of(layer_norm, array(0, 4, 50), array(1, 50), array(2, 50))
    assert len(program.plan.regions) == 1 and not program.plan.natives


@pytest.mark.parametrize("dtype", (*FLOATS, mx.int32, mx.uint8, mx.bool_), ids=str)
def test_truth_of_numbers(dtype: mx.Dtype) -> None:
    """What is not zero is true: a fraction, NaN, and numbers that have no bit in common."""

    def truths(x: mx.array) -> tuple[mx.array, ...]:
        y = x * x
        return mx.all(y, axis=-1), mx.any(y, axis=-1), mx.all(y, axis=-1, keepdims=True) | (y > 1)

    halves = mx.concatenate([mx.full((1, 39), 0.5), mx.full((1, 1), float("nan"))], axis=1)
    mixed = mx.arange(1, 41)[None] % mx.array([[41], [2], [3]])
    rows = mx.concatenate([halves, halves * 0, mx.zeros((1, 40)), mixed, -0.0 * mixed])
    x = rows.astype(dtype) if dtype in FLOATS else mx.abs(mx.concatenate([mixed, 0 * mixed]))
    x = mx.concatenate([x.astype(dtype)] * 2, axis=0)
    got, want = zmlx.fuse(truths)(x), truths(x)
    assert len(kernels(*got)) == 1
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype and mx.array_equal(one, other)
