"""ZMLX makes MLX functions faster without a kernel written by hand: see `zmlx.fuse`."""

from __future__ import annotations

from zmlx import errors, fuse
from zmlx.fuse.api import FusedFunction, explain
from zmlx.log import configure

__version__ = "0.1.0"
__all__ = ["FusedFunction", "__version__", "errors", "explain", "fuse"]

configure()
