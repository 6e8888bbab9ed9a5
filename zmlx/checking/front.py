"""What Metal would say of a file, asked in a process of its own with limits.

Comes in: the text of a file, its kernels. Goes out: Fault objects with lines of that file. The
process is `python -m zmlx.checking.front`: a text may be made to use up a compiler's stack, memory
or time. faults.py starts it.
"""

from __future__ import annotations

import pickle
import resource
import sys
from collections.abc import Sequence

from zmlx import metal_check
from zmlx.checking import child
from zmlx.checking.fault import Fault
from zmlx.checking.file import KernelFile
from zmlx.checking.launched import MEMORY, made
from zmlx.device.metal import MetalDevice
from zmlx.errors import DeviceError
from zmlx.metal_check.source import launched_texts

_WAIT = 60.0  # seconds


def front_end_faults(text: str, kernels: Sequence[KernelFile]) -> list[Fault]:
    """What Metal would say, by zmlx.metal_check; DeviceError where it cannot be asked."""
    given = pickle.dumps((text, list(kernels)))
    return child.answered(__name__, given, _WAIT, "Metal's front end")


def faults_here(text: str, kernels: Sequence[KernelFile]) -> list[Fault]:
    """What `front_end_faults` gives, from this very process."""
    if problem := metal_check.unavailable():
        raise DeviceError(f"[zmlx.check] Metal's front end {problem}")
    if kernels[0].whole:
        lines = len(text.splitlines())
        return [_located(d, d.line if d.line <= lines else 0) for d in metal_check.check_text(text)]
    (kernel,) = kernels
    launcher = MetalDevice().grid_launcher(kernel.spec)
    arrays = [made(a) for a in kernel.inputs]
    faults: list[Fault] = []
    for full in launched_texts(lambda xs: launcher(xs, kernel.launch), arrays):
        faults += [
            _located(d, _own_line(d.line, full, kernel)) for d in metal_check.check_text(full)
        ]
    return faults


def _own_line(line: int, full: str, kernel: KernelFile) -> int:
    """The line of the file, which header and body keep, of a line of the text that MLX makes."""
    for part in (kernel.spec.source, kernel.spec.header):
        start = full.rfind(part) if part.strip() else -1
        if start >= 0:
            first = full.count("\n", 0, start) + 1
            if first <= line <= first + part.count("\n"):
                return line - first + 1
    return 0


def _located(diagnostic: metal_check.Diagnostic, line: int) -> Fault:
    severity = "warning" if diagnostic.severity == "warning" else "error"
    text = f"Metal: {diagnostic.message}"
    if not line:
        told = f" (in: {diagnostic.source})" if diagnostic.source else ""
        return Fault(text + told, 0, 0, severity)
    return Fault(text, line, diagnostic.column, severity)


def main() -> None:
    """The child: a pickled text and its kernels from stdin, faults to stdout."""
    text, kernels = pickle.loads(sys.stdin.buffer.read())
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    child.answer(lambda: faults_here(text, kernels))


if __name__ == "__main__":
    main()
