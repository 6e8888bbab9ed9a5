"""Compilers that fail, each in its own way: small scripts in place of the C++ compiler."""

from __future__ import annotations

from pathlib import Path

_SHELL = "#!/bin/sh\n"
_WRITES = 'while [ $# -gt 0 ]; do if [ "$1" = -o ]; then printf "%b" "{}" > "$2"; fi; shift; done\n'

# By kind: what the file holds, and words of the warning.
FAILING: dict[str, tuple[bytes, str]] = {
    "is not there": (b"", "no C.. compiler found.*ZMLX_CXX"),
    "exits with 1": ((_SHELL + "exit 1\n").encode(), "failed: exit status 1"),
    "complains in no encoding": (
        (_SHELL + "printf '\\377\\376 no' >&2; exit 3\n").encode(), "failed: .* no",
    ),
    "dies by a signal": ((_SHELL + "kill -SEGV $$\n").encode(), "killed by SIGSEGV"),
    "is killed for memory": (
        (_SHELL + "echo 'fatal error: Killed signal terminated program cc1plus' >&2; exit 1\n")
        .encode(),
        "died: .*terminated program cc1plus",
    ),
    "lacks its interpreter": (b"#!/no/such/interpreter\n", "cannot be run: "),
    "is no program": (b"\x00\x01\x02\x03", "cannot be run: .*Exec format error"),
    "does nothing": ((_SHELL + "exit 0\n").encode(), "wrote no library"),
    "waits for input": ((_SHELL + "exec cat\n").encode(), "wrote no library"),
    "prints junk only": ((_SHELL + "echo junk; exit 0\n").encode(), "wrote no library.*junk"),
    "writes nothing": ((_SHELL + _WRITES.format("")).encode(), "wrote no library"),
    "writes junk": ((_SHELL + _WRITES.format("junk")).encode(), "wrote no library"),
    "writes half a library": (
        (_SHELL + _WRITES.format("\\0177ELF\\02\\01\\01")).encode(), "do(es)? not load",
    ),
    "hangs": ((_SHELL + "sleep 1000\n").encode(), "ran for longer than ZMLX_CXX_TIMEOUT"),
    "hangs with children": (
        (_SHELL + "sleep 1000 &\nsleep 1000 &\nwait\n").encode(), "ran for longer",
    ),
    "prints without end": ((_SHELL + "exec yes junk\n").encode(), "ran for longer"),
}  # fmt: skip


def compiler(folder: Path, kind: str) -> Path:
    """The file of that kind; "is not there" is not written."""
    path = folder / "fake-c++"
    content = FAILING[kind][0]
    if content:
        path.write_bytes(content)
        path.chmod(0o755)
    return path
