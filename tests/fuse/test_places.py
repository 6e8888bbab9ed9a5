"""argmax and argmin share a kernel with what they look through, with MLX's ties, NaN and types."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from fuse_cases import array, kernels, numpy, program_of

import zmlx

pytestmark = pytest.mark.usefixtures("default_device")
FLOATS = (mx.float32, mx.float16, mx.bfloat16)
# Rows longer and shorter than a step, rows before and behind, several axes at once (None: all).
PLACES: list[tuple[tuple[int, ...], int | None]] = [
    ((5, 33), -1), ((3, 4, 700), -1), ((130, 16), 1), ((70, 40), 0), ((4, 300, 12), 1),
    ((6, 50), None),
]  # fmt: skip


def equal(got: Any, want: Any) -> None:
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(numpy(one), numpy(other))


def places(axis: int | None) -> Any:
    """Both places of values that are exact in any type, and the values."""

    def fn(x: Any, y: Any) -> Any:
        z = mx.maximum(x, y)
        return mx.argmax(z, axis=axis), mx.argmin(z, axis=axis, keepdims=True), z

    return fn


@pytest.mark.parametrize(("shape", "axis"), PLACES, ids=str)
def test_values_ties_and_nan(shape: tuple[int, ...], axis: int | None) -> None:
    fn = places(axis)
    fused = zmlx.fuse(fn)
    for dtype in (mx.float32, mx.bfloat16):
        x = mx.round(array(0, *shape) * 2).astype(dtype)  # many ties
        for special in (None, mx.nan, mx.inf, -mx.inf):
            if special is not None:
                x.reshape(-1)[7] = special
                x = mx.where(array(3, *shape) > 1.5, mx.array(special, dtype), x)
            y = array(1, *shape, dtype=dtype, scale=0.1) * 0
            got = fused(x, y)
            assert len(kernels(*got)) == 1
            equal(got, fn(x, y))
        flat = mx.full(shape, special, dtype)
        equal(fused(flat, flat), fn(flat, flat))


@pytest.mark.parametrize("dtype", [mx.int32, mx.uint32, mx.int8, mx.uint16, mx.bool_], ids=str)
def test_integers(dtype: mx.Dtype) -> None:
    for shape, axis in (((6, 50), -1), ((4, 37, 20), 1)):
        x, y = [(mx.abs(array(i, *shape)) * 3).astype(dtype) for i in range(2)]
        got = zmlx.fuse(places(axis))(x, y)
        assert len(kernels(*got)) == 1
        equal(got, places(axis)(x, y))


def test_the_largest_logit_after_scale_and_bias_is_one_kernel() -> None:
    def greedy(logits: Any, scale: Any, bias: Any) -> Any:
        return mx.argmax(logits * scale + bias, axis=-1)

    def sampled(logits: Any, noise: Any) -> Any:  # Gumbel's way to draw from a softmax
        return mx.argmax(logits / 0.7 - mx.log(-mx.log(noise)), axis=-1)

    logits, bias = array(0, 3, 5, 1000), array(1, 1000)
    noise = mx.random.uniform(shape=(1000,))
    for fn, arguments in ((greedy, (logits, array(2, 5, 1), bias)), (sampled, (logits, noise))):
        program = program_of(fn, *arguments)
        assert len(program.plan.regions) == 1 and not program.plan.natives
        equal([zmlx.fuse(fn)(*arguments)], [fn(*arguments)])


def test_a_place_is_read_by_what_follows() -> None:
    def fn(x: Any) -> Any:
        y = x * 2.0
        place = mx.argmax(y, axis=-1, keepdims=True)
        return mx.where(place > 20, y, -y), y - y.max(-1, keepdims=True)

    x = array(0, 9, 40)
    got = zmlx.fuse(fn)(x)
    assert len(kernels(*got)) == 1
    for one, other in zip(got, fn(x), strict=True):
        assert mx.allclose(one, other)


def test_beside_other_folds_and_gradients() -> None:
    def fn(x: Any) -> Any:
        y = mx.exp(x)
        share = y / y.sum(-1, keepdims=True)
        return share, mx.argmax(share, axis=-1), share.max(-1)

    x = array(0, 7, 90)
    got, want = zmlx.fuse(fn)(x), fn(x)
    assert len(kernels(*got)) == 1 and mx.allclose(got[0], want[0], atol=1e-6)
    equal(got[1:2], want[1:2])
    loss = lambda f: lambda x: (f(x)[0] * array(1, 7, 90)).sum() + f(x)[1].sum()  # noqa: E731
    assert mx.allclose(mx.grad(loss(zmlx.fuse(fn)))(x), mx.grad(loss(fn))(x), atol=1e-5)
    batched = mx.vmap(zmlx.fuse(fn))(mx.stack([x, -x]))
    equal(batched[1:2], mx.vmap(fn)(mx.stack([x, -x]))[1:2])


def test_nothing_to_find_and_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    fn = places(-1)
    fused = zmlx.fuse(fn)
    for nothing in (mx.zeros((0, 9)), mx.zeros((4, 0))):
        for f in (fn, fused):
            with pytest.raises(ValueError, match="Cannot argmax reduce zero size array"):
                mx.eval(f(nothing, nothing))
    x = array(0, 4, 9)
    equal(fused(x, -x), fn(x, -x))
    with pytest.raises(ValueError, match="Cannot argmax reduce zero size array"):
        mx.eval(fused(x[:0], x[:0]))
    monkeypatch.setenv("ZMLX_CHECK", "1")
    x = mx.zeros((4, 60))
    equal(zmlx.fuse(places(0))(x, x), places(0)(x, x))


@pytest.mark.parametrize("shape", [(8, 8, 16), (30, 4, 2)], ids=str)
def test_an_element_of_each_row_of_what_was_folded(shape: tuple[int, ...]) -> None:
    """The row's positions stand beside sums, which have lost an axis behind them."""

    def fn(x: Any, index: Any) -> Any:
        sums = mx.square(x).sum(-1)
        nearest = mx.stop_gradient(mx.argmin(sums, 1)[:, None])
        taken = mx.take_along_axis(sums, index[:, None], 1) * 2
        return taken, mx.take_along_axis(sums, nearest, 1).mean()

    x, index = array(0, *shape), mx.arange(shape[0], dtype=mx.int32) % shape[1]
    fused = zmlx.fuse(fn)
    for got, want in zip(fused(x, index), fn(x, index), strict=True):
        np.testing.assert_allclose(numpy(got), numpy(want), rtol=1e-5)
    slopes = [mx.grad(lambda x, f=f: sum(v.sum() for v in f(x, index)))(x) for f in (fused, fn)]
    np.testing.assert_allclose(numpy(slopes[0]), numpy(slopes[1]), rtol=1e-4, atol=1e-5)
