"""NVRTC, NVIDIA's compiler for run time: CUDA C++ to machine code.

Comes in: text and options. Goes out: a cubin, or PTX for a GPU that is newer than the compiler.
MLX's CUDA build links the library, so it is in the process already. zmlx.device.cuda_kernel asks.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx

MAJORS = (13, 12)  # CUDA releases that MLX has builds for
_TYPES = "cuda_bf16.h"  # a header that every kernel includes


class Refused(Exception):
    """The compiler does not take a text; the words are its own."""


@dataclass(frozen=True)
class Nvrtc:
    """The library, and the folder of the CUDA headers that go with it."""

    library: Any  # ctypes.CDLL
    headers: Path

    @cached_property
    def version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def architecture(self, capability: tuple[int, int]) -> str:
        """What to compile for: sm_90, or compute_90 where the compiler knows nothing newer."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", known)
        wanted = capability[0] * 10 + capability[1]
        if wanted in known:
            return f"sm_{wanted}"
        return f"compute_{max((a for a in known if a <= wanted), default=wanted)}"

    def compile(self, text: str, name: str, architecture: str) -> bytes:
        """Machine code of `text`, which messages call `name`; Refused where it is wrong."""
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram", ctypes.byref(program), text.encode(), name.encode(), 0, None, None
        )
        try:
            options = [
                f"--gpu-architecture={architecture}", f"--include-path={self.headers}",
                "--device-as-default-execution-space", "--std=c++17", "-w",
            ]  # fmt: skip
            given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
            if self.library.nvrtcCompileProgram(program, len(options), given):
                raise Refused(self._read(program, "ProgramLog").rstrip(b"\0").decode().strip())
            kind = "CUBIN" if architecture.startswith("sm_") else "PTX"
            return self._read(program, kind)
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _read(self, program: Any, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self.library, name)(*arguments):
            self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise Refused(f"{name}: {self.library.nvrtcGetErrorString(status).decode()}")


def loaded() -> Nvrtc | None:
    """The one that MLX has loaded; None where it, or the headers, cannot be found."""
    present = getattr(os, "RTLD_NOLOAD", None)
    if present is None:
        return None
    for major in MAJORS:
        try:
            library = ctypes.CDLL(f"libnvrtc.so.{major}", mode=present | os.RTLD_LAZY)
        except OSError:
            continue
        headers = _headers(_folders(major))
        return Nvrtc(library, headers) if headers else None
    return None


def installed() -> Nvrtc | None:
    """One that pip has installed, with its headers: compiles on machines without a GPU as well."""
    for major in MAJORS:
        folder = _packages() / f"cu{major}"
        headers = _headers([folder])
        libraries = sorted((folder / "lib").glob(f"libnvrtc*.so.{major}*"))
        if headers and libraries:
            for path in libraries:  # the builtins first, which the other asks for by name
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            return Nvrtc(ctypes.CDLL(str(folder / "lib" / f"libnvrtc.so.{major}")), headers)
    return None


def _folders(major: int) -> Iterator[Path]:
    """Where the toolkit or its packages may lie; first what the environment names, as for MLX."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])
    yield _packages() / f"cu{major}"
    yield _packages() / "cuda_runtime"
    yield Path("/usr/local/cuda")


def _packages() -> Path:
    """The folder of NVIDIA's packages, beside that of MLX."""
    return Path(str(mx.__file__)).parent.parent / "nvidia"


def _headers(folders: Sequence[Path] | Iterator[Path]) -> Path | None:
    found = (folder / "include" for folder in folders)
    return next((path for path in found if (path / _TYPES).is_file()), None)
