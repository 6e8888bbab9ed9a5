"""Files that are this user's alone: what else lies in a cache folder may have been planted there.

Called by zmlx.device.cache and zmlx.device.tuning, in folders that others can no longer write to.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path


def problem_of(status: os.stat_result) -> str | None:
    """Why a file with this status, taken without following links, is not trusted."""
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file"
    if status.st_uid != os.getuid():
        return "belongs to another user"
    if status.st_mode & 0o022:
        return "can be written by others"
    return None


def read(path: Path) -> bytes:
    """The content of a regular file of this user; OSError for anything else. It never waits."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    with open(descriptor, "rb") as file:
        problem = problem_of(os.fstat(descriptor))
        if problem is not None:
            raise PermissionError(1, problem, str(path))
        return file.read()


def replace(draft: Path, path: Path) -> None:
    """Move `draft`, made private, to `path`: readers see the old file or the new one, whole."""
    os.chmod(draft, 0o600)
    os.replace(draft, path)


def remove_unless_own(path: Path) -> None:
    """Make room at `path` where something else than a regular file of this user lies there."""
    with contextlib.suppress(FileNotFoundError):
        if problem_of(os.lstat(path)) is not None:
            os.unlink(path)


@contextlib.contextmanager
def turn(lock: Path, seconds: float) -> Iterator[None]:
    """Wait for other processes at work, so long at most: two at once do no harm, but work twice."""
    from filelock import FileLock, Timeout

    remove_unless_own(lock)
    waiting = FileLock(lock, timeout=seconds, mode=0o600)
    with contextlib.suppress(Timeout, NotImplementedError):
        waiting.acquire()
    try:
        yield
    finally:
        waiting.release()


def strangers(directory: Path) -> list[str]:
    """What lies in `directory` and is not trusted, with the reason, by name."""
    found = []
    with contextlib.suppress(OSError):
        for entry in sorted(os.scandir(directory), key=lambda e: e.name):
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    continue
                problem = problem_of(entry.stat(follow_symlinks=False))
                if problem is not None:
                    found.append(f"{entry.path} {problem}; rm {shlex.quote(entry.path)}")
    return found
