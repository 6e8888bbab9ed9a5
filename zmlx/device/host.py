"""The host device: kernels compiled as C++ for this machine's CPU.

Comes in: KernelSource objects. Goes out: launchers that build lazy MLX primitives. Compiled kernels
are kept on disk and in this process; what is missing is compiled in one run of the compiler.
"""

from __future__ import annotations

import hashlib
import threading
import time
import weakref
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from zmlx import switches
from zmlx.device import native_module, stock, toolchain
from zmlx.device.base import DeviceReport, GridLauncher, Launcher
from zmlx.device.cache import KernelCache
from zmlx.device.host_grid import HostGridLauncher, thread_count, watched_launcher
from zmlx.device.host_text import translation_unit
from zmlx.device.progress import waiting
from zmlx.device.warned import problem_of
from zmlx.errors import CompilerError, DeviceError, ZmlxError
from zmlx.log import logger
from zmlx.msl.kernel import Arg, KernelSource
from zmlx.msl.spec import MetalKernelSpec

_log = logger("zmlx.device")


class HostDevice:
    """Compiles and loads kernels; safe to use from several threads."""

    name = "host"
    takes_turns = True
    rows_alone = False
    products = ("float32", "float16", "bfloat16")
    worth_alone = 10  # MLX computes exp and the like one element at a time, on one core

    def __init__(self) -> None:
        self.cache = KernelCache()
        self._lock = threading.RLock()
        # Weak, so that a kernel's library is closed with the last program that launches it.
        # By digest and threads.
        self._launchers: weakref.WeakValueDictionary[tuple[str, int], Launcher]
        self._launchers = weakref.WeakValueDictionary()
        self._native: Any = None
        self._problem: str | None = None

    @property
    def native(self) -> Any:
        """The native module; DeviceError where it cannot be had."""
        if self._native is None:
            with self._lock:
                if self._native is None:
                    self._native = native_module.load(self.cache)
        return self._native

    def unavailable(self) -> str | None:
        asked = switches.DEVICE.text()
        if switches.DEVICE.given(asked) is None:
            raise ZmlxError(
                f"[zmlx.device] {switches.DEVICE.name} is {asked!r}; give {switches.DEVICE.takes}. "
                "MLX says on which device kernels run: mx.set_default_device(mx.gpu)."
            )
        if asked == "replay":
            return "ZMLX_DEVICE=replay asks for MLX ops in place of kernels"
        return self._without_native() or (None if stock.offers() else toolchain.problem())

    def renew(self) -> None:
        """Look for the native module again: a stored function has brought one."""
        self._problem = None

    def native_or_none(self) -> Any:
        """The native module where it can be had, with or without a compiler for kernels."""
        replays = switches.DEVICE.text() == "replay"
        return None if replays or self._without_native() else self._native

    def _without_native(self) -> str | None:
        """Why the native module cannot be had, found out once; None when it is there."""
        if self._native is None and self._problem is None:
            try:
                self.native  # noqa: B018 - loads it
            except DeviceError as error:
                self._problem = problem_of(error)
        return self._problem

    def build(self, kernels: Sequence[KernelSource]) -> list[Launcher]:
        if switches.SANITIZE.on():
            return [watched_launcher(self, kernel) for kernel in kernels]
        if stock.collecting():
            self._libraries(list(dict.fromkeys(kernels)))
        native, threads = self.native, thread_count()
        with self._lock:
            loaded = {k.digest: self._launchers.get((k.digest, threads)) for k in kernels}
            found = {digest: kernel for digest, kernel in loaded.items() if kernel is not None}
            missing = {k.digest: k for k in kernels if k.digest not in found}
            spoilt = self._load(native, list(missing.values()), found)
            if spoilt and (again := self._load(native, list(spoilt), found)):
                toolchain.give_up(f"makes libraries that do not load: {next(iter(again.values()))}")
            self._launchers.update({(digest, threads): k for digest, k in found.items()})
            return [found[kernel.digest] for kernel in kernels]

    def _load(
        self, native: Any, kernels: list[KernelSource], into: dict[str, Launcher]
    ) -> dict[KernelSource, RuntimeError]:
        """Make launchers; the kernels whose libraries do not load, and are forgotten."""
        failed = {}
        for kernel, library in self._libraries(kernels):
            try:
                into[kernel.digest] = native.load(
                    str(library), kernel.name, kernel.name,
                    _triples(kernel.inputs), _triples(kernel.outputs), kernel.rank, thread_count(),
                )  # fmt: skip
            except RuntimeError as error:
                self.cache.drop(library)
                stock.withdraw(library)
                failed[kernel] = error
        return failed

    def grid_launcher(self, spec: MetalKernelSpec) -> GridLauncher:
        """Compiles, for each combination of types and template, when a call first needs it."""
        return HostGridLauncher(self, spec)

    def report(self) -> DeviceReport:
        missing = [problem] if (problem := native_module.missing()) else []
        compiler = toolchain.find_compiler()
        directory, faults, size, count, built = "", [], 0, 0, None
        try:
            directory, faults = str(self.cache.directory()), self.cache.faults()
            if not missing:
                self.cache.probe()
            if not missing and (problem := self.unavailable()):
                missing = [problem]
            built = native_module.built_path(self.cache)
            size, count = self.cache.statistics()
        except DeviceError as error:
            missing = missing or [problem_of(error)]
        return DeviceReport(
            device=self.name,
            mlx_version=mx.__version__,
            threads=thread_count(),
            compiler=compiler.path if compiler else "",
            compiler_version=toolchain.version(),
            abi_found=native_module.abi_of(native_module.mlx_core_path()),
            abi_built=native_module.abi_of(built) if built else "",
            cache_directory=directory,
            cache_bytes=size,
            cache_kernels=count,
            cache_faults=tuple(faults),
            missing=tuple(missing),
        )

    def _libraries(self, kernels: list[KernelSource]) -> list[tuple[KernelSource, Path]]:
        """The library of each kernel, those not in the cache compiled together."""
        keys = {kernel: _key(kernel) for kernel in kernels}
        found = {k: stock.found(self.cache, keys[k], _content(k)) for k in kernels}
        missing = [kernel for kernel in kernels if found[kernel] is None]
        if missing:
            self._refuse(missing)
            started = time.perf_counter()
            with waiting(_words(missing)):
                made = self.cache.make([keys[k] for k in missing], partial(_compile, missing))
            seconds = time.perf_counter() - started
            _log.info("compiled %d kernels in %.2f s: %s", len(missing), seconds, missing[0].name)
            found.update(dict.fromkeys(missing, made))
            for kernel in missing:
                stock.note(_content(kernel), made)
        return [(kernel, path) for kernel, path in found.items() if path is not None]

    @staticmethod
    def _refuse(kernels: Sequence[KernelSource]) -> None:
        for kernel in kernels:
            if not kernel.elementwise:
                raise DeviceError(
                    f"[zmlx.device] kernel {kernel.name} is not elementwise, and the host "
                    "device runs elementwise kernels only. Run it as MLX ops."
                )


def _triples(arguments: Sequence[Arg]) -> list[tuple[str, str, int]]:
    return [(a.name, a.dtype, a.rank) for a in arguments]


@lru_cache(maxsize=1)
def _headers_digest() -> str:
    texts = [path.read_bytes() for path in sorted(toolchain.HEADERS.glob("*.h"))]
    texts.append((Path(__file__).parent / "host_text.py").read_bytes())
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def _key(kernel: KernelSource) -> str:
    compiler = toolchain.find_compiler()
    parts = [
        kernel.digest, kernel.stem, compiler.identity if compiler else "",
        " ".join(toolchain.kernel_flags()), " ".join(toolchain.kernel_libraries()),
        _headers_digest(), mx.__version__, toolchain.cpu_features(),
    ]  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _words(kernels: Sequence[KernelSource]) -> str:
    """What the user waits for."""
    count = f"{len(kernels)} kernels" if len(kernels) > 1 else "a kernel"
    return f"compiling {count} ({kernels[0].stem}), kept for later"


def _content(kernel: KernelSource) -> str:
    return stock.content(kernel.digest, kernel.stem, _headers_digest())


def _compile(kernels: Sequence[KernelSource], folder: Path) -> Path:
    sources = []
    for exact in (False, True):
        group = [kernel for kernel in kernels if kernel.exact == exact]
        if group:
            sources.append(folder / ("exact.cpp" if exact else "kernels.cpp"))
            sources[-1].write_text(translation_unit(group), "utf-8")
    output = folder / "kernels.so"
    flags = [*toolchain.kernel_flags(), f"-I{toolchain.HEADERS}"]
    try:
        toolchain.compile_shared(sources, output, flags, toolchain.kernel_libraries())
    except CompilerError:
        raise
    except DeviceError as error:
        raise DeviceError(f"{error}\n{_guilty(kernels, str(error))}") from None
    return output


def _guilty(kernels: Sequence[KernelSource], words: str) -> str:
    """The numbered text of the first kernel that the compiler names, or of the first."""
    kernel = next((k for k in kernels if k.name in words), kernels[0])
    parts = []
    for part, text in (("header", kernel.header), ("body", kernel.body)):
        lines = [f"{n:4d} | {line}" for n, line in enumerate(text.splitlines(), start=1)]
        parts.append(f"{kernel.name}.{part}:\n" + "\n".join(lines))
    return "\n".join(parts)
