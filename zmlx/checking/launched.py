"""Runs one kernel under the sanitizer, in a process of its own with limits.

Comes in: a KernelFile, and how it is to be watched (`Run`). Goes out: Fault objects. The process is
`python -m zmlx.checking.launched`: it compiles the kernel, gives up the right to open files, start
programs and take much memory, and runs it. A kernel is native code: what it breaks is broken there.
faults.py starts it.
"""

from __future__ import annotations

import dataclasses
import pickle
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import mlx.core as mx

from zmlx.checking import child
from zmlx.checking.fault import Fault
from zmlx.checking.file import Array, KernelFile
from zmlx.device import sanitize
from zmlx.device.base import device_named
from zmlx.device.host_grid import HostGridLauncher
from zmlx.dtypes import attribute
from zmlx.errors import DeviceError, SanitizeError

Limited = Callable[[], AbstractContextManager[None]]
MEMORY = 4 << 30  # bytes that the process may take
_COMPILING = 120.0  # seconds beyond the run's own, for the compiler


@dataclass(frozen=True)
class Run:
    """How a kernel is watched: seconds, accesses of one thread, orders of threads."""

    seconds: float = 10.0
    budget: int = 0  # 0: the sanitizer's own
    orders: tuple[str, ...] = ("forward", "reverse")
    seed: int = 0


def watched_faults(file: KernelFile, run: Run) -> list[Fault]:
    """What the sanitizer sees in launches on random inputs; DeviceError where none can be made."""
    given = pickle.dumps((file, run))
    wait = run.seconds * (len(run.orders) + 1) + _COMPILING
    return child.answered(__name__, given, wait, "the kernel")


def main() -> None:
    """The child: a pickled KernelFile and Run from stdin, faults as JSON to stdout."""
    file, run = pickle.loads(sys.stdin.buffer.read())
    child.answer(lambda: faults_here(file, run, limits))


def faults_here(file: KernelFile, run: Run, limited: Limited) -> list[Fault]:
    """What `watched_faults` gives, from this very process; launches run inside `limited()`."""
    import_module("shutil")  # what is imported within the limits has been imported before
    host: Any = device_named("host")
    if problem := host.unavailable():
        raise DeviceError(f"[zmlx.check] the sanitizer cannot run here: {problem}")
    mx.random.seed(run.seed)
    launcher = HostGridLauncher(host, file.spec, sanitize=True)
    budget = run.budget or sanitize.BUDGET
    results = []
    told: list[Fault] = []
    with mx.stream(mx.cpu):
        arrays = [made(a) for a in file.inputs]
        mx.eval(arrays)
        for name, (reverse, fill) in _WAYS.items():
            if name != "bytes" and name not in run.orders:
                continue
            reverse = reverse or "forward" not in run.orders
            lazy = launcher(arrays, file.launch)  # compiled here, as nothing is within the limits
            try:
                with sanitize.watching(budget, run.seconds, reverse, fill), limited():
                    mx.eval(lazy)
            except SanitizeError as error:
                return [_fault(f) for f in sanitize.findings(*error.raw)]
            results.append((name, lazy))
            told += [_fault(f) for f in sanitize.notes()]
    return list(dict.fromkeys(told)) + _differing(file, results)


_WAYS = {"forward": (False, 0xFF), "reverse": (True, 0xFF), "bytes": (False, 0x00)}


def made(array: Array) -> Any:
    """Its value; else normal numbers, or 0 and 1 for bool, or 0 to 9 for integers."""
    kind: Any = getattr(mx, attribute(array.dtype))
    if array.strides is not None:
        size = 1 + sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True))
        flat = made(dataclasses.replace(array, shape=(max(size, 1),), strides=None))
        return mx.as_strided(flat, array.shape, array.strides)
    if array.value is not None:
        return mx.full(array.shape, mx.array(array.value, dtype=kind))
    if "int" in array.dtype:
        return mx.random.randint(0, 10, array.shape).astype(kind)
    normal = mx.random.normal(array.shape)
    return normal > 0 if array.dtype == "bool" else normal.astype(kind)


def _fault(finding: Any) -> Fault:
    severity = "note" if finding.is_note else "error"
    return Fault(str(finding), finding.line.number if finding.line else 0, 0, severity)


def _differing(file: KernelFile, results: list[tuple[str, Any]]) -> list[Fault]:
    """Warnings for results that another order of threads, or other bytes on the stack, changes."""
    said = {
        "reverse": "the order of threads decides",
        "bytes": "an uninitialised variable decides",
    }
    (_, first), *others = results
    faults = []
    for name, outputs in others:
        for output, one, other in zip(file.spec.output_names, first, outputs, strict=True):
            at = _difference(one, other)
            if at is not None:
                a, b = (float(x.flatten()[at].item()) for x in (one, other))
                text = f"{said[name]} {output}[{at}]: it is {a:g}, or {b:g} in another run"
                faults.append(Fault(text, 0, 0, "warning"))
                break
    return faults


def _difference(one: Any, other: Any) -> int | None:
    """Where two results differ by more than sums in another order do; None where nowhere."""
    if one.size == 0:
        return None
    if mx.issubdtype(one.dtype, mx.floating):
        a, b = one.flatten().astype(mx.float32), other.flatten().astype(mx.float32)
        near = 1e-3 if one.dtype == mx.float32 else 5e-2
        scale = mx.where(mx.isfinite(a), mx.abs(a), 0).max()
        same = (mx.abs(a - b) <= near * scale) | (a == b) | (mx.isnan(a) & mx.isnan(b))
    else:
        same = one.flatten() == other.flatten()
    return None if bool(same.all().item()) else int(mx.argmin(same).item())


@contextmanager
def limits() -> Iterator[None]:
    """Inside, the process opens no file, writes none, starts no program and takes little memory."""
    wanted = {
        resource.RLIMIT_NOFILE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: MEMORY, resource.RLIMIT_NPROC: 0,
    }  # fmt: skip
    before = {kind: resource.getrlimit(kind) for kind in wanted}
    try:
        for kind, most in wanted.items():
            hard = before[kind][1]
            soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (soft, hard))
        yield
    finally:
        for kind, both in before.items():
            resource.setrlimit(kind, both)


if __name__ == "__main__":
    main()
