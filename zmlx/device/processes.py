"""Running another program, such as a compiler, that may hang, die, or print without end.

Comes in: a command. Goes out: how it ended and the beginning of what it said. zmlx.device.toolchain
calls this.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

MOST = 1 << 20  # bytes of a program's words that are kept


@dataclass(frozen=True)
class Ended:
    """How a program ended: `status` is negative where signal -status killed it."""

    status: int
    words: str  # of both streams, their beginning
    late: bool = False  # it ran out of time, and was killed


def run(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> Ended:
    """Run `command` with nothing to read; it and what it starts are killed after `seconds`.

    OSError where it cannot be started.
    """
    import subprocess

    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    heard = bytearray()
    reader = threading.Thread(target=_listen, args=(process.stdout, heard), daemon=True)
    reader.start()
    late = False
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        late = True
    finally:  # also at Ctrl-C, which does not reach a session of its own
        if process.returncode is None:
            _kill(process.pid)
            process.wait()
    reader.join(1.0)  # what it left behind may hold the pipe for ever
    return Ended(process.returncode, bytes(heard).decode("utf-8", "replace").strip(), late)


def _listen(stream: IO[bytes], heard: bytearray) -> None:
    with contextlib.suppress(OSError, ValueError), stream:
        while part := os.read(stream.fileno(), 1 << 16):
            heard += part[: max(0, MOST - len(heard))]


def _kill(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
