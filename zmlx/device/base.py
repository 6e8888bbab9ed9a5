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
from zmlx.msl.spec import Launch, MetalKernelSpec

Launcher = Callable[[Sequence[mx.array]], list[mx.array]]
GridLauncher = Callable[[Sequence[mx.array], Launch], list[mx.array]]
# MLX's own functions, whatever stands under their names later (zmlx.metal.install).
metal_kernel, metal_available = mx.fast.metal_kernel, mx.metal.is_available
default_device, device_info = mx.default_device, mx.device_info
NEVER_ALONE = 1000  # above every cost: MLX's own kernel for a lone op is as good


class Device(Protocol):
    """Compiles kernels and launches them on the stream that is current at the call."""

    name: str
    takes_turns: bool  # threads of a group run one after another: a group of one is fastest
    worth_alone: int  # an op of at least this cost (see zmlx.ops.spec) deserves its own kernel
    rows_alone: bool  # a softmax or norm alone is faster by our kernel than by MLX's own
    products: tuple[str, ...]  # types of which a product of one row joins what follows it

    def unavailable(self) -> str | None:
        """Why MLX ops run here in place of kernels, and the command that mends it; None when
        kernels do, as far as is known: a compiler is not run to find out."""
        ...

    def build(self, kernels: Sequence[KernelSource]) -> list[Launcher]:
        """One launcher per kernel; compiles all that are not cached in one go."""
        ...

    def grid_launcher(self, spec: MetalKernelSpec) -> GridLauncher:
        """A hand-written kernel: called with its inputs (none of rank 0) and a checked Launch."""
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
    cache_faults: tuple[str, ...] = ()  # files there, or the directory, that are not trusted
    missing: tuple[str, ...] = ()  # each with the command that mends it
    slower: tuple[str, ...] = ()  # what keeps kernels, which run, from being as fast as they can
    kernel_compiler: str = ""  # where it is not the C++ compiler


# Where each device is defined; loaded when first asked for. A new one adds its line here, and to
# `current_name` what MLX calls it.
DEVICES = {
    "host": ("zmlx.device.host", "HostDevice"),
    "metal": ("zmlx.device.metal", "MetalDevice"),
    "cuda": ("zmlx.device.cuda", "CudaDevice"),
}
_devices: dict[str, Device] = {}


def device_for_current_stream() -> Device:
    """The device on which MLX would run an op now: `mx.stream` and the default device count."""
    return device_named(current_name())


def current_name() -> str:
    """Its name, a key of DEVICES."""
    if default_device().type == mx.DeviceType.cpu:
        return "host"
    return "metal" if metal_available() else "cuda"


def device_named(name: str) -> Device:
    """The one object for the device `name`, made when first asked for."""
    device = _devices.get(name)
    if device is None:
        from importlib import import_module

        module, kind = DEVICES[name]
        device = _devices.setdefault(name, getattr(import_module(module), kind)())
    return device
