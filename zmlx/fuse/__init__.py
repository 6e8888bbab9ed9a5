"""`zmlx.fuse`: the package and the decorator at once.

The module object is callable, so that `@zmlx.fuse`, `zmlx.fuse(f, numerics="mlx")` and
`from zmlx.fuse.plan import plan` all work. The decorator itself is zmlx.fuse.api.fuse.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from zmlx.fuse import api


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return api.fuse(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
__call__ = api.fuse  # for type checkers and help()
