"""ZMLX makes MLX functions faster without a kernel written by hand: see `zmlx.fuse`."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zmlx import errors
from zmlx.fuse.api import FusedFunction, explain
from zmlx.log import configure
from zmlx.switches import config

if TYPE_CHECKING:  # type checkers do not know callable modules
    from zmlx.fuse.api import fuse
else:
    from zmlx import fuse

__version__ = "0.1.0"
# Loaded when first asked for, because `import zmlx` must stay cheap.
_MODULES = (
    *("autograd", "autotune", "cache", "codegen", "elementwise", "kernels", "metal", "msl"),
    *("registry", "rowwise"),
)
_FUNCTIONS = {
    "autotune_threadgroup": "zmlx.autotune",
    "export": "zmlx.stored.write",
    "exporter": "zmlx.stored.write",
    "load": "zmlx.stored.loaded",
    "profile": "zmlx.profiling",
    **dict.fromkeys(("patch", "unpatch", "validate"), "zmlx.models"),
}
__all__ = [
    "FusedFunction",
    "__version__",
    "config",
    "errors",
    "explain",
    "fuse",
    *_MODULES,
    *_FUNCTIONS,
]

configure()


class _Package(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("[zmlx] the package is no decorator; write @zmlx.fuse")


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"zmlx.{name}")
    if name in _FUNCTIONS:
        return getattr(import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'zmlx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
