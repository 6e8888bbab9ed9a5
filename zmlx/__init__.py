"""ZMLX makes MLX functions faster without a kernel written by hand: see `zmlx.fuse`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zmlx import errors
from zmlx.fuse.api import FusedFunction, explain
from zmlx.log import configure

if TYPE_CHECKING:  # type checkers do not know callable modules
    from zmlx.fuse.api import fuse
else:
    from zmlx import fuse

__version__ = "0.1.0"
__all__ = ["FusedFunction", "__version__", "errors", "explain", "fuse"]

configure()
