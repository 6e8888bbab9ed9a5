"""Compiled libraries on disk: found again by key, checked before use, written without risk.

A library `lib_<sha256>.so` (`.cubin` for CUDA) may hold many kernels; an entry file per key names
the library and its SHA-256. The directory is private (0700). Faults fall back, never fail: a
directory that cannot be trusted or written is replaced by a temporary one for this process, with
one warning; an entry or library that does not check, or is not the user's own, is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from zmlx import switches
from zmlx.device import owned, toolchain
from zmlx.errors import CompilerError
from zmlx.warned import warn

STALE_SECONDS = 3600.0  # build folders older than this were left by a process that died
ENTRY_SUFFIX = ".entry"

Build = Callable[[Path], Path]  # folder to work in -> the library made there


class KernelCache:
    """Libraries by key, in the directory that the environment names at each use."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._checked: dict[str, Path] = {}  # directory as asked for -> directory in use
        self._verified: set[str] = set()

    def directory(self) -> Path:
        """The directory in use: the user's, or a temporary one where that cannot be trusted."""
        asked = asked_directory()
        with self._lock:
            if asked not in self._checked:
                problem = _prepare(Path(asked))
                self._checked[asked] = _temporary(asked, problem) if problem else Path(asked)
            return self._checked[asked]

    def find(self, key: str) -> Path | None:
        """The checked library that holds `key`, or None."""
        directory = self.directory()
        try:
            name, digest = owned.read(directory / (key + ENTRY_SUFFIX)).decode("ascii").split()
        except (OSError, ValueError):
            return None
        library = directory / name
        fits = name == _library_name(digest, library.suffix)
        if not fits or not self._verify(library, digest):
            return None
        return library

    def make(self, keys: Sequence[str], build: Build) -> Path:
        """Run `build` under a lock and keep its library for `keys`, unless another process has."""
        directory = self.directory()
        try:
            return self._make(directory, keys, build)
        except OSError as error:
            self._abandon(directory, error)
        try:
            return self._make(self.directory(), keys, build)
        except OSError as error:
            raise CompilerError(_nowhere(error)) from error

    def keep(self, content: bytes, suffix: str) -> Path:
        """`content` as a library of the directory in use; no key finds it."""
        import tempfile

        directory = self.directory()
        library = directory / _library_name(hashlib.sha256(content).hexdigest(), suffix)
        if not self._verify(library, hashlib.sha256(content).hexdigest()):
            with tempfile.TemporaryDirectory(prefix="build-", dir=directory) as folder:
                draft = Path(folder) / "library"
                draft.write_bytes(content)
                owned.replace(draft, library)
        return library

    def drop(self, library: Path) -> None:
        """Forget a library that does not load: what it held is built again."""
        self._verified.discard(str(library))
        with contextlib.suppress(OSError):
            os.unlink(library)

    def faults(self) -> list[str]:
        """What is wrong with the directory asked for and with the files in the one in use."""
        asked = Path(asked_directory())
        problem = _problem(asked) if asked.exists() else None
        found = [f"{asked} is not used: {problem}"] if problem else []
        return [*found, *owned.strangers(self.directory())]

    def probe(self) -> None:
        """CompilerError where the compiler cannot make a library in the directory in use."""
        import tempfile

        try:
            with tempfile.TemporaryDirectory(prefix="build-", dir=self.directory()) as folder:
                toolchain.probe(Path(folder))
        except OSError as error:
            raise CompilerError(_nowhere(error)) from error

    def statistics(self) -> tuple[int, int]:
        """Bytes in the directory, and number of keys."""
        size = count = 0
        for entry in os.scandir(self.directory()):
            with contextlib.suppress(FileNotFoundError):  # another process may remove it just now
                if entry.is_file(follow_symlinks=False):
                    size += entry.stat(follow_symlinks=False).st_size
                    count += entry.name.endswith(ENTRY_SUFFIX)
        return size, count

    def clear(self) -> int:
        """Remove every key and library, and return how many keys; what is loaded stays loaded."""
        keys = 0
        with self._lock:
            for entry in list(os.scandir(self.directory())):
                if entry.name.endswith(ENTRY_SUFFIX) or entry.name.startswith("lib_"):
                    keys += entry.name.endswith(ENTRY_SUFFIX)
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.path)
            self._verified.clear()
        return keys

    def _make(self, directory: Path, keys: Sequence[str], build: Build) -> Path:
        import tempfile

        with self._lock, self._turn(directory, keys[0]):
            found = {self.find(key) for key in keys}
            if len(found) == 1 and None not in found:
                return next(iter(path for path in found if path))
            _remove_stale(directory)
            with tempfile.TemporaryDirectory(prefix="build-", dir=directory) as folder:
                return self._keep(directory, keys, build(Path(folder)))

    @staticmethod
    def _turn(directory: Path, key: str) -> contextlib.AbstractContextManager[None]:
        return owned.turn(directory / f"{key[:1]}.lock", toolchain.patience())

    def _keep(self, directory: Path, keys: Sequence[str], built: Path) -> Path:
        digest = _sha256(built)
        library = directory / _library_name(digest, built.suffix)
        owned.replace(built, library)
        self._verified.add(str(library))
        for key in keys:
            _write(directory / (key + ENTRY_SUFFIX), f"{library.name} {digest}\n")
        return library

    def _verify(self, library: Path, digest: str) -> bool:
        if str(library) in self._verified:
            return True
        try:
            good = hashlib.sha256(owned.read(library)).hexdigest() == digest
        except OSError:
            return False
        if good:
            self._verified.add(str(library))
        return good

    def _abandon(self, directory: Path, error: OSError) -> None:
        with self._lock:
            for asked, used in self._checked.items():
                if used == directory:
                    self._checked[asked] = _temporary(asked, str(error))


def asked_directory() -> str:
    """ZMLX_CACHE_DIR, or the user's cache directory."""
    if named := switches.CACHE.text():
        return os.path.abspath(os.path.expanduser(named))
    from platformdirs import user_cache_dir

    return user_cache_dir("zmlx", appauthor=False)


def _prepare(directory: Path) -> str | None:
    """Make the directory; why it cannot be used, or None."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return str(error)
    return _problem(directory)


def _problem(directory: Path) -> str | None:
    """Why a directory that is there cannot be trusted, or None."""
    try:
        status, link = directory.stat(), directory.lstat()
    except OSError as error:
        return str(error)
    if not stat.S_ISDIR(status.st_mode):
        return "it is not a directory"
    if status.st_uid != os.getuid() or link.st_uid not in (os.getuid(), 0):
        return "it belongs to another user"
    if status.st_mode & 0o022:
        return (
            "others may write to it, and what lies there may be theirs "
            f"(empty it, then chmod 700 {directory})"
        )
    return None


def _temporary(asked: str, problem: str) -> Path:
    import atexit
    import shutil
    import tempfile

    try:
        folder = tempfile.mkdtemp(prefix="zmlx-")
    except OSError as error:
        raise CompilerError(_nowhere(error)) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    warn(
        f"[zmlx.device] compiled kernels cannot be kept in {asked}: {problem}. They go to {folder} "
        "and are lost when this process ends; set ZMLX_CACHE_DIR to a private, writable directory."
    )
    return Path(folder)


def _nowhere(error: OSError) -> str:
    return (
        f"compiled kernels can be kept nowhere: {error}. Free some disk space, or "
        "set ZMLX_CACHE_DIR to a private, writable directory."
    )


def _library_name(digest: str, suffix: str) -> str:
    return f"lib_{digest[:32]}{suffix}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, text: str) -> None:
    """Write a small file so that readers see the old one or the new one, never a part."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    owned.remove_unless_own(draft)
    draft.write_text(text, "ascii")
    owned.replace(draft, path)


def _remove_stale(directory: Path) -> None:
    import shutil

    oldest = time.time() - STALE_SECONDS
    for entry in os.scandir(directory):
        leftover = entry.name.startswith("build-") or entry.name.endswith(".draft")
        with contextlib.suppress(FileNotFoundError):  # another process may remove it just now
            if leftover and entry.stat(follow_symlinks=False).st_mtime < oldest:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)
