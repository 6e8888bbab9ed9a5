"""The import path of the catalog: `from zmlx.kernels.softmax import softmax_lastdim`.

Modules load when first asked for; each is zmlx.catalog's module of that name, the same object. They
are those that say what they offer, in `__all__`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from zmlx import catalog

_OFFERS = re.compile(r"^__all__\b", re.MULTILINE)
_FOLDER = Path(str(catalog.__file__)).parent
__all__ = sorted(p.stem for p in _FOLDER.glob("*.py") if _OFFERS.search(p.read_text("utf-8")))
__path__ = []  # no file here is a module of it


class _Catalog(MetaPathFinder, Loader):
    """Finds `zmlx.kernels.<name>` in the catalog."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __name__ and name in __all__ else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(f"{catalog.__name__}.{spec.name.rpartition('.')[2]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run; its own spec comes back, which the import has replaced."""
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


sys.meta_path.append(_Catalog())


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'zmlx.kernels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
