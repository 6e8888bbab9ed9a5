"""Which device is chosen, when it says that it cannot run, and what the doctor gets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest
from handwritten import kernel

import zmlx
from zmlx.device import base, native_module, toolchain
from zmlx.device.base import Device, device_for_current_stream, device_named
from zmlx.device.host import HostDevice
from zmlx.device.metal import MetalDevice
from zmlx.errors import DeviceError, ZmlxError


@pytest.fixture
def unbuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    """A host device as on a fresh machine: no native module loaded or cached."""
    monkeypatch.setenv("ZMLX_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setattr(native_module, "_loaded", {})
    return HostDevice()


@pytest.mark.smoke
def test_cpu_means_host() -> None:
    with mx.stream(mx.cpu):
        assert device_for_current_stream() is device_named("host")
        assert device_for_current_stream().name == "host"


@pytest.mark.parametrize(("metal", "name"), [(True, "metal"), (False, "cuda")])
def test_gpu_means_metal_or_cuda(monkeypatch: pytest.MonkeyPatch, metal: bool, name: str) -> None:
    gpu = SimpleNamespace(type=mx.DeviceType.gpu)
    monkeypatch.setattr(base, "default_device", lambda: gpu)
    monkeypatch.setattr(base, "metal_available", lambda: metal)
    assert base.device_for_current_stream().name == name


@pytest.mark.skipif(mx.cuda.is_available(), reason="this machine has CUDA")
def test_without_cuda_it_says_so() -> None:
    device = device_named("cuda")
    assert "mlx[cuda13]" in (device.unavailable() or "")
    assert device.report().missing


def test_a_gpus_report_has_the_compiler_and_the_cache_that_it_uses(host_device: Device) -> None:
    class Mac(MetalDevice):
        def unavailable(self) -> None:
            return None

        def compiled_by(self) -> tuple[str, str]:
            return "somebody", "kernels come late; hurry"

    host, report = host_device.report(), Mac().report()
    assert (report.device, report.missing, report.kernel_compiler) == ("metal", (), "somebody")
    assert report.slower == ("kernels come late; hurry",)
    assert report.compiler == host.compiler and report.cache_directory == host.cache_directory
    assert report.abi_built == host.abi_built


def test_a_gpu_without_a_cxx_compiler_runs_kernels_and_is_slower(
    unbuilt: HostDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mac(MetalDevice):
        def unavailable(self) -> None:
            return None

    monkeypatch.setenv("ZMLX_CXX", "no-such-compiler")
    monkeypatch.setitem(base._devices, "host", unbuilt)
    report = Mac().report()
    assert report.missing == () and len(report.slower) == 1
    assert "calls and gradients take longer: no C++ compiler" in report.slower[0]


def test_replay_can_be_asked_for(unbuilt: HostDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_DEVICE", "replay")
    assert "ZMLX_DEVICE=replay" in (unbuilt.unavailable() or "")


def test_without_a_compiler(unbuilt: HostDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_CXX", "no-such-compiler")
    reason = unbuilt.unavailable()
    assert reason and "no C++ compiler" in reason and "no-such-compiler" in reason
    assert "install" in reason
    assert unbuilt.report().missing == (reason,)
    with pytest.raises(DeviceError, match="no C\\+\\+ compiler"):
        unbuilt.build([kernel("double", "2.0f * x0", ["float32"], ["float32"])])


def test_without_nanobind(unbuilt: HostDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_module, "find_spec", lambda name: None)
    assert "pip install" in (unbuilt.unavailable() or "")


def test_without_python_headers(
    unbuilt: HostDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native_module, "_python_include", lambda: tmp_path)
    assert "python3-dev" in (unbuilt.unavailable() or "")


def test_nanobind_of_another_version_is_named_before_building(
    unbuilt: HostDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_module, "_internals_version", lambda folder: "15")
    reason = unbuilt.unavailable() or ""
    assert "binary interfaces differ" in reason and "version 15" in reason
    assert native_module.abi_of(native_module.mlx_core_path()) in reason


def test_module_of_another_interface_is_not_used(
    unbuilt: HostDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The build comes out different although the sources looked right."""

    def build(sources: object, output: Path, *rest: object) -> None:
        output.write_bytes(b"...nanobind_other_v22...")

    monkeypatch.setattr(toolchain, "compile_shared", build)
    reason = unbuilt.unavailable() or ""
    assert "binary interfaces differ" in reason and "nanobind_other_v22" in reason
    assert not list((tmp_path / "kernels").glob("*.entry"))


def test_build_that_fails_shows_the_compiler(
    unbuilt: HostDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "failing-c++"
    compiler.write_text("#!/bin/sh\necho 'internal compiler error' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("ZMLX_CXX", str(compiler))
    assert "internal compiler error" in (unbuilt.unavailable() or "")


def test_report_of_a_working_host(host_device: Device) -> None:
    report = host_device.report()
    assert report.device == "host" and report.missing == () and report.threads >= 1
    assert report.abi_built == report.abi_found != ""
    assert report.mlx_version == mx.__version__
    assert Path(report.compiler).exists() and report.compiler_version
    assert Path(report.cache_directory).is_dir() and report.cache_bytes > 0
    assert report.cache_kernels >= 1


def test_a_way_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMLX_DEVICE", "gpu")
    with (
        mx.stream(mx.cpu),
        pytest.raises(ZmlxError, match=r"ZMLX_DEVICE is 'gpu'; give .*replay.*set_default_device"),
    ):
        zmlx.fuse(lambda x: mx.sin(x) + x)(mx.ones(3))
