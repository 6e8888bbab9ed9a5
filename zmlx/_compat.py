"""The machine, as far as kernels care. Whether kernels run here is asked of zmlx.device instead."""

from __future__ import annotations

import platform
import sys
from types import ModuleType

import mlx.core as mx

__all__ = ["import_mx", "is_arm64", "is_macos", "is_supported_host"]


def is_macos() -> bool:
    """Whether this is macOS."""
    return sys.platform == "darwin"


def is_arm64() -> bool:
    """Whether the processor is a 64-bit ARM."""
    return platform.machine().lower() in ("arm64", "aarch64")


def is_supported_host() -> bool:
    """Whether Metal kernels can run here: macOS on Apple silicon.

    Other machines run the same kernels on CUDA or on the CPU; `python -m zmlx doctor` says which.
    """
    return is_macos() and is_arm64()


def import_mx() -> ModuleType:
    """mlx.core."""
    return mx
