"""What a call leaves to the native module for the next ones: done three times, each as MLX does."""

from __future__ import annotations

import threading
from typing import Any

import mlx.core as mx
import pytest
from fuse_cases import array, close

import zmlx
from zmlx.device.rules import native_or_none
from zmlx.fuse import table
from zmlx.fuse.program import Program

pytestmark = pytest.mark.usefixtures("host_device")
x, y = array(1, 4, 6), array(2, 4, 6)


def pair(x: mx.array, y: mx.array) -> tuple[mx.array, mx.array]:
    return mx.sin(x) * y + mx.tanh(x * y), mx.exp(0.1 * y) * x


fused = zmlx.fuse(pair)


def loss(f: Any, *which: int) -> Any:
    return lambda x, y: sum(f(x, y)[i].square().sum() for i in which)


def inner_slope(f: Any) -> Any:
    """Differentiated in x around a gradient in y: the outer x is no primal of the inner one."""
    return mx.grad(lambda x: mx.grad(lambda y: loss(f, 0, 1)(x, y))(x * y).sum())(x)


def bent(f: Any) -> Any:
    """Views of a traced array, of several kinds, and a view of a view."""

    def total(x: mx.array, y: mx.array) -> mx.array:
        a, b = f(x.T[1:, ::2], mx.broadcast_to(y[:1, :2], (5, 2)))
        c, d = f(
            x.reshape(2, 12)[1].reshape(3, 4), mx.stop_gradient(y.flatten()[12:].reshape(3, 4))
        )
        return (a * b).sum() + (c * d[None]).sum() + f(mx.expand_dims(x, 0), y[:, None])[0].mean()

    return total


WAYS: dict[str, Any] = {
    "one output": lambda f: mx.grad(loss(f, 0), argnums=(0, 1))(x, y),
    "the other output": lambda f: mx.grad(loss(f, 1), argnums=(0, 1))(x, y),
    "both, the other way round": lambda f: mx.grad(loss(f, 1, 0), argnums=(1, 0))(x, y),
    "one input": lambda f: mx.grad(loss(f, 0, 1), argnums=1)(x, y),
    "cotangents": lambda f: mx.vjp(f, [x, y], [y, x])[1],
    "a gradient around another": inner_slope,
    "a gradient twice": lambda f: mx.grad(
        lambda x: mx.grad(lambda x: loss(f, 0, 1)(x, y))(x).square().sum()
    )(x),
    "tangents of a gradient": lambda f: mx.jvp(mx.grad(loss(f, 0, 1)), [x, y], [y, x])[1],
    "gradients of rows": lambda f: mx.vmap(mx.grad(loss(f, 0, 1), argnums=(0, 1)))(x, y),
    "compiled": lambda f: mx.compile(mx.grad(loss(f, 0, 1), argnums=(0, 1)))(x, y),
    "views": lambda f: mx.grad(bent(f), argnums=(0, 1))(x, y),
    "views of a transposed array": lambda f: mx.grad(bent(f), argnums=(0, 1))(y.T.reshape(4, 6), x),
    "a lazy array": lambda f: mx.grad(bent(f), argnums=(0, 1))(x * 2 - y, x @ y.T @ y),
    "the primal comes back": lambda f: mx.vjp(lambda x: (x, f(x, y)[0]), [x], [y, y]),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_gradient_taken_again(name: str) -> None:
    want = WAYS[name](pair)
    for _ in range(3):
        close(WAYS[name](fused), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [mx.float16, mx.bfloat16, mx.float32], ids=str)
def test_a_cotangent_comes_in_the_type_of_its_output(kind: mx.Dtype) -> None:
    half = [a.astype(kind) for a in (x, y)]
    for f in (fused, fused):
        got = mx.vjp(f, half, [y, x.astype(mx.float16)])[1]
        want = mx.vjp(pair, half, [y.astype(kind), x.astype(kind)])[1]
        close(got, want, rtol=2e-2, atol=2e-2)


def test_what_is_written_after_a_call_was_built_does_not_change_it() -> None:
    a, b = x * 1, y * 1
    mx.eval(a, b)
    slope = mx.grad(loss(fused, 0, 1), argnums=(0, 1))
    want = mx.grad(loss(pair, 0, 1), argnums=(0, 1))(x, y)
    for _ in range(3):
        a[...], b[...] = x, y
        got = slope(a, b)
        a += 1
        b[1] = 7.0
        close(got, want, rtol=1e-4, atol=1e-5)


def test_a_primal_that_comes_back_each_time_holds_no_chain() -> None:
    """Copies of copies would be as deep as there were steps."""
    step = mx.value_and_grad(lambda h: (fused(h, y)[0].sum(), h))
    held = x * 1
    for _ in range(3000):
        (_, held), slope = step(held)
        mx.eval(held, slope)
    del slope, step
    close(held, x)


def test_gradients_on_several_threads() -> None:
    want = mx.grad(loss(pair, 0, 1), argnums=(0, 1))(x, y)
    mx.eval(want, x, y)
    wrong: list[Any] = []

    def work() -> None:
        try:
            with mx.stream(mx.new_stream(mx.cpu)):
                for _ in range(30):
                    close(mx.grad(loss(fused, 0, 1), argnums=(0, 1))(x, y), want, 1e-4, 1e-5)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- several kernels in one call ------------------------------------------------------------------
def doubled(tree: Any) -> Any:
    """Kernels of unlike shapes, and one that reads two results."""
    made = [mx.sin(a) * 2 + a for a in tree["many"]]
    return {
        "made": made[0],
        "more": mx.tanh(made[1] + made[0][0, 0]),
        "rest": made[2] + tree["one"],
    }


def given(size: int = 3) -> dict[str, Any]:
    return {"many": [array(3, 4, 6), array(4, 5), array(5, 2, size)], "one": array(6, size)}


@pytest.mark.usefixtures("on_cpu")
def test_kernels_in_a_row_are_one_call_and_right(monkeypatch) -> None:
    ran, stepped = [], Program._results
    counted = lambda self, inputs: ran.append(1) or stepped(self, inputs)  # noqa: E731
    monkeypatch.setattr(Program, "_results", counted)
    both, tree = zmlx.fuse(lambda t: [mx.sin(a) * 2 + a for a in t]), [x, x[0], x[:, 0]]
    for _ in range(4):
        close(both(tree), [mx.sin(a) * 2 + a for a in tree])
    assert len(ran) == 2  # the first call, and the one that was put down
    grown = zmlx.fuse(doubled)
    for size in (3, 3, 7, 3):
        close(list(grown(given(size)).values()), list(doubled(given(size)).values()))
    want = mx.grad(lambda t: sum(v.sum() for v in doubled(t).values()))(given())
    for _ in range(3):
        got = mx.grad(lambda t: sum(v.sum() for v in grown(t).values()))(given())
        close([*got["many"], got["one"]], [*want["many"], want["one"]], rtol=1e-4, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused_as_ever() -> None:
    f = zmlx.fuse(lambda a, b, c: [mx.sin(a) * 2 + b, mx.cos(c) * 3])
    close(f(x, y, x[0]), [mx.sin(x) * 2 + y, mx.cos(x[0]) * 3])
    with pytest.raises(ValueError, match="broadcast"):
        mx.eval(f(x, y[:, :5], x[0]))
    close(f(y, x, x[1]), [mx.sin(y) * 2 + x, mx.cos(x[1]) * 3])


# -- structures -----------------------------------------------------------------------------------
class Layer:
    def __init__(self) -> None:
        self.w, self.scale, self.mode, self.parts = x * 1, 2.0, "sin", [y * 1]

    def __call__(self, a: mx.array) -> mx.array:
        f = mx.sin if self.mode == "sin" else mx.cos
        return f(a * self.w) * self.scale + self.parts[-1]


def test_a_call_like_the_last_one_is_not_flattened(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native_or_none() is not None
    layer = Layer()
    f = zmlx.fuse(layer)
    for a in (x, y):
        close(f(a), layer(a))
    monkeypatch.setattr(table, "flatten_call", None)
    layer.w, layer.parts[0] = y * 1, x * 1
    close(f(x), layer(x))


def test_every_change_of_an_object_is_seen() -> None:
    layer = Layer()
    f = zmlx.fuse(layer)
    changes = [
        lambda: setattr(layer, "w", y * 1), lambda: setattr(layer, "scale", 3.0),
        lambda: setattr(layer, "mode", "cos"), lambda: setattr(layer, "scale", 3),
        lambda: layer.parts.append(x * 2), lambda: layer.parts.__setitem__(0, y * 3),
        lambda: setattr(layer, "w", x[:1] * 1), lambda: setattr(layer, "mode", "sin"),
        lambda: setattr(layer, "w", (x * 1).astype(mx.float16)), lambda: layer.parts.pop(),
        lambda: setattr(layer, "parts", [layer.w]), lambda: setattr(layer, "scale", x[0]),
    ]  # fmt: skip
    for change in changes:
        change()
        for a in (x, y, x[:1, :1]):
            close(f(a), layer(a), rtol=2e-3, atol=2e-3)
