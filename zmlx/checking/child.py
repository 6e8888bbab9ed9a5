"""A process of its own for what a stranger's file may break or never end, and its answer.

Comes in: a module to run as `python -m`, what it gets on stdin. Goes out: the Fault objects that it
answers with. front.py and launched.py are such modules, and call `answer` there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable

from zmlx.checking.fault import Fault
from zmlx.errors import DeviceError


def answered(module: str, given: bytes, wait: float, what: str) -> list[Fault]:
    """The faults that `module` finds; `what` names its work where it dies or takes too long.

    DeviceError where it says that it cannot work here.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module], input=given, capture_output=True, timeout=wait,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [Fault(f"no end: {what} was stopped after {wait:g} seconds")]
    kind, _, told = done.stdout.partition(b"\n")
    if kind == b"faults":  # plain lists, dicts, texts and numbers, whatever was done to the child
        return [Fault(**one) for one in json.loads(told)]
    if kind == b"device":
        raise DeviceError(told.decode())
    words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    last = words[-1] if words else "no words"
    return [Fault(f"crash of {what} (exit status {done.returncode}): {last}")]


def answer(found: Callable[[], list[Fault]]) -> None:
    """In the child: what `found` gives, as JSON to stdout."""
    try:
        faults = found()
    except DeviceError as error:
        told = b"device\n" + str(error).encode()
    else:
        told = b"faults\n" + json.dumps([dataclasses.asdict(f) for f in faults]).encode()
    sys.stdout.buffer.write(told)
    sys.stdout.flush()
