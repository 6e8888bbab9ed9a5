"""Checks the kernels of one file: Metal's rules by a front end, accesses by the sanitizer.

Comes in: the text of a file, its kernels. Goes out: faults with lines of that file. What holds
words that no kernel needs, and what the front end refuses, is not run. `python -m zmlx check`
calls it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from zmlx.checking.fault import Fault
from zmlx.checking.file import KernelFile
from zmlx.checking.foreign import foreign
from zmlx.checking.front import front_end_faults
from zmlx.checking.launched import Run, watched_faults
from zmlx.errors import DeviceError

Watch = Callable[[KernelFile, Run], list[Fault]]
_REFUSED = re.compile(r"^\S*?\.(?:body|header):(\d+):(\d+): (?:fatal )?error: (.*)$", re.MULTILINE)


def faults_of(
    text: str, kernels: Sequence[KernelFile], run: Run, watch: Watch = watched_faults
) -> tuple[list[Fault], list[str]]:
    """What is wrong with a file, and which ways of looking are not there; `watch` runs one."""
    if found := foreign(text):
        line, column, words = found
        return [Fault(f"{words}; nothing was run", line, column)], []
    faults: list[Fault] = []
    missing: list[str] = []
    try:
        faults += front_end_faults(text, kernels)
    except DeviceError as error:
        missing.append(str(error))
    if any(fault.severity == "error" for fault in faults):
        return faults, missing
    for kernel in kernels:
        try:
            faults += watch(kernel, run)
        except DeviceError as error:
            faults.append(_uncompiled(str(error)))
    return list(dict.fromkeys(faults)), missing


def _uncompiled(words: str) -> Fault:
    """The first thing that the host's compiler complains of, at its line."""
    found = _REFUSED.search(words)
    if found is None:
        return Fault(words)
    return Fault(f"does not compile here: {found[3]}", int(found[1]), int(found[2]))
