"""One gradient over a whole function: every kind of call in it, and every way to ask for it."""

from __future__ import annotations

import threading

import mlx.core as mx
import pytest
from fuse_cases import array, close, primitives

import zmlx

pytestmark = pytest.mark.usefixtures("host_device")

x, w, v = array(0, 4, 6), array(1, 6, 6, scale=0.4), array(2, 6)


@mx.custom_function
def clipped(x):
    return mx.minimum(x, 0.5)


@clipped.vjp
def clipped_vjp(x, cotangent, _):
    return cotangent * 2  # of its own making


def drawn(x, w, v):
    keep = mx.random.bernoulli(0.5, (4, 6))
    return mx.tanh(mx.where(keep, x @ w, 0.0) * v) * 2


def stopped(x, w, v):
    """The way through the logarithm of zero is closed."""
    h = x @ w
    return h * mx.stop_gradient(mx.log(mx.maximum(h, 0) * 0 + 1)) + mx.sqrt(mx.stop_gradient(h * 0))


def indexed(x, w, v):
    best = mx.stop_gradient(mx.argmax(x @ w, -1))
    return mx.sin(w[best] * v) + mx.take_along_axis(x * 2, best[:, None], -1)


def sorted_rows(x, w, v):
    return mx.exp(mx.sort(mx.sin(x @ w) * v, -1)) * x


def products(x, w, v):
    h = mx.sin(x)
    return mx.tanh((h.T @ h) * w) @ (w @ w) * v


def several(x, w, v):
    q, r = mx.linalg.qr(mx.sin(w) + 2 * mx.eye(6), stream=mx.cpu)
    return mx.tanh(x * v) + mx.sum(mx.stop_gradient(q)) * x


def parted(x, w, v):
    a, b, c = mx.split(mx.sin(x @ w) * 2, 3, -1)
    return mx.concatenate([a * b, c, mx.cos(b)], -1) @ w


def stacked(x, w, v):
    h = mx.tanh(x @ w)
    return mx.stack([h[:, 0] * h[:, 1], h[:, 2], h[:, 1] * 2], 1).sum(0) * v[:3]


def scattered(x, w, v):
    y = mx.zeros((4, 6)) + mx.sin(x) @ w
    y[1:3] = x[:2] * v
    return mx.exp(y * 0.3)


def pieces(x, w, v):
    h = mx.sin(x @ w).reshape(2, 2, 3, 2).transpose(2, 0, 1, 3)
    return (mx.broadcast_to(h[:, None], (3, 2, 2, 2, 2)) * 0.5 + h[None, 0]).sum((0, 1)) @ w[:2]


def largest(x, w, v):
    h = mx.sin(x @ w) * v
    return mx.exp(h - mx.max(h, -1, keepdims=True)) @ w + mx.max(h)


CASES = {
    "a draw": drawn, "a rule of its own": lambda x, w, v: mx.exp(clipped(x @ w) * v) * x,
    "stopped": stopped, "indices": indexed, "sort": sorted_rows, "products of one": products,
    "several results": several, "split and put together": parted, "stack": stacked,
    "written into": scattered, "views": pieces, "extremes": largest,
    "softmax": lambda x, w, v: mx.softmax(x @ w, 0) * v @ w,
    "cumsum": lambda x, w, v: mx.cumsum(mx.sin(x), 0) * v @ w,
}  # fmt: skip


def gradient(function, argnums=(0, 1, 2)):
    waves = lambda y: mx.cos(mx.arange(y.size).reshape(y.shape))  # noqa: E731
    loss = lambda *given: ((y := function(*given)) * waves(y)).sum()  # noqa: E731
    return mx.grad(loss, argnums)


def seeded(function):
    mx.random.seed(3)
    return function(x, w, v)


@pytest.mark.parametrize("name", CASES)
def test_calls_of_every_kind(name):
    function, fused = CASES[name], zmlx.fuse(CASES[name])
    want, value = seeded(gradient(function)), seeded(function)
    for _ in range(3):
        close(seeded(gradient(fused)), want, 1e-4, 1e-5)
    close(seeded(mx.compile(gradient(fused), inputs=mx.random.state)), want, 1e-4, 1e-5)
    close(seeded(fused), value, 1e-5, 1e-5)


@pytest.mark.parametrize("name", ["a rule of its own", "indices", "stack", "softmax"])
def test_in_half_types_and_new_sizes(name):
    function, fused = CASES[name], zmlx.fuse(CASES[name])
    given = [a.astype(mx.float16) for a in (x, w, v)]
    close(gradient(fused)(*given), gradient(function)(*given), 2e-2, 2e-2)
    longer = (array(5, 7, 6), w, v)
    close(gradient(fused)(*longer), gradient(function)(*longer), 1e-4, 1e-5)


def two(x, w, v):
    h = mx.tanh(x @ w) * v
    return h, mx.exp(-h), h, x, mx.argmax(h, -1)


def some(function, pick):
    return lambda *given: sum(mx.sin(function(*given)[i]) for i in pick)


def test_some_arguments_and_some_results():
    fused = zmlx.fuse(two)
    for argnums in (0, 1, 2, (0, 2), (2, 1, 0)):
        for pick in ((0,), (1, 2), (0, 3), (3,), (0, 1, 2, 3)):
            ours, theirs = (gradient(some(f, pick), argnums)(x, w, v) for f in (fused, two))
            close(ours, theirs)


def test_cotangents_of_other_types():
    fused, seed = zmlx.fuse(parted), array(9, 4, 6).astype(mx.bfloat16)
    ours, theirs = (mx.vjp(f, [x, w, v], [seed])[1] for f in (fused, parted))
    close(ours, theirs, 1e-2, 1e-2)


def test_numbers_and_the_same_array_twice():
    function = lambda a, b, s: mx.tanh(a @ w * s) @ w * b  # noqa: E731
    fused = zmlx.fuse(function)
    for s in (0.5, 2, 0.5):
        close(
            mx.grad(lambda a, s=s: fused(a, a, s).sum())(x),
            mx.grad(lambda a, s=s: function(a, a, s).sum())(x),
        )


def test_no_call_runs_twice():
    fused = zmlx.fuse(lambda x, w, v: mx.exp(mx.sort(mx.sin(x @ w), -1)) @ w * v)
    ran = primitives(*mx.value_and_grad(lambda *given: fused(*given).sum(), (0, 1))(x, w, v)[1])
    assert ran.count("Sort") == 1 and ran.count("Matmul") <= 6


def test_values_looked_at_while_mlx_traces():
    fused = zmlx.fuse(parted)

    def looking(f):
        def loss(x):
            y = f(x, w, v)
            mx.eval(y)
            return (y * y).sum()

        return mx.value_and_grad(loss)(x)

    close(looking(fused), looking(parted), 1e-4, 1e-5)


@pytest.mark.parametrize("axes", [(0, None, None), (None, 0, None), (0, 0, 0)], ids=str)
def test_mapped_and_pushed(axes):
    pairs = zip((x, w, v), axes, strict=True)
    given = [mx.stack([a, a * 0.5]) if axis == 0 else a for a, axis in pairs]
    results = lambda f: lambda *given: f(*given)[:2]  # noqa: E731
    fused = zmlx.fuse(two)
    for form in (lambda f: results(f), lambda f: gradient(lambda *a: f(*a)[0])):
        ours, theirs = (mx.vmap(form(f), in_axes=axes)(*given) for f in (fused, two))
        close(ours, theirs, 1e-4, 1e-5)
        ours, theirs = (mx.jvp(form(f), [x, w, v], [x, w, v])[1] for f in (fused, two))
        close(ours, theirs, 1e-4, 1e-5)
    outer = lambda f: gradient(lambda *a: mx.vmap(results(f), in_axes=axes)(*a)[1])  # noqa: E731
    close(outer(fused)(*given), outer(two)(*given), 1e-4, 1e-5)


def test_gradients_of_gradients_of_every_kind():
    for name in ("products of one", "split and put together", "extremes", "a rule of its own"):
        function, fused = CASES[name], zmlx.fuse(CASES[name])
        twice = lambda f: gradient(lambda *a: gradient(f, 0)(*a) ** 2, (0, 1))  # noqa: E731
        close(twice(fused)(x, w, v), twice(function)(x, w, v), 1e-3, 1e-4)


def test_threads():
    fused, found = zmlx.fuse(parted), []
    want = gradient(parted)(x, w, v)

    def work():
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(3):
                got = gradient(fused)(x, w, v)
                mx.eval(got)
                found.append(got)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 9
    for got in found:
        close(got, want, 1e-4, 1e-5)


@pytest.mark.parametrize("switch", [{"check": True}, {"log": "info"}], ids=str)
def test_under_switches(switch):
    with zmlx.config(**switch):
        fused = zmlx.fuse(parted)
        close(gradient(fused)(x, w, v), gradient(parted)(x, w, v), 1e-4, 1e-5)


def test_results_are_no_aliases():
    fused = zmlx.fuse(two)

    def loss(x):
        h, _, again, same, _ = fused(x, w, v)
        h[0] = 0
        same[1] = 1
        return (again * 2 + h + same).sum()

    def plain(x):
        h, _, again, same, _ = two(x, w, v)
        same = same + 0  # else it is the argument
        h[0] = 0
        same[1] = 1
        return (again * 2 + h + same).sum()

    close(mx.value_and_grad(loss)(x), mx.value_and_grad(plain)(x), 1e-4, 1e-5)


def test_many_calls_in_a_row():
    """Each computes from the one before; all go at once."""
    fused, count = zmlx.fuse(lambda x, v: mx.tanh(mx.cumsum(x, 0) * v) * 0.5), 20000

    def loss(x):
        for _ in range(count):
            x = fused(x, v)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mx.grad(loss)(x)
