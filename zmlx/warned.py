"""Warnings that point at the user's line, whichever file of ZMLX finds the reason.

Called where ZMLX falls back: kernels that cannot be built, files that cannot be written.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings

import mlx.core as mx

_BETWEEN = (
    os.path.dirname(__file__) + os.sep,
    os.path.dirname(mx.__file__) + os.sep,
    functools.__file__,  # a cached property's frame
    contextlib.__file__,
)


def warn(text: str) -> None:
    """A RuntimeWarning at the innermost running line outside ZMLX and MLX."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        frame = frame.f_back
        level += 1
    warnings.warn(text, RuntimeWarning, stacklevel=level)
