"""zmlx.metal.install: mx.fast.metal_kernel makes kernels of ZMLX, and libraries find them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

import zmlx
from zmlx import metal
from zmlx.device.base import Device, current_name

MLX = mx.fast.metal_kernel, mx.metal.is_available, mx.default_device, mx.device_info
LIBRARY = """
    import mlx.core as mx

    HAS_METAL = mx.metal.is_available()
    scale = None
    if HAS_METAL:
        scale = mx.fast.metal_kernel(
            name="scale", input_names=["x", "by"], output_names=["out"],
            source="uint i = thread_position_in_grid.x; out[i] = x[i] * by;",
        )

    def scaled(x, by):
        if scale is None or mx.default_device() != mx.gpu:
            return None
        return scale(
            inputs=[x, by], grid=(x.size, 1, 1), threadgroup=(32, 1, 1),
            output_shapes=[x.shape], output_dtypes=[x.dtype],
        )[0]
"""


def names() -> tuple[object, ...]:
    return mx.fast.metal_kernel, mx.metal.is_available, mx.default_device, mx.device_info


@pytest.fixture(autouse=True)
def _as_before(host_device: Device) -> Iterator[None]:
    yield
    metal.uninstall()
    assert names() == MLX


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "for_a_mac.py").write_text(textwrap.dedent(LIBRARY))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "for_a_mac", raising=False)
    return tmp_path


def loaded() -> ModuleType:
    import for_a_mac  # type: ignore[import-not-found]

    module: ModuleType = for_a_mac
    return module


@pytest.mark.smoke
def test_mlx_names_are_replaced_until_uninstalled() -> None:
    metal.install()
    made = mx.fast.metal_kernel(
        name="k", input_names=["x"], output_names=["out"],
        source="uint i = thread_position_in_grid.x; out[i] = x[i] + 1;",
    )  # fmt: skip
    assert isinstance(made, metal.MetalKernel)
    assert names()[1:] == MLX[1:]
    metal.install(as_metal=True)
    assert mx.metal.is_available() and mx.default_device() == mx.gpu
    metal.uninstall()
    assert names() == MLX
    metal.uninstall()  # again does no harm


def test_installations_nest() -> None:
    with metal.install():
        ours = mx.fast.metal_kernel
        with pytest.raises(KeyError), metal.install(as_metal=True):
            assert mx.metal.is_available()
            raise KeyError
        assert mx.fast.metal_kernel is ours and names()[1:] == MLX[1:]
    assert names() == MLX


def test_a_library_that_asks_first_is_led_to_its_kernels(library: Path) -> None:
    x = mx.random.normal((5, 7))
    with metal.install(as_metal=True):
        scaled = loaded().scaled
        np.testing.assert_array_equal(np.array(scaled(x, 3.0)), 3 * np.array(x))
        fused = zmlx.fuse(lambda x: scaled(mx.exp(x), x[0, 0]) + 1)
        for v in (x, x[:2]):  # an opaque call between what is fused
            wanted = np.exp(np.array(v)) * np.array(v)[0, 0] + 1
            np.testing.assert_allclose(np.array(fused(v)), wanted, 1e-5)
    assert scaled(x, 3.0) is None


def test_a_library_that_asks_is_not_led_without_it(library: Path) -> None:
    with metal.install():
        assert not loaded().HAS_METAL


def test_what_calls_itself_a_gpu_is_what_it_was() -> None:
    device, here = mx.default_device(), current_name()
    with metal.install(as_metal=True):
        lent = mx.default_device()
        assert lent == mx.gpu and lent.type == mx.gpu
        assert bool(lent != mx.cpu) and (lent != mx.gpu) is False
        assert lent == device
        assert current_name() == here
        assert mx.default_stream(lent) == mx.default_stream(device)
        with mx.stream(lent):
            assert mx.add(mx.ones(2), 1).tolist() == [2, 2]
        assert mx.device_info()["max_recommended_working_set_size"] > 0
        assert mx.device_info()["device_name"] == MLX[3]()["device_name"]
        assert zmlx.fuse(lambda x: mx.exp(x) - 1)(mx.zeros(3)).tolist() == [0] * 3


def test_where_metal_is_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metal.dropin.base, "metal_available", lambda: True)
    with metal.install(as_metal=True):
        assert names() == MLX
