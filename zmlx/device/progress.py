"""Progress: a line in the terminal while the user waits for a compiler.

Comes in: what is being done. Goes out: a line on stderr, from a second on until it is done, where
somebody looks at it: in a terminal or a notebook. The devices say what they compile.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 1.0  # seconds without a word
_lock = threading.Lock()
_waiting: list[str] = []  # what is being done, in all threads, the last one shown
_shown: list[Any] = []  # one rich Status, while there is a line


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Within the block `what` is being done, such as "compiling 3 kernels"."""
    if not watched():
        yield
        return
    timer = threading.Timer(PATIENCE, _show)
    timer.daemon = True
    with _lock:
        _waiting.append(what)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with _lock:
            _waiting.remove(what)
            _refresh()


def watched() -> bool:
    """Whether somebody sees a line that comes and goes."""
    isatty = getattr(sys.stderr, "isatty", None)
    return bool(isatty and isatty()) or "ipykernel" in sys.modules


def _show() -> None:
    with _lock:
        if _waiting and not _shown:
            from rich.console import Console

            _shown.append(Console(stderr=True).status("", spinner="dots"))
            _shown[0].start()
        _refresh()


def _refresh() -> None:
    """The line as it has to be; the lock is held."""
    if _shown and _waiting:
        _shown[0].update(f"zmlx: {_waiting[-1]} …")
    elif _shown:
        _shown.pop().stop()
