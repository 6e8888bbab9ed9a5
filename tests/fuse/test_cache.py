"""The cache of traces: what finds its trace again, what makes a new one, what is dropped."""

from __future__ import annotations

import gc
import logging
import resource
import sys
import weakref

import mlx.core as mx
import pytest
from fuse_cases import array, close, counting

import zmlx
from zmlx.device.rules import lazily

pytestmark = pytest.mark.usefixtures("host_device")

x, row = array(0, 4, 6), array(1, 6)


def f(x, r):
    return mx.tanh(x * 2 + r) * r


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="zmlx.fuse")

    def traces() -> list[str]:
        found = [r.getMessage() for r in caplog.records if "traced" in r.getMessage()]
        caplog.clear()
        return found

    return traces


@pytest.fixture(autouse=True)
def lazy():
    """What is looked at are kernels that results wait for."""
    with lazily():
        yield


# -- no new trace ---------------------------------------------------------------------------------
@pytest.mark.smoke
def test_new_sizes_need_nothing_new():
    fused = zmlx.fuse(f)
    fused(x, row)
    mx.grad(lambda a, r: fused(a, r).sum(), argnums=(0, 1))(x, row)
    with counting() as counts:
        for rows, columns in ((7, 9), (2, 2), (0, 5), (300, 200), (5, 0)):
            a, r = array(2, rows, columns), array(3, columns)
            close(fused(a, r), f(a, r))
            mx.eval(mx.grad(lambda a, r: fused(a, r).sum(), argnums=(0, 1))(a, r))
    assert counts.taken() == (0, 0, 0)
    assert fused.cache_info() == (10 + 1, 1, 128, 1)


@pytest.mark.parametrize("values", [(0.1, 0.2, -5.0, 1e30, float("inf"), -0.0), (1, 2, -7, 0)])
def test_a_number_that_changes_needs_nothing_new(values):
    plain = lambda a, k: (a * k + 1) * k  # noqa: E731
    fused = zmlx.fuse(plain)
    fused(x, values[0])
    with counting() as counts:
        for value in values:
            close(fused(x, value), plain(x, value))
    assert counts.taken() == (0, 0, 0) and fused.cache_info().misses == 1


def test_numbers_in_trees_and_keywords_and_gradients():
    plain = lambda a, o, *, rate: a - rate * (a * o["decay"] + o["list"][0])  # noqa: E731
    fused = zmlx.fuse(plain)
    fused(x, {"decay": 0.1, "list": [3]}, rate=0.5)
    with counting() as counts:
        for rate in (0.25, 0.125):
            options = {"decay": rate * 2, "list": [int(rate * 100)]}
            close(fused(x, options, rate=rate), plain(x, options, rate=rate))
    assert counts.taken() == (0, 0, 0)
    pull = lambda g, k: mx.grad(lambda a: g(a, {"decay": k, "list": [1]}, rate=k).sum())(x)  # noqa: E731
    pull(fused, 0.5)
    with counting() as counts:
        close(pull(fused, 0.75), pull(plain, 0.75))
    assert counts.taken() == (0, 0, 0)


def test_layouts_need_nothing_new():
    fused = zmlx.fuse(f)
    fused(x, row)
    with counting() as counts:
        for a in (array(2, 6, 4).T, array(3, 8, 12)[::2, ::2], x[::-1], x[:, ::-1]):
            close(fused(a, row), f(a, row))
    assert counts.taken() == (0, 0, 0)


def test_numbers_computed_from_numbers():
    plain = lambda a, k: a * (k * 2 - 1) + k / 3 + abs(-k)  # noqa: E731
    fused = zmlx.fuse(plain)
    for k in (1.5, 2.5, -3.0):
        close(fused(x, k), plain(x, k))
    assert fused.cache_info().misses == 1


# -- a new trace, and why -------------------------------------------------------------------------
CHANGES = {  # name: (first call, second call, what the log must say)
    "rank": ((x, row), (array(2, 3, 4, 6), row), "; a: float32[4, 6] -> float32[3, 4, 6]"),
    "dtype": ((x, row), (x, row.astype(mx.float16)), "; b: float32[6] -> float16[6]"),
    "pattern": ((x, row), (array(2, 1, 6), row), "; a: float32[4, 6] -> float32[1, 6]"),
    "number to array": ((x, 2.0), (x, row), "; b: float 2.0 -> float32[6]"),
    "int to float": ((x, 2), (x, 2.0), "; b: int 2 -> float 2.0"),
    "bool to int": ((x, True), (x, 1), "; b: True -> int 1"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_retraces_is_logged(name, log):
    first, second, message = CHANGES[name]
    plain = lambda a, b: mx.exp(a * b) + b  # noqa: E731
    fused = zmlx.fuse(plain)
    fused(*first)
    assert len(log()) == 1
    close(fused(*second), plain(*second))
    (line,) = log()
    assert message in line and "traced again" in line
    fused(*first), fused(*second)
    assert log() == [] and fused.cache_info()[:2] == (2, 2)


def test_the_log_names_what_changed_inside_containers(log):
    fused = zmlx.fuse(lambda params, *rest, mode="add": params["w"] * rest[0])
    fused({"w": x, "v": x}, x)
    log()
    fused({"w": row, "v": x}, x)
    assert "; params['w']: float32[4, 6] -> float32[6]" in log()[0]
    fused({"w": row, "v": x, "b": 2.0}, x, mode="mul")
    (line,) = log()
    assert "params['b']: absent -> float 2.0" in line
    assert "mode: absent -> 'mul'" in line
    assert "<class" not in line and "Leaf" not in line


def test_types_of_numbers_that_compare_equal_are_told_apart():
    """mx.compile confuses False, 0 and 0.0."""
    n = mx.array([1, 2, 3])
    plain = lambda a, k: a * k + k  # noqa: E731
    fused = zmlx.fuse(plain)
    for k in (0, 0.0, False, True, 1, 1.0):
        got, want = fused(n, k), plain(n, k)
        assert got.dtype == want.dtype
        close(got, want)
    assert fused.cache_info().misses == 4  # int, float, False, True


def test_static_values_retrace(log):
    plain = lambda a, how: mx.exp(a) * 2 if how == "exp" else a * 3 + 1  # noqa: E731
    fused = zmlx.fuse(plain)
    for how in ("exp", "none", "exp", None):
        close(fused(x, how), plain(x, how))
    assert fused.cache_info()[:2] == (1, 3)
    assert "'exp'" in log()[1]


def test_a_number_that_python_reads_is_static():
    plain = lambda a, n: sum((a * i for i in range(n)), a) if n > 0 else a + 1  # noqa: E731
    fused = zmlx.fuse(plain)
    for n in (3, 2, 3, 0, 2):
        close(fused(x, n), plain(x, n))
    assert fused.cache_info()[:2] == (2, 3)


def test_a_function_that_reads_a_size_retraces_for_each():
    plain = lambda a: mx.exp(a) / int(a.shape[0]) + a.size  # noqa: E731
    fused = zmlx.fuse(plain)
    for rows in (4, 9, 4, 2, 9):
        close(fused(array(2, rows, 6)), plain(array(2, rows, 6)))
    assert fused.cache_info()[:2] == (2, 3)


def test_opaque_results_whose_ones_depend_on_the_size():
    plain = lambda a: mx.exp(a[::2] * 2) + a[::2] * a[:1] + a.reshape(-1, 2).sum(0)[0]  # noqa: E731
    fused = zmlx.fuse(plain)
    for size in (8, 2, 4, 2, 6):
        close(fused(array(2, size)), plain(array(2, size)))
        close(
            mx.grad(lambda a: fused(a).sum())(array(2, size)),
            mx.grad(lambda a: plain(a).sum())(array(2, size)),
            rtol=1e-4,
        )
    assert fused.cache_info().misses == 1


# -- the bound ------------------------------------------------------------------------------------
def test_a_thousand_shapes_leave_no_more_traces_than_asked_for():
    """The function reads its size, so that every size is a trace; a lone op needs no kernel."""
    plain = lambda a: a + int(a.shape[0])  # noqa: E731
    fused = zmlx.fuse(plain, cache_size=5)
    for size in range(2, 1002):
        fused(mx.zeros((size,)))
    assert fused.cache_info() == (0, 1000, 5, 5)
    close(fused(mx.zeros((3,))), mx.full((3,), 3.0))


def test_the_trace_unused_for_longest_goes_first():
    fused = zmlx.fuse(lambda a: a + int(a.shape[0]), cache_size=2)
    a, b, c = (mx.zeros((n,)) for n in (2, 3, 4))
    fused(a), fused(b), fused(a), fused(c)  # b goes
    before = fused.cache_info().misses
    fused(a), fused(c)
    assert fused.cache_info().misses == before
    fused(b)
    assert fused.cache_info().misses == before + 1 and fused.cache_info().currsize == 2


def test_different_keys_share_the_bound():
    fused = zmlx.fuse(lambda a: a + 1, cache_size=3)
    for rank in range(1, 9):
        fused(mx.zeros((2,) * rank))
    assert fused.cache_info() == (0, 8, 3, 3)
    sites = fused._table()._sites
    assert sum(len(s.entries) for s in sites.values()) == 3 and len(sites) <= 3


def test_cache_info_and_clear():
    fused = zmlx.fuse(f)
    assert fused.cache_info() == (0, 0, 128, 0)
    fused(x, row), fused(x, row)
    assert fused.cache_info() == (1, 1, 128, 1)
    fused.clear()
    assert fused.cache_info() == (0, 0, 128, 0)
    with counting() as counts:
        close(fused(x, row), f(x, row))
    assert counts.traces == 1 and counts.builds == 0, "the kernel is still there"


# -- leaks ----------------------------------------------------------------------------------------
def test_functions_made_in_a_loop_are_freed():
    made = []
    for i in range(5):
        fused = zmlx.fuse(lambda a, k=i: mx.exp(a) * k + 1)
        mx.eval(fused(x), mx.grad(lambda a, g=fused: g(a).sum())(x))
        made.append(weakref.ref(fused))
    del fused
    zmlx.fuse(lambda a: mx.exp(a) + 1)(x)  # the native module buries what died meanwhile
    gc.collect()
    assert [ref() for ref in made] == [None] * 5


def test_arguments_are_not_kept():
    fused = zmlx.fuse(lambda a, b: mx.exp(a) * b + 1)
    before = mx.get_active_memory()
    for seed in range(20):
        mx.eval(fused(array(seed, 256, 256), array(seed, 256, 256)))
    gc.collect()
    assert mx.get_active_memory() - before < 5 * 256 * 256 * 4


def test_memory_does_not_grow_over_calls():
    fused = zmlx.fuse(f)
    pull = mx.value_and_grad(lambda a, r, k: (fused(a, r) * k).mean())

    def calls(count: int) -> int:
        for i in range(count):
            mx.eval(pull(x, row, float(i)))
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    calls(300)
    objects, size = len(gc.get_objects()), calls(100)
    assert calls(2000) - size < 3000  # kilobytes
    assert len(gc.get_objects()) - objects < 500


# -- libraries ------------------------------------------------------------------------------------
def _libraries_loaded() -> int:
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return len({line.split()[-1] for line in maps if "/lib_" in line})


def _numbered(number):
    return lambda x: mx.tanh(x) * (number + 0.25) + mx.exp(x)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux' list of mappings")
def test_libraries_of_dropped_functions_are_closed():
    # Each takes some mappings, of which Linux allows a process 65530.
    pending, counts = [], []
    for number in range(6):
        plain = _numbered(number)
        fused = zmlx.fuse(plain)
        slope = mx.grad(lambda a, f=fused: f(a).sum())(row)
        close(slope, mx.grad(lambda a, f=plain: f(a).sum())(row))
        pending.append(fused(x))
        del fused, slope
        gc.collect()
        counts.append(_libraries_loaded())
    for number, late in enumerate(pending):  # launched after their functions are gone
        close(late, _numbered(number)(x))
    pending.clear()
    del late
    zmlx.fuse(lambda x: mx.tanh(x) + mx.exp(x))(x)  # what was let go is let go at a next call
    gc.collect()
    assert counts[-1] >= 6 and _libraries_loaded() <= counts[0]
