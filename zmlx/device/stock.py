"""Stock: machine code that a stored function brought along, and what a program's kernels are in.

A kernel's *content* names what it computes and how it was compiled, but neither compiler nor CPU: a
library made elsewhere serves here if it fits (zmlx.stored.machine says whether). zmlx.stored offers
libraries and asks which ones a program used; the host device looks here where its cache has none.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx

from zmlx.device import toolchain
from zmlx.device.cache import KernelCache

NATIVE = "native module"  # in place of a content
_offered: dict[str, Path] = {}
_notes = threading.local()


def content(*parts: str) -> str:
    """The name of a kernel's content, from its text and the headers beside it."""
    flags = [flag for flag in toolchain.kernel_flags() if not flag.startswith("-m")]
    every = [*parts, *flags, *toolchain.kernel_libraries(), mx.__version__]
    return hashlib.sha256("\0".join(every).encode()).hexdigest()


def offer(libraries: Mapping[str, Path]) -> None:
    """Libraries by the content of the kernels in them, for this process."""
    _offered.update(libraries)


def withdraw(library: Path | None = None) -> None:
    """Forget a library that does not load, or all."""
    for name in [n for n, path in _offered.items() if library in (None, path)]:
        del _offered[name]


def offers() -> bool:
    """Whether there are kernels that need no compiler."""
    return bool(_offered)


def found_native() -> Path | None:
    """A native module built elsewhere from these sources, for this Python and MLX."""
    return _offered.get(NATIVE)


def found(cache: KernelCache, key: str, name: str) -> Path | None:
    """The library that holds the kernel of this key and content, from the cache or the stock."""
    library = cache.find(key) or _offered.get(name)
    if library is not None:
        note(name, library)
    return library


def note(name: str, library: Path) -> None:
    """Tell who collects, if anyone does on this thread, where a kernel is."""
    notes = getattr(_notes, "libraries", None)
    if notes is not None:
        notes[name] = library


def collecting() -> bool:
    """Whether someone collects on this thread."""
    return getattr(_notes, "libraries", None) is not None


@contextmanager
def collected() -> Iterator[dict[str, Path]]:
    """The libraries, by content, of the kernels that this thread asks for within the block."""
    before = getattr(_notes, "libraries", None)
    _notes.libraries = libraries = dict[str, Path]()
    try:
        yield libraries
    finally:
        _notes.libraries = before
