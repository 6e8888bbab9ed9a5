"""Every error that ZMLX raises on purpose, one class per stage.

Messages read `[zmlx.<stage>] what failed: node or op, shapes, dtypes, source line. What to do.`
"""

from __future__ import annotations

from typing import Any


class ZmlxError(Exception):
    """Base of all ZMLX errors; catch it to catch them all."""


class TraceError(ZmlxError):
    """A function did something that a trace cannot record.

    The usual causes are reading a value (``if x > 0``, ``float(x)``, ``x.item()``) and computing
    with an array outside the tracer's sight. The message names the line and the way out.
    """


class LostTraceError(TraceError):
    """An array left the tracer's sight: a function of MLX was reached in a way that hides it.

    Raised where values are needed too; else MLX's own graph is read, and where that cannot be, the
    function runs as plain MLX, unfused.
    """

    needs_values = False


class PlanError(ZmlxError):
    """A graph breaks a rule of the planner; always a defect of ZMLX, never of the user."""


class DeriveError(ZmlxError):
    """A derivative was asked for that does not exist or cannot be derived."""


class EmitError(ZmlxError):
    """A region cannot be written as a kernel."""


class DeviceError(ZmlxError):
    """A device cannot compile or launch a kernel; the message carries the compiler's words."""


class CompilerError(DeviceError):
    """The compiler of this machine cannot be used, whatever the kernel; MLX ops run instead.

    `problem` says why; the message begins with `what` cannot be made for it.
    """

    def __init__(self, problem: str, what: str = "") -> None:
        super().__init__(f"[zmlx.device] {what}{problem}")
        self.problem = problem


class StoredError(ZmlxError):
    """A function cannot be stored as asked for, or a file is none that this process can run."""


class CheckError(ZmlxError):
    """`ZMLX_CHECK=1` found a region whose kernel and whose MLX ops disagree."""


class SanitizeError(ZmlxError):
    """`ZMLX_SANITIZE=1` found a kernel that breaks Metal's rules; `findings` says where and how."""

    def __init__(
        self, message: str, findings: tuple[object, ...] = (), raw: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(message)
        self.findings = findings
        self.raw = raw  # kernel, library and findings without words, for zmlx.device.sanitize


class ValidationError(ZmlxError):
    """`zmlx.validate` found that a patched model computes something else than the plain one.

    `validation` has all that was compared.
    """

    def __init__(self, message: str, validation: object = None) -> None:
        super().__init__(message)
        self.validation = validation
