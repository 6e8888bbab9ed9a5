"""MLX's own ops on few elements run when called, with the very bits that its tasks give."""

import mlx.core as mx
import numpy as np
import pytest
from fuse_cases import array
from test_at_once import unwatched, waits_for, warm  # noqa: F401 (a fixture)

import zmlx
from zmlx.device.rules import lazily


def bits(array):
    """What an array holds, so that NaN and signs of zeros count."""
    mx.eval(array)
    return array.shape, array.dtype, np.array(array[None].view(mx.uint8)).tobytes()


def same_as_by_tasks(fn, *args, now=True, numerics="fp32"):
    """`fn`, fused, gives at once (or not) what it gives by MLX's tasks."""
    mx.eval(args)
    fused = zmlx.fuse(fn, numerics=numerics)
    result = warm(fused, *args)
    waits = waits_for(result)
    assert (waits == []) is now, waits
    with lazily():
        later = fused(*args)
        assert waits_for(later) != []
        assert bits(result) == bits(later)
    return result


def curved(*arrays):
    """Arrays that kernels have made."""
    return [mx.sin(a) * 1.5 for a in arrays]


MATRICES = {
    "plain": ((3, 5), (5, 4), lambda a, b: a @ b),
    "first turned": ((5, 3), (5, 4), lambda a, b: a.T @ b),
    "second turned": ((3, 5), (4, 5), lambda a, b: a @ b.T),
    "both turned": ((5, 3), (4, 5), lambda a, b: a.T @ b.T),
    "parts": ((3, 12), (10, 4), lambda a, b: a[:, 1:11:2] @ b[::2]),
    "backwards": ((3, 5), (5, 4), lambda a, b: a[::-1] @ b[:, ::-1]),
    "many": ((2, 3, 3, 5), (2, 3, 5, 4), lambda a, b: a @ b),
    "many, turned": ((3, 2, 5, 3), (2, 3, 4, 5), lambda a, b: a.transpose(1, 0, 3, 2) @ b.mT),
    "one and many": ((3, 5), (2, 3, 5, 4), lambda a, b: a @ b),
    "a vector": ((5,), (5, 4), lambda a, b: a @ b),
    "two vectors": ((33,), (33,), lambda a, b: a @ b),
    "one row": ((1, 7), (7, 1), lambda a, b: a @ b),
    "one column": ((7, 1), (1, 7), lambda a, b: a @ b),
    "wide": ((3, 9), (9, 39), lambda a, b: a @ b),
    "wide, turned": ((9, 3), (39, 9), lambda a, b: a.T @ b.T),
    "a part of wide rows": ((3, 9), (2, 9, 39), lambda a, b: a @ b[:, :, 2:25]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_products(name, host_device):
    first, second, product = MATRICES[name]
    a, b = array(1, *first), array(2, *second)
    same_as_by_tasks(lambda a, b: product(*curved(a, b)) + 1, a, b)


def test_what_blas_does_not_multiply_waits(host_device):
    a, b = array(3, 4, 4), array(4, 4, 4)
    for dtype in (mx.float16, mx.bfloat16):
        halves = a.astype(dtype), b.astype(dtype)
        same_as_by_tasks(lambda a, b: mx.sin(a) @ b, *halves, now=False)
    same_as_by_tasks(lambda a: mx.sin(a) @ a, array(5, 128, 128), now=False)


PARTS = {
    "first axis": lambda a, b: mx.concatenate([*curved(a, b), a], axis=0),
    "last axis": lambda a, b: mx.concatenate([mx.max(a, axis=0, keepdims=True), b[:1]], axis=-1),
    "turned": lambda a, b: mx.concatenate([a.T, mx.cumsum(b, axis=0)], axis=0),
    "stacked": lambda a, b: mx.stack([a, b[::-1]], axis=1),
    "other types": lambda a, b: mx.concatenate([a > 0, b > 0], axis=1),
}


@pytest.mark.parametrize("numerics", ["fp32", "mlx"])
@pytest.mark.parametrize("name", PARTS)
def test_parts(name, numerics, host_device):
    a, b = array(6, 4, 4), array(7, 4, 4)
    now = "cumsum" not in name and name != "turned"
    same_as_by_tasks(PARTS[name], a, b, now=now, numerics=numerics)


def written(value, *where):
    def write(x, v):
        made = mx.zeros(x.shape, x.dtype) + value
        made[where] = mx.sin(v)
        return made * x

    return write


@pytest.mark.parametrize(
    "where", [(slice(1, 3),), (slice(None, None, 2),), (slice(None), slice(1, 4, 2)), (2,)]
)
def test_writes(where, host_device):
    x = array(8, 4, 4)
    same_as_by_tasks(written(0.5, *where), x, mx.array(x[where]))


EXTREMES = {
    "numbers": [3.0, -1.0, 2.0, 3.0],
    "negative": [-3.0, -1.0, -2.0, -4.0],
    "zeros": [0.0, -0.0, -0.0, 0.0],
    "nan": [1.0, float("nan"), 2.0, 3.0],
    "infinite": [float("inf"), 1.0, 2.0, -float("inf")],
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name, host_device):
    """Where the order of MLX's loop decides, its task runs."""
    x = mx.array(EXTREMES[name])
    now = name not in ("zeros", "nan")
    for fn in (mx.max, mx.min):
        found = same_as_by_tasks(lambda x, fn=fn: -(fn(x)), x, now=now, numerics="mlx")
        assert bits(found) == bits(-(fn(x)))
        grid = mx.stack([x, x * 4, x * 2])
        for axis in (0, 1, (0, 1)):
            found = same_as_by_tasks(
                lambda x, fn=fn, axis=axis: -(fn(x, axis=axis)), grid, now=now, numerics="mlx"
            )
            assert bits(found) == bits(-(fn(grid, axis=axis)))


@pytest.mark.parametrize("axis", [0, 1, 2, (0, 1), (0, 2), None])
def test_sums(axis, host_device):
    """Rows are added at once; neighbours in memory by MLX's task, in its order."""
    x = array(9, 5, 7, 9) * 100
    now = axis in (0, 1)
    found = same_as_by_tasks(lambda x: -(mx.sum(x, axis=axis)), x, now=now, numerics="mlx")
    assert bits(found) == bits(-(mx.sum(x, axis=axis)))
    thin = array(10, 50, 1, 1)
    assert bits(zmlx.fuse(lambda x: mx.sum(x, axis=0), numerics="mlx")(thin)) == bits(
        mx.sum(thin, axis=0)
    )


def cell(x, h, wx, wh):
    a, b = mx.split(x @ wx + 0.5, 2, axis=-1)
    c, d = mx.split(h @ wh, 2, axis=-1)
    return (mx.sigmoid(a + c) * mx.tanh(b * d)).square().sum()


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_gradients_through_products_wait_for_nothing(rows, host_device):
    """With and without the loss inside, however much of a graph they leave behind."""
    given = [array(11, rows, 8), array(12, rows, 8), array(13, 8, 16), array(14, 8, 16)]
    mx.eval(given)
    wrt = (0, 1, 2, 3)
    plain = mx.grad(cell, wrt)(*given)
    slope = mx.grad(zmlx.fuse(cell), wrt)
    for result, like in zip(warm_all(slope, *given), plain, strict=True):
        assert result.size > 2048 or mx.allclose(result, like, rtol=1e-4, atol=1e-5)
    held = slope(*given)
    assert all("Whole" not in waits_for(one) for one in held)
    with lazily():
        assert [bits(one) for one in held] == [bits(one) for one in slope(*given)]


def warm_all(f, *args):
    for _ in range(3):
        mx.eval(f(*args))
    return f(*args)
