"""A loss and its gradient by one kernel: a row is read once for both."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from fuse_cases import array, close, kernels, numpy

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")

LIMITS = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 2e-2}
ROWS, CLASSES = 5, 67


def entropy(x, t):
    return nn.losses.cross_entropy(x, t, reduction="mean")


def smoothed(x, t):
    return nn.losses.cross_entropy(x, t, label_smoothing=0.1, reduction="sum") * 0.5


def squares(x, t):
    return mx.mean(mx.square(mx.tanh(x) - t[:, None].astype(x.dtype)))


def divergence(x, t):
    p = nn.log_softmax(x, axis=-1)
    return -mx.sum(p * mx.exp(p)) / x.shape[0]


LOSSES = {"entropy": entropy, "smoothed": smoothed, "squares": squares, "divergence": divergence}


def given(dtype="float32"):
    x = array(1, ROWS, CLASSES, scale=3.0).astype(getattr(mx, dtype))
    return x, mx.array([0, 66, 3, 3, 17])


QUICK = [("entropy", "bfloat16"), ("entropy", "float32"), ("squares", "float32")]
SLOW = [(name, dtype) for name in LOSSES for dtype in LIMITS if (name, dtype) not in QUICK]
CASES = [*QUICK, *[pytest.param(*case, marks=pytest.mark.exhaustive) for case in SLOW]]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_values_and_gradients_are_one_kernel(name, dtype):
    loss, (x, t) = LOSSES[name], given(dtype)
    fused, limit = zmlx.fuse(loss), LIMITS[dtype]
    want, grads = mx.value_and_grad(loss)(x.astype(mx.float32), t)
    for _ in range(3):
        value, gradient = mx.value_and_grad(fused)(x, t)
        rows = [k for k in kernels(value, gradient) if k.startswith("zmlx_rows") or "tanh" in k]
        assert len(rows) == 1
        assert value.dtype == gradient.dtype == x.dtype
        close(value.astype(mx.float32), want, limit, limit)
        close(gradient.astype(mx.float32), grads, limit, limit)
    only = mx.grad(fused)(x, t)
    assert len(kernels(only)) == 1
    close(only.astype(mx.float32), grads, limit, limit)


def test_against_float64():
    x, t = given()
    value, gradient = mx.value_and_grad(zmlx.fuse(entropy))(x, t)
    logits = numpy(x).astype(np.float64)
    e = np.exp(logits - logits.max(-1, keepdims=True))
    p, hit = e / e.sum(-1, keepdims=True), np.eye(CLASSES)[numpy(t)]
    np.testing.assert_allclose(numpy(value), -np.log((p * hit).sum(-1)).mean(), rtol=2e-6)
    np.testing.assert_allclose(numpy(gradient), (p - hit) / ROWS, atol=1e-7)


def test_a_cotangent_that_waits_for_the_loss():
    """Forward and backward are two programs then."""
    x, t = given()
    fused = zmlx.fuse(entropy)
    for outer in (lambda v: v * v, mx.exp, lambda v: v * 3.0):
        mine = mx.value_and_grad(lambda x, f=outer: f(fused(x, t)))(x)
        close(mine, mx.value_and_grad(lambda x, f=outer: f(entropy(x, t)))(x), 1e-4, 1e-5)


def test_what_is_not_finite():
    x, t = given()
    fused = mx.value_and_grad(zmlx.fuse(entropy))
    for value in (np.nan, np.inf, -np.inf):
        rows = numpy(x).copy()
        rows[2, 5] = value
        rows[3, :] = -np.inf if value == -np.inf else rows[3, :]
        close(fused(mx.array(rows), t), mx.value_and_grad(entropy)(mx.array(rows), t))


def test_other_transformations():
    x, t = given()
    fused = zmlx.fuse(entropy)

    def forms(f):
        first = lambda x: mx.grad(f)(x, t)  # noqa: E731
        yield mx.vjp(lambda x: f(x, t), [x], [mx.array(2.0)])
        yield mx.value_and_grad(mx.checkpoint(lambda x: f(x, t)))(x)
        yield mx.vmap(lambda x: mx.value_and_grad(f)(x, t))(mx.stack([x, x * 2]))
        yield mx.grad(lambda x: (first(x) ** 2).sum())(x)
        yield mx.jvp(first, [x], [x])[1]
        yield mx.compile(mx.value_and_grad(f))(x, t)
        yield mx.value_and_grad(lambda x: f(x, t) + f(x * 2, t))(x)

    for mine, theirs in zip(forms(fused), forms(entropy), strict=True):
        close(mine, theirs, 2e-4, 2e-5)


def test_the_same_bits_again():
    x, t = given()
    fused = mx.value_and_grad(zmlx.fuse(entropy))
    first = [numpy(a).tobytes() for a in fused(x, t)]
    assert all([numpy(a).tobytes() for a in fused(x, t)] == first for _ in range(3))


def test_checked():
    """Python runs each step then, and compares kernels with MLX's own ops."""
    x, t = given()
    with zmlx.config(check=True):
        value, gradient = mx.value_and_grad(zmlx.fuse(entropy))(x, t)
        mx.eval(value, gradient)
    close([value, gradient], mx.value_and_grad(entropy)(x, t))
    assert len([k for k in kernels(gradient) if k.startswith("zmlx_rows")]) <= 1


def test_a_gradient_of_several_arrays():
    x, w = array(1, 6, 64), array(2, 64)
    loss = lambda x, w: mx.mean(mx.square(x * w - 1))  # noqa: E731
    got = mx.value_and_grad(zmlx.fuse(loss), argnums=(0, 1))(x, w)
    close(got, mx.value_and_grad(loss, argnums=(0, 1))(x, w))
    part = mx.value_and_grad(zmlx.fuse(loss), argnums=1)(x, w)
    close(part, mx.value_and_grad(loss, argnums=1)(x, w))


def test_new_sizes():
    fused = mx.value_and_grad(zmlx.fuse(entropy))
    for rows, classes in ((5, 67), (1, 40), (2, 1000)):
        x, t = array(1, rows, classes), mx.zeros((rows,), mx.int32)
        close(fused(x, t), mx.value_and_grad(entropy)(x, t))


def with_made_labels(x):
    return nn.losses.cross_entropy(x, mx.arange(x.shape[0]) * 3 % x.shape[1]).mean()


def test_labels_made_inside_keep_no_row_from_being_read_once():
    x = array(1, 6, 64)
    value, gradient = mx.value_and_grad(zmlx.fuse(with_made_labels))(x)
    assert [k.startswith("zmlx_rows") for k in kernels(value, gradient)].count(True) == 1
    close([value, gradient], mx.value_and_grad(with_made_labels)(x))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_places_along_any_axis(axis):
    """A kernel knows the number of a column where the axis is its columns, else it reads it."""

    def picked(x, t):
        labels = mx.expand_dims(t, axis)
        return mx.sum(mx.take_along_axis(x - mx.logsumexp(x, axis, keepdims=True), labels, axis))

    x = array(1, 3, 5, 8)
    t = mx.array(
        np.random.default_rng(0).integers(0, 3, [n for d, n in enumerate(x.shape) if d != axis])
    )
    close(mx.value_and_grad(zmlx.fuse(picked))(x, t), mx.value_and_grad(picked)(x, t))
    for one in (x[:, :, :1], x[:1], x[:, :1]):
        least = mx.zeros([n for d, n in enumerate(one.shape) if d != axis], mx.int32)
        close(
            mx.value_and_grad(zmlx.fuse(picked))(one, least), mx.value_and_grad(picked)(one, least)
        )
