"""Autotuning: what wins, what is refused, what is kept; on a pretended GPU and on the CPU."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from zmlx import errors, metal, registry
from zmlx.device import base, tuning, watch
from zmlx.device import gpu as gpu_module
from zmlx.device.base import Device
from zmlx.device.gpu import GpuDevice
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import MetalKernelSpec
from zmlx.tuning import timing
from zmlx.tuning.threadgroups import fixes_threadgroup

autotune: Any = importlib.import_module("zmlx.autotune")


@pytest.fixture(autouse=True)
def private_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuning.TuningStore:
    """No test sees what another one kept."""
    store = tuning.TuningStore(lambda: tmp_path)
    monkeypatch.setattr(tuning, "STORE", store)
    autotune.GLOBAL_AUTOTUNE_CACHE.clear()
    return store


# -- a GPU that is not there ----------------------------------------------------------------------
BEST, TOO_BIG, WRONG = (8, 512), 1024, 16


class PretendedGpu(GpuDevice):
    """Launches as a GPU device does, on the CPU: slow but for BEST, refusing, or wrong."""

    name = "host"  # the name that the CPU's stream asks for
    threadgroup = 256

    def __init__(self, host: Any) -> None:
        super().__init__()
        self.host, self.native, self.cache = host, host.native, host.cache
        self.launches: list[tuple[int, int]] = []

    def unavailable(self) -> str | None:
        return None

    def elements(self, kernel: KernelSource) -> int:
        return 4

    def written(self, spec: MetalKernelSpec, name: str) -> Any:
        raise NotImplementedError

    def made(self, kernel: KernelSource) -> Callable[..., Sequence[mx.array]]:
        (run,) = self.host.build([kernel])

        def launch(
            inputs: list[mx.array],
            template: list[tuple[str, Any]],
            grid: tuple[int, int, int],
            threadgroup: tuple[int, int, int],
            output_shapes: list[tuple[int, ...]],
            output_dtypes: list[mx.Dtype],
        ) -> list[mx.array]:
            elements = dict(template)["ELEMS"]
            outputs: list[mx.array] = run(inputs)
            size = outputs[0].size
            assert grid == (-(-size // elements), 1, 1), "a thread for each ELEMS elements"
            assert 1 <= threadgroup[0] <= grid[0]
            self.launches.append((elements, threadgroup[0]))
            if threadgroup[0] == TOO_BIG:
                raise RuntimeError("too many resources requested for launch")
            if elements == WRONG:
                outputs = [o + 1 for o in outputs]
            time.sleep(2e-4 if (elements, threadgroup[0]) == BEST else 1e-3)
            return outputs

        return launch


@pytest.fixture
def gpu(host_device: Device, monkeypatch: pytest.MonkeyPatch) -> PretendedGpu:
    pretended = PretendedGpu(host_device)
    monkeypatch.setitem(base._devices, "host", pretended)
    monkeypatch.setattr(timing, "SAMPLE_MS", 0.0)
    monkeypatch.setattr(gpu_module, "native_or_none", lambda: None)  # so that each launch is seen
    return pretended


def mixed(a: mx.array, b: mx.array) -> mx.array:
    return mx.sigmoid(a) * b + 0.5


def arguments(size: int = 40_000) -> tuple[mx.array, mx.array]:
    return mx.linspace(-4, 4, size), mx.linspace(2, 3, size)


def test_the_fastest_setting_is_launched_from_then_on(gpu: PretendedGpu) -> None:
    f = zmlx.fuse(mixed)
    a, b = arguments()
    before = f(a, b)
    mx.eval(before)
    assert gpu.launches[-1] == (4, 256)
    report = autotune(f, a, b)
    (kernel,) = report.kernels
    assert (kernel.before, kernel.after, kernel.size) == ((4, 256), BEST, 40_000)
    assert {s for s in kernel.rejected if s[1] == TOO_BIG} == {
        (e, TOO_BIG) for e in tuning.ELEMENTS
    }
    assert all("too many resources" in kernel.rejected[e, TOO_BIG] for e in (1, 4, 8))
    assert "output 0 at flat index" in kernel.rejected[WRONG, 256]
    assert not kernel.rejected.keys() & kernel.timings_ms.keys() and BEST in kernel.timings_ms
    gpu.launches.clear()
    after = f(a, b)
    assert gpu.launches == [BEST]
    assert mx.array_equal(after.view(mx.uint32), before.view(mx.uint32)).item()
    assert not watch.active and "elements 8, threadgroup 512" in str(report)


def test_a_launch_learnt_before_is_not_repeated(
    gpu: PretendedGpu, host_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_module, "native_or_none", lambda: host_device.native)
    f = zmlx.fuse(mixed)
    for _ in range(3):
        mx.eval(f(*arguments()))
    assert gpu.launches == [(4, 256)], "the first is described, the others repeat it"
    (launcher,) = gpu._launchers.values()
    launcher.adopt(40_000, *BEST)  # type: ignore[attr-defined]
    for _ in range(3):
        mx.eval(f(*arguments()))
    assert gpu.launches == [(4, 256), BEST]


def test_other_size_classes_keep_the_default(gpu: PretendedGpu) -> None:
    f = zmlx.fuse(mixed)
    autotune(f, *arguments(40_000))
    gpu.launches.clear()
    for size in (32_768, 65_535):  # as many binary digits as 40,000
        f(*arguments(size))
    for size in (32_767, 65_536):
        f(*arguments(size))
    assert gpu.launches == [BEST, BEST, (4, 256), (4, 256)]


def test_a_later_process_launches_the_winner(gpu: PretendedGpu, host_device: Device) -> None:
    autotune(zmlx.fuse(mixed), *arguments())
    later = PretendedGpu(host_device)
    base._devices["host"] = later  # undone by the fixture's monkeypatch
    f = zmlx.fuse(mixed)
    mx.eval(f(*arguments()))
    assert later.launches == [BEST]
    report = autotune(f, *arguments())
    assert report.kernels[0].timings_ms == {} and "earlier search" in str(report)
    searched = autotune(f, *arguments(), again=True)
    assert searched.kernels[0].after == BEST and searched.kernels[0].timings_ms


def test_gradients_kernels_are_tuned_too(gpu: PretendedGpu) -> None:
    f = zmlx.fuse(mixed)
    gradient = mx.grad(lambda a, b: f(a, b).sum(), argnums=(0, 1))
    wanted = gradient(*arguments())
    mx.eval(wanted)
    report = autotune(gradient, *arguments())
    assert len(report.kernels) == 2 and {k.after for k in report.kernels} == {BEST}
    for mine, theirs in zip(gradient(*arguments()), wanted, strict=True):
        assert mx.array_equal(mine.view(mx.uint32), theirs.view(mx.uint32)).item()


@pytest.mark.parametrize("shape", [(1,), (3, 5), (7, 1, 9)])
def test_small_and_odd_shapes_are_tuned(gpu: PretendedGpu, shape: tuple[int, ...]) -> None:
    f = zmlx.fuse(mixed)
    a, b = mx.full(shape, 0.25), mx.full(shape, 3.0)
    wanted = f(a, b)
    (kernel,) = autotune(f, a, b).kernels
    assert kernel.size == a.size and not {s for s in kernel.timings_ms if s[0] == WRONG}
    assert mx.array_equal(f(a, b), wanted).item() and f(a, b).shape == shape


def test_graphs_without_values_are_not_tuned(gpu: PretendedGpu) -> None:
    report = autotune(mx.compile(zmlx.fuse(mixed)), *arguments())
    assert report.kernels == [] and "nothing to tune" in str(report)


def test_empty_arrays_launch_nothing_to_tune(gpu: PretendedGpu) -> None:
    report = autotune(zmlx.fuse(mixed), mx.zeros((0, 3)), mx.zeros((0, 3)))
    assert report.kernels == [] and "nothing to tune" in str(report)


def test_settings_that_no_launch_takes_are_not_read(
    gpu: PretendedGpu, private_store: tuning.TuningStore
) -> None:
    f = zmlx.fuse(mixed)
    kernel = f.entry(*arguments()).program.functions[0].specialized([(9,), (9,)]).kernel
    assert kernel is not None
    key = tuning.kernel_key(kernel.name, kernel.digest)
    size = tuning.size_class(40_000)
    for setting in ((3, 256), (8, 2048), (8,), (8, 256, 1)):
        private_store.keep(tuning.identity("host"), key, size, setting)
        gpu._launchers.clear()
        zmlx.fuse(mixed)(*arguments())
    assert set(gpu.launches) == {(4, 256)}


# -- the CPU --------------------------------------------------------------------------------------
def test_the_cpu_has_nothing_to_tune(host_device: Device) -> None:
    report = autotune(zmlx.fuse(mixed), *arguments())
    assert report.device == "host" and not report.kernels
    assert "nothing to tune" in str(report) and "ZMLX_THREADS" in report.note


def test_only_functions_can_be_tuned() -> None:
    with pytest.raises(TypeError, match="fn is a array"):
        autotune(mx.ones(3))


# -- threadgroups of kernels written by hand ------------------------------------------------------
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
