"""`zmlx.fuse`: the package and the decorator at once.

The module object is callable, so that `@zmlx.fuse`, `zmlx.fuse(f, numerics="mlx")` and
`from zmlx.fuse.plan import plan` all work. The decorator itself is zmlx.fuse.api.fuse.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any

from zmlx.fuse import api, fusable
from zmlx.fuse.patterns import pattern
from zmlx.fuse.tracebacks import shortened

__all__ = ["pattern"]


class _CallableModule(ModuleType):
    def __call__(self, fn: Any = None, /, *more: Any, **options: Any) -> Any:
        try:
            fusable.check_call(more, options, __signature__.parameters)
            return api.fuse(fn, **options)
        except Exception as error:
            raise shortened(error)  # noqa: B904 - the same one


sys.modules[__name__].__class__ = _CallableModule
__signature__ = inspect.signature(api.fuse, eval_str=True)
__doc__ = f"fuse{__signature__}\n\n{inspect.getdoc(api.fuse)}"
__call__ = api.fuse  # for type checkers and help()
