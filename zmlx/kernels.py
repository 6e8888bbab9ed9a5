"""The import path of the catalog: `from zmlx.kernels import softmax, norms`.

Modules load when first asked for; each is zmlx.catalog's module of that name.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = ("norms", "softmax", "transformer")
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"zmlx.catalog.{name}")
    raise AttributeError(f"module 'zmlx.kernels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
