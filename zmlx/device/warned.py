"""Warnings that point at the user's line, whichever file of ZMLX finds the reason.

Called where a device falls back: kernels that cannot be built, caches that cannot be trusted.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings

import mlx.core as mx

from zmlx.errors import CompilerError, DeviceError

_BETWEEN = (
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
    os.path.dirname(mx.__file__) + os.sep,
    functools.__file__,  # a cached property's frame
    contextlib.__file__,
)
_told: set[str] = set()


def warn(text: str) -> None:
    """A RuntimeWarning at the innermost running line outside ZMLX and MLX."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        frame = frame.f_back
        level += 1
    warnings.warn(text, RuntimeWarning, stacklevel=level)


def problem_of(error: DeviceError) -> str:
    """Why a kernel cannot be had, in the words of every other kernel with the same problem."""
    if isinstance(error, CompilerError):
        return error.problem
    return str(error).removeprefix("[zmlx.device] ")


def run_as_ops(problem: str) -> None:
    """Say, once in a process for each problem, that MLX ops run in place of kernels, and why."""
    if problem not in _told:
        _told.add(problem)
        warn(f"[zmlx.device] fused regions run as MLX ops: {problem}")
