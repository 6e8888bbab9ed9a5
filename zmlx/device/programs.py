"""Programs of this machine: where a command is, and what a launcher or a script runs in its place.

Comes in: a command and a PATH. Goes out: files. zmlx.device.toolchain names a compiler by them, so
that kernels are compiled again when the compiler behind ccache or a script changes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

_COMPILER = re.compile(r"(?:[\w./+-]*/)?(?:[\w.-]*-)?(?:c\+\+|g\+\+|clang\+\+|icpx)(?:-[\d.]+)?\b")
_LAUNCHERS = ("ccache", "sccache", "distcc", "icecc", "colorgcc")
_MOST = 1 << 16  # bytes of a script


def which(name: str, path: str) -> str | None:
    """The file that the command `name` runs."""
    return next(_all(name, path), None)


def behind(found: str, words: Sequence[str], path: str) -> tuple[str, ...]:
    """The files that matter besides `found`: what its name leads to, what it runs with `words`."""
    real = os.path.realpath(found)
    files = [real] if real != found else []
    files += [file for word in words if (file := which(word, path)) is not None]
    if os.path.basename(real).startswith(_LAUNCHERS):
        # A link by a compiler's name to the launcher runs the next compiler of that name.
        named = _all(os.path.basename(found), path)
        files += [file for file in named if os.path.realpath(file) != real][:1]
    for name in _named_in(real):
        own = (file for file in _all(name, path) if os.path.realpath(file) != real)
        files += [file for file in own][:1]
    seen = dict.fromkeys(os.path.realpath(file) for file in files)
    return tuple(file for file in seen if file != found)


def _named_in(script: str) -> list[str]:
    """Compilers named in a script; empty for a program of another kind."""
    try:
        with open(script, "rb") as file:
            if file.read(2) != b"#!":
                return []
            text = file.read(_MOST).decode("utf-8", "replace")
    except OSError:
        return []
    return list(dict.fromkeys(match.group() for match in _COMPILER.finditer(text)))


def _all(name: str, path: str) -> Iterator[str]:
    for folder in [""] if os.path.dirname(name) else path.split(os.pathsep):
        found = os.path.join(folder, name)
        if os.path.isfile(found) and os.access(found, os.X_OK):
            yield found
