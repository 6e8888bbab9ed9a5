"""Kernels written in Metal Shading Language, on every device.

`kernel` takes what mx.fast.metal_kernel takes, and what it returns is called as MLX's is. `install`
puts it in the place of mx.fast.metal_kernel, for libraries that are written for a Mac.
"""

from __future__ import annotations

from zmlx.metal.dropin import Installed, install, uninstall
from zmlx.metal.kernels import KernelStats, MetalKernel, kernel
from zmlx.msl.spec import MetalKernelSpec

__all__ = [
    "Installed",
    "KernelStats",
    "MetalKernel",
    "MetalKernelSpec",
    "install",
    "kernel",
    "uninstall",
]
