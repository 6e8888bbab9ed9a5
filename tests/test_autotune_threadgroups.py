"""Autotuning of kernels written by hand: their threadgroups, and searches among functions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from tests.autotuning import autotune, private_store  # noqa: F401
from zmlx import errors, metal, registry
from zmlx.device.base import Device
from zmlx.tuning.threadgroups import fixes_threadgroup


def doubled(name: str = "doubled", source: str = "") -> metal.MetalKernel:
    return metal.kernel(
        name=name,
        input_names=["inp"],
        output_names=["out"],
        source=source or "uint i = thread_position_in_grid.x; out[i] = 2 * inp[i];",
    )


SAYS_SIZE = """
uint i = threadgroup_position_in_grid.x * threads_per_threadgroup.x
       + thread_position_in_threadgroup.x;
out[i] = inp[i] + T(threads_per_threadgroup.x);
"""


def launch_arguments(n: int = 2048) -> dict[str, Any]:
    x = mx.arange(n).astype(mx.float32)
    return {
        "inputs": [x],
        "template": [("T", mx.float32)],
        "output_shapes": [x.shape],
        "output_dtypes": [x.dtype],
        "grid": (n, 1, 1),
    }


def test_each_candidate_is_measured(host_device: Device) -> None:
    found = zmlx.autotune_threadgroup(
        doubled(), **launch_arguments(), candidates=[(32, 1, 1), 64, (2048, 1, 1)], iters=3
    )
    assert set(found.timings_ms) == {(32, 1, 1), (64, 1, 1)}
    assert all(spent > 0 for spent in found.timings_ms.values())
    assert found.timings_ms[found.best_threadgroup] == min(found.timings_ms.values())


def test_all_failing_says_why_for_each(host_device: Device) -> None:
    with pytest.raises(errors.DeviceError) as raised:
        autotune.autotune_threadgroup(
            doubled("broken", "out[0] = nowhere;"), **launch_arguments(), candidates=[32, 2000]
        )
    assert "(2000, 1, 1): more than 1024 threads" in str(raised.value)
    assert "(32, 1, 1): " in str(raised.value) and "nowhere" in str(raised.value)


def test_results_that_depend_on_the_threadgroup_are_refused(host_device: Device) -> None:
    with pytest.raises(ValueError, match="depends on its threadgroup: under .64, 1, 1. and .32"):
        autotune.autotune_threadgroup(
            doubled("sized", SAYS_SIZE), **launch_arguments(), candidates=[32, 64]
        )


FIXED = {
    "array": "threadgroup float buf[256]; buf[thread_position_in_threadgroup.x] = 0;",
    "array by template": "threadgroup T scratch[TG];",
    "two arrays of a row": "threadgroup float tile[16][17];",
    "array of a type with spaces": "threadgroup metal::vec<float, 4> buf[32];",
    "hard-coded size": "uint i = threadgroup_position_in_grid.x * 256"
    " + thread_position_in_threadgroup.x;",
    "stride in the text": "for (uint i = thread_index_in_threadgroup; i < D; i += 256) {}",
    "size in a comment only": "// threads_per_threadgroup\nuint t = thread_index_in_threadgroup;",
}
FREE = {
    "grid only": "uint i = thread_position_in_grid.x;",
    "size read": "for (uint i = thread_index_in_threadgroup; i < D;"
    " i += threads_per_threadgroup.x) {}",
    "a pointer": "void f(threadgroup float* p); uint i = thread_position_in_grid.x;",
    "a barrier": "threadgroup_barrier(mem_flags::mem_threadgroup); float a[4];",
    "commented out": "/* threadgroup float buf[256]; */ uint i = thread_position_in_grid.x;",
}


@pytest.mark.parametrize("source", FIXED.values(), ids=FIXED.keys())
def test_a_fixed_threadgroup_is_seen_and_refused(source: str) -> None:
    assert fixes_threadgroup("", source)
    with pytest.raises(ValueError, match="fixes its threadgroup: it.*KernelSearch"):
        autotune.autotune_threadgroup(
            doubled("fixed", source), **launch_arguments(), candidates=[32]
        )


@pytest.mark.parametrize("source", FREE.values(), ids=FREE.keys())
def test_a_free_threadgroup_is_seen(source: str) -> None:
    assert fixes_threadgroup("", source) is None


def test_the_author_may_vouch_for_any_threadgroup(host_device: Device) -> None:
    source = """
    threadgroup float unused[1024];
    unused[thread_position_in_threadgroup.x] = 0;
    out[thread_position_in_grid.x] = 2 * inp[thread_position_in_grid.x];
    """
    found = autotune.autotune_threadgroup(
        doubled("vouched", source),
        **launch_arguments(),
        candidates=[32, 64],
        iters=1,
        any_threadgroup=True,
    )
    assert len(found.timings_ms) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidates": []}, "candidates is empty"),
        ({"candidates": [(32, 0, 1)]}, "is no threadgroup"),
        ({"candidates": ["ab"]}, "is no threadgroup"),
        ({"candidates": [32], "iters": 0}, "iters is 0"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        autotune.autotune_threadgroup(doubled(), **launch_arguments(), **change)


def test_winners_are_kept_in_the_process_and_on_disk(
    host_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(**change: Any) -> tuple[int, int, int]:
        given = {**launch_arguments(), "candidates": [32, 64], "iters": 1, **change}
        found: tuple[int, int, int] = autotune.get_autotuned_threadgroup(doubled(), **given)
        return found

    best = get()
    (key,) = autotune.GLOBAL_AUTOTUNE_CACHE
    assert key.kernel_name == "doubled" and key.input_shapes == ((2048,),)
    assert key.input_dtypes == ("mlx.core.float32",) and key.grid == (2048, 1, 1)
    assert key.source_hash == doubled().spec.digest and key.template == (("T", str(mx.float32)),)
    monkeypatch.setattr(autotune, "autotune_threadgroup", _never)
    assert get() == best
    registry.clear_cache()
    assert not autotune.GLOBAL_AUTOTUNE_CACHE
    assert get() == best, "from disk"
    assert get(**launch_arguments(2049)) == best, "the same class of sizes"
    for change in (launch_arguments(4096), {"template": []}, {"candidates": [16]}):
        with pytest.raises(AssertionError, match="searched"):
            get(**change)


def _never(*args: object, **kwargs: object) -> None:
    raise AssertionError("searched")


# -- searches -------------------------------------------------------------------------------------
@pytest.fixture
def search() -> Iterator[Any]:
    yield autotune.KernelSearch("sums")


def test_a_search_finds_the_fastest_that_is_right(search: Any) -> None:
    def slow(x: mx.array) -> mx.array:
        time.sleep(2e-3)
        return x.sum()

    def fast(x: mx.array) -> mx.array:
        return x.reshape(10, -1).sum(axis=0).sum()  # adds in another order

    def wrong(x: mx.array) -> mx.array:
        return x.sum() * 1.001

    def failing(x: mx.array) -> mx.array:
        raise KeyError("no such thing")

    for fn in (slow, wrong, fast, failing):
        search.add_candidate(fn)
    assert search.best_fn is None
    assert search.find_best(mx.random.uniform(shape=(1000,)), iters=3) is fast
    assert search.best_fn is fast and search.name == "sums" and len(search.candidates) == 4
    assert search.rejected.keys() == {1, 3} and "no such thing" in search.rejected[3]


def test_integers_have_to_be_equal(search: Any) -> None:
    search.add_candidate(lambda x: x + 1_000_000)
    search.add_candidate(lambda x: x + 1_000_001)
    search.find_best(mx.arange(3), iters=1)
    assert search.rejected.keys() == {1}


def test_a_search_without_candidates_is_refused(search: Any) -> None:
    with pytest.raises(ValueError, match="'sums' has no candidates"):
        search.find_best(mx.ones(3))
