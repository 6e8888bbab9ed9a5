"""Slices of one array in several places: its gradient is written once, and is what it was."""

from __future__ import annotations

import io

import mlx.core as mx
import numpy as np
import pytest
from fuse_cases import array, close, numpy

import zmlx
from zmlx.fuse.cuts import Cut, pieces

pytestmark = pytest.mark.usefixtures("host_device")



def halves(x):
    half = x.shape[-1] // 2
    return x[..., :half] * mx.sigmoid(x[..., :half]) * x[..., half:]


def rotated(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + mx.concatenate([-x[..., half:], x[..., :half]], -1) * sin


def heads(x, w):
    q, k, v = x[:, :4], x[:, 4:8], x[:, 8:]
    return mx.softmax(q @ k.T, -1) @ mx.sin(v) @ w


def product(p, q):
    a, b, c, d = p[..., 0], p[..., 1], q[..., 0], q[..., 1]
    return mx.stack([a * c - b * d, a * d + b * c], -1)


x = array(0, 5, 12)
CASES = {  # name: (function, arguments, whether MLX pads or adds)
    "halves": (halves, (x,), False),
    "rotated halves": (rotated, (x, array(1, 12), array(2, 12)), False),
    "heads": (heads, (x, array(1, 4, 3)), False),
    "complex numbers": (product, (array(0, 5, 2), array(1, 5, 2)), False),
    "overlapping": (lambda x: x[:, :-2] * 2 + x[:, 1:-1] * mx.sin(x[:, 2:]), (x,), False),
    "with gaps": (lambda x: x[:, 1:3] * x[:, 7:9] * x[:, 9:11] + 1, (x,), False),
    "columns with gaps": (lambda x: x[:, 1] * x[:, 7] + mx.sin(x[:, 1]), (x,), False),
    "items of a split": (
        lambda x: (lambda a, b, c: a * mx.tanh(b) - c * c)(*mx.split(x, 3, -1)), (x,), False,
    ),
    "two axes": (lambda x: x[1:, :-1] * x[:-1, 1:] + 1, (x,), True),
}  # fmt: skip


def loss(function):
    return lambda *arrays: (function(*arrays) ** 2).sum()


def gradient(function, count):
    return mx.grad(loss(function), argnums=tuple(range(count)))


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    plain, arguments, pads = CASES[name]
    fused = zmlx.fuse(plain)
    got = gradient(fused, len(arguments))(*arguments)
    exact = gradient(plain, len(arguments))
    with mx.stream(mx.cpu):
        want = [numpy(g) for g in exact(*[a.astype(mx.float64) for a in arguments])]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(numpy(a), b, rtol=1e-5, atol=1e-5)
    assert ("Add" in ops_of(mx.grad(loss(fused))(*arguments))) == pads


def ops_of(result: mx.array) -> str:
    """The names of all ops that `result` waits for, Pad counted as Add."""
    with io.StringIO() as file:
        mx.export_to_dot(file, result)
        return file.getvalue().replace("Pad", "Add").replace("SliceUpdate", "Add")


@pytest.mark.parametrize("name", ["halves", "overlapping", "columns with gaps"])
def test_transformations(name):
    plain, arguments, _ = CASES[name]
    fused = zmlx.fuse(plain)
    tangents = [array(7 + i, *a.shape) for i, a in enumerate(arguments)]
    close(mx.jvp(fused, arguments, tangents)[1], mx.jvp(plain, arguments, tangents)[1])
    stacks = [mx.stack([a, a * 0.5]) for a in arguments]
    close(mx.vmap(fused)(*stacks), mx.vmap(plain)(*stacks))
    mine, theirs = gradient(fused, 1), gradient(plain, 1)
    close(mx.vmap(mine)(*stacks), mx.vmap(theirs)(*stacks))
    close(mx.compile(mine)(*arguments), theirs(*arguments))
    close(mx.grad(summed(mine))(*arguments), mx.grad(summed(theirs))(*arguments))


def summed(function):
    return lambda *arrays: (function(*arrays)[0] ** 2).sum()


def test_no_length_makes_a_trace_or_a_program():
    fused = zmlx.fuse(halves)
    for n in range(4, 60, 2):
        x = array(n, 3, n)
        close(gradient(fused, 1)(x), gradient(halves, 1)(x))
    assert fused.cache_info().misses == 1


def test_pieces_between_all_ends():
    cuts = [Cut(0, 1, 4, False), Cut(0, 3, 6, False)]
    found = [(p.start, p.stop, p.covers, p.whole) for p in pieces(cuts, 7)]
    assert found == [
        (0, 1, (), ()), (1, 3, (0,), ()), (3, 4, (0, 1), ()), (4, 6, (1,), ()), (6, 7, (), ()),
    ]  # fmt: skip
    assert pieces([Cut(0, 0, 1, False), Cut(1, 0, 1, False)], 7) is None
