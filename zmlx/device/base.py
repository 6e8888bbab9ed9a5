"""What a device is, and which one runs now.

A device turns KernelSource objects into launchers; a launcher takes arrays and gives lazy arrays.
The fuse layer asks `device_for_current_stream` and knows nothing else about devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from zmlx.msl.kernel import KernelSource

Launcher = Callable[[Sequence[mx.array]], list[mx.array]]
NEVER_ALONE = 1000  # above every cost: MLX's own kernel for a lone op is as good


class Device(Protocol):
    """Compiles kernels and launches them on the stream that is current at the call."""

    name: str
    worth_alone: int  # an op of at least this cost (see zmlx.ops.spec) deserves its own kernel

    def unavailable(self) -> str | None:
        """Why kernels cannot run here, and the command that mends it; None when they can."""
        ...

    def build(self, kernels: Sequence[KernelSource]) -> list[Launcher]:
        """One launcher per kernel; compiles all that are not cached in one go."""
        ...

    def report(self) -> DeviceReport:
        """What `python -m zmlx doctor` tells about this device."""
        ...


@dataclass(frozen=True)
class DeviceReport:
    """A device in words, for the doctor."""

    device: str
    mlx_version: str
    threads: int = 0  # of the host device
    compiler: str = ""  # path
    compiler_version: str = ""
    abi_found: str = ""  # binary interface inside mlx.core
    abi_built: str = ""  # that of the native module, "" before it is built
    cache_directory: str = ""
    cache_bytes: int = 0
    cache_kernels: int = 0
    missing: tuple[str, ...] = ()  # each with the command that mends it


_devices: dict[str, Device] = {}


def device_for_current_stream() -> Device:
    """The device of MLX's current default device: host for the CPU, else Metal or CUDA."""
    return device_named(current_name())


def current_name() -> str:
    """Its name: host, metal or cuda."""
    if mx.default_device().type == mx.DeviceType.cpu:
        return "host"
    return "metal" if mx.metal.is_available() else "cuda"


def device_named(name: str) -> Device:
    """The one object for the device `name`, made when first asked for."""
    device = _devices.get(name)
    if device is None:
        device = _devices.setdefault(name, _make(name))
    return device


def _make(name: str) -> Device:
    if name == "host":
        from zmlx.device.host import HostDevice

        return HostDevice()
    if name == "metal":
        from zmlx.device.metal import MetalDevice

        return MetalDevice()
    from zmlx.device.cuda import CudaDevice

    return CudaDevice()
