"""Corners in which fused functions do as plain MLX does, or as float64 where MLX is far from it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from fuse_cases import array, close, kernels, numpy, program_of

import zmlx
from zmlx.fuse.rows import layout
from zmlx.msl.schedule import schedule

pytestmark = pytest.mark.usefixtures("default_device")

EMPTY = {
    "logsumexp": lambda x: mx.logsumexp(x * 2, axis=-1) + 1,
    "logsumexp over the first": lambda x: mx.logsumexp(x * 2, axis=0) + 1,
    "logsumexp over all": lambda x: mx.logsumexp(x * 2) + 1,
    "softmax": lambda x: mx.softmax(x * 2, axis=-1),
    "softmax over the first": lambda x: mx.softmax(x * 2, axis=0),
    "mean": lambda x: (x * 2).mean(-1),
    "var": lambda x: (x * 2).var(-1),
    "norm": lambda x: mx.linalg.norm(x * 2, axis=-1),
    "layer norm": lambda x: mx.fast.layer_norm(x * 2, None, None, 1e-5),
    "cross entropy": lambda x: nn.losses.cross_entropy(
        x * 2, mx.zeros((x.shape[0],), mx.int32)
    ),
}  # fmt: skip


# Folds of nothing: plain MLX reads past a shape for them, and may never end.
OF_NOTHING = {"mean": mx.nan, "var": mx.nan, "norm": 0.0}


@pytest.mark.parametrize("name", EMPTY)
def test_no_elements_are_what_plain_mlx_makes_of_them(name: str) -> None:
    fn = EMPTY[name]
    fused = zmlx.fuse(fn)
    close(fused(array(0, 3, 5)), fn(array(0, 3, 5)))
    for shape in ((0, 5), (5, 0)):
        got = _outcome(fused, mx.zeros(shape))
        if shape == (5, 0) and name in OF_NOTHING:
            assert got == ((5,), mx.float32, str([OF_NOTHING[name]] * 5))
        else:
            assert got == _outcome(fn, mx.zeros(shape)), shape
    close(fused(array(1, 4, 5)), fn(array(1, 4, 5)))


def _outcome(fn: Any, x: mx.array) -> Any:
    try:
        result = fn(x)
        mx.eval(result)
    except ValueError as error:
        return str(error)
    return result.shape, result.dtype, str(result.tolist())


@pytest.mark.parametrize("push", [False, True])
def test_what_where_does_not_choose_receives_what_mlx_sends_it(push: bool) -> None:
    """0, or NaN where the gradient is none or infinite: MLX multiplies by the condition."""
    c, y = mx.array([True, False, True]), mx.array([1.0, 2.0, 3.0])
    for fn in (
        lambda x: mx.where(c, mx.nan, x * x), lambda x: mx.exp(mx.where(c, mx.nan, x * x)),
        lambda x: mx.where(x > 1.5, x, x * 2) * 2, lambda x: mx.where(x, x, 1) * x,
    ):  # fmt: skip
        for seed in (mx.ones(3), mx.full(3, mx.inf), mx.array([mx.nan, 1.0, 0.0])):
            run = mx.jvp if push else mx.vjp
            got, want = (run(f, [y], [seed])[1][0] for f in (zmlx.fuse(fn), fn))
            np.testing.assert_array_equal(numpy(got), numpy(want))


@pytest.mark.parametrize("dtype", [mx.uint8, mx.uint16, mx.int8, mx.int32, mx.bool_], ids=str)
def test_logsumexp_of_integers_is_finite(dtype: mx.Dtype) -> None:
    """MLX's own of small integers over all axes is infinite, and 9.24 for 8.2."""
    x = mx.random.randint(0, 2 if dtype == mx.bool_ else 60, (40, 50)).astype(dtype)
    exact = np.array(x).astype(np.float64)
    top = exact.max()
    want = np.log(np.exp(exact - top).sum()) + top
    got = zmlx.fuse(lambda x: mx.logsumexp(mx.maximum(x, x[:1])))
    wide = mx.broadcast_to(x[:1] * 0, (40, 50))
    assert abs(zmlx.fuse(lambda x, y: mx.logsumexp(x | y) * 1)(x, wide).item() - want) < 1e-4
    assert np.isfinite(got(x).item())


def test_log_softmax_looks_for_the_largest_once() -> None:
    x = array(0, 6, 50)
    x[0, 3], x[1, 4], x[2, 5], x[3] = mx.nan, mx.inf, -mx.inf, -mx.inf
    (function,) = program_of(nn.log_softmax, x).functions
    graph = function.specialized([x.shape]).graph
    made = layout(graph, [x.shape])
    assert made is not None and len(schedule(made.region).walks) == 3
    fused = zmlx.fuse(nn.log_softmax)
    assert len(kernels(fused(x))) == 1
    close(fused(x), nn.log_softmax(x), rtol=1e-5)
    for reduction in (mx.max, mx.min):

        def low(x: mx.array, f: Any = reduction) -> Any:
            y = x - f(x, axis=-1, keepdims=True)
            return y - mx.stop_gradient(f(y, axis=-1, keepdims=True)) * 2 + f(y, axis=-1).sum()

        close(zmlx.fuse(low)(x), low(x), rtol=1e-6)
        seed = array(3, 6, 50)
        close(mx.vjp(zmlx.fuse(low), [x], [seed])[1], mx.vjp(low, [x], [seed])[1], 1e-5, 1e-5)
