"""Functions that the tracer cannot see, fused all the same: values, gradients, new shapes and
numbers, state, transformations, threads; what cannot be is plain MLX and says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from fuse_cases import array, close
from hidden import HIDDEN, hide
from test_threads import at_once

import zmlx
from zmlx.errors import TraceError
from zmlx.trace import intercept

pytestmark = pytest.mark.usefixtures("default_device")

x = array(0, 4, 6)
hidden_exp = HIDDEN.exp
call_hidden = hide(type(mx.compile(abs)).__call__)  # of a compiled function, past its wrapper


def told(fused, *args, **kwargs):
    return zmlx.explain(fused, *args, **kwargs).exported


def is_plain(fused, *args):
    return any("runs as plain MLX" in u.reason for u in zmlx.explain(fused, *args).unfused)


def gated(v, scale=1.0):
    gate = HIDDEN.sigmoid(v * scale)
    return {"a": gate * v + scale, "b": HIDDEN.softmax(gate + v, axis=-1) * 2}


def test_values_gradients_and_transformations():
    fused = zmlx.fuse(gated)
    for rows in (4, 5, 4):
        v = array(rows, rows, 6)
        for scale in (1.0, 2.0):
            close(fused(v, scale), gated(v, scale))
    assert fused.cache_info().misses == 2  # one for each shape; the number is none of its business

    def total(f):
        return lambda v: f(v)["a"].sum() + f(v)["b"].square().sum()

    close(mx.grad(total(fused))(x), mx.grad(total(gated))(x))
    second = [
        mx.grad(lambda v, f=f: mx.grad(total(f))(v).square().sum())(x) for f in (fused, gated)
    ]
    close(*second)
    close(mx.vmap(fused)(x), mx.vmap(gated)(x))
    tangent = array(1, 4, 6)
    close(*[mx.jvp(lambda v, f=f: f(v)["a"], [x], [tangent])[1][0] for f in (fused, gated)])
    close(mx.compile(fused)(x), gated(x))
    report = zmlx.explain(fused, x)
    assert "traced by mx.export_function: an array was computed" in report.text(full=True)
    assert [sorted(region.ops) for region in report.regions] != [] and not is_plain(fused, x)
    assert {"sigmoid", "multiply", "add"} <= {op for region in report.regions for op in region.ops}


def test_half_types_and_bits():
    fused = zmlx.fuse(gated, numerics="mlx")
    for dtype in (mx.float16, mx.bfloat16):
        v = array(2, 4, 6).astype(dtype)
        got, want = fused(v, 0.3), gated(v, 0.3)
        assert got["a"].dtype == dtype and mx.array_equal(got["a"], want["a"])


def test_numbers_that_are_baked_in_are_a_part_of_the_key():
    fn = lambda v, n: HIDDEN.multiply(v, n) + HIDDEN.power(v, n)  # noqa: E731
    fused = zmlx.fuse(fn)
    for n in (2.0, 3.0, 2.0):
        close(fused(abs(x), n), fn(abs(x), n))
    assert fused.cache_info().misses == 2 and told(fused, abs(x), 2.0)


def test_shapes_read_from_what_is_not_seen():
    fn = lambda v: v / hidden_exp(v).shape[0] + len(hidden_exp(v)) + hidden_exp(v).size  # noqa: E731
    fused = zmlx.fuse(fn)
    for rows in (4, 5):
        v = array(rows, rows, 6)
        close(fused(v), fn(v))
    mean = zmlx.fuse(lambda v: v - HIDDEN.mean(v, axis=0))
    for rows in (4, 5):
        v = array(rows, rows, 6)
        close(mean(v), v - v.mean(axis=0))


LOSSES = {
    "cross_entropy": lambda v: nn.losses.cross_entropy(v, mx.array([1, 0, 3, 5])),
    "smooth_l1": lambda v: nn.losses.smooth_l1_loss(v, x * 0.5),
    "huber": lambda v: nn.losses.huber_loss(v, x * 0.5),
    "log_cosh": lambda v: nn.losses.log_cosh_loss(v, x * 0.5),
}
LAYERS = {
    "linear": nn.Linear(6, 6),
    "layer_norm": nn.LayerNorm(6),
    "rms_norm": nn.RMSNorm(6),
    "gelu": nn.GELU(),
    "attention": lambda v: nn.MultiHeadAttention.__call__(ATTENTION, v[None], v[None], v[None])[0],
    "conv": lambda v: CONV(v[None])[0],
    **LOSSES,
}
ATTENTION, CONV = nn.MultiHeadAttention(6, 2), nn.Conv1d(6, 6, 3, padding=1)


def test_layers_and_losses_between_what_is_not_seen():
    def fn(given):
        squares = {name: HIDDEN.multiply(v, v) for name, v in given.items()}
        return {name: HIDDEN.tanh(LAYERS[name](v) * 2) for name, v in squares.items()}

    def total(f):
        return lambda given: sum(result.sum() for result in f(given).values())

    fused, given = zmlx.fuse(fn), {name: x * 0.9 for name in LAYERS}
    close(fused(given), fn(given))
    close(*[mx.grad(total(f))(given) for f in (fused, fn)])
    assert told(fused, given) and not is_plain(fused, given)


def test_compiled_functions_that_are_not_seen_through():
    compiled = mx.compile(lambda v: mx.sigmoid(v) * v + hidden_exp(v))
    fn = lambda v: call_hidden(compiled, v) * 2  # noqa: E731
    fused = zmlx.fuse(fn)
    close(fused(x), fn(x))
    close(*[mx.grad(lambda v, f=f: f(v).sum())(x) for f in (fused, fn)])
    seen = zmlx.fuse(lambda v: mx.compile(hidden_exp)(v) * 2 + 1)
    close(seen(x), mx.exp(x) * 2 + 1)
    assert told(seen, x) and not is_plain(seen, x)


REPORT = """
import sys
sys.path[:0] = [{fuse!r}, {trace!r}]
import mlx.core as mx
import zmlx
from test_unseen import call_hidden, hidden_exp, told, x
compiled = mx.compile(lambda v: mx.sigmoid(v) * v + hidden_exp(v))
fused = zmlx.fuse(lambda v: call_hidden(compiled, v) * 2)
fused(x)
assert told(fused, x) and "sigmoid" in zmlx.explain(fused, x).regions[0].ops
"""


def test_compiled_functions_that_are_not_seen_through_are_read():
    """In a process of its own: MLX may have fused such a function into one primitive before."""
    folders = {k: str(Path(__file__).parents[1] / k) for k in ("fuse", "trace")}
    subprocess.run([sys.executable, "-c", REPORT.format(**folders)], check=True)


def test_captured_arrays_are_read_from_what_is_not_seen():
    weight = array(3, 6)
    fused = zmlx.fuse(lambda v: HIDDEN.multiply(v, weight) + 1)
    close(fused(x), x * weight + 1)
    assert zmlx.explain(fused, x).captures
    close(mx.grad(lambda v: fused(v).sum())(x), mx.broadcast_to(weight, x.shape))


def test_state():
    state = {"n": mx.array(0.0)}

    @zmlx.fuse(inputs=state, outputs=state)
    def count(v):
        state["n"] = HIDDEN.add(state["n"], mx.array(1.0))
        return hidden_exp(v) * state["n"]

    for n in (1, 2, 3):
        close(count(x), mx.exp(x) * n)
        assert state["n"].item() == n
    assert told(count, x)
    net = nn.Sequential(nn.Linear(6, 6), hidden_exp)
    fused = zmlx.fuse(net)
    for _ in range(2):
        close(fused(x), net(x))
        net.layers[0].weight = net.layers[0].weight * 0.5
    assert told(fused, x)


KEPT: list = []


def keeping(v):
    KEPT.append(hidden_exp(v))
    return v * 2


def drawing(v):
    return v + HIDDEN.random.normal((6,)) * 0


def writing(v):
    hide(mx.array.__iadd__)(v, hidden_exp(v))
    return v * 2


def unreported(v):
    return HIDDEN.logcumsumexp(v) + 1


PLAIN = {
    keeping: "kept where later calls would not renew it",
    drawing: "random numbers were drawn",
    unreported: "mx.export_function does not report what CumLogAddExp computes",
}


@pytest.mark.parametrize("fn", PLAIN, ids=lambda f: f.__name__)
def test_what_cannot_be_repeated_is_plain_mlx(fn):
    fused = zmlx.fuse(fn)
    for rows in (4, 5):
        v = array(rows, rows, 6)
        close(fused(v), fn(v))
    reasons = [item.reason for item in zmlx.explain(fused, x).unfused]
    assert any("runs as plain MLX" in r and PLAIN[fn] in r for r in reasons), reasons
    close(*[mx.grad(lambda v, f=f: f(v).sum())(x) for f in (fused, fn)])


def test_what_is_kept_comes_at_every_call():
    KEPT.clear()
    fused = zmlx.fuse(keeping)
    for i in range(3):
        fused(array(i, 4, 6))
    assert len(KEPT) == 3
    close(KEPT[2], mx.exp(array(2, 4, 6)))


add_in_place = hide(mx.array.__iadd__)


def test_arguments_written_out_of_sight():
    def fn(v):
        add_in_place(v, mx.array(1.0))
        return v * 2

    fused, v, w = zmlx.fuse(fn), mx.ones((3,)), mx.ones((3,))
    for _ in range(2):
        close(fused(v), fn(w))
        close(v, w)


def test_inside_another_fused_function():
    inner = zmlx.fuse(gated)
    outer = zmlx.fuse(lambda v: mx.sin(inner(v)["a"]) + 1)
    close(outer(x), mx.sin(gated(x)["a"]) + 1)
    mixed = zmlx.fuse(lambda v: mx.sin(zmlx.fuse(gated, numerics="mlx")(hidden_exp(v))["a"]) + 1)
    close(mixed(x), mx.sin(gated(mx.exp(x))["a"]) + 1)


def test_threads_and_streams():
    fused = zmlx.fuse(gated)

    def work(i):
        v = array(i, 4 + i % 2, 6)
        with mx.stream(mx.new_stream(mx.default_device())):
            close(fused(v), gated(v))

    at_once(4, work)
    assert intercept.depth() == 0 and mx.exp is not hidden_exp
    with mx.stream(mx.cpu):
        close(zmlx.fuse(gated)(x), gated(x))


def test_what_numpy_writes_into_a_captured_array_is_refused_and_reading_it_is_not() -> None:
    x, held = mx.array([1.0, 2.0]), {"a": mx.zeros((2,))}

    def written(x: mx.array) -> mx.array:
        np.asarray(held["a"])[0] += 1
        return x + held["a"]

    with pytest.raises(TraceError, match="C code, NumPy say, writes into an array"):
        zmlx.fuse(written)(x)
    read = zmlx.fuse(lambda x: x * float(np.asarray(held["a"])[0]))
    assert read(x).tolist() == [1.0, 2.0]
