"""Drop-in: mx.fast.metal_kernel replaced, so that a library written for a Mac runs elsewhere.

Comes in: nothing; users call `install`. Goes out: MLX's names, replaced until `uninstall`. ZMLX
itself keeps MLX's own functions (zmlx.device.base).
"""

from __future__ import annotations

import os
import threading
from types import ModuleType
from typing import Any

import mlx.core as mx

from zmlx.device import base
from zmlx.metal.kernels import kernel

_lock = threading.Lock()
_kept: list[list[tuple[Any, str, Any]]] = []  # what each installation replaced


class Installed:
    """An installation; a context manager that undoes it."""

    def __init__(self, depth: int) -> None:
        self._depth = depth

    def __enter__(self) -> Installed:
        return self

    def __exit__(self, *_: object) -> None:
        with _lock:
            _undo(self._depth)


def install(*, as_metal: bool = False) -> Installed:
    """Have mx.fast.metal_kernel make kernels of ZMLX, on every device; also for `with`.

    Where MLX has Metal nothing is replaced: its kernels run. `as_metal` leads libraries that ask
    first to their kernels: mx.metal.is_available() says yes, mx.default_device() is equal to
    mx.gpu, and mx.device_info() has the numbers of memory that a Mac has. Nothing moves: arrays and
    kernels stay on the device that MLX has. Install before such a library is imported, as many ask
    then, and make their kernels.
    """
    with _lock:
        depth = len(_kept)
        _kept.append([])
        if not base.metal_available():
            _replace(mx.fast, "metal_kernel", metal_kernel)
            if as_metal:
                _replace(mx.metal, "is_available", lambda: True)
                _replace(mx, "default_device", _default_device)
                for module in (mx, mx.metal):
                    _replace(module, "device_info", _device_info)
    return Installed(depth)


def uninstall() -> None:
    """Undo every installation; MLX's names are its own again."""
    with _lock:
        _undo(0)


def metal_kernel(*args: Any, **kwargs: Any) -> Any:
    """zmlx.metal.kernel in the place of mx.fast.metal_kernel."""
    return kernel(*args, **kwargs)


def _replace(module: ModuleType, name: str, value: Any) -> None:
    _kept[-1].append((module, name, getattr(module, name)))
    setattr(module, name, value)


def _undo(depth: int) -> None:
    while len(_kept) > depth:
        for module, name, value in reversed(_kept.pop()):
            setattr(module, name, value)


class _AsGpu(mx.Device):
    """MLX's device, which calls itself a GPU; to MLX it is what it is."""

    def __eq__(self, other: object) -> bool:
        kind = other == mx.DeviceType.gpu
        return kind if isinstance(other, mx.DeviceType) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return super().__hash__()

    @property
    def type(self) -> mx.DeviceType:
        return mx.DeviceType.gpu


def _default_device() -> mx.Device:
    device = base.default_device()
    return _AsGpu(device.type, 0) if device.type == mx.DeviceType.cpu else device


def _device_info(*args: Any) -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    numbers = ("memory_size", "max_recommended_working_set_size", "max_buffer_length")
    return {**dict.fromkeys(numbers, memory), "resource_limit": 499000} | base.device_info(*args)
