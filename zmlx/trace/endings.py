"""MLX's random state, and the threads that read it, waited for when the interpreter ends.

MLX gives each thread that reads the state a Python object, which the thread's very last steps let
go of; these come after `join` has returned. An interpreter that ends meanwhile aborts the process.
For the modules of the trace and of fuse that read the state. Threads that still run are left alone.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import Any

import mlx.core as mx

_MOST = 256  # threads remembered: those before have long ended, or read the state again
_WAIT = 1.0  # seconds; some microseconds are usual
_UNSEEN = 0.02  # seconds, where the system does not list its threads
_TASKS = "/proc/self/task"

_readers: set[int] = set()


def random_state() -> Any:
    """mx.random.state of this thread."""
    reader = threading.get_native_id()
    if reader not in _readers:
        if len(_readers) >= _MOST:
            _readers.clear()
        _readers.add(reader)
    return mx.random.state


@atexit.register
def _wait_for_endings() -> None:
    """Let the readers that have ended for Python end for the system too."""
    ended = _readers - {thread.native_id for thread in threading.enumerate()}
    if ended and not os.path.isdir(_TASKS):
        time.sleep(_UNSEEN)
        return
    end = time.monotonic() + _WAIT
    while time.monotonic() < end and any(os.path.exists(f"{_TASKS}/{one}") for one in ended):
        time.sleep(0.0005)  # their last steps need the interpreter's lock
