"""Streams, new arrays and waiting inside of a function, called from any thread in any order."""

from __future__ import annotations

import threading

import mlx.core as mx
import mlx.nn as nn
import pytest
from fuse_cases import array, close
from test_threads import at_once

import zmlx

pytestmark = pytest.mark.usefixtures("default_device")

x = array(0, 4, 6)
LOCAL = mx.new_thread_local_stream(mx.cpu)


def in_thread(work):
    """Run `work` in a thread of its own; raises what it raises."""
    at_once(1, lambda _: work())


def on_local(x):
    with mx.stream(LOCAL):
        return mx.sin(x) * 2 + 1


def on_new(x):
    with mx.stream(mx.new_stream(mx.cpu)):
        y = mx.sin(x) * 2
        with mx.stream(LOCAL):
            y = y + mx.sum(x)
    return y + 1


def on_named(x):
    s = mx.new_stream(mx.cpu)
    return mx.exp(x, stream=s) + x.sum(stream=mx.default_stream(mx.cpu)) + mx.sin(x, stream=LOCAL)


def on_default(x):
    with mx.stream(mx.default_stream(mx.cpu)):
        return mx.tanh(x) + mx.ones((6,), stream=mx.cpu)


def on_helper(x):
    with mx.stream(LOCAL):
        return nn.gelu(x) @ x.T


STREAMS = [on_local, on_new, on_named, on_default, on_helper]


@pytest.mark.parametrize("fn", STREAMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("first", ["main", "worker"])
def test_streams_are_those_of_the_thread_that_calls(fn, first):
    fused = zmlx.fuse(fn)
    want = fn(x)
    mx.eval(want)

    def call():
        for _ in range(2):
            close(fused(x), want)
        close(mx.grad(lambda v: fused(v).sum())(x), mx.grad(lambda v: fn(v).sum())(x))

    for turn in ("main", "worker", "main") if first == "main" else ("worker", "main", "worker"):
        call() if turn == "main" else in_thread(call)
    assert fused.cache_info().misses == 1


MAKERS = {
    "made inside": lambda x: mx.sin(x) * mx.arange(6.0),
    "computed inside": lambda x: x + mx.cumsum(mx.ones((6,))) * mx.eye(6)[1],
    "keys": lambda x: x * mx.random.normal((6,), key=mx.random.key(3)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_result_that_was_dropped_leaves_nothing_on_its_stream(name):
    fused = zmlx.fuse(MAKERS[name])
    in_thread(lambda: fused(x))  # neither evaluated nor kept; the thread ends
    close(fused(x), MAKERS[name](x))
    in_thread(lambda: close(fused(x), MAKERS[name](x)))


def test_a_captured_array_that_waits_on_another_thread():
    weights = mx.arange(6.0) * 0.5  # lazy, on the stream of this thread
    fused = zmlx.fuse(lambda x: x * weights)

    def call():
        with pytest.raises(RuntimeError, match="no Stream"):  # as in plain MLX
            mx.eval(fused(x))

    in_thread(call)
    close(fused(x), x * weights)
    in_thread(lambda: close(fused(x), x * weights))


def test_a_traced_function_may_wait_for_a_first_call_elsewhere():
    inner = zmlx.fuse(lambda v: mx.sin(v) * v)
    results = []

    def waits(x):
        in_thread(lambda: results.append(inner(mx.ones(4)).tolist()))
        return mx.exp(x) * 2

    close(zmlx.fuse(waits)(x), mx.exp(x) * 2)
    close(mx.array(results[0]), mx.sin(mx.ones(4)))


def test_a_traced_function_may_wait_for_its_own_first_call_of_another_kind():
    @zmlx.fuse
    def halved(x, depth):
        if depth == "outer":
            in_thread(lambda: halved(mx.ones(4), "inner"))
        return mx.exp(x) * 2

    close(halved(x, "outer"), mx.exp(x) * 2)
    assert halved.cache_info().misses == 2


def test_clear_and_first_calls_do_not_wait_for_a_trace():
    inside, done = threading.Lock(), threading.Lock()
    assert inside.acquire() and done.acquire()

    @zmlx.fuse
    def slow(v):
        inside.release()
        assert done.acquire(timeout=30)
        done.release()  # for another trace
        return mx.exp(v) * 2

    thread = threading.Thread(target=lambda: mx.eval(slow(x)))
    thread.start()
    assert inside.acquire(timeout=30)
    other = zmlx.fuse(lambda v: mx.sin(v) * v)
    close(other(x), mx.sin(x) * x)
    other.clear()
    slow.clear()
    assert thread.is_alive()
    done.release()
    thread.join(30)
    close(slow(x), mx.exp(x) * 2)


def test_a_module_that_another_thread_traces():
    """Its weights are proxies there meanwhile: this thread waits, and takes the arrays."""
    inside, done = threading.Lock(), threading.Lock()
    assert inside.acquire() and done.acquire()
    layer = nn.Linear(6, 3)
    started = []

    def slow(layer, v):
        y = layer(v)
        inside.release()
        assert done.acquire(timeout=30)
        return mx.tanh(y)

    first, second = zmlx.fuse(slow), zmlx.fuse(lambda layer, v: mx.sin(layer(v)))
    want = mx.sin(layer(x))
    mx.eval(want)
    close(second(layer, x), want)

    def wait_then_let_go():
        started.append(1)
        threading.Timer(0.3, done.release).start()

    def work(i):
        if i == 0:
            mx.eval(first(layer, x))
        else:
            assert inside.acquire(timeout=30)
            wait_then_let_go()
            close(second(layer, x), want)
            close(second(layer, x[:2, None]), want[:2, None])

    at_once(2, work)
    assert all(type(v) is mx.array for v in layer.parameters().values())


def test_threads_trace_one_module_at_once():
    layer = nn.Linear(6, 3)
    want = mx.tanh(layer(x))
    mx.eval(want)
    fused = [zmlx.fuse(lambda m, v, k=k: mx.tanh(m(v)) * k) for k in range(1, 4)]

    def work(i):
        for k, f in enumerate(fused, 1):
            close(f(layer, x), want * k)

    at_once(6, work)


def test_a_thread_that_waits_for_itself_is_told(monkeypatch):
    from zmlx.trace import run

    monkeypatch.setattr(run, "PATIENCE", 0.2)
    layer = nn.Linear(6, 3)
    inner = zmlx.fuse(lambda m, v: mx.sin(m(v)))
    raised = []

    def waits(m, v):
        def call():
            with pytest.raises(zmlx.errors.TraceError, match="wait for this thread"):
                inner(m, x)
            raised.append(1)

        in_thread(call)
        return mx.tanh(m(v))

    close(zmlx.fuse(waits)(layer, x), mx.tanh(layer(x)))
    assert raised == [1]


def test_a_thread_that_waits_keeps_nothing_of_the_trace():
    """What it read of the module, before it saw that another thread traces it, is no leak."""
    inside, done = threading.Lock(), threading.Lock()
    assert inside.acquire() and done.acquire()
    layer = nn.Linear(6, 3)
    mx.eval(layer.parameters())

    def slow(layer, v):
        y = layer(v)
        inside.release()
        assert done.acquire(timeout=30)
        return mx.tanh(y)

    first, second = zmlx.fuse(slow), zmlx.fuse(lambda layer, v: mx.sin(layer(v)))
    want = [mx.tanh(layer(x)), mx.sin(layer(x))]
    mx.eval(want)

    def work(i):
        if i == 1:
            assert inside.acquire(timeout=30)
            threading.Timer(0.2, done.release).start()
        close([first, second][i](layer, x), want[i])

    at_once(2, work)
