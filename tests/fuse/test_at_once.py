"""Little kernels run when called; what comes of them is right wherever MLX transforms it."""

import io
import re
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import pytest
from fuse_cases import array, close
from hypothesis import given
from hypothesis import strategies as st

import zmlx
from zmlx.device.rules import lazily


@pytest.fixture(autouse=True)
def unwatched(monkeypatch):
    """A watched kernel is a task of MLX's, whatever its size."""
    monkeypatch.delenv("ZMLX_SANITIZE", raising=False)


def waits_for(*results: mx.array) -> list[str]:
    """The primitives that the results still wait for, or hold."""
    text = io.StringIO()
    mx.export_to_dot(text, *results)
    return re.findall(r'label ="([^"]*)", shape=rectangle', text.getvalue())


def warm(f, *args):
    """The result of a call that repeats."""
    for _ in range(3):
        mx.eval(f(*args))
    return f(*args)


def curve(x):
    return mx.sin(x) * mx.exp(0.1 * x)


def summed(x):
    return (curve(x) * x).sum()


def normal(x):
    centred = x - mx.mean(x, axis=-1, keepdims=True)
    return centred * mx.rsqrt(mx.mean(centred * centred, axis=-1, keepdims=True) + 1e-5)


def halves(x):
    a, b = mx.split(x, 2, axis=-1)
    return mx.concatenate([a * b, a + mx.cos(b)], axis=-1)


FUNCTIONS = {f.__name__: f for f in (curve, normal, halves)}


def test_a_little_kernel_of_arrays_that_are_there_waits_for_nothing(host_device):
    for fn in FUNCTIONS.values():
        fused = zmlx.fuse(fn)
        x = array(1, 16)
        mx.eval(x)
        assert waits_for(warm(fused, x)) == []
        close(fused(x), fn(x))
        with lazily():
            assert waits_for(fused(x)) != []


def test_large_kernels_and_those_of_lazy_arrays_wait(host_device):
    fused = zmlx.fuse(curve)
    large, small = array(1, 256, 256), array(2, 16)
    mx.eval(large, small)
    assert waits_for(warm(fused, large)) != []
    warm(fused, small)
    later = fused(small * 2)
    assert "Multiply" in waits_for(later)
    close(later, curve(small * 2))


def nested(f):
    """Gradients of gradients, of what closures hold, mapped and checkpointed."""
    g = lambda x: f(x).sum()  # noqa: E731
    return {
        "grad": mx.grad(g),
        "grad grad": mx.grad(lambda x: mx.grad(g)(x).sum()),
        "outer variable": mx.grad(
            lambda y: (f(y) * mx.grad(lambda x: (x * y * f(x)).sum())(y)).sum()
        ),
        "variable of another level": mx.grad(
            lambda y: mx.grad(lambda x: (f(x) * f(y)).sum())(mx.ones_like(y)).sum()
        ),
        "after an inner gradient": mx.grad(
            lambda y: (mx.grad(lambda x: (x * y).sum())(y) * f(y)).sum()
        ),
        "jvp": lambda x: mx.jvp(f, [x], [mx.cos(x)])[1][0],
        "grad jvp": mx.grad(lambda x: mx.jvp(f, [x], [x])[1][0].sum()),
        "vmap grad": lambda x: mx.vmap(mx.grad(g))(mx.stack([x, 2 * x])),
        "grad vmap": mx.grad(lambda x: mx.vmap(f)(mx.stack([x, 2 * x])).sum()),
        "checkpoint": mx.grad(lambda x: mx.checkpoint(f)(x).sum()),
        "compile": mx.compile(mx.grad(g)),
        "gradient of a gradient's result": lambda x: f(mx.grad(g)(f(x))),
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transformations_of_little_kernels(name, host_device):
    mine, theirs = nested(zmlx.fuse(FUNCTIONS[name])), nested(FUNCTIONS[name])
    x = 0.5 + 0.1 * array(3, 8)
    mx.eval(x)
    for which, f in mine.items():
        for _ in range(3):  # by Python, then by tapes
            close(f(x), theirs[which](x), 2e-4, 1e-5)  # what cancels is left over


LEVELS = ("grad", "value", "jvp", "scale", "mix")


@given(st.lists(st.sampled_from(LEVELS), min_size=1, max_size=3), st.booleans())
def test_levels_of_transformations(levels, outside):
    """Transformations one in the other, over a function of a variable and of one of outside."""

    def build(f):
        found = f
        for level in levels:
            found = wrapped(found, f, level)
        return lambda x: mx.grad(lambda y: found(x * y if outside else y).sum())(x)

    x = 0.3 + 0.05 * array(4, 4)
    mx.eval(x)
    fused = build(_fused)
    for _ in range(2):
        close(fused(x), build(curve)(x), 1e-3)


_fused = zmlx.fuse(curve)


def wrapped(inner, f, level):
    if level == "grad":
        return lambda x: mx.grad(lambda z: (inner(z) * f(x)).sum())(x)
    if level == "value":
        return lambda x: mx.value_and_grad(lambda z: inner(z).sum())(f(x))[1]
    if level == "jvp":
        return lambda x: mx.jvp(inner, [x], [f(x)])[1][0]
    return (lambda x: f(0.5 * inner(x))) if level == "scale" else (lambda x: inner(x) + f(x) * x)


def test_iterated_gradients_do_not_hold_ever_more(host_device):
    """What is there is not evaluated any more, and so keeps its graph: it stays short."""
    slope = mx.grad(zmlx.fuse(lambda x: (x * x * 0.4 + mx.sin(x)).sum()))
    x = array(5, 16)
    held = []
    for _ in range(100):
        x = slope(x)
        mx.eval(x)
        held.append(len(waits_for(x)))
    assert max(held[:5]) > 0
    assert max(held) <= 80 and held[-1] <= 80


def test_views_of_results_do_not_hold_ever_more(host_device):
    turn = zmlx.fuse(lambda x: mx.sin(x).T[::-1])
    x = array(6, 4, 4)
    x = warm(turn, x)
    mx.eval(x)
    for _ in range(20):
        x = turn(x)
    assert waits_for(x) == []


def test_a_little_result_does_not_hold_a_large_array(host_device):
    loss = zmlx.fuse(summed)
    slope = mx.grad(lambda w, x: loss(w * 1.0 + x[:4]))
    w = array(7, 4)
    mx.eval(w)
    held = []
    for k in range(8):
        x = mx.ones((1 << 18,)) * k
        mx.eval(x)
        g = slope(w, x)
        mx.eval(g)
        held.append(g)
        del x
    mx.clear_cache()
    before = mx.get_active_memory()
    del held, g
    assert before - mx.get_active_memory() < 1 << 20


def test_threads(host_device):
    fused, slope = zmlx.fuse(curve), mx.grad(zmlx.fuse(summed))

    def work(seed):
        x = array(seed, 32)
        mx.eval(x)
        for _ in range(20):
            close(fused(x), curve(x))
            close(slope(x), mx.grad(summed)(x))
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_writing_into_a_result_leaves_others_alone(host_device):
    fused = zmlx.fuse(lambda x: (mx.sin(x), mx.sin(x), x * 1))
    x = array(8, 8)
    mx.eval(x)
    a, b, c = warm(fused, x)
    a[0], c[1] = 7.0, 9.0
    close((b, x), (mx.sin(array(8, 8)), array(8, 8)))
    close(fused(x), (mx.sin(x), mx.sin(x), x))
