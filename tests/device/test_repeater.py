"""What a launch depends on beside shapes: whether an input's memory runs across the rows."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from derive_cases import record

from zmlx.device import gpu
from zmlx.device.base import Device
from zmlx.device.cuda import CudaDevice
from zmlx.device.gpu import GpuLauncher
from zmlx.msl.emit import emit

ROWS = mx.arange(20.0).reshape(4, 5)
LAYOUTS = {
    "rows": (lambda: ROWS, False),
    "transposed": (lambda: ROWS.T, True),
    "last two swapped": (lambda: mx.arange(24.0).reshape(2, 3, 4).swapaxes(1, 2), True),
    "first two swapped": (lambda: mx.arange(24.0).reshape(2, 3, 4).swapaxes(0, 1), False),
    "every second row": (lambda: ROWS[::2], False),
    "every second column": (lambda: ROWS[:, ::2], False),
    "one row": (lambda: mx.broadcast_to(ROWS[:1], (4, 5)), False),
    "one column": (lambda: mx.broadcast_to(ROWS[:, :1], (4, 5)), False),
    "one number": (lambda: mx.broadcast_to(mx.array(1.0), (4, 5)), False),
    "a vector": (lambda: mx.arange(5.0), False),
    "nothing": (lambda: mx.zeros((0, 3)).T, False),
}
"""Each with whether it crosses the rows."""


@pytest.mark.parametrize("name", LAYOUTS)
def test_evaluated_arrays_show_how_they_lie(name: str, host_device: Any) -> None:
    make, wanted = LAYOUTS[name]
    array = make()
    mx.eval(array)
    assert host_device.native.any_crosses([ROWS, array]) is wanted


@pytest.mark.parametrize("name", ["rows", "transposed", "last two swapped", "a vector"])
def test_of_lazy_ones_a_transpose_tells(name: str, host_device: Any) -> None:
    make, wanted = LAYOUTS[name]
    assert host_device.native.any_crosses([make()]) is wanted


def test_a_transposed_input_is_launched_otherwise(
    host_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = emit(record(lambda F, x, y: F.multiply(F.sigmoid(x), y), *[((64, 64), "float32")] * 2))
    launches: list[dict[str, Any]] = []

    def launched(**how: Any) -> list[mx.array]:
        launches.append(how)
        return [mx.zeros(how["output_shapes"][0])]

    monkeypatch.setattr(CudaDevice, "made", lambda self, kernel: launched)
    (launcher,) = CudaDevice().build([kernel])
    assert isinstance(launcher, GpuLauncher)
    x = mx.ones((64, 64))
    launcher([x, x])
    launcher([x.T, x])
    elements = [dict(how["template"])["ELEMS"] for how in launches]
    assert elements == [launcher.elements, launcher.across[0]]
    assert launcher.across != (launcher.elements, launcher.threadgroup)
    monkeypatch.setattr(gpu, "native_or_none", lambda: None)
    assert not gpu.crosses([x.T])
