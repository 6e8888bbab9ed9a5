"""Autotuning of fused functions: what wins, what is refused, what is kept, on a pretended GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import pytest

import zmlx
from tests.autotuning import autotune, private_store  # noqa: F401
from zmlx.device import base, tuning, watch
from zmlx.device import gpu as gpu_module
from zmlx.device.base import Device
from zmlx.device.gpu import GpuDevice
from zmlx.msl.kernel import KernelSource
from zmlx.msl.spec import MetalKernelSpec
from zmlx.tuning import timing

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

    def native_or_none(self) -> Any:
        return self.host.native_or_none()

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


def test_settings_that_no_launch_takes_are_not_read(gpu: PretendedGpu) -> None:
    f = zmlx.fuse(mixed)
    kernel = f.entry(*arguments()).program.functions[0].specialized([(9,), (9,)]).kernel
    assert kernel is not None
    key = tuning.kernel_key(kernel.name, kernel.digest)
    size = tuning.size_class(40_000)
    for setting in ((3, 256), (8, 2048), (8,), (8, 256, 1)):
        tuning.STORE.keep(tuning.identity("host"), key, size, setting)
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
