"""The Metal device without a Mac: the text and the launch that MLX would get."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from handwritten import kernel

from zmlx.device.metal import ELEMENTS, MetalDevice
from zmlx.errors import DeviceError
from zmlx.msl.kernel import Arg, KernelSource

SOURCE = kernel(
    "weighted", ["x0 + x1", "x0 - x1"], ["float32", "float16"], ["float32", "float16"], ranks=[2, 1]
)


def traced(*arrays: mx.array) -> dict[str, Any]:
    """The custom kernel primitive that a launch records: name and arguments."""
    events: list[dict[str, Any]] = []
    launcher = MetalDevice().build([SOURCE])[0]
    mx.export_function(events.append, lambda *a: launcher(a), *arrays)
    (primitive,) = [e for e in events if e["type"] == "primitive" and e["name"] == "CustomKernel"]
    return primitive


def test_mlx_gets_the_text_the_grid_and_the_types() -> None:
    primitive = traced(mx.ones((3, 5)), mx.ones(5, mx.float16))
    text = next(a for a in primitive["arguments"] if isinstance(a, str) and "[[kernel]]" in a)
    assert SOURCE.body in text and SOURCE.header in text
    assert "const constant int* in0_shape" in text and "const constant int64_t* in1_strides" in text
    assert f"<{ELEMENTS}, int32_t>" in text
    assert primitive["outputs"][0][1:] == ((3, 5), mx.float32)
    assert primitive["outputs"][1][1:] == ((3, 5), mx.float16)
    threads = -(-15 // ELEMENTS)
    grid_and_group = [a for a in primitive["arguments"] if type(a) is int][:6]
    assert grid_and_group == [threads, 1, 1, threads, 1, 1]


def test_empty_outputs_launch_nothing() -> None:
    results = MetalDevice().build([SOURCE])[0]([mx.ones((0, 5)), mx.ones(5, mx.float16)])
    assert [(r.shape, r.dtype) for r in results] == [((0, 5), mx.float32), ((0, 5), mx.float16)]


def test_wrong_arrays_are_named() -> None:
    launcher = MetalDevice().build([SOURCE])[0]
    with pytest.raises(ValueError, match=SOURCE.name):
        launcher([mx.ones((3, 5)), mx.ones(5)])
    with pytest.raises(ValueError, match="broadcast"):
        launcher([mx.ones((3, 5)), mx.ones(4, mx.float16)])


def test_catalog_kernels_are_refused_by_name() -> None:
    source = KernelSource("rows", (Arg("in0", "float32", 1),), (), "", elementwise=False)
    with pytest.raises(DeviceError, match="is not elementwise"):
        MetalDevice().build([source])


@pytest.mark.skipif(mx.metal.is_available(), reason="this machine has Metal")
def test_without_metal_it_says_so() -> None:
    assert "Metal" in (MetalDevice().unavailable() or "")
    assert MetalDevice().report().missing
