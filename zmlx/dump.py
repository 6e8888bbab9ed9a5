"""Dumping: under ZMLX_DUMP every stage of a fused function leaves a file that people can read.

Comes in: `stage("plan", text)` from whoever makes something for a function, in any layer. Goes out:
files in the function's folder, which zmlx.fuse.dumped opens; where none is open nothing is called
and nothing written. A new stage is a line in STAGES and a call.

The same function gives the same files under the same names, in whichever thread or process: names
end in a digest of what they stand for, a file is put in its place whole, and lines are added under
a lock. A folder that cannot be written is told once, and never stops the user's function.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from zmlx.switches import DUMP
from zmlx.warned import warn

# In the order in which files sort; what is made of a derivative lies in a folder behind them.
STAGES = (
    "trace", "simplified", "lifted", "plan", "schedule", "kernel", "launches", "derived",
    "factored",
)  # fmt: skip
LONGEST = 60  # letters of a function's name
_broken: set[str] = set()  # folders that could not be written, each told once
_lock = threading.Lock()


@dataclass(frozen=True)
class Folder:
    """Where the stages of one trace, or of one derivative, are written."""

    root: str  # as ZMLX_DUMP names it
    path: Path
    _lines: set[tuple[str, str]] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def of(cls, name: str, content: str) -> Folder | None:
        """That of a function whose trace is `content`; None where ZMLX_DUMP is off."""
        asked = DUMP.text()
        if not asked:
            return None
        root = os.path.abspath(os.path.expanduser(asked))
        return cls(root, Path(root) / _named(name, content))

    def inner(self, name: str, content: str) -> Folder:
        """That of a derivative, which sorts behind the stages of this one."""
        return Folder(self.root, self.path / f"{len(STAGES) + 1:02}-{_named(name, content)}")

    def write(self, name: str, text: str) -> None:
        """The file `name`, whole."""
        if self.root in _broken:
            return
        with self._told():
            self.path.mkdir(parents=True, exist_ok=True)
            draft = self.path / f".{name}.{os.getpid()}.{threading.get_ident()}"
            try:
                draft.write_text(text.rstrip("\n") + "\n", "utf-8")
                draft.replace(self.path / name)
            finally:
                draft.unlink(missing_ok=True)

    def add(self, name: str, line: str) -> bool:
        """A line at the end of the file `name`, unless it stands there; whether it is new here."""
        with _lock:
            if (name, line) in self._lines or self.root in _broken:
                return False
            self._lines.add((name, line))
        with self._told():
            self.path.mkdir(parents=True, exist_ok=True)
            with open(self.path / name, "a+", encoding="utf-8") as file, _alone(file.fileno()):
                file.seek(0)
                if f"{line}\n" not in file.readlines():
                    file.write(f"{line}\n")
        return True

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Within the block a disk that refuses is told, once, and this folder is left alone."""
        try:
            yield
        except OSError as error:
            with _lock:
                first = self.root not in _broken
                _broken.add(self.root)
            if first:
                warn(
                    f"[zmlx.dump] nothing more is written to {self.root}: {error}. Set "
                    f"{DUMP.name} to a folder that can be written."
                )


_folder: ContextVar[Folder | None] = ContextVar("zmlx.dump", default=None)


@contextlib.contextmanager
def into(folder: Folder | None) -> Iterator[None]:
    """Within the block stages write into `folder`, or nowhere."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def active() -> bool:
    """Whether a folder is open, here and now."""
    folder = _folder.get()
    return folder is not None and folder.root not in _broken


def stage(name: str, text: Callable[[], str], part: str = "", ending: str = "txt") -> None:
    """What the stage `name` made, as text: asked for only where a folder is open.

    `part` says of which region, `ending` in which language.
    """
    folder = _folder.get()
    if folder is not None and folder.root not in _broken:
        folder.write(file_name(name, part, ending), text())


def file_name(stage: str, part: str = "", ending: str = "txt") -> str:
    """Of the file of a stage."""
    return ".".join(filter(None, (f"{STAGES.index(stage) + 1:02}-{stage}", _plain(part), ending)))


def digest(content: str) -> str:
    """What tells apart things of one name: the same for the same content."""
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _named(name: str, content: str) -> str:
    return f"{_plain(name)[:LONGEST] or 'function'}-{digest(content)}"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name).strip("_.")


@contextlib.contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """Within the block no other process writes lines to the file."""
    try:
        import fcntl
    except ImportError:  # a system without: lines may come twice
        yield
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
