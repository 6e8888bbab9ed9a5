"""Random programs of kernels and MLX's calls: values, and gradients of every form."""

from __future__ import annotations

import mlx.core as mx
import pytest
from fuse_cases import array, close
from hypothesis import given, settings
from hypothesis import strategies as st

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")

x, y = array(0, 4, 6, scale=0.7), array(1, 4, 6, scale=0.7)
w, v = array(2, 6, 6, scale=0.3), array(3, 6)

STEPS = {  # of two values of shape (4, 6), the weight and the row
    "sin": lambda a, b, w, v: mx.sin(a) * b,
    "gate": lambda a, b, w, v: a * mx.sigmoid(b),
    "row": lambda a, b, w, v: mx.tanh(a + v) - b * v,
    "norm": lambda a, b, w, v: a * mx.rsqrt(mx.sum(a * a, -1, keepdims=True) + 1) * v,
    "mean": lambda a, b, w, v: a - b.sum(-1, keepdims=True) / 6,
    "columns": lambda a, b, w, v: a * mx.sum(b, 0) * 0.3,
    "matmul": lambda a, b, w, v: a @ w,
    "square": lambda a, b, w, v: mx.tanh(a @ b.T) @ b * 0.3,
    "softmax": lambda a, b, w, v: mx.softmax(a, -1) + b,
    "halves": lambda a, b, w, v: mx.concatenate([a[:, 3:] * 2, mx.cos(a[:, :3])], -1),
    "slice": lambda a, b, w, v: a[:, :1] * b,
    "view": lambda a, b, w, v: mx.sin(a.reshape(6, 4).T.reshape(2, 3, 4)).reshape(4, 6) + b,
    "cumsum": lambda a, b, w, v: mx.cumsum(a, 1) * 0.2 + b,
    "max": lambda a, b, w, v: mx.exp(a - mx.max(a, -1, keepdims=True)) * b,
    "sum": lambda a, b, w, v: a + b,
}


@st.composite
def programs(draw):
    """Steps by name, each with the two earlier values that it reads."""
    count = draw(st.integers(3, 7))
    names = [draw(st.sampled_from(sorted(STEPS))) for _ in range(count)]
    places = [(draw(st.integers(0, i + 1)), i + 1) for i in range(count)]
    turned = [draw(st.booleans()) for _ in range(count)]
    return [(n, p[::-1] if t else p) for n, p, t in zip(names, places, turned, strict=True)]


def written(program):
    def function(x, y, w, v):
        values = [x, y]
        for name, (a, b) in program:
            values.append(STEPS[name](values[a], values[b], w, v))
        return values[-1] + values[len(values) // 2]

    return function


def gradient(function):
    loss = lambda *given: (mx.sin(function(*given)) ** 2).sum()  # noqa: E731
    return mx.grad(loss, argnums=(0, 1, 2, 3))


@settings(max_examples=12)
@given(programs())
def test_like_plain_mlx(program):
    compare(written(program))


def compare(plain):
    fused = zmlx.fuse(plain)
    close(fused(x, y, w, v), plain(x, y, w, v), 1e-4, 1e-4)
    for form in (first, second, pushed, mapped):
        close(form(fused), form(plain), 5e-3, 1e-3)


def first(f):
    return list(gradient(f)(x, y, w, v))


def second(f):
    return mx.grad(lambda x, w: (gradient(f)(x, y, w, v)[0] ** 2).mean(), (0, 1))(x, w)


def pushed(f):
    return mx.jvp(lambda x, v: gradient(f)(x, y, w, v)[0], [x, v], [y, v])[1]


def mapped(f):
    return mx.vmap(lambda x: gradient(f)(x, y, w, v)[2])(mx.stack([x, y]))
