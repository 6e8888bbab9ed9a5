"""Threads, nesting, and what a trace costs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import mlx.core as mx
import mlx.nn as nn
import pytest
from tracing import kinds, run, same, traced

from zmlx.trace import intercept

X = mx.array([0.5, -1.0, 2.0])


def together(*functions) -> None:
    """Run the functions on threads of their own; re-raise what one of them raised."""
    failures: list[BaseException] = []

    def guarded(function):
        try:
            function()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(f,)) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def test_two_threads_trace_at_once():
    def work():
        for power in range(30):
            found = traced(lambda x, p=power: nn.gelu(x * p) + mx.exp(x), X)
            assert kinds(found.graph)[0] == "multiply" and found.graph[1]["value"] == power

    together(work, work, work)
    assert not intercept._installed


def test_plain_mlx_runs_beside_a_trace():
    inside, done = threading.Lock(), threading.Lock()
    assert inside.acquire() and done.acquire()
    results = []

    def slow(x):
        y = mx.exp(x)
        inside.release()
        assert done.acquire(timeout=30)
        return y * 2

    def plain():
        assert inside.acquire(timeout=30)
        try:
            assert hasattr(mx.exp, "__zmlx_original__")  # the trace is running
            a = mx.array([1.0, 2.0])
            a += 1
            a[0] = 5.0
            b = mx.exp(a) * 2 + nn.relu(a)[1] + a.at[0].add(1.0)
            results.append((b.tolist(), mx.grad(lambda v: mx.sum(v * v))(a).tolist()))
        finally:
            done.release()

    together(lambda: results.append(kinds(traced(slow, X).graph)), plain)
    a = mx.array([5.0, 3.0])
    want = mx.exp(a) * 2 + 3.0 + mx.array([6.0, 3.0])
    assert results == [(want.tolist(), [10.0, 6.0]), ["exp", "multiply"]]


def test_names_are_patched_once_and_restored_by_the_last():
    before = mx.exp
    with intercept.recording(None):
        patched = mx.exp
        assert patched is not before and intercept.original("exp") is before
        with intercept.recording(None):
            assert mx.exp is patched
        assert mx.exp is patched
    assert mx.exp is before and intercept.original("exp") is before


def test_a_trace_inside_a_trace_of_other_arrays():
    inner, other = [], X + 1

    def fn(x):
        inner.append(kinds(traced(lambda y: mx.sin(y) * y, other).graph))
        return mx.exp(x)

    assert kinds(traced(fn, X).graph) == ["exp"] and inner == [["sin", "multiply"]]


def test_traces_inside_transformations():
    """Tracing neither sees nor disturbs what MLX traces around it."""

    def outer(x):
        return run(lambda y: mx.sin(y * 2), x).sum()

    same(mx.grad(outer)(X), mx.grad(lambda x: mx.sin(x * 2).sum())(X))
    same(mx.compile(outer)(X), mx.sin(X * 2).sum())
    same(mx.vmap(outer)(X[:, None]), mx.sin(X * 2))
    same(mx.jvp(outer, [X], [X])[1][0], mx.jvp(lambda x: mx.sin(x * 2).sum(), [X], [X])[1][0])


def test_reads_of_sizes_are_noted_where_they_happen():
    found = traced(lambda x: x.reshape(x.shape[0], -1) * int(x.shape[0]), X)
    (read,) = found.decisions
    assert read.expr == ("size", 0, 0) and read.loc.startswith("test_threads.py:")
    assert not traced(lambda x: x * x.ndim, X).decisions


def chain(x):
    for k in range(15):
        x = mx.tanh(x * 1.01 + 0.1 * k) - 0.5
    return x


def test_a_chain_of_sixty_ops_is_traced_fast():
    traced(chain, X)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        found = traced(chain, X)
        times.append(time.perf_counter() - start)
    assert len(kinds(found.graph)) == 60
    assert min(times) < 0.05


def test_loading_the_tracer_loads_nothing_heavy():
    code = "import sys, zmlx.trace.run; print({'networkx', 'numpy', 'sympy'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("count", [1, 3])
def test_repeated_traces_give_equal_graphs(count):
    first = traced(chain, X)
    for _ in range(count):
        assert kinds(traced(chain, X).graph) == kinds(first.graph)
