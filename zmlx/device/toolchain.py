"""The C++ compiler of this machine: which one, with which flags, and its words when it refuses.

Comes in: text or files. Goes out: a shared library. The host device calls it for kernels and for
its native module. Nothing runs the compiler merely to look at it: path, size and date name it.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from zmlx import config
from zmlx.errors import DeviceError

HEADERS = Path(__file__).parent / "headers"
NATIVE = Path(__file__).parent / "native"
MACHINE = os.uname().machine
INSTALL = {
    "linux": "sudo apt-get install g++ (or your distribution's GCC package)",
    "darwin": "xcode-select --install",
}


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command (with arguments such as a launcher's) and the file it runs."""

    command: tuple[str, ...]
    path: str

    @property
    def identity(self) -> str:
        """Changes when the compiler changes, without running it."""
        status = os.stat(self.path)
        return f"{self.path}:{status.st_size}:{status.st_mtime_ns}"


def find_compiler() -> Compiler | None:
    """$ZMLX_CXX, $CXX, c++, g++ or clang++, whichever is first there."""
    asked = config.COMPILER.text() or os.environ.get("CXX", "")
    return _find(asked, os.environ.get("PATH", ""))


@lru_cache(maxsize=8)
def _find(asked: str, path: str) -> Compiler | None:
    for text in [asked] if asked else ["c++", "g++", "clang++"]:
        command = shlex.split(text)
        for folder in [""] if os.path.dirname(command[0]) else path.split(os.pathsep):
            found = os.path.join(folder, command[0])
            if os.path.isfile(found) and os.access(found, os.X_OK):
                return Compiler((found, *command[1:]), os.path.realpath(found))
    return None


def missing_compiler() -> str:
    """The sentence for a machine without a compiler."""
    asked = config.COMPILER.text() or os.environ.get("CXX", "")
    named = f" ({asked!r}, named by ZMLX_CXX or CXX, is not there)" if asked else ""
    return f"no C++ compiler found{named}; install one: {INSTALL.get(sys.platform, 'g++')}"


def kernel_flags() -> tuple[str, ...]:
    """Flags for kernels: full speed, IEEE arithmetic, this CPU's instructions.

    -fno-tree-sink: else GCC moves a function call into the one branch that uses its result, and a
    loop with branches does not vectorise. -U: GCC's dialect defines the names of the system.
    """
    machine = "-march=native" if MACHINE == "x86_64" else "-mcpu=native"
    flags = [
        "-std=gnu++17", "-O3", machine, "-fno-math-errno", "-fno-trapping-math",
        "-ffp-contract=off", "-fno-tree-sink", "-fsigned-char", "-fno-strict-aliasing", "-fwrapv",
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
    """Compile `sources` into a shared library; DeviceError carries the compiler's words."""
    import subprocess

    compiler = find_compiler()
    if compiler is None:
        raise DeviceError(f"[zmlx.device] {missing_compiler()}.")
    command = [*compiler.command, *flags, *map(str, sources), "-o", str(output), *libraries]
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(output.parent)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        raise DeviceError(f"[zmlx.device] {compiler.path} cannot be run: {error}.") from error
    if done.returncode:
        words = done.stderr.strip() or f"exit status {done.returncode}"
        if "No space left on device" in words:
            raise OSError(28, "No space left on device", str(output))
        raise DeviceError(f"[zmlx.device] {shlex.join(compiler.command)} failed:\n{words}")


def version() -> str:
    """The first line of `c++ --version`, for reports."""
    import subprocess

    compiler = find_compiler()
    if compiler is None:
        return ""
    done = subprocess.run(
        [*compiler.command, "--version"], capture_output=True, text=True, check=False
    )
    return done.stdout.partition("\n")[0]
