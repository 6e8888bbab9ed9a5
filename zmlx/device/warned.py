"""What runs in place of kernels that cannot be had, and the one warning about it."""

from __future__ import annotations

from zmlx.errors import CompilerError, DeviceError
from zmlx.warned import warn

_told: set[str] = set()


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
