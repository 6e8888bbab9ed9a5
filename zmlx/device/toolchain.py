"""The C++ compiler of this machine: which one, with which flags, and its words when it refuses.

Comes in: text or files. Goes out: a shared library. The host device calls it for kernels and for
its native module. Nothing runs the compiler merely to look at it: path, size and date name it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from zmlx import switches
from zmlx.device import processes
from zmlx.device.programs import behind, which
from zmlx.errors import CompilerError, DeviceError

HEADERS = Path(__file__).parent / "headers"
NATIVE = Path(__file__).parent / "native"
MACHINE = os.uname().machine
INSTALL = {
    "linux": "sudo apt-get install g++ (or your distribution's GCC package)",
    "darwin": "xcode-select --install",
}
_SIGNALS = {int(s) for s in signal.Signals}
# ELF; Mach-O of 64 and 32 bits in both byte orders, and of several architectures.
_MAGIC = {
    b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xfe\xed\xfa\xcf",
    b"\xfe\xed\xfa\xce", b"\xca\xfe\xba\xbe",
}  # fmt: skip
_DIED = re.compile(
    "internal compiler error|terminated program|out of memory|memory exhausted"
    "|cannot allocate memory|bad_alloc",
    re.IGNORECASE,
)
_broken: dict[tuple[object, ...], str] = {}  # by what names the compiler: why it is not run again


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command (with arguments such as a launcher's) and the files it runs."""

    command: tuple[str, ...]
    files: tuple[str, ...]  # the first is the command's; then those behind a launcher or script

    @property
    def path(self) -> str:
        return self.files[0]

    @property
    def identity(self) -> str:
        """Changes when the compiler changes, without running it."""
        return "|".join(_stamp(file) for file in self.files)


def _stamp(file: str) -> str:
    try:
        status = os.stat(file)
    except OSError:  # gone since it was found: running it will say so
        return f"{file}:gone"
    return f"{file}:{status.st_size}:{status.st_mtime_ns}"


def find_compiler() -> Compiler | None:
    """$ZMLX_CXX, $CXX, c++, g++ or clang++, whichever is first there."""
    return _find(switches.compiler())[0]


def problem() -> str | None:
    """Why the compiler cannot be used, with what mends it; None while nothing is known against it.

    It is not run for that: `probe` does so, and what a run found out is remembered.
    """
    key = switches.compiler()
    return _broken.get(key) or _find(key)[1]


@lru_cache(maxsize=8)
def _find(key: tuple[object, ...]) -> tuple[Compiler | None, str | None]:
    """For these texts of the environment: the compiler, or what is wrong."""
    named, asked = _asked()
    path = os.environ.get("PATH", os.defpath)
    try:
        commands = [shlex.split(asked)] if asked else [["c++"], ["g++"], ["clang++"]]
    except ValueError as error:
        return None, f"{named} is {asked!r}, which is no command: {error}; set it again or unset it"
    if commands == [[]]:
        return None, f"{named} is {asked!r}, which names no compiler; set it again or unset it"
    for command in commands:
        found = which(command[0], path)
        if found is not None:
            return Compiler((found, *command[1:]), (found, *behind(found, command[1:], path))), None
    said = f" ({asked!r}, named by {named}, is not there)" if asked else ""
    return None, f"no C++ compiler found{said}; install one: {INSTALL.get(sys.platform, 'g++')}"


def _asked() -> tuple[str, str]:
    """The variable that names the compiler, and its text; empty where none does."""
    named = switches.COMPILER.text(), os.environ.get("CXX", "")
    found = zip((switches.COMPILER.name, "CXX"), named, strict=True)
    return next(((name, text) for name, text in found if text), ("", ""))


def is_clang() -> bool:
    """Whether the compiler is clang, by its name: macOS calls it c++ and g++ too."""
    compiler = find_compiler()
    names = compiler.files if compiler else ()
    return sys.platform == "darwin" or any("clang" in os.path.basename(name) for name in names)


def patience() -> float:
    """The seconds that a run of the compiler may take."""
    text = switches.PATIENCE.text()
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise CompilerError(
            f"{switches.PATIENCE.name} is {text!r}; give a number of seconds above 0"
        )
    return seconds


def kernel_flags() -> tuple[str, ...]:
    """Flags for kernels: full speed, IEEE arithmetic, this CPU's instructions.

    -U: GCC's dialect defines the names of the system.
    """
    machine = "-march=native" if MACHINE == "x86_64" else "-mcpu=native"
    flags = [
        "-std=gnu++17", "-O3", machine, "-fno-math-errno", "-fno-trapping-math",
        "-ffp-contract=off", "-fsigned-char", "-fno-strict-aliasing", "-fwrapv",
        "-fopenmp-simd", "-fPIC", "-shared", "-fvisibility=hidden", "-w", "-Uunix", "-Ulinux",
    ]  # fmt: skip
    if "avx512f" in cpu_features().split():
        flags.append("-mprefer-vector-width=512")
    return tuple(flags)


def kernel_libraries() -> tuple[str, ...]:
    """glibc on x86-64 has vector mathematics; a loop may call it."""
    if MACHINE == "x86_64" and libc().startswith("glibc"):
        return ("-Wl,--as-needed", "-lmvec", "-lm")
    return ("-lm",)


def libc() -> str:
    """Such as glibc 2.36; empty where the C library is another one."""
    known = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
    return (os.confstr("CS_GNU_LIBC_VERSION") or "") if known else ""


@lru_cache(maxsize=1)
def cpu_features() -> str:
    """The CPU's instruction sets, as the system names them; kernels are compiled for them."""
    if sys.platform != "linux":
        return MACHINE
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        text = file.read(8192)
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return line.partition(":")[2].strip()
    return MACHINE


def compile_shared(
    sources: Sequence[Path], output: Path, flags: Sequence[str], libraries: Sequence[str]
) -> None:
    """Compile `sources` into a shared library.

    Raises:
        CompilerError: the compiler cannot be used: it is not there, does not start, hangs, dies,
            writes no library, or fails on an empty text as well.
        DeviceError: it refuses this text, in its own words.
        OSError: there is no room.
    """
    compiler = find_compiler()
    if compiler is None or problem():
        raise CompilerError(str(problem()))
    said = _run(compiler, [*flags, *map(str, sources), "-o", str(output), *libraries], output)
    if said is None:
        return
    if "No space left on device" in said or "Disk quota exceeded" in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))
    probe(output.parent)
    raise DeviceError(f"[zmlx.device] {shlex.join(compiler.command)} failed:\n{said}")


def probe(folder: Path) -> None:
    """CompilerError where the compiler cannot make a library of an empty text in `folder`."""
    compiler = find_compiler()
    if compiler is None or problem():
        raise CompilerError(str(problem()))
    source, output = folder / "probe.cpp", folder / "probe.so"
    source.write_text("int zmlx_probe;\n", "ascii")
    said = _run(compiler, ["-shared", "-fPIC", str(source), "-o", str(output)], output)
    if said is not None:
        _give_up(compiler, f"failed: {said}")


def _run(compiler: Compiler, arguments: Sequence[str], output: Path) -> str | None:
    """Run the compiler: None where `output` is written, else its words about the text."""
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(output.parent)}
    try:
        ended = processes.run([*compiler.command, *arguments], environment, patience())
    except OSError as error:
        _give_up(compiler, f"cannot be run: {error}")
    if ended.late:
        limit = f"{switches.PATIENCE.name} ({patience():g} s)"
        _give_up(compiler, f"was stopped, because it ran for longer than {limit} allows")
    if ended.status < 0:
        name = signal.Signals(-ended.status).name if -ended.status in _SIGNALS else ended.status
        raise CompilerError(f"{_named(compiler)} was killed by {name}")
    if ended.status and _DIED.search(ended.words):  # under this text, perhaps for memory
        raise CompilerError(f"{_named(compiler)} died: {ended.words[-500:]}")
    if ended.status:
        return ended.words or f"exit status {ended.status}"
    if not _is_binary(output):
        said = f" It said: {ended.words[:500]}" if ended.words else ""
        _give_up(compiler, f"ended well, but wrote no library.{said}")
    return None


def _is_binary(path: Path) -> bool:
    """Whether `path` begins as what compilers write."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(4) in _MAGIC
    return False


def give_up(words: str) -> NoReturn:
    """Remember that the compiler cannot be used, for this process, and raise CompilerError."""
    compiler = find_compiler()
    _give_up(compiler, words) if compiler is not None else None
    raise CompilerError(str(problem()))


def _give_up(compiler: Compiler, words: str) -> NoReturn:
    found = f"{_named(compiler)} {words}"
    _broken[switches.compiler()] = found
    raise CompilerError(found)


def _named(compiler: Compiler) -> str:
    name = _asked()[0]
    return f"the C++ compiler {shlex.join(compiler.command)}" + (f" (from {name})" if name else "")


def version() -> str:
    """The first line of `c++ --version`, for reports; empty where it cannot be asked."""
    compiler = find_compiler()
    if compiler is None:
        return ""
    try:
        ended = processes.run([*compiler.command, "--version"], os.environ, min(10.0, patience()))
    except OSError:
        return ""
    return "" if ended.status else ended.words.partition("\n")[0]
