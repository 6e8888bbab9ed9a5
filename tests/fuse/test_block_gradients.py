"""Gradients of whole blocks: nothing elementwise runs op by op between two calls of MLX's."""

from __future__ import annotations

from math import sqrt

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from fuse_cases import array, close, kernels, numpy, primitives

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")

HEADS, ROWS, WIDTH, INNER = 2, 6, 8, 12
ALONE = {"Add", "Subtract", "Multiply", "Negative", "Sigmoid", "AsType", "Divide", "Sum"}



def weight(seed, *shape):
    return array(seed, *shape, scale=1 / sqrt(shape[0]))


x = array(0, 2, ROWS, WIDTH)
gains = (array(1, WIDTH), array(2, WIDTH))
turn = [f(array(3, ROWS, WIDTH // HEADS // 2)) for f in (mx.cos, mx.sin)]
square = [weight(4 + i, WIDTH, WIDTH) for i in range(4)]
wide = [weight(8, WIDTH, INNER), weight(9, WIDTH, INNER), weight(10, INNER, WIDTH)]


def norm(x, gain):
    return x * mx.rsqrt(mx.sum(x * x, -1, keepdims=True) / x.shape[-1] + 1e-5) * gain


def rope(x, cos, sin):
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return mx.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def heads(x):
    return x.reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)


def block(x, gains, turn, square, wide):
    n = norm(x, gains[0])
    q, k, v = (heads(n @ w) for w in square[:3])
    o = (rope(q, *turn) @ rope(k, *turn).swapaxes(-1, -2)) @ v
    h = x + o.transpose(0, 2, 1, 3).reshape(x.shape) @ square[3]
    n = norm(h, gains[1])
    gate = n @ wide[0]
    return h + (gate * mx.sigmoid(gate) * (n @ wide[1])) @ wide[2]


def mlp(x, gains, turn, square, wide):
    h = nn.gelu_approx(x @ wide[0] + 0.1)
    return mx.tanh(h @ wide[2] * gains[0] + gains[1]) * 2


def stack(x, gains, turn, square, wide):
    for w, gain in zip(square[:2], gains, strict=True):
        x = x + nn.silu(norm(x, gain) @ w) @ square[2]
    return x


BLOCKS = {"block": block, "mlp": mlp, "stack": stack}
GIVEN = (x, gains, turn, square, wide)


def cast(tree, dtype):
    if isinstance(tree, mx.array):
        return tree.astype(dtype)
    return [cast(item, dtype) for item in tree]


def gradient(function, given=GIVEN):
    """Of the sum of what it gives times waves, by everything but the angles."""

    def loss(x, gains, square, wide):
        found = function(x, gains, given[2], square, wide).astype(mx.float32)
        return (found * mx.cos(mx.arange(found.size).reshape(found.shape))).sum()

    found = mx.value_and_grad(loss, argnums=(0, 1, 2, 3))(given[0], given[1], *given[3:])
    return [found[0], *_leaves(found[1])]


def _leaves(tree):
    return [tree] if isinstance(tree, mx.array) else [a for item in tree for a in _leaves(item)]


@pytest.mark.parametrize("name", BLOCKS)
def test_values_and_gradients(name):
    close(gradient(zmlx.fuse(BLOCKS[name])), gradient(BLOCKS[name]), 2e-4, 2e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_half_types_are_as_near_to_the_truth(dtype):
    given = cast(GIVEN, dtype)
    exact = gradient(block, cast(given, mx.float32))
    mine, theirs = gradient(zmlx.fuse(block), given), gradient(block, given)
    for a, b, truth in zip(mine, theirs, exact, strict=True):
        error, rival = (np.abs(numpy(v) - numpy(truth)).max() for v in (a, b))
        assert error <= 1.5 * rival + 4e-3 * np.abs(numpy(truth)).max()


def test_against_differences_in_float64():
    """Along one direction of all arguments."""
    step, got = 1e-3, gradient(zmlx.fuse(block))[1:]
    moves = [array(20 + i, *g.shape, scale=0.3) for i, g in enumerate(got)]
    pairs = [(numpy(g).astype(np.float64), numpy(m)) for g, m in zip(got, moves, strict=True)]
    slope = sum((g * m).sum() for g, m in pairs)
    with mx.stream(mx.cpu):
        exact = cast(GIVEN, mx.float64)
        ends = []
        for sign in (1, -1):
            moved = iter([m.astype(mx.float64) * (sign * step) for m in moves])
            at = [exact[0] + next(moved)]
            at += [[a + next(moved) for a in exact[i]] for i in (1, 3, 4)]
            out = block(at[0], at[1], exact[2], at[2], at[3])
            waves = mx.cos(mx.arange(out.size).reshape(out.shape)).astype(mx.float64)
            ends.append((out * waves).sum().item())
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize("name", BLOCKS)
def test_nothing_elementwise_runs_op_by_op(name):
    """In the forward and the backward pass together; gradients of weights used twice apart."""
    fused = zmlx.fuse(BLOCKS[name])
    arrays = [x, *gains, *square[:3 if name == "stack" else 4], *wide]

    def flat(*given):
        x, *rest = given
        return fused(x, rest[:2], turn, (rest[2:-3] + square[3:])[:4], rest[-3:])

    seed = array(30, *flat(*arrays).shape)
    got = [g for i, g in enumerate(mx.vjp(flat, arrays, [seed])[1]) if name != "stack" or i != 5]
    run = set(primitives(*got))
    assert not run & (ALONE - {"Sum"}), run
    assert kernels(*got)


def test_memory():
    """Forward alone takes no more than plain MLX, training no more than mx.compile's."""
    rows, width = 512, 256
    big = (
        array(0, 2, rows, width), (mx.ones(width), mx.ones(width)),
        [f(array(1, rows, width // HEADS // 2)) for f in (mx.cos, mx.sin)],
        [weight(2 + i, width, width) for i in range(4)],
        [weight(6, width, 2 * width), weight(7, width, 2 * width), weight(8, 2 * width, width)],
    )  # fmt: skip
    fused = zmlx.fuse(block)
    compiled = mx.compile(lambda *given: gradient(block, given))
    assert peak(lambda: fused(*big)) <= peak(lambda: block(*big))
    assert peak(lambda: gradient(fused, big)) <= peak(lambda: compiled(*big))


def peak(run):
    for _ in range(2):
        mx.eval(run())
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(run())
    return mx.get_peak_memory() - before
