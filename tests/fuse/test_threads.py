"""Threads and processes: one fused function called from many at once."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable

import mlx.core as mx
import pytest
from fuse_cases import array, close

import zmlx

pytestmark = pytest.mark.usefixtures("default_device")

x, row = array(0, 4, 6), array(1, 6)


def f(x, r):
    return mx.tanh(x * 0.7 + r) * r


def at_once(count: int, work: Callable[[int], None]) -> None:
    """Run work(0), work(1), ... in threads that start together; raises what one of them raised."""
    barrier, errors = threading.Barrier(count), []

    def run(i: int) -> None:
        try:
            barrier.wait(timeout=30)
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


def test_eight_threads_call_one_function_for_the_first_time():
    fused = zmlx.fuse(f)

    def work(i: int) -> None:
        for size in (4, 5 + i):
            a = array(i, size, 6)
            close(fused(a, row), f(a, row))

    at_once(8, work)
    assert fused.cache_info().misses == 1 and fused.cache_info().hits == 15
    at_once(8, work)
    assert fused.cache_info().misses == 1


@pytest.mark.smoke
def test_gradients_in_threads():
    fused = zmlx.fuse(f)

    def gradients(g, a):
        first = mx.grad(lambda a, r: (g(a, r) ** 2).sum(), argnums=(0, 1))(a, row)
        second = mx.grad(lambda a: (mx.grad(lambda b: (g(b, row) ** 2).sum())(a) ** 2).sum())(a)
        return [*first, second]

    def work(i: int) -> None:
        a = array(i, 3 + i, 6)
        close(gradients(fused, a), gradients(f, a), rtol=1e-4, atol=1e-5)

    at_once(6, work)


def test_different_functions_in_threads():
    """While one thread traces, the others must see MLX as it is."""
    plains = [lambda a, k=i: mx.exp(a * 0.1 * (k + 1)) * k + mx.sin(a) for i in range(6)]

    def work(i: int) -> None:
        fused = zmlx.fuse(plains[i])
        for seed in range(3):
            a = array(10 * i + seed, 5, 6)
            close(fused(a), plains[i](a))
            close(mx.vmap(fused)(a), plains[i](a))
            assert type(mx.exp(a) + a) is mx.array

    at_once(6, work)


def test_plain_mlx_goes_on_while_another_thread_traces():
    inside, done = threading.Lock(), threading.Lock()
    assert inside.acquire() and done.acquire()
    results = []

    @zmlx.fuse
    def slow(a):
        b = mx.exp(a)
        inside.release()
        assert done.acquire(timeout=30)
        return b * 2

    def run() -> None:
        results.append(slow(x))
        mx.eval(results)  # on the stream of this thread

    thread = threading.Thread(target=run)
    thread.start()
    assert inside.acquire(timeout=30)
    a = array(3, 4, 6)
    close(mx.exp(a) * a[0], mx.array(a) * 0 + mx.exp(a) * a[0])
    assert type(mx.sum(a * a)) is mx.array and (a @ a.T).shape == (4, 4)
    done.release()
    thread.join(timeout=30)
    close(results[0], mx.exp(x) * 2)


def test_an_error_in_one_thread_leaves_the_others_alone():
    bad = zmlx.fuse(lambda a: a if a.sum() > 0 else -a)
    good = zmlx.fuse(f)

    def work(i: int) -> None:
        if i % 2:
            with pytest.raises(zmlx.errors.TraceError):
                bad(x)
        else:
            close(good(x, row), f(x, row))

    at_once(8, work)


def test_switches_in_the_middle_of_calls():
    fused = zmlx.fuse(f, cache_size=2)

    def work(i: int) -> None:
        for turn in range(20):
            a = array(turn, *(2,) * (1 + (i + turn) % 4))
            b = array(turn + 1, 2)
            close(fused(a, b), f(a, b))
            if turn % 7 == i % 7:
                fused.clear()

    at_once(4, work)


def in_child(connection) -> None:
    """A forked child: MLX's own threads are gone there, so only traces and plans are tried."""
    try:
        fused = zmlx.fuse(lambda a: mx.exp(a) * 3 + 1)
        fused.explain(x)
        connection.send("fine")
    except BaseException as error:
        connection.send(repr(error))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(mx.cuda.is_available(), reason="CUDA does not survive a fork")
def test_a_child_after_a_fork_can_trace_and_build():
    zmlx.fuse(f)(x, row)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=in_child, args=(theirs,))
    child.start()
    assert ours.poll(60), "the child hangs"
    assert ours.recv() == "fine"
    child.join(timeout=30)
    assert child.exitcode == 0
